// How one camera is: what /debug says of it, in a few words.

import { el, setText } from "./dom.js";
import { count, duration, fps, milliseconds } from "./format.js";
import { poll, sum } from "./system.js";
import { t, term } from "./texts.js";

const FIELDS = ["state", "quality", "captured", "analysed", "latency", "dropped", "restarts", "ring", "error"];

/** The panel; `node.stop()` ends its requests. */
export function health(id) {
  const values = Object.fromEntries(FIELDS.map((name) => [name, el("dd", {}, "–")]));
  const rows = Object.fromEntries(FIELDS.map((name) => [name, el("div", {}, el("dt", {}, t(`health.${name}`)), values[name])]));
  const node = el("section", { class: "panel", "aria-label": t("camera.health") },
    el("div", { class: "panel-head" }, el("h2", {}, t("camera.health"))), el("dl", { class: "facts" }, ...FIELDS.map((name) => rows[name])));
  node.stop = poll((report) => {
    const camera = report?.cameras[id];
    if (!camera) return;
    const drops = Object.entries(camera.drops).filter(([, value]) => value);
    const texts = {
      state: camera.enabled && !camera.live && camera.state === "live" ? t("state.no_frames") : term("state", camera.state),
      quality: camera.quality ? term("quality", camera.quality) : "–",
      captured: camera.fps_captured === null ? "–" : t("unit.fps", { value: fps(camera.fps_captured) }),
      analysed: camera.fps_analysed === null ? "–" : t("unit.fps", { value: fps(camera.fps_analysed) }),
      latency: milliseconds(camera.latency_ms),
      dropped: [count(sum(drops.map(([, value]) => value))), ...drops.map(([cause, value]) => `${count(value)} ${cause.replaceAll("_", " ")}`)].join(" · "),
      restarts: count(camera.ffmpeg_restarts_total) + (camera.backoff_s ? ` · ${t("health.backoff")} ${duration(camera.backoff_s)}` : ""),
      ring: camera.ring ? `${camera.ring.width}×${camera.ring.height}` : "–",
      error: camera.last_error,
    };
    for (const name of FIELDS) setText(values[name], texts[name]);
    rows.error.hidden = !camera.last_error;
  });
  return node;
}
