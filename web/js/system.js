// The system's own state: a strip on the overview, and a page with everything from /debug.

import { get } from "./api.js";
import { el, setText } from "./dom.js";
import { bytes, count, duration, fps, milliseconds } from "./format.js";
import { t, term } from "./texts.js";

const REFRESH_MS = 5000;

/** Ask /debug every 5 s while the page is seen; returns a function that stops it. */
export function poll(show) {
  let stopped = false;
  let timer = 0;
  const turn = async () => {
    const report = document.hidden ? undefined : await get("/debug").catch(() => null);
    if (stopped) return;
    if (report !== undefined) show(report);
    timer = setTimeout(turn, REFRESH_MS);
  };
  turn();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

export const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);

/** The strip below the overview. */
export function strip() {
  const fields = {};
  const field = (name, label) => {
    fields[name] = el("dd", {}, "–");
    return el("div", {}, el("dt", {}, label), fields[name]);
  };
  const node = el("section", { class: "panel strip", "aria-label": t("strip.label") },
    el("dl", {}, ...["cameras", "captured", "analysed", "latency", "dropped", "restarts"].map((name) => field(name, t(`strip.${name}`)))),
    el("a", { href: "#/system" }, t("strip.more")));
  poll((report) => {
    const cameras = Object.values(report?.cameras ?? {}).filter((camera) => camera.enabled);
    const latencies = cameras.map((camera) => camera.latency_ms).filter((value) => value !== null);
    const texts = !report ? {} : {
      cameras: t("strip.of", { live: cameras.filter((camera) => camera.live).length, all: cameras.length }),
      captured: t("unit.fps", { value: fps(sum(cameras.map((camera) => camera.fps_captured))) }),
      analysed: t("unit.fps", { value: fps(sum(cameras.map((camera) => camera.fps_analysed))) }),
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
  const named = ([name, numeric]) => [t(`system.${name}`), numeric];
  const panel = (title, ...children) => el("section", { class: "panel", "aria-label": title },
    el("div", { class: "panel-head" }, el("h2", {}, title)), el("div", { class: "table-scroll", tabindex: 0 }, el("table", {}, ...children)));
  const node = el("div", { class: "system" },
    panel(t("system.cameras"), head(...[["camera"], ["state"], ["captured", 1], ["analysed", 1], ["latency", 1], ["dropped", 1], ["restarts", 1], ["ring"], ["last_error"]].map(named)), cameras),
    panel(t("system.processes"), head(...[["process"], ["pid", 1], ["uptime", 1], ["memory", 1], ["cpu", 1]].map(named)), processes));
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
  const state = camera.enabled && !camera.live && camera.state === "live" ? t("state.no_frames") : term("state", camera.state);
  const drops = Object.entries(camera.drops).filter(([, value]) => value);
  const ring = camera.ring;
  return el("tr", {},
    el("td", {}, el("b", {}, camera.name), camera.name === id ? "" : el("div", { class: "muted" }, id)),
    el("td", {}, el("span", { class: "pill", "data-state": tone }, state)),
    number(camera.fps_captured === null ? "–" : t("unit.fps", { value: fps(camera.fps_captured) })),
    number(camera.fps_analysed === null ? "–" : t("unit.fps", { value: fps(camera.fps_analysed) })),
    number(milliseconds(camera.latency_ms)),
    el("td", { class: "num", title: drops.map(([cause, value]) => `${cause}: ${value}`).join(", ") },
      count(sum(drops.map(([, value]) => value))), ...drops.map(([cause, value]) => el("div", { class: "muted" }, `${count(value)} ${cause.replaceAll("_", " ")}`))),
    number(count(camera.ffmpeg_restarts_total)),
    el("td", {}, ring ? t("system.ring_slots", { size: `${ring.width}×${ring.height}`, slots: ring.slots }) : "–",
      ring ? el("div", { class: "muted" }, t(ring.age_s === null ? "system.ring_frame" : "system.ring_frame_age", { frame: count(ring.head), age: Math.round((ring.age_s ?? 0) * 1000) })) : ""),
    el("td", { class: "error-text" }, camera.last_error || el("span", { class: "muted" }, t("system.no_error"))));
}

function processRow(name, process) {
  return el("tr", {}, el("td", {}, el("b", {}, name)), number(String(process.pid)), number(duration(process.uptime_s)),
    number(bytes(process.rss_bytes)), number(`${fps(process.cpu_percent)} %`));
}
