// Live pictures: one WebSocket for all tiles (browsers allow few connections), binary messages of header and JPEG.

const decoder = new TextDecoder();

export class Pictures {
  constructor() {
    this.tiles = new Map(); // camera -> Set of receivers
    this.retryMs = 500;
    this.socket = null;
    document.addEventListener("visibilitychange", () => this.subscribe());
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = (this.socket = new WebSocket(`${scheme}://${location.host}/api/v1/live`));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { this.retryMs = 500; this.asked = null; this.subscribe(); };
    socket.onmessage = (message) => { if (typeof message.data !== "string") this.receive(message.data); };
    socket.onclose = () => {
      setTimeout(() => this.open(), this.retryMs);
      this.retryMs = Math.min(5000, this.retryMs * 2);
    };
  }

  receive(buffer) {
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
  }

  remove(camera, receiver) {
    const receivers = this.tiles.get(camera);
    receivers?.delete(receiver);
    if (!receivers?.size) this.tiles.delete(camera);
    this.subscribe();
  }

  /** Tell the server what is on the screen; a hidden page shows nothing. */
  subscribe() {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    const wanted = JSON.stringify({ subscribe: document.hidden ? [] : [...this.tiles.keys()].sort() });
    if (wanted !== this.asked) this.socket.send((this.asked = wanted));
  }
}
