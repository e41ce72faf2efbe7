// One camera's live picture in a canvas, with its overlay; says so when there is none, instead of showing an old one.

import { clock } from "./format.js";
import { el, icon, setText } from "./dom.js";
import { t } from "./texts.js";
import { drawOverlay } from "./overlay.js";

const SILENCE_MS = 5000;
const density = () => Math.min(devicePixelRatio || 1, 2);

export class LivePicture {
  /** `host` is the positioned element to fill; `detailed` asks for names and numbers in the picture. */
  constructor(host, camera, state, detailed = false) {
    this.host = host;
    this.camera = camera;
    this.state = state;
    this.detailed = detailed;
    this.canvas = el("canvas", { role: "img", "aria-label": t("picture.label", { camera: camera.name }), "data-camera": camera.id });
    this.title = el("strong", {}, t("picture.waiting"));
    this.text = el("span", {}, "");
    this.cover = el("span", { class: "tile-cover" }, icon("camera"), this.title, this.text);
    this.badge = el("span", { class: "tile-badge", hidden: true }, t("picture.live"));
    host.append(this.canvas, this.cover, this.badge);
    this.context = this.canvas.getContext("2d");
    this.waiting = null;
    this.busy = false;
    this.seenAt = null;
    this.heardAt = Date.now();
    this.timer = setInterval(() => this.check(), 1000);
    this.resizer = new ResizeObserver(([entry]) => { this.size = entry.contentRect; });
    this.resizer.observe(host);
  }

  /** How wide a picture of this tile is of use, in device pixels. */
  pixels() {
    return this.host.getBoundingClientRect().width * density();
  }

  close() {
    clearInterval(this.timer);
    this.resizer.disconnect();
  }

  /** A message of the live socket. A picture that comes while one is being decoded replaces the one before it. */
  async show(header, jpeg) {
    this.heardAt = Date.now();
    this.waiting = [header, jpeg];
    if (this.busy) return;
    this.busy = true;
    while (this.waiting) {
      const [now, data] = this.waiting;
      this.waiting = null;
      if (now.state === "live") await this.paint(now, data);
      else this.hide(t("picture.none"), this.seenAt ? t("picture.since", { time: clock(this.seenAt) }) : t("picture.down"));
    }
    this.busy = false;
  }

  async paint(header, data) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
    } catch {
      return; // One broken picture: the next one comes within a fraction of a second.
    }
    this.seenAt = new Date(header.captured_at * 1000);
    const box = this.size ?? this.canvas.getBoundingClientRect();
    const ratio = density();
    const width = Math.max(1, Math.round(box.width * ratio));
    const height = Math.max(1, Math.round(box.height * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const fit = Math.min(width / bitmap.width, height / bitmap.height);
    const area = { w: bitmap.width * fit, h: bitmap.height * fit };
    area.x = (width - area.w) / 2;
    area.y = (height - area.h) / 2;
    this.context.clearRect(0, 0, width, height);
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(bitmap, area.x, area.y, area.w, area.h);
    bitmap.close();
    const counts = (line) => this.state.lineCounts(this.camera.id, line);
    const scale = ratio * Math.min(2, Math.max(1, box.width / 760));
    drawOverlay(this.context, area, scale, this.camera, header, counts, this.detailed && box.width > 420);
    this.cover.hidden = true;
    this.badge.hidden = false;
    this.canvas.dataset.sequence = header.sequence;
    this.canvas.dataset.width = header.width;
    this.canvas.dataset.boxes = header.boxes.length;
  }

  hide(title, text) {
    this.cover.hidden = false;
    this.badge.hidden = true;
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    setText(this.title, title);
    setText(this.text, text);
  }

  check() {
    if (document.hidden) this.heardAt = Date.now();
    if (Date.now() - this.heardAt > SILENCE_MS) {
      this.hide(t("picture.interrupted"), this.seenAt ? t("picture.last_seen", { time: clock(this.seenAt) }) : t("picture.silent"));
    }
  }
}
