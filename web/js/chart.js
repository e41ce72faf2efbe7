// Bars of crossings in and out over time (uPlot), with last week's as lines behind them. Times are the site's.

import uPlot from "../vendor/uPlot.esm.js";
import { count } from "./format.js";

const HEIGHT = 272;
const LABEL_PX = 90;

/** A chart in `host`; `show(data)` draws, `close()` lets go. */
export class CrossingsChart {
  constructor(host) {
    this.host = host;
    this.plot = null;
    this.sizes = new ResizeObserver(([entry]) => this.plot?.setSize({ width: Math.max(200, Math.floor(entry.contentRect.width)), height: HEIGHT }));
    this.sizes.observe(host);
    // Colours are the theme's, and a canvas does not follow them by itself.
    this.theme = new MutationObserver(() => this.data && this.show(this.data));
    this.theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  }

  close() {
    this.sizes.disconnect();
    this.theme.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }

  /** `data`: zone, times (Unix seconds of each bucket), in, out, before ({in, out} or null), label(Date), names. */
  show(data) {
    this.data = data;
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const bars = (align) => uPlot.paths.bars({ size: [0.42, 60], align, radius: 0.15 });
    /** @type {uPlot.Series[]} */
    const series = [{},
      { label: data.names.in, fill: colour("in"), width: 0, paths: bars(-1), points: { show: false } },
      { label: data.names.out, fill: colour("out"), width: 0, paths: bars(1), points: { show: false } }];
    const columns = [data.times, data.in, data.out];
    if (data.before) {
      for (const direction of ["in", "out"]) {
        series.push({ label: `${data.names.before} ${data.names[direction]}`, stroke: colour(direction), width: 1.5, dash: [4, 4], points: { show: false } });
        columns.push(data.before[direction]);
      }
    }
    const axis = { stroke: colour("muted"), grid: { stroke: colour("border"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const step = data.times.length > 1 ? data.times[1] - data.times[0] : 3600;
    this.plot = new uPlot({
      width: Math.max(200, this.host.clientWidth),
      height: HEIGHT,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), data.zone),
      scales: {
        x: { range: () => [data.times[0] - step / 2, data.times.at(-1) + step / 2] },
        y: { range: (_plot, _low, high) => [0, Math.max(4, (high ?? 0) * 1.08)] },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 30, splits: () => spread(data.times, this.host.clientWidth), values: (_plot, splits) => splits.map((seconds) => data.label(new Date(seconds * 1000))) },
        { ...axis, size: 48, values: (_plot, splits) => splits.map((value) => (Number.isInteger(value) ? count(value) : "")) },
      ],
      cursor: { drag: { x: false, y: false }, points: { show: false } },
      legend: { show: false },
      series,
      hooks: { setCursor: [(plot) => data.point?.(plot.cursor.idx ?? null)] },
    }, columns, this.host);
  }
}

/** As many of the buckets' times as have room for a label, evenly. */
function spread(times, width) {
  const every = Math.max(1, Math.ceil(times.length / Math.max(1, Math.floor(width / LABEL_PX))));
  return times.filter((_, index) => index % every === 0);
}
