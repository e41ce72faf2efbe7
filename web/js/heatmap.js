// Where people stood: the density grid of a range, drawn over the camera's picture.

import { get } from "./api.js";
import { el } from "./dom.js";
import { addDays, midnight, siteDay } from "./format.js";
import { t } from "./texts.js";

const RANGES = { off: null, today: [0, 1], week: [-6, 1] };

/** A control and the canvas that it draws into; `canvas` belongs over the picture. */
export function heatmap(state, camera) {
  const canvas = el("canvas", { class: "heatmap", hidden: true, role: "img", "aria-label": t("heatmap.label") });
  const note = el("span", { class: "muted", role: "status" });
  const show = async (name) => {
    canvas.hidden = true;
    note.textContent = "";
    const range = RANGES[name];
    if (!range) return;
    const today = siteDay(state.now());
    const [from, to] = range.map((days) => midnight(addDays(today, days)).toISOString());
    try {
      const grid = await get(`/api/v1/cameras/${camera.id}/heatmap?${new URLSearchParams({ from, to })}`);
      draw(canvas, grid);
      canvas.hidden = grid.maximum === 0;
      note.textContent = grid.maximum === 0 ? t("heatmap.empty") : t("heatmap.scale", { minutes: Math.max(1, Math.round(grid.maximum / 60)) });
    } catch (error) {
      note.textContent = error.message;
    }
  };
  const buttons = Object.keys(RANGES).map((name) => el("button", {
    type: "button", "aria-pressed": String(name === "off"), "data-heat": name,
    click: (event) => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      show(name);
    },
  }, t(`heatmap.${name}`)));
  const control = el("div", { class: "heat-control" }, el("span", { class: "muted" }, t("heatmap.title")), el("div", { class: "segments", role: "group", "aria-label": t("heatmap.title") }, ...buttons), note);
  return { canvas, control };
}

/** One pixel per cell, which the browser smooths; the square root shows what is rare beside what is frequent. */
function draw(canvas, { columns, rows, seconds, maximum }) {
  Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  seconds.flat().forEach((value, index) => {
    const share = maximum ? Math.sqrt(value / maximum) : 0;
    // Blue over yellow to red, as thermal cameras have it.
    image.data.set([Math.min(255, 510 * share), share < 0.5 ? 380 * share + 40 : 460 * (1 - share), Math.max(0, 230 - 460 * share), share ? 60 + 160 * share : 0], index * 4);
  });
  context.putImageData(image, 0, 0);
}
