// Occupancy per zone, with its limit as a meter.

import { el, setText } from "./dom.js";
import { count } from "./format.js";
import { t } from "./texts.js";

const NEAR = 0.85;

/** The panel; an explanation where the site has no zone. */
export function zones(state) {
  const rows = new Map();
  const list = el("div", {});
  for (const camera of state.site.cameras.filter((row) => row.enabled)) {
    for (const zone of camera.zones) {
      const row = zoneRow(camera, zone);
      rows.set(`${camera.id} ${zone.id}`, row);
      list.append(row.node);
    }
  }
  if (!rows.size) list.append(el("p", { class: "note" }, t("zones.none")));
  const update = () => {
    for (const [name, row] of rows) row.update(state.zones.get(name)?.occupancy ?? null);
  };
  state.on("zones", update);
  update();
  return el("section", { class: "panel", "aria-label": t("zones.label") },
    el("div", { class: "panel-head" }, el("h2", {}, t("zones.title"))), list);
}

function zoneRow(camera, zone) {
  const value = el("span", {}, "–");
  const limit = zone.limit === null ? null : el("small", {}, ` / ${count(zone.limit)}`);
  const tag = el("span", { class: "over-tag", hidden: true }, t("zones.over"));
  const fill = el("div", { class: "meter-fill" });
  const meter = zone.limit === null ? null : el("div", {
    class: "meter", role: "meter", "aria-label": `${zone.name}, ${camera.name}`, "aria-valuemin": 0, "aria-valuemax": zone.limit,
  }, fill);
  const node = el(
    "div",
    { class: "zone", "data-zone": zone.id },
    el("div", { class: "zone-row" },
      el("span", {}, el("span", { class: "zone-name" }, zone.name), " ", el("span", { class: "zone-camera" }, camera.name), tag),
      el("span", { class: "zone-value" }, value, limit)),
    meter,
  );
  const update = (occupancy) => {
    setText(value, occupancy === null ? "–" : count(occupancy));
    node.title = occupancy === null ? t("zones.stale") : "";
    if (!meter) return;
    const share = occupancy === null ? 0 : occupancy / zone.limit;
    fill.style.setProperty("--share", Math.min(1, share));
    meter.setAttribute("aria-valuenow", Math.min(zone.limit, occupancy ?? 0));
    meter.setAttribute("aria-valuetext", occupancy === null ? t("zones.no_data") : t("zones.of", { count: occupancy, limit: zone.limit }));
    node.dataset.level = share > 1 ? "over" : share >= NEAR ? "near" : "normal";
    tag.hidden = share <= 1;
  };
  return { node, update };
}
