// Where the tracks of the last minute went, for trying a line on them before it is saved.

const KEPT_MS = 60_000;
const MOST_TRACKS = 500;

export class Trails {
  constructor() {
    this.tracks = new Map(); // track -> {seen, points: [[x, y], ...]}, oldest first
    this.epoch = 0;
    this.sequence = 0;
  }

  /** Take the boxes of one live message; the anchor is the middle of a box's lower edge, as in counting. */
  add(header) {
    if (header.boxes_sequence === null || (header.epoch === this.epoch && header.boxes_sequence <= this.sequence)) return;
    if (header.epoch !== this.epoch) this.tracks.clear();
    this.epoch = header.epoch;
    this.sequence = header.boxes_sequence;
    const now = Date.now();
    header.boxes.forEach(([x1, , x2, y2], index) => {
      const id = header.tracks[index];
      const trail = this.tracks.get(id) ?? { points: [] };
      trail.points.push([(x1 + x2) / 2, y2]);
      trail.seen = now;
      this.tracks.delete(id);
      this.tracks.set(id, trail);
    });
    for (const [id, trail] of this.tracks) {
      if (now - trail.seen < KEPT_MS && this.tracks.size <= MOST_TRACKS) break;
      this.tracks.delete(id);
    }
  }

  /** The paths, each an array of [x, y]. */
  paths() {
    return [...this.tracks.values()].map((trail) => trail.points.slice(-600));
  }
}
