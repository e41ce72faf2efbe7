// Charts over time (uPlot): bars of crossings with last week's as lines behind them, and shares as lines. Times are the site's.

import uPlot from "../vendor/uPlot.esm.js";
import { count } from "./format.js";

/** Sizes of a canvas grow with the page's text, which is larger on large screens: pixels of so many ems. */
const em = (ems) => Math.round(ems * Number.parseFloat(getComputedStyle(document.documentElement).fontSize));
const height = () => em(17);

/** A chart in `host`; `show(data)` draws, `close()` lets go. */
class Chart {
  constructor(host) {
    this.host = host;
    this.plot = null;
    this.sizes = new ResizeObserver(([entry]) => this.plot?.setSize({ width: Math.max(200, Math.floor(entry.contentRect.width)), height: height() }));
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

  /** Draw the data; kept for another theme. */
  show(data) {
    this.data = data;
    this.plot?.destroy();
    this.plot = this.draw(data);
  }

  /** @returns {uPlot} */
  draw(_data) {
    throw new Error("a chart draws something");
  }

  /** What every chart of buckets has. */
  frame(data, series, columns, { x, y, label, hooks = {} }) {
    const axis = { stroke: colour("muted"), grid: { stroke: colour("border"), width: 1 }, ticks: { show: false }, font: `${em(0.75)}px system-ui, sans-serif` };
    return new uPlot({
      width: Math.max(200, this.host.clientWidth),
      height: height(),
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), data.zone),
      scales: { x: { range: () => x }, y: { range: y } },
      axes: [
        { ...axis, grid: { show: false }, size: em(1.9), splits: () => spread(data.times, this.host.clientWidth), values: (_plot, splits) => splits.map((seconds) => data.label(new Date(seconds * 1000))) },
        { ...axis, size: em(3), values: (_plot, splits) => splits.map(label) },
      ],
      cursor: { drag: { x: false, y: false }, points: { show: false } },
      legend: { show: false },
      series,
      hooks: { setCursor: [(plot) => data.point?.(plot.cursor.idx ?? null)], ...hooks },
    }, columns, this.host);
  }
}

/** Crossings in and out. `data`: zone, times (Unix seconds of each bucket), in, out, before ({in, out} or null), label(Date), names. */
export class CrossingsChart extends Chart {
  draw(data) {
    const bars = (align) => uPlot.paths.bars({ size: [0.42, 60], align, radius: 0.15 });
    /** @type {uPlot.Series[]} */
    const series = [{},
      { label: data.names.in, fill: colour("in"), width: 0, paths: bars(-1), points: { show: false } },
      { label: data.names.out, fill: colour("out"), width: 0, paths: bars(1), points: { show: false } }];
    const columns = [data.times, data.in, data.out];
    const step = stepOf(data.times);
    if (data.before) {
      for (const direction of ["in", "out"]) {
        series.push({ label: `${data.names.before} ${data.names[direction]}`, stroke: colour(direction), width: 1.5, dash: [4, 4], points: { show: false } });
        columns.push(data.before[direction]);
      }
    }
    return this.frame(data, series, columns, {
      x: [data.times[0] - step / 2, data.times.at(-1) + step / 2],
      y: (_plot, _low, high) => [0, Math.max(4, (high ?? 0) * 1.08)],
      label: (value) => (Number.isInteger(value) ? count(value) : ""),
    });
  }
}

/** Shares of 1 as lines that break where there is nothing to tell. `data`: zone, times, lines ([{name, share, colour, dash, hidden}]), away ([{start, end}] in Unix seconds), label(Date). */
export class ShareChart extends Chart {
  draw(data) {
    const series = [{}, ...data.lines.map((line) => ({
      label: line.name, stroke: colour(line.colour), width: 2, dash: line.dash, spanGaps: false, show: !line.hidden,
      points: { show: true, size: 6, fill: colour(line.colour) },
    }))];
    const shade = colour("sunken");
    const end = data.times.at(-1) + stepOf(data.times);
    // In the middle of its bucket, so that what is shaded lies beside the points that it concerns.
    const middles = data.times.map((time, place) => (time + (data.times[place + 1] ?? end)) / 2);
    return this.frame(data, series, [middles, ...data.lines.map((line) => line.share)], {
      x: [data.times[0], end],
      y: () => [0, 1.04],
      label: (value) => (value <= 1 ? `${Math.round(value * 100)} %` : ""),
      hooks: { drawClear: [(plot) => {
        const { top, height, left, width } = plot.bbox;
        plot.ctx.fillStyle = shade;
        for (const gap of data.away) {
          const from = Math.max(left, plot.valToPos(gap.start, "x", true));
          const to = Math.min(left + width, plot.valToPos(gap.end, "x", true));
          // A gap of a minute in a month is still to be seen.
          if (to > left && from < left + width) plot.ctx.fillRect(from, top, Math.max(2, to - from), height);
        }
      }] },
    });
  }
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const stepOf = (times) => (times.length > 1 ? times[1] - times[0] : 3600);

/** As many of the buckets' times as have room for a label, evenly. */
function spread(times, width) {
  const every = Math.max(1, Math.ceil(times.length / Math.max(1, Math.floor(width / em(5.6)))));
  return times.filter((_, index) => index % every === 0);
}
