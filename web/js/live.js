// Live pictures: one WebSocket for all tiles (browsers allow few connections), binary messages of header and JPEG.
// The server hears how wide the tiles are and what has come in: pictures are no larger, and no more, than is of use here.

const CONFIRM_MS = 50;
const WIDTH_PX = 20; // Widths are told in steps of this, so that a window that is dragged says little.
const decoder = new TextDecoder();

export class Pictures {
  constructor() {
    this.tiles = new Map(); // camera -> Set of receivers
    this.retryMs = 500;
    this.socket = null;
    this.received = 0;
    this.confirming = false;
    document.addEventListener("visibilitychange", () => this.subscribe());
    addEventListener("resize", () => this.subscribe());
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = (this.socket = new WebSocket(`${scheme}://${location.host}/api/v1/live`));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { this.retryMs = 500; this.asked = null; this.received = 0; this.subscribe(); };
    socket.onmessage = (message) => { if (typeof message.data !== "string") this.receive(message.data); };
    socket.onclose = () => {
      setTimeout(() => this.open(), this.retryMs);
      this.retryMs = Math.min(5000, this.retryMs * 2);
    };
  }

  receive(buffer) {
    this.received += 1;
    this.confirm();
    const length = new DataView(buffer).getUint32(0);
    const header = JSON.parse(decoder.decode(new Uint8Array(buffer, 4, length)));
    const jpeg = new Uint8Array(buffer, 4 + length);
    for (const receiver of this.tiles.get(header.camera) ?? []) receiver.show(header, jpeg);
  }

  /** Send this camera's pictures to `receiver.show(header, jpeg)`. */
  add(camera, receiver) {
    if (!this.tiles.has(camera)) this.tiles.set(camera, new Set());
    this.tiles.get(camera).add(receiver);
    this.subscribe();
    // Again when the tile has found its place, and with it its width.
    requestAnimationFrame(() => this.subscribe());
  }

  remove(camera, receiver) {
    const receivers = this.tiles.get(camera);
    receivers?.delete(receiver);
    if (!receivers?.size) this.tiles.delete(camera);
    this.subscribe();
  }

  /** Say what has come in: soon, and once for what comes together. */
  confirm() {
    if (this.confirming) return;
    this.confirming = true;
    setTimeout(() => {
      this.confirming = false;
      if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ seen: this.received }));
    }, CONFIRM_MS);
  }

  /** Tell the server what is on the screen; a hidden page shows nothing. */
  subscribe() {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    const subscribe = document.hidden ? [] : [...this.tiles.keys()].sort();
    const widths = Object.fromEntries(subscribe.map((camera) => [camera, this.width(camera)]).filter(([, width]) => width > 0));
    const asked = JSON.stringify({ subscribe, widths });
    if (asked === this.asked) return;
    this.asked = asked;
    this.socket.send(JSON.stringify({ subscribe, widths, seen: this.received }));
  }

  /** Device pixels that the widest tile of a camera has, 0 while nobody knows. */
  width(camera) {
    const widest = Math.max(0, ...[...this.tiles.get(camera)].map((receiver) => receiver.pixels()));
    return Math.ceil(widest / WIDTH_PX) * WIDTH_PX;
  }
}
