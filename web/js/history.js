// What was counted: a range of days as a chart, figures and a table, beside the week before; and when cameras were away.

import { get } from "./api.js";
import { CrossingsChart } from "./chart.js";
import { Days } from "./days.js";
import { arrow, el, setText } from "./dom.js";
import { count, day, dayAndTime, duration, hour, siteDay } from "./format.js";
import { rangeOf, series, totals, weekBefore } from "./series.js";
import { CLASSES } from "./shapes.js";
import { t, term } from "./texts.js";

const MOST_DAYS = 400;
const GAPS_SHOWN = 50;

/** The page. */
export function historyPage(state) {
  return new HistoryPage(state).node;
}

/** What the line's last audit says of its counts: the error with its interval, per direction. */
function audited(audits) {
  if (!audits) return el("span", { class: "muted" }, t("history.not_audited"));
  const percent = (value) => `${value > 0 ? "+" : ""}${Math.round(value * 100)} %`;
  return el("span", {}, ...Object.entries(audits).map(([direction, { figures, stale, time }]) => el("div", { title: dayAndTime(new Date(time)) },
    arrow(direction), ` ${figures.count_error ? `${percent(figures.count_error.value)} (${percent(figures.count_error.low)} … ${percent(figures.count_error.high)})` : "–"}`,
    stale ? el("span", { class: "muted" }, ` ${t("history.audit_stale")}`) : null)));
}

class HistoryPage {
  constructor(state) {
    this.state = state;
    this.turn = 0;
    this.range = new Days(siteDay(state.now()), MOST_DAYS, () => this.load());
    this.camera = this.choice([["", t("history.all")], ...state.site.cameras.map((camera) => [camera.id, camera.name])], () => this.cameraChosen());
    this.line = this.choice([["", t("history.all")]], () => this.load());
    this.classFilter = this.choice([["", t("history.all")], ...CLASSES.map((name) => [name, term("class", name)])], () => this.load());
    this.compare = el("input", { type: "checkbox", checked: true, change: () => this.load() });
    this.plot = el("div", { class: "plot", role: "img", "aria-label": t("history.chart") });
    this.chart = new CrossingsChart(this.plot);
    this.at = el("span", { class: "muted" });
    this.figures = el("div", { class: "cards" });
    this.table = el("tbody", {});
    this.gaps = el("div", { class: "gaps" });
    this.note = el("p", { class: "note", role: "status", hidden: true });
    this.download = el("a", { class: "button", download: true }, t("history.download"));
    this.print = el("a", { class: "button", target: "_blank", rel: "noopener" }, t("history.print"));
    const field = (key, node) => el("label", { class: "field" }, el("span", {}, t(key)), node);
    this.results = el("div", { class: "page-results page" }, this.figures,
      el("section", { class: "panel chart", "aria-label": t("history.chart") },
        el("div", { class: "chart-head" }, this.at, el("span", { class: "legend" }, el("span", {}, t("in")), el("span", { class: "legend-out" }, t("out")))), this.plot, this.note),
      el("section", { class: "panel", "aria-label": t("history.by_line") }, el("div", { class: "panel-head" }, el("h2", {}, t("history.by_line"))),
        el("div", { class: "table-scroll", tabindex: 0 }, el("table", {}, this.head(), this.table))),
      el("section", { class: "panel", "aria-label": t("history.gaps") }, el("div", { class: "panel-head" }, el("h2", {}, t("history.gaps"))), this.gaps));
    this.results.style.padding = "0";
    this.node = el("div", { class: "page history" },
      el("div", { class: "page-head" }, el("h1", {}, t("history.title")), this.print, this.download),
      el("section", { class: "panel toolbar", "aria-label": t("history.range") },
        ...this.range.nodes,
        field("history.camera", this.camera), field("history.line", this.line), field("history.class", this.classFilter),
        el("label", { class: "check" }, this.compare, t("history.compare"))),
      this.results);
    this.node.stop = () => { this.turn += 1; this.chart.close(); };
    this.node.start = () => this.range.choose("today");
  }

  choice(options, change) {
    return el("select", { change }, ...options.map(([value, text]) => el("option", { value }, text)));
  }

  head() {
    const cell = (key, numeric) => el("th", { scope: "col", class: numeric ? "num" : null }, t(key));
    return el("thead", {}, el("tr", {}, cell("history.camera"), cell("history.line"), cell("history.class"), cell("in", true), cell("out", true), cell("history.net", true), cell("history.audit")));
  }

  // What is asked for

  cameraChosen() {
    const lines = this.state.camera(this.camera.value)?.lines ?? [];
    this.line.replaceChildren(el("option", { value: "" }, t("history.all")), ...lines.map((line) => el("option", { value: line.id }, line.name)));
    this.line.disabled = !lines.length;
    this.load();
  }

  query(range, extra) {
    const query = new URLSearchParams({ from: range.from.toISOString(), to: range.to.toISOString(), ...extra });
    if (this.camera.value) query.set("camera", this.camera.value);
    if (this.line.value) query.set("line", this.line.value);
    if (this.classFilter.value) query.set("class", this.classFilter.value);
    return query;
  }

  // What is shown

  async load() {
    const turn = (this.turn += 1);
    const range = rangeOf(...this.range.days);
    const before = this.compare.checked ? weekBefore(range) : null;
    this.line.disabled = this.line.options.length < 2;
    this.download.href = `/api/v1/exports/crossings.csv?${this.query(range, {})}`;
    const camera = this.camera.value ? { camera: this.camera.value } : {};
    this.print.href = `/api/v1/exports/report.html?${new URLSearchParams({ from: range.from.toISOString(), to: range.to.toISOString(), ...camera })}`;
    this.results.classList.add("busy");
    const counts = (of) => get(`/api/v1/counts?${this.query(of, { group: `${of.by},camera,line,class,direction` })}`);
    try {
      const only = this.camera.value ? `&camera=${encodeURIComponent(this.camera.value)}` : "";
      const [now, then, gaps] = await Promise.all([counts(range), before ? counts(before) : null,
        get(`/api/v1/events?type=CameraGap&limit=${GAPS_SHOWN}&from=${range.from.toISOString()}&to=${range.to.toISOString()}${only}`)]);
      if (turn !== this.turn) return;
      this.results.classList.remove("busy");
      this.show(range, now.counts, then ? { range: before, rows: then.counts } : null, gaps.events);
    } catch (error) {
      if (turn !== this.turn) return;
      this.note.hidden = false;
      setText(this.note, error.message);
    }
  }

  show(range, rows, before, gaps) {
    const now = series(range, rows);
    const then = before ? series(before.range, before.rows) : null;
    this.note.hidden = rows.length > 0;
    setText(this.note, t("history.none"));
    this.drawFigures(totals(rows), before ? totals(before.rows) : null);
    const label = (date) => (range.by === "hour" ? (hour(date) === 0 ? day(date) : `${String(hour(date)).padStart(2, "0")}:00`) : day(date));
    const words = (position) => (position === null ? t(`history.per_${range.by}`)
      : `${range.by === "hour" ? dayAndTime(new Date(now.times[position] * 1000)) : day(new Date(now.times[position] * 1000))}: ${count(now.in[position])} ${t("in.on_picture")}, ${count(now.out[position])} ${t("out.on_picture")}`);
    setText(this.at, words(null));
    // A week with a change of the clock has an hour more or less: what does not line up is left out.
    const align = (values) => now.times.map((_, position) => values[position] ?? null);
    this.chart.show({
      ...now, zone: this.state.site.timezone, label, point: (position) => setText(this.at, words(position)),
      before: then ? { in: align(then.in), out: align(then.out) } : null,
      names: { in: t("in"), out: t("out"), before: t("history.before") },
    });
    this.drawTable(rows);
    this.drawGaps(gaps);
  }

  drawFigures(now, then) {
    const change = (direction) => {
      if (!then) return "";
      if (!then[direction]) return `${t("history.before")}: 0`;
      const percent = Math.round(((now[direction] - then[direction]) / then[direction]) * 100);
      return `${t("history.before")}: ${count(then[direction])} (${percent > 0 ? "+" : ""}${percent} %)`;
    };
    const card = (direction) => el("section", { class: "panel card" }, el("h2", {}, t(direction)),
      el("span", { class: "figure-value", "data-figure": direction }, count(now[direction])), el("small", {}, change(direction)));
    const net = el("section", { class: "panel card" }, el("h2", {}, t("history.net")), el("span", { class: "figure-value", "data-figure": "net" }, count(now.in - now.out)), el("small", {}, ""));
    this.figures.replaceChildren(card("in"), card("out"), net);
  }

  drawTable(rows) {
    const groups = new Map();
    for (const row of rows) {
      const name = JSON.stringify([row.camera, row.line, row.class]);
      if (!groups.has(name)) groups.set(name, { in: 0, out: 0 });
      groups.get(name)[row.direction] += row.count;
      if (row.audit) (groups.get(name).audit ??= {})[row.direction] = row.audit;
    }
    const numbers = (total) => ["in", "out"].map((direction) => el("td", { class: "num" }, arrow(direction), " ", count(total[direction])));
    this.table.replaceChildren(...[...groups].sort().map(([name, total]) => {
      const [cameraId, lineId, className] = JSON.parse(name);
      const camera = this.state.camera(cameraId);
      const line = camera?.lines.find((row) => row.id === lineId)?.name ?? lineId;
      return el("tr", {}, el("td", {}, camera?.name ?? cameraId), el("td", {}, line), el("td", {}, term("class", className)), ...numbers(total), el("td", { class: "num" }, count(total.in - total.out)), el("td", {}, audited(total.audit)));
    }));
  }

  drawGaps(gaps) {
    this.gaps.replaceChildren(...(gaps.length ? gaps.map((gap) => el("p", {}, t("history.gap", {
      camera: this.state.camera(gap.camera)?.name ?? gap.camera, from: dayAndTime(new Date(gap.start * 1000)),
      to: dayAndTime(new Date(gap.end * 1000)), duration: duration(gap.end - gap.start), cause: gap.cause,
    }))) : [el("p", { class: "muted" }, t("history.no_gaps"))]));
  }
}
