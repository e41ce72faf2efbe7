// The system's own state: a strip on the overview, and a page with everything from /debug.

import { get, send } from "./api.js";
import { el, setText } from "./dom.js";
import { bytes, count, dayAndTime, duration, fps, milliseconds } from "./format.js";
import { may } from "./session.js";
import { t, term } from "./texts.js";

const REFRESH_MS = 5000;
const MAX_SHOWN_CAMERAS = 5;

/** Ask `path` every 5 s while the page is seen; returns a function that stops it. */
export function poll(show, path = "/debug") {
  let stopped = false;
  let timer = 0;
  const turn = async () => {
    const report = document.hidden ? undefined : await get(path).catch(() => null);
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
  const programs = el("tbody", {});
  const queues = el("tbody", {});
  const letters = el("div", { class: "note" });
  const streams = el("tbody", {});
  const facts = el("dl", { class: "facts" });
  const latency = el("tbody", {});
  const stages = el("tbody", {});
  const said = el("p", { class: "note", role: "status", hidden: true });
  const head = (...names) => el("thead", {}, el("tr", {}, ...names.map(([name, numeric]) => el("th", { scope: "col", class: numeric ? "num" : null }, name ? t(`system.${name}`) : ""))));
  const panel = (title, ...children) => el("section", { class: "panel", "aria-label": title }, el("div", { class: "panel-head" }, el("h2", {}, title)), ...children);
  const table = (...children) => el("div", { class: "table-scroll", tabindex: 0 }, el("table", {}, ...children));
  const versions = may("admin") ? versionsPanel(panel) : null;
  const node = el("div", { class: "system" },
    panel(t("system.cameras"), table(head(["camera"], ["state"], ["captured", 1], ["analysed", 1], ["latency", 1], ["dropped", 1], ["restarts", 1], ["ring"], ["last_error"]), cameras)),
    panel(t("system.streams"), table(head(["stream"], ["state"], ["expected", 1], ["measured", 1]), streams)),
    panel(t("system.processes"), said, table(head(["process"], ["state"], ["pid", 1], ["memory", 1], ["cpu", 1], [""]), programs)),
    el("div", { class: "halves" }, panel(t("system.capacity"), facts),
      panel(t("system.latencies"), table(head(["until"], ["p50", 1], ["p95", 1], ["p99", 1]), latency),
        el("p", { class: "note muted" }, t("system.latency_of")),
        table(head(["stage"], ["per_frame", 1], ["of_time", 1]), stages))),
    el("div", { class: "halves" }, panel(t("system.queues"), table(head(["stream"], ["group"], ["length", 1], ["pending", 1], ["lag", 1]), queues), letters)),
    versions);
  const restart = async (name) => {
    said.hidden = false;
    delete said.dataset.tone;
    try {
      const { restarts } = await send("POST", `/api/v1/system/processes/${encodeURIComponent(name)}/restart`, {});
      setText(said, t("system.restarting", { names: restarts.join(", ") }));
    } catch (error) {
      said.dataset.tone = "bad";
      setText(said, error.message);
    }
  };
  const ends = [
    poll((report) => {
      if (!report) return; // The banner tells; what is shown stays readable.
      cameras.replaceChildren(...Object.entries(report.cameras).map(([id, camera]) => cameraRow(id, camera)));
      const names = new Set(report.streams.map((row) => row.stream));
      streams.replaceChildren(...[...names].map((name) => streamRow(name, report.streams.filter((row) => row.stream === name), report.cameras)));
    }),
    poll((report) => {
      if (!report) return;
      programs.replaceChildren(...report.processes.map((process) => processRow(process, may("admin") && report.supervised ? restart : null)));
      queues.replaceChildren(...report.queues.map((row) => el("tr", {}, el("td", {}, row.stream), el("td", {}, row.group), number(count(row.length)), number(count(row.pending)), number(row.lag === null ? "–" : count(row.lag)))));
      const dead = report.dead_letters.filter((row) => row.letters);
      letters.replaceChildren(el("div", { class: dead.length ? "" : "muted", "data-tone": dead.length ? "bad" : null }, dead.length ? t("system.dead", { boxes: dead.map((row) => `${row.box}: ${count(row.letters)}`).join(", ") }) : t("system.no_dead")));
      facts.replaceChildren(...capacityRows(report));
      latency.replaceChildren(...report.latency.map((row) => el("tr", { "data-latency": row.what }, el("td", {}, t(`system.until_${row.what}`)), ...["p50_ms", "p95_ms", "p99_ms"].map((name) => number(milliseconds(row[name]))))));
      stages.replaceChildren(...report.stages.map((row) => el("tr", { "data-stage": row.stage }, el("td", {}, term("stage", row.stage)), number(t("unit.ms", { value: fps(row.ms_per_frame) })),
        el("td", { class: "num" }, `${fps(row.share * 100)} %`))));
    }, "/api/v1/system"),
  ];
  node.stop = () => ends.forEach((end) => end());
  return node;
}

/** What the machine does and has left. */
function capacityRows({ capacity, machine, models, versions }) {
  const percent = (value) => `${fps(value)} %`;
  const rows = {
    busy: `${percent(capacity.busy * 100)} · ${t("unit.fps", { value: fps(capacity.fps_analysed) })}`,
    cameras_left: capacity.cameras_left === null ? "–" : t("system.more_cameras", { count: count(capacity.cameras_left) }),
    drops: t("system.per_second", { value: fps(capacity.drops_per_s) }),
    model: [models.person, models.ppe, models.device].filter(Boolean).join(" · ") || "–",
    cpu_all: `${percent(machine.cpu_percent)} · ${t("system.cores", { count: machine.cores })}`,
    memory_free: t("system.free_of", { free: bytes(machine.memory_free_bytes), all: bytes(machine.memory_bytes) }),
    shm_free: t("system.free_of", { free: bytes(machine.shm_free_bytes), all: bytes(machine.shm_bytes) }),
    disk_free: bytes(machine.disk_free_bytes),
    versions: Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", "),
  };
  return Object.entries(rows).map(([name, text]) => el("div", {}, el("dt", {}, t(`system.${name}`)), el("dd", { "data-fact": name }, text)));
}

/** Every version of the configuration, and the way back to one. */
function versionsPanel(panel) {
  const list = el("tbody", {});
  const said = el("p", { class: "note", role: "status" });
  const load = async () => {
    const { versions } = await get("/api/v1/config/versions");
    list.replaceChildren(...versions.map((row, index) => el("tr", { "data-version": row.number },
      el("td", { class: "num" }, count(row.number)), el("td", {}, dayAndTime(new Date(row.time))), el("td", {}, row.who || "–"), el("td", {}, row.comment),
      el("td", {}, index ? el("button", { class: "button", type: "button", click: () => back(row.number) }, t("system.roll_back")) : ""))));
    setText(said, versions.length ? "" : t("system.no_versions"));
    said.hidden = versions.length > 0;
  };
  const back = async (number) => {
    said.hidden = false;
    try {
      const { version } = await send("POST", `/api/v1/config/versions/${number}/rollback`);
      await load();
      said.hidden = false;
      setText(said, t("system.rolled_back", { from: number, to: version }));
    } catch (error) {
      setText(said, error.message);
    }
  };
  load().catch((error) => setText(said, error.message));
  const names = ["number", "time", "who", "change"].map((name) => el("th", { scope: "col", class: name === "number" ? "num" : null }, t(`system.version_${name}`)));
  return panel(t("system.versions_title"), said, el("div", { class: "table-scroll", tabindex: 0 }, el("table", {}, el("thead", {}, el("tr", {}, ...names, el("th", {}, ""))), list)));
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
    el("td", { class: "num", title: t("system.looks", { whole: count(camera.looks.whole), changed: count(camera.looks.changed), disagreements: count(camera.looks.disagreements) }) },
      camera.fps_analysed === null ? "–" : t("unit.fps", { value: fps(camera.fps_analysed) }),
      camera.look_share === null ? "" : el("div", { class: "muted" }, t("system.look_share", { value: fps(camera.look_share * 100) }))),
    number(milliseconds(camera.latency_ms)),
    el("td", { class: "num", title: drops.map(([cause, value]) => `${cause}: ${value}`).join(", ") },
      count(sum(drops.map(([, value]) => value))), ...drops.map(([cause, value]) => el("div", { class: "muted" }, `${count(value)} ${cause.replaceAll("_", " ")}`))),
    number(count(camera.ffmpeg_restarts_total)),
    el("td", {}, ring ? t("system.ring_slots", { size: `${ring.width}×${ring.height}`, slots: ring.slots }) : "–",
      ring ? el("div", { class: "muted" }, t(ring.age_s === null ? "system.ring_frame" : "system.ring_frame_age", { frame: count(ring.head), age: Math.round((ring.age_s ?? 0) * 1000) })) : ""),
    el("td", { class: "error-text" }, camera.last_error || el("span", { class: "muted" }, t("system.no_error"))));
}

/** One row for a stream of the table, with the red light where the rate of a camera or of the site is not the expected one. */
function streamRow(name, rows, cameras) {
  const expected = ["minimum", "maximum"].map((bound) => sum(rows.map((row) => row[bound])));
  const measured = rows.map((row) => row.measured).filter((rate) => rate !== null);
  const off = rows.filter((row) => row.state === "low" || row.state === "high");
  const state = off.length ? off[0].state : measured.length ? "ok" : "unknown";
  const tone = off.length ? "bad" : measured.length ? "good" : "idle";
  const shown = off.filter((row) => row.camera).slice(0, MAX_SHOWN_CAMERAS).map((row) => cameras[row.camera]?.name ?? row.camera);
  const more = off.filter((row) => row.camera).length - shown.length;
  return el("tr", { "data-stream": name },
    el("td", {}, name),
    el("td", {}, el("span", { class: "pill", "data-state": tone }, t(`system.rate_${state}`)),
      shown.length ? el("div", { class: "muted" }, shown.join(", ") + (more ? ` + ${count(more)}` : "")) : ""),
    number(t(expected[0] ? "system.rate_between" : "system.rate_at_most", { low: fps(expected[0]), high: fps(expected[1]) })),
    number(measured.length ? fps(sum(measured)) : "–"));
}

function processRow(process, restart) {
  const tone = { RUNNING: "good", STARTING: "idle", FATAL: "bad", BACKOFF: "bad", EXITED: "bad" }[process.state] ?? "idle";
  return el("tr", { "data-process": process.name }, el("td", {}, el("b", {}, process.name), process.does ? el("div", { class: "muted" }, process.does) : ""),
    el("td", {}, el("span", { class: "pill", "data-state": tone }, process.state.toLowerCase()), process.started ? el("div", { class: "muted" }, duration((Date.now() - Date.parse(process.started)) / 1000)) : ""),
    number(process.pid ? String(process.pid) : "–"), number(process.rss_bytes === null ? "–" : bytes(process.rss_bytes)),
    number(process.cpu_percent === null ? "–" : `${fps(process.cpu_percent)} %`),
    el("td", {}, restart ? el("button", { class: "button", type: "button", click: () => restart(process.name) }, t("system.restart")) : ""));
}
