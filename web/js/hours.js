// People by hour of the site's day, in and out side by side.

import { get } from "./api.js";
import { el, svg } from "./dom.js";
import { count, hour } from "./format.js";
import { t } from "./texts.js";

const REFRESH_MS = 60_000;
const WIDTH = 480;
const HEIGHT = 60;
const BASE = 59;
const STEP = WIDTH / 24;

/** The chart's panel. */
export function hours(state) {
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none" });
  const panel = el(
    "section",
    { class: "panel hours", "aria-label": t("hours.title") },
    el("div", { class: "hours-head" }, el("h2", {}, t("hours.title")),
      el("span", { class: "legend" }, el("span", {}, t("in")), el("span", { class: "legend-out" }, t("out")))),
    chart,
    el("div", { class: "hours-axis", "aria-hidden": "true" }, ...["00", "06", "12", "18", "24"].map((text) => el("span", {}, text))),
  );
  let due = 0;
  const load = async () => {
    due = Date.now() + REFRESH_MS;
    try {
      const reply = await get("/api/v1/counts?class=person&group=hour,direction");
      draw(chart, reply.counts, hour(state.now()));
    } catch {
      due = Date.now() + 5000; // The banner already says that the server is away.
    }
  };
  setInterval(() => { if (!document.hidden && Date.now() >= due) load(); }, 1000);
  // A crossing shows within a few seconds, however many there are.
  state.on("counts", () => { due = Math.min(due, Date.now() + 3000); });
  load();
  return panel;
}

function draw(chart, rows, current) {
  const bins = Array.from({ length: 24 }, () => ({ in: 0, out: 0 }));
  for (const row of rows) bins[hour(new Date(row.hour))][row.direction] += row.count;
  const highest = Math.max(4, ...bins.flatMap((bin) => [bin.in, bin.out]));
  const nodes = [svg("rect", { class: "now", x: current * STEP, y: 0, width: STEP, height: BASE, rx: 2 })];
  bins.forEach((bin, index) => {
    ["in", "out"].forEach((direction, side) => {
      if (!bin[direction]) return;
      const height = Math.max(1.5, (bin[direction] / highest) * (BASE - 4));
      nodes.push(svg("rect", {
        class: `bar-${direction}`, x: index * STEP + 2.5 + side * (STEP - 5) / 2, y: BASE - height,
        width: (STEP - 5) / 2 - 0.75, height, rx: 1,
      }, svg("title", {}, t("hours.bar", { hour: String(index).padStart(2, "0"), direction: t(`${direction}.on_picture`), count: count(bin[direction]) }))));
    });
  });
  nodes.push(svg("line", { class: "base", x1: 0, x2: WIDTH, y1: BASE + 0.5, y2: BASE + 0.5 }));
  chart.replaceChildren(...nodes);
  const busiest = bins.reduce((best, bin, index) => (bin.in + bin.out > bins[best].in + bins[best].out ? index : best), 0);
  chart.setAttribute("aria-label", t("hours.label", { from: busiest, to: busiest + 1 }));
}
