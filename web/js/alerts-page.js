// Alerts: what was raised and who takes care of it; the rules that raise them; and how their channels deliver.

import { get, send } from "./api.js";
import { rulesPanel } from "./alert-rules.js";
import { channelsPanel } from "./channels.js";
import { el, setText } from "./dom.js";
import { count, dayAndTime, duration } from "./format.js";
import { field, segments } from "./parts.js";
import { may } from "./session.js";
import { t } from "./texts.js";

const PAGE = 25;
const MOST = 500;
const SEVERITIES = ["info", "warning", "critical"];
const STATES = { active: "open,acknowledged", open: "open", acknowledged: "acknowledged", closed: "closed", all: "" };
const TONES = { open: "bad", acknowledged: "warn", closed: "idle" };

/** The page. */
export function alertsPage(state) {
  const feed = new Feed(state);
  const rules = rulesPanel(state, (told) => feed.offerRules(told));
  const channels = may("review") ? channelsPanel() : null;
  const node = el("div", { class: "page alerts-page" },
    el("div", { class: "page-head" }, el("h1", {}, t("alerts.title")), feed.choice), feed.filters, feed.node, rules.node, channels?.node);
  node.stop = () => { for (const part of [feed, rules, channels]) part?.stop(); };
  return node;
}

class Feed {
  constructor(state) {
    this.state = state;
    this.views = [];
    this.shown = "";
    this.wanted = PAGE;
    this.turn = 0;
    this.which = "active";
    const select = (options) => el("select", { change: () => this.anew() }, ...options.map(([value, text]) => el("option", { value }, text)));
    this.camera = select([["", t("history.all")], ...state.site.cameras.map((camera) => [camera.id, camera.name])]);
    this.rule = select([["", t("history.all")]]);
    this.severity = select([["", t("history.all")], ...SEVERITIES.map((name) => [name, t(`severity.${name}`)])]);
    this.escalated = el("input", { type: "checkbox", change: () => this.anew() });
    this.choice = segments(t("alerts.state"), Object.fromEntries(Object.keys(STATES).map((name) => [name, t(`alerts.${name}`)])), this.which,
      (name) => { this.which = name; this.anew(); });
    this.filters = el("section", { class: "panel toolbar", "aria-label": t("alerts.filter") }, field(t("alerts.rule"), this.rule), field(t("history.camera"), this.camera),
      field(t("alerts.severity"), this.severity), el("label", { class: "check" }, this.escalated, t("alerts.escalated_only")));
    this.list = el("ol", { class: "alert-list", "aria-label": t("alerts.title"), tabindex: -1 });
    this.note = el("p", { class: "note", role: "status" }, t("loading"));
    this.problem = el("p", { class: "note", role: "alert", "data-tone": "bad", hidden: true });
    this.more = el("button", { class: "button", type: "button", hidden: true, click: () => { this.wanted = Math.min(MOST, this.wanted + PAGE); this.load(); } }, t("ppe.more"));
    this.node = el("div", { class: "feed" }, this.problem, this.list, this.note, this.more);
    this.off = [
      state.on("event", (event) => { if (event.type === "AlertRaised" || event.type === "AlertChanged") this.soon(); }),
      state.on("reload", () => this.load()),
    ];
    this.load();
  }

  stop() {
    this.turn += 1;
    clearTimeout(this.due);
    for (const end of this.off) end();
  }

  /** The rules there are, to choose from; the one that is chosen stays so. */
  offerRules(rules) {
    const chosen = this.rule.value;
    this.rule.replaceChildren(el("option", { value: "" }, t("history.all")), ...rules.map((rule) => el("option", { value: rule.id }, rule.name || rule.id)));
    this.rule.value = rules.some((rule) => rule.id === chosen) ? chosen : "";
    if (this.rule.value !== chosen) this.anew();
  }

  anew() {
    this.wanted = PAGE;
    this.load();
  }

  /** Waits for what is on its way: with events in quick succession, no answer would ever be the newest. */
  soon() {
    this.due ??= setTimeout(() => {
      this.due = null;
      if (this.busy) this.soon();
      else this.load();
    }, 300);
  }

  async load() {
    const turn = (this.turn += 1);
    this.busy = true;
    const wishes = { state: STATES[this.which], rule: this.rule.value, camera: this.camera.value, severity: this.severity.value, escalated: this.escalated.checked ? "true" : "" };
    const query = new URLSearchParams({ limit: String(this.wanted), ...Object.fromEntries(Object.entries(wishes).filter(([, value]) => value)) });
    try {
      const reply = await get(`/api/v1/alerts?${query}`);
      if (turn !== this.turn) return;
      this.views = reply.alerts;
      this.more.hidden = !reply.next || this.wanted >= MOST;
      this.note.hidden = this.views.length > 0;
      setText(this.note, t(this.which === "active" ? "alerts.none_active" : "alerts.none"));
      this.draw();
    } catch (error) {
      if (turn !== this.turn) return;
      this.note.hidden = false;
      setText(this.note, error.message);
    }
    this.busy = false;
  }

  /** Drawn anew only where something has changed; whoever is at a button stays there, or at the next alert's. */
  draw() {
    const now = JSON.stringify(this.views);
    if (now === this.shown) return;
    this.shown = now;
    const at = /** @type {HTMLElement | null} */ (document.activeElement);
    const place = [...this.list.children].findIndex((row) => row.contains(at));
    const { action } = at?.dataset ?? {};
    const alert = place < 0 ? "" : /** @type {HTMLElement} */ (this.list.children[place]).dataset.alert;
    this.list.replaceChildren(...this.views.map((view) => this.row(view)));
    if (place < 0) return;
    const rows = /** @type {HTMLElement[]} */ ([...this.list.children]);
    const row = rows.find((item) => item.dataset.alert === alert) ?? rows[Math.min(place, rows.length - 1)];
    const button = row?.querySelector(`[data-action=${action}]`) ?? row?.querySelector("[data-action]");
    (/** @type {HTMLElement} */ (button) ?? this.list).focus();
  }

  row({ alert, state, acknowledged_by: takenBy, acknowledged_at: takenAt, closed_by: closedBy, closed_at: closedAt }) {
    const pill = (text, tone) => el("span", { class: "pill", "data-state": tone }, text);
    const button = (action) => el("button", { class: "button", type: "button", "data-action": action, click: () => this.answer(alert.id, action) }, t(`alerts.${action}`));
    const moment = (seconds) => dayAndTime(new Date(seconds * 1000));
    const facts = [moment(alert.raised_at), this.state.camera(alert.camera)?.name ?? alert.camera,
      alert.last_at > alert.raised_at ? t("alerts.last", { duration: duration(alert.last_at - alert.raised_at) }) : "",
      takenBy ? t("alerts.taken", { name: takenBy, time: moment(takenAt) }) : "",
      state === "closed" ? (closedBy ? t("alerts.closed_by", { name: closedBy, time: moment(closedAt) }) : t("alerts.closed_itself", { time: moment(closedAt) })) : ""];
    return el("li", { class: "panel alert-card", "data-severity": alert.severity, "data-state": state, "data-alert": alert.id },
      el("div", { class: "alert-main" },
        el("div", { class: "alert-head" }, el("b", {}, alert.title), alert.count > 1 ? el("span", { class: "muted" }, `×${count(alert.count)}`) : null,
          pill(t(`alerts.is_${state}`), TONES[state]), el("span", { class: "tag" }, t(`severity.${alert.severity}`)),
          alert.escalated ? pill(t("alerts.escalated", { step: alert.escalated }), "bad") : null),
        el("div", {}, alert.detail),
        el("div", { class: "muted" }, facts.filter(Boolean).join(" · "))),
      may("review") && state !== "closed" ? el("div", { class: "actions" }, state === "open" ? button("acknowledge") : null, button("close")) : null);
  }

  async answer(id, action) {
    this.problem.hidden = true;
    try {
      await send("POST", `/api/v1/alerts/${encodeURIComponent(id)}/${action}`);
    } catch (error) {
      this.problem.hidden = false;
      setText(this.problem, error.message);
    }
    await this.load();
  }
}
