// PPE: violations with their evidence, to be judged; below them, how many people wear what they have to.

import { get, send } from "./api.js";
import { el, setText } from "./dom.js";
import { dayAndTime, duration } from "./format.js";
import { segments } from "./parts.js";
import { Trend } from "./ppe-trend.js";
import { may } from "./session.js";
import { t, term } from "./texts.js";

const PAGE = 12;

/** The page. */
export function ppePage(state) {
  return new PpePage(state).node;
}

class PpePage {
  constructor(state) {
    this.state = state;
    this.review = "open";
    this.list = el("ol", { class: "violations" });
    this.note = el("p", { class: "note", role: "status" }, t("loading"));
    this.more = el("button", { class: "button", type: "button", hidden: true, click: () => this.load(true) }, t("ppe.more"));
    this.trend = new Trend(state);
    const reviews = Object.fromEntries(["open", "acknowledged", "dismissed", "all"].map((name) => [name, t(`ppe.${name}`)]));
    this.node = el("div", { class: "page ppe" },
      el("div", { class: "page-head" }, el("h1", {}, t("ppe.title")), segments(t("ppe.review"), reviews, this.review, (name) => { this.review = name; this.load(); })),
      this.list, this.note, el("div", {}, this.more), this.trend.node);
    const off = [state.on("event", (event) => { if (event.type === "PpeViolation") this.soon(); }), state.on("reload", () => this.soon())];
    this.node.stop = () => { off.forEach((end) => end()); clearTimeout(this.due); this.trend.stop(); };
    this.load();
  }

  soon() {
    clearTimeout(this.due);
    this.due = setTimeout(() => this.load(), 400);
    this.trend.soon();
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
    await Promise.all([this.load(), this.trend.again()]);
  }
}
