// PPE: violations with their evidence, to be judged; and how many people wear what they have to, by zone and item.

import { get, send } from "./api.js";
import { el, setText } from "./dom.js";
import { addDays, count, dayAndTime, duration, midnight, siteDay } from "./format.js";
import { may } from "./session.js";
import { t, term } from "./texts.js";

const PAGE = 24;
const OUTCOMES = ["worn", "missing", "unsure"];
const RANGES = { today: 0, week: -6 };

/** The page. */
export function ppePage(state) {
  return new PpePage(state).node;
}

class PpePage {
  constructor(state) {
    this.state = state;
    this.review = "open";
    this.range = "today";
    this.list = el("ol", { class: "violations" });
    this.note = el("p", { class: "note", role: "status" });
    this.more = el("button", { class: "button", type: "button", hidden: true, click: () => this.load(true) }, t("ppe.more"));
    this.table = el("tbody", {});
    this.rules = el("div", { class: "facts" });
    this.node = el("div", { class: "page ppe" },
      el("div", { class: "page-head" }, el("h1", {}, t("ppe.title")), this.segments(["open", "acknowledged", "dismissed", "all"], "review", (name) => { this.review = name; this.load(); })),
      this.list, this.note, this.more,
      el("section", { class: "panel", "aria-label": t("ppe.compliance") },
        el("div", { class: "panel-head" }, el("h2", {}, t("ppe.compliance")), this.segments(Object.keys(RANGES), "range", (name) => { this.range = name; this.loadFigures(); })),
        el("div", { class: "table-scroll", tabindex: 0 }, el("table", {}, el("thead", {}, el("tr", {},
          ...["ppe.camera", "ppe.zone", "ppe.item", "ppe.share"].map((key) => el("th", { scope: "col" }, t(key))),
          ...OUTCOMES.map((name) => el("th", { scope: "col", class: "num" }, t(`ppe.${name}`))))), this.table)), this.rules));
    const off = [state.on("event", (event) => { if (event.type === "PpeViolation") this.soon(); }), state.on("reload", () => this.soon())];
    this.node.stop = () => { off.forEach((end) => end()); clearTimeout(this.due); };
    this.load();
    this.loadFigures();
  }

  segments(names, field, choose) {
    const buttons = names.map((name) => el("button", { type: "button", "aria-pressed": String(name === this[field]), "data-choice": name, click: (event) => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      choose(name);
    } }, t(`ppe.${name}`)));
    return el("div", { class: "segments", role: "group" }, ...buttons);
  }

  soon() {
    clearTimeout(this.due);
    this.due = setTimeout(() => { this.load(); this.loadFigures(); }, 400);
  }

  async load(further = false) {
    const query = new URLSearchParams({ limit: String(PAGE) });
    if (this.review !== "all") query.set("review", this.review);
    if (further && this.next) query.set("before", this.next);
    try {
      const reply = await get(`/api/v1/violations?${query}`);
      const rows = reply.violations.map((view) => this.row(view));
      if (further) this.list.append(...rows);
      else this.list.replaceChildren(...rows);
      this.next = reply.next;
      this.more.hidden = !reply.next;
      this.note.hidden = this.list.children.length > 0;
      setText(this.note, t("ppe.none"));
    } catch (error) {
      this.note.hidden = false;
      setText(this.note, error.message);
    }
  }

  row({ violation, review, by, note }) {
    const camera = this.state.camera(violation.camera);
    const zone = camera?.zones.find((row) => row.id === violation.zone)?.name ?? violation.zone;
    const place = [camera?.name ?? violation.camera, zone].filter(Boolean).join(" · ");
    const path = `/api/v1/violations/${encodeURIComponent(violation.id)}/picture.jpg`;
    const missing = violation.items.map((item) => term("item", item)).join(", ");
    const image = el("img", { src: path, alt: t("ppe.picture", { items: missing }), loading: "lazy", error: () => link.replaceChildren(el("span", { class: "no-picture" }, t("ppe.no_picture"))) });
    const link = el("a", { class: "evidence", href: `${path}?kind=full`, target: "_blank", rel: "noopener" }, image);
    const button = (name) => el("button", { class: "button", type: "button", "data-judge": name, disabled: review === name, click: () => this.judge(violation.id, name) }, t(`ppe.judge_${name}`));
    return el("li", { class: "panel violation", "data-violation": violation.id, "data-review": review }, link,
      el("div", { class: "violation-text" },
        el("b", {}, t("ppe.without", { items: missing })),
        el("div", {}, place),
        el("div", { class: "muted" }, `${dayAndTime(new Date(violation.first_seen * 1000))} · ${duration(violation.last_seen - violation.first_seen)}${violation.ongoing ? ` · ${t("ppe.ongoing")}` : violation.cause ? ` · ${term("cause", violation.cause)}` : ""}`),
        el("div", { class: "muted" }, [t(`ppe.${review}`), by, note].filter(Boolean).join(" · ")),
        may("review") ? el("div", { class: "actions" }, button("acknowledged"), button("dismissed")) : null));
  }

  async judge(id, review) {
    try {
      await send("POST", `/api/v1/violations/${encodeURIComponent(id)}/review`, { review });
    } catch (error) {
      this.note.hidden = false;
      setText(this.note, error.message);
    }
    await Promise.all([this.load(), this.loadFigures()]);
  }

  async loadFigures() {
    const today = siteDay(this.state.now());
    const query = new URLSearchParams({ from: midnight(addDays(today, RANGES[this.range])).toISOString(), to: midnight(addDays(today, 1)).toISOString() });
    const reply = await get(`/api/v1/ppe/figures?${query}`).catch(() => null);
    if (!reply) return;
    const groups = new Map();
    for (const row of reply.compliance) {
      const name = JSON.stringify([row.camera, row.zone, row.item]);
      if (!groups.has(name)) groups.set(name, { worn: 0, missing: 0, unsure: 0 });
      for (const outcome of OUTCOMES) groups.get(name)[outcome] += row[outcome] ?? 0;
    }
    this.table.replaceChildren(...[...groups].sort().map(([name, total]) => {
      const [cameraId, zoneId, item] = JSON.parse(name);
      const camera = this.state.camera(cameraId);
      const known = total.worn + total.missing;
      const share = known ? Math.round((total.worn / known) * 100) : null;
      return el("tr", {}, el("td", {}, camera?.name ?? cameraId), el("td", {}, camera?.zones.find((row) => row.id === zoneId)?.name ?? (zoneId || t("ppe.whole"))), el("td", {}, term("item", item)),
        el("td", {}, share === null ? "–" : `${share} %`), ...OUTCOMES.map((outcome) => el("td", { class: "num", "data-outcome": outcome }, count(total[outcome]))));
    }));
    if (!groups.size) this.table.replaceChildren(el("tr", {}, el("td", { colspan: 7, class: "muted" }, t("ppe.no_figures"))));
    this.rules.replaceChildren(...reply.rules.map((rule) => el("div", {}, el("span", { class: "muted" }, `${this.state.camera(rule.camera)?.name ?? rule.camera} · ${rule.rule}`),
      el("span", {}, t("ppe.precision", { percent: Math.round(rule.precision * 100), right: count(rule.acknowledged), all: count(rule.acknowledged + rule.dismissed) })))));
  }
}
