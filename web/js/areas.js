// How many are in each area of the site, give or take, against its limit.

import { get } from "./api.js";
import { el, setText } from "./dom.js";
import { count } from "./format.js";
import { t } from "./texts.js";

const NEAR = 0.85;

/** The panel; it is not there on a site without areas. */
export function areas(state) {
  const list = el("div", {});
  const node = el("section", { class: "panel", "aria-label": t("areas.title"), hidden: true },
    el("div", { class: "panel-head" }, el("h2", {}, t("areas.title"))), list);
  const rows = new Map();
  const load = async () => {
    const reply = await get("/api/v1/areas").catch(() => null);
    if (!reply) return; // The banner tells that the server is away; what is shown stays.
    node.hidden = !reply.areas.length;
    for (const area of reply.areas) {
      if (!rows.has(area.id)) {
        rows.set(area.id, areaRow(area));
        list.append(rows.get(area.id).node);
      }
      rows.get(area.id).update(area);
    }
  };
  state.on("event", (event) => { if (event.type === "AreaChanged") rows.get(event.area)?.update(event); });
  state.on("reload", load);
  load();
  return node;
}

function areaRow(area) {
  const value = el("span", {}, "–");
  const range = el("small", {}, "");
  const flow = el("div", { class: "muted area-flow" }, "");
  const fill = el("div", { class: "meter-fill" });
  const limit = area.limit;
  const meter = limit === null ? null : el("div", { class: "meter", role: "meter", "aria-label": area.name, "aria-valuemin": 0, "aria-valuemax": limit }, fill);
  const tag = el("span", { class: "over-tag", hidden: true }, t("zones.over"));
  const node = el("div", { class: "zone", "data-area": area.id },
    el("div", { class: "zone-row" }, el("span", {}, el("span", { class: "zone-name" }, area.name), tag), el("span", { class: "zone-value" }, value, range)), meter, flow);
  const update = ({ occupancy, uncertainty, entries, exits }) => {
    const known = occupancy !== null && occupancy !== undefined;
    setText(value, known ? count(occupancy) : "–");
    setText(range, `${known && Math.round(uncertainty) ? ` ± ${count(Math.round(uncertainty))}` : ""}${limit === null ? "" : ` / ${count(limit)}`}`);
    setText(flow, known ? t("areas.flow", { in: count(entries), out: count(exits) }) : t("areas.unknown"));
    if (!meter) return;
    const share = known ? occupancy / limit : 0;
    fill.style.setProperty("--share", String(Math.min(1, share)));
    meter.setAttribute("aria-valuenow", String(known ? Math.min(limit, occupancy) : 0));
    meter.setAttribute("aria-valuetext", known ? t("zones.of", { count: occupancy, limit }) : t("zones.no_data"));
    node.dataset.level = share > 1 ? "over" : share >= NEAR ? "near" : "normal";
    tag.hidden = share <= 1;
  };
  return { node, update };
}
