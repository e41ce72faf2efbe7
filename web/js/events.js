// What happened lately, newest first.

import { get } from "./api.js";
import { arrow, el } from "./dom.js";
import { capital, clock, duration } from "./format.js";
import { t, term } from "./texts.js";

const KEPT = 80;
const FILTERS = {
  all: ["LineCrossed", "ZoneChanged", "Alert", "CameraGap", "CameraChanged", "AlertRaised", "AlertChanged", "VisitorChanged", "AreaMismatch", "TailgatingSuspected", "PpeViolation", "RollCallChanged", "StoreFilling"],
  crossings: ["LineCrossed"], zones: ["ZoneChanged", "Alert"], cameras: ["CameraGap", "CameraChanged"],
};
const TROUBLE = ["stalled", "backing_off", "misconfigured"];

/** The panel. */
export function events(state) {
  const list = el("ol", { class: "events", tabindex: 0, "aria-label": t("events.label") });
  const note = el("p", { class: "note", hidden: true }, t("events.none"));
  let shown = FILTERS.all;
  let rows = [];
  const draw = () => {
    const wanted = rows.filter((event) => shown.includes(event.type));
    list.replaceChildren(...wanted.map((event) => eventRow(state, event)));
    note.hidden = wanted.length > 0;
  };
  const add = (event) => {
    if (!FILTERS.all.includes(event.type) || rows.some((row) => row.id === event.id)) return;
    rows = [event, ...rows].slice(0, KEPT);
    if (!shown.includes(event.type)) return;
    list.prepend(eventRow(state, event));
    while (list.children.length > KEPT) list.lastElementChild.remove();
    note.hidden = true;
  };
  const load = async () => {
    const fetched = await get(`/api/v1/events?limit=${KEPT}&type=${FILTERS.all.join(",")}`).catch(() => null);
    if (!fetched) return;
    const known = new Set(fetched.events.map((event) => event.id));
    rows = [...rows.filter((event) => !known.has(event.id)), ...fetched.events].sort((a, b) => b.ts - a.ts).slice(0, KEPT);
    draw();
  };
  const buttons = Object.entries(FILTERS).map(([name, types]) => el("button", {
    type: "button", "aria-pressed": String(name === "all"),
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
  const where = camera?.name ?? (event.camera || "");
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
  if (event.type === "Alert") {
    const place = camera?.zones.find((row) => row.id === event.zone)?.name ?? (event.zone || event.area);
    return [el("b", {}, `${place}: ${term("rule", event.rule)}`), ` · ${t(`events.alert_${event.state}`)}`];
  }
  if (event.type === "AlertRaised") return [el("b", {}, event.title)];
  if (event.type === "AlertChanged" && event.escalated) return [el("b", {}, t("alerts.escalated", { step: event.escalated }))];
  if (event.type === "AlertChanged") return [t("events.alert_changed", { state: t(`events.alert_${event.state}`) }), event.by ? ` · ${event.by}` : ""];
  if (event.type === "VisitorChanged") return [t("events.visitor", { state: t(`visit.${event.state}`) }), event.by ? ` · ${event.by}` : ""];
  if (event.type === "RollCallChanged") return [el("b", {}, t("events.roll_call")), ` · ${t(`roll_call.${event.state}`)}`];
  if (event.type === "PpeViolation") {
    const items = event.items.split(",").map((item) => term("item", item)).join(", ");
    return [el("b", {}, t("ppe.without", { items })), ` · ${t(`events.alert_${event.state}`)}`];
  }
  if (event.type === "AreaMismatch") return [el("b", {}, t("events.mismatch", { area: event.area })), ` · ${t("events.mismatch_numbers", { counted: event.counted, expected: event.expected })}`];
  if (event.type === "TailgatingSuspected") return [el("b", {}, t("events.tailgating")), ` · ${t("events.tailgating_numbers", { crossings: event.crossings, check_ins: event.check_ins })}`];
  if (event.type === "StoreFilling") return [el("b", {}, t(`events.store_${event.state}`))];
  return [el("b", {}, t("events.camera", { state: term("state", event.state).toLowerCase() })), event.detail ? ` · ${event.detail}` : ""];
}
