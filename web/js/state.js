// What the page knows, and who wants to hear when it changes.

export class State {
  constructor(site) {
    this.site = site;
    this.counts = new Map(); // "camera line class direction" -> {camera, line, class, direction, count}
    this.zones = new Map(); // "camera zone" -> occupancy row
    this.listeners = new Map();
    this.clockOffsetMs = 0;
  }

  /** Call `listener` whenever `topic` changes; the function that is returned ends it. */
  on(topic, listener) {
    if (!this.listeners.has(topic)) this.listeners.set(topic, new Set());
    this.listeners.get(topic).add(listener);
    return () => this.listeners.get(topic).delete(listener);
  }

  emit(topic, value) {
    for (const listener of this.listeners.get(topic) ?? []) listener(value);
  }

  /** The server's time; the browser's clock may be wrong. */
  now() {
    return new Date(Date.now() + this.clockOffsetMs);
  }

  setCounts({ whole, counts }) {
    if (whole) this.counts.clear();
    for (const row of counts) this.counts.set(`${row.camera} ${row.line} ${row.class} ${row.direction}`, row);
    this.emit("counts");
  }

  setZones(rows) {
    for (const row of rows) this.zones.set(`${row.camera} ${row.zone}`, row);
    this.emit("zones");
  }

  /** {in, out} of the rows that `admits` accepts. */
  sum(admits) {
    const total = { in: 0, out: 0 };
    for (const row of this.counts.values()) if (admits(row)) total[row.direction] += row.count;
    return total;
  }

  lineCounts(camera, line) {
    return this.sum((row) => row.camera === camera && row.line === line);
  }

  camera(id) {
    return this.site.cameras.find((camera) => camera.id === id);
  }
}
