// The system's own state: a strip on the overview, and a page with everything from /debug.

import { get } from "./api.js";
import { el, setText } from "./dom.js";
import { bytes, count, duration, fps, milliseconds } from "./format.js";

const REFRESH_MS = 5000;
const NAMES = { live: "Live", backing_off: "Retrying", stalled: "Stalled", connecting: "Connecting", stopped: "Stopped", misconfigured: "Misconfigured", disabled: "Off", unknown: "Unknown" };

/** Ask /debug every 5 s while the page is seen; returns a function that stops it. */
function poll(show) {
  let stopped = false;
  const turn = async () => {
    if (stopped) return;
    if (!document.hidden) show(await get("/debug").catch(() => null));
    if (!stopped) setTimeout(turn, REFRESH_MS);
  };
  turn();
  return () => { stopped = true; };
}

const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);

/** The strip below the overview. */
export function strip() {
  const fields = {};
  const field = (name, label) => {
    fields[name] = el("dd", {}, "–");
    return el("div", {}, el("dt", {}, label), fields[name]);
  };
  const node = el("section", { class: "panel strip", "aria-label": "System" },
    el("dl", {}, field("cameras", "Cameras live"), field("captured", "Captured"), field("analysed", "Analysed"),
      field("latency", "Latency"), field("dropped", "Frames dropped"), field("restarts", "FFmpeg restarts")),
    el("a", { href: "#/system" }, "System details"));
  poll((report) => {
    const cameras = Object.values(report?.cameras ?? {}).filter((camera) => camera.enabled);
    const latencies = cameras.map((camera) => camera.latency_ms).filter((value) => value !== null);
    const texts = !report ? {} : {
      cameras: `${cameras.filter((camera) => camera.live).length} of ${cameras.length}`,
      captured: `${fps(sum(cameras.map((camera) => camera.fps_captured)))} fps`,
      analysed: `${fps(sum(cameras.map((camera) => camera.fps_analysed)))} fps`,
      latency: latencies.length ? milliseconds(Math.max(...latencies)) : "–",
      dropped: count(sum(cameras.flatMap((camera) => Object.values(camera.drops)))),
      restarts: count(sum(cameras.map((camera) => camera.ffmpeg_restarts_total))),
    };
    for (const [name, dd] of Object.entries(fields)) setText(dd, texts[name] ?? "–");
  });
  return node;
}

/** The system page. */
export function systemPage() {
  const cameras = el("tbody", {});
  const processes = el("tbody", {});
  const head = (...names) => el("thead", {}, el("tr", {}, ...names.map(([name, numeric]) => el("th", { scope: "col", class: numeric ? "num" : null }, name))));
  const panel = (title, ...children) => el("section", { class: "panel", "aria-label": title },
    el("div", { class: "panel-head" }, el("h2", {}, title)), el("div", { class: "table-scroll", tabindex: 0 }, el("table", {}, ...children)));
  const node = el("div", { class: "system" },
    panel("Cameras", head(["Camera"], ["State"], ["Captured", 1], ["Analysed", 1], ["Latency", 1], ["Dropped", 1], ["FFmpeg restarts", 1], ["Ring"], ["Last error"]), cameras),
    panel("Processes", head(["Process"], ["PID", 1], ["Uptime", 1], ["Memory", 1], ["CPU", 1]), processes));
  node.stop = poll((report) => {
    if (!report) return; // The banner tells; what is shown stays readable.
    cameras.replaceChildren(...Object.entries(report.cameras).map(([id, camera]) => cameraRow(id, camera)));
    processes.replaceChildren(...Object.entries(report.processes).map(([name, process]) => processRow(name, process)));
  });
  return node;
}

const number = (text) => el("td", { class: "num" }, text);

function cameraRow(id, camera) {
  const tone = camera.live ? "good" : camera.enabled ? "bad" : "idle";
  const state = camera.enabled && !camera.live && camera.state === "live" ? "No frames" : NAMES[camera.state] ?? camera.state;
  const drops = Object.entries(camera.drops).filter(([, value]) => value);
  const ring = camera.ring;
  return el("tr", {},
    el("td", {}, el("b", {}, camera.name), camera.name === id ? "" : el("div", { class: "muted" }, id)),
    el("td", {}, el("span", { class: "pill", "data-state": tone }, state)),
    number(camera.fps_captured === null ? "–" : `${fps(camera.fps_captured)} fps`),
    number(camera.fps_analysed === null ? "–" : `${fps(camera.fps_analysed)} fps`),
    number(milliseconds(camera.latency_ms)),
    el("td", { class: "num", title: drops.map(([cause, value]) => `${cause}: ${value}`).join(", ") },
      count(sum(drops.map(([, value]) => value))), ...drops.map(([cause, value]) => el("div", { class: "muted" }, `${count(value)} ${cause.replaceAll("_", " ")}`))),
    number(count(camera.ffmpeg_restarts_total)),
    el("td", {}, ring ? `${ring.width}×${ring.height}, ${ring.slots} slots` : "–",
      ring ? el("div", { class: "muted" }, `frame ${count(ring.head)}${ring.age_s === null ? "" : `, ${Math.round(ring.age_s * 1000)} ms ago`}`) : ""),
    el("td", { class: "error-text" }, camera.last_error || el("span", { class: "muted" }, "none")));
}

function processRow(name, process) {
  return el("tr", {}, el("td", {}, el("b", {}, name)), number(String(process.pid)), number(duration(process.uptime_s)),
    number(bytes(process.rss_bytes)), number(`${fps(process.cpu_percent)} %`));
}
