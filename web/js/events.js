// What happened lately, newest first.

import { get } from "./api.js";
import { arrow, el } from "./dom.js";
import { capital, clock, duration } from "./format.js";
import { t, term } from "./texts.js";

const KEPT = 80;
const FILTERS = { all: null, crossings: ["LineCrossed"], zones: ["ZoneChanged"], cameras: ["CameraGap", "CameraChanged"] };
const TROUBLE = ["stalled", "backing_off", "misconfigured"];

/** The panel. */
export function events(state) {
  const list = el("ol", { class: "events", tabindex: 0, "aria-label": t("events.label") });
  const note = el("p", { class: "note", hidden: true }, t("events.none"));
  let shown = null;
  let rows = [];
  const draw = () => {
    const wanted = rows.filter((event) => !shown || shown.includes(event.type));
    list.replaceChildren(...wanted.map((event) => eventRow(state, event)));
    note.hidden = wanted.length > 0;
  };
  const add = (event) => {
    if (rows.some((row) => row.id === event.id)) return;
    rows = [event, ...rows].slice(0, KEPT);
    if (shown && !shown.includes(event.type)) return;
    list.prepend(eventRow(state, event));
    while (list.children.length > KEPT) list.lastElementChild.remove();
    note.hidden = true;
  };
  const load = async () => {
    const fetched = await get(`/api/v1/events?limit=${KEPT}`).catch(() => null);
    if (!fetched) return;
    const known = new Set(fetched.events.map((event) => event.id));
    rows = [...rows.filter((event) => !known.has(event.id)), ...fetched.events].sort((a, b) => b.ts - a.ts).slice(0, KEPT);
    draw();
  };
  const buttons = Object.entries(FILTERS).map(([name, types]) => el("button", {
    type: "button", "aria-pressed": types === null ? "true" : "false",
    click: (event) => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      shown = types;
      draw();
    },
  }, t(`events.${name}`)));
  state.on("event", add);
  state.on("reload", load);
  load();
  return el("section", { class: "panel", "aria-label": t("events.title") },
    el("div", { class: "panel-head" }, el("h2", {}, t("events.title")), el("div", { class: "filters", role: "group", "aria-label": t("events.show") }, ...buttons)),
    list, note);
}

function eventRow(state, event) {
  const camera = state.camera(event.camera);
  const where = camera?.name ?? event.camera;
  return el("li", { class: "event", "data-kind": event.type, "data-tone": TROUBLE.includes(event.state) ? "bad" : null },
    el("time", { datetime: event.time }, clock(new Date(event.time))),
    el("span", { class: "event-what" }, ...describe(event, camera), " ", el("span", { class: "event-where" }, where)));
}

function describe(event, camera) {
  if (event.type === "LineCrossed") {
    const line = camera?.lines.find((row) => row.id === event.line)?.name ?? event.line;
    return [arrow(event.direction), el("b", {}, t(`events.crossed_${event.direction}`, { class: capital(term("class", event.class)) })), ` · ${line}`];
  }
  if (event.type === "ZoneChanged") {
    const zone = camera?.zones.find((row) => row.id === event.zone)?.name ?? event.zone;
    return [el("b", {}, t("events.inside", { zone, count: event.occupancy })), ` · ${t(event.change === "in" ? "events.entered" : "events.left", { class: term("class", event.class) })}`];
  }
  if (event.type === "CameraGap") {
    return [el("b", {}, t("events.gap", { duration: duration(event.end - event.start) })), ` · ${event.cause}`];
  }
  return [el("b", {}, t("events.camera", { state: term("state", event.state).toLowerCase() })), event.detail ? ` · ${event.detail}` : ""];
}
