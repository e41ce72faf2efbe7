// Who wears what: its course over a range of days as lines, the sums by zone and item, and every figure of the chart as a table.

import { get } from "./api.js";
import { ShareChart } from "./chart.js";
import { OUTCOMES, lines, share, timesOf } from "./compliance.js";
import { Days } from "./days.js";
import { el, setText } from "./dom.js";
import { count, day, dayAndTime, duration, hour, siteDay } from "./format.js";
import { field, table } from "./parts.js";
import { rangeOf } from "./series.js";
import { t, term } from "./texts.js";

/** As many as the interface gives at a time. */
const MOST_DAYS = 31;
const GAPS_SHOWN = 50;
const COLOURS = 8;
const REFRESH_MS = 30_000;
const DASHES = [[], [6, 4], [2, 3]];

/** The panel. `soon()` has it load anew, `stop()` ends it. */
export class Trend {
  constructor(state) {
    this.state = state;
    this.turn = 0;
    this.hidden = new Set();
    const select = (options, change) => el("select", { change }, ...options.map(([value, text]) => el("option", { value }, text)));
    this.days = new Days(siteDay(state.now()), MOST_DAYS, () => this.load());
    this.camera = select([["", t("history.all")], ...state.site.cameras.map((camera) => [camera.id, camera.name])], () => this.load());
    this.item = select([["", t("history.all")], ...["hardhat", "vest", "mask"].map((name) => [name, term("item", name)])], () => this.show());
    this.host = el("div", { class: "plot", role: "img", "aria-label": t("ppe.chart") });
    this.chart = new ShareChart(this.host);
    this.at = el("span", { class: "muted" });
    this.legend = el("div", { class: "line-legend", role: "group", "aria-label": t("ppe.lines") });
    this.note = el("p", { class: "note", role: "status" }, t("loading"));
    this.sums = el("tbody", {});
    this.every = el("tbody", {});
    this.rules = el("div", { class: "facts" });
    this.gaps = el("details", { hidden: true });
    const figures = [[t("ppe.camera")], [t("ppe.zone")], [t("ppe.item")], [t("ppe.share"), true], ...OUTCOMES.map((name) => [t(`ppe.${name}`), true])];
    this.node = el("div", { class: "trend" },
      el("h2", { class: "section-title" }, t("ppe.compliance")),
      el("section", { class: "panel toolbar", "aria-label": t("history.range") }, ...this.days.nodes, field(t("history.camera"), this.camera), field(t("ppe.item"), this.item)),
      this.panel = el("section", { class: "panel chart", "aria-label": t("ppe.chart") }, el("div", { class: "chart-head" }, this.at), this.host, this.legend, this.note, this.gaps,
        el("details", {}, el("summary", {}, t("ppe.every")), table(t("ppe.every"), [[t("ppe.time")], ...figures], this.every))),
      el("section", { class: "panel", "aria-label": t("ppe.sums") }, el("div", { class: "panel-head" }, el("h2", {}, t("ppe.sums"))), table(t("ppe.sums"), figures, this.sums), this.rules));
    this.timer = setInterval(() => { if (!document.hidden) this.again(); }, REFRESH_MS);
    this.days.choose("today");
  }

  stop() {
    this.turn += 1;
    clearInterval(this.timer);
    clearTimeout(this.due);
    this.chart.close();
  }

  soon() {
    this.due ??= setTimeout(() => this.again(), 1000);
  }

  /** Only where nothing is on its way: with events every second, no answer would ever be the newest. */
  again() {
    clearTimeout(this.due);
    this.due = null;
    return this.busy ? this.soon() : this.load();
  }

  async load() {
    const turn = (this.turn += 1);
    this.busy = true;
    this.panel.classList.toggle("busy", this.days.days.join() !== this.shown);
    const range = rangeOf(...this.days.days);
    const query = { from: range.from.toISOString(), to: range.to.toISOString() };
    const camera = this.camera.value ? { camera: this.camera.value } : {};
    try {
      const [figures, gaps] = await Promise.all([get(`/api/v1/ppe/figures?${new URLSearchParams(query)}`),
        get(`/api/v1/events?${new URLSearchParams({ ...query, ...camera, type: "CameraGap", limit: String(GAPS_SHOWN) })}`)]);
      if (turn !== this.turn) return;
      this.shown = `${range.first},${range.last}`;
      this.range = range;
      this.figures = figures;
      this.away = gaps.events;
      this.show();
    } catch (error) {
      if (turn !== this.turn) return;
      this.note.hidden = false;
      setText(this.note, error.message);
    }
    this.busy = false;
    this.panel.classList.remove("busy");
  }

  names({ camera: id, zone, item }) {
    const camera = this.state.camera(id);
    return [camera?.name ?? id, camera?.zones.find((row) => row.id === zone)?.name ?? (zone || t("ppe.whole")), term("item", item)];
  }

  show() {
    if (!this.figures) return;
    const { range } = this;
    const times = timesOf(range);
    const rows = this.figures.compliance.filter((row) => (!this.camera.value || row.camera === this.camera.value) && (!this.item.value || row.item === this.item.value));
    const found = lines(times, rows);
    const concerned = new Set(found.map((line) => line.camera));
    const away = this.away.filter((gap) => concerned.has(gap.camera));
    this.note.hidden = found.length > 0;
    setText(this.note, t("ppe.no_figures"));
    const moment = (place) => (range.by === "hour" ? dayAndTime(new Date(times[place] * 1000)) : day(new Date(times[place] * 1000)));
    this.drawChart(times, found, away, moment);
    this.drawGaps(away);
    const cells = (line, sums) => [...this.names(line).map((text) => el("td", {}, text)), el("td", { class: "num", "data-outcome": "share" }, percent(share(sums))),
      ...OUTCOMES.map((name) => el("td", { class: "num", "data-outcome": name }, count(sums[name])))];
    this.sums.replaceChildren(...(found.length ? found.map((line) => el("tr", {}, ...cells(line, line.total)))
      : [el("tr", {}, el("td", { colspan: 7, class: "muted" }, t("ppe.no_figures")))]));
    this.every.replaceChildren(...times.flatMap((time, place) => found.filter((line) => OUTCOMES.some((name) => line.of[place][name]))
      .map((line) => el("tr", { "data-time": time }, el("td", {}, moment(place)), ...cells(line, line.of[place])))));
    this.drawRules();
  }

  drawChart(times, found, away, moment) {
    const drawn = found.map((line, place) => ({
      name: this.names(line).join(" · "), share: line.of.map(share), of: line.of,
      colour: `line-${(place % COLOURS) + 1}`, dash: DASHES[Math.floor(place / COLOURS) % DASHES.length], hidden: this.hidden.has(this.names(line).join(" · ")),
    }));
    const values = drawn.map(() => el("b", {}));
    const point = (place) => {
      setText(this.at, place === null ? t(`ppe.per_${this.range.by}`) : moment(place));
      drawn.forEach((line, index) => {
        const of = place === null ? null : line.of[place];
        setText(values[index], of ? (share(of) === null ? "–" : `${percent(share(of))} (${t("ppe.of", { worn: count(of.worn), all: count(of.worn + of.missing) })})`) : "");
      });
    };
    point(null);
    const label = (date) => (this.range.by === "hour" && hour(date) !== 0 ? `${String(hour(date)).padStart(2, "0")}:00` : day(date));
    const show = () => this.chart.show({ times, zone: this.state.site.timezone, lines: drawn, away, label, point });
    show();
    const at = [...this.legend.children].indexOf(/** @type {Element} */ (document.activeElement));
    this.legend.replaceChildren(...drawn.map((line, index) => {
      const swatch = el("span", { class: "line-swatch" });
      swatch.style.setProperty("--line", `var(--${line.colour})`);
      return el("button", { type: "button", class: "line-name", "aria-pressed": String(!line.hidden), click: (event) => {
        line.hidden = !line.hidden;
        if (line.hidden) this.hidden.add(line.name);
        else this.hidden.delete(line.name);
        event.currentTarget.setAttribute("aria-pressed", String(!line.hidden));
        show();
      } }, swatch, line.name, values[index]);
    }), ...(away.length ? [el("span", { class: "line-name" }, el("span", { class: "away-swatch" }), t("ppe.away"))] : []));
    /** @type {HTMLElement | undefined} */ (this.legend.children[at])?.focus();
  }

  drawGaps(away) {
    this.gaps.hidden = away.length === 0;
    this.gaps.replaceChildren(el("summary", {}, `${t("history.gaps")}: ${count(away.length)}`), el("div", { class: "gaps" }, ...away.map((gap) => el("p", {}, t("history.gap", {
      camera: this.state.camera(gap.camera)?.name ?? gap.camera, from: dayAndTime(new Date(gap.start * 1000)),
      to: dayAndTime(new Date(gap.end * 1000)), duration: duration(gap.end - gap.start), cause: gap.cause,
    })))));
  }

  drawRules() {
    this.rules.replaceChildren(...this.figures.rules.map((rule) => el("div", {}, el("span", { class: "muted" }, `${this.state.camera(rule.camera)?.name ?? rule.camera} · ${rule.rule}`),
      el("span", {}, t("ppe.precision", { percent: Math.round(rule.precision * 100), right: count(rule.acknowledged), all: count(rule.acknowledged + rule.dismissed) })))));
  }
}

const percent = (value) => (value === null ? "–" : `${Math.round(value * 100)} %`);
