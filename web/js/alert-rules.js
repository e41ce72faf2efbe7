// The rules that raise alerts: listed for everybody, changed by who may configure.

import { ask, get } from "./api.js";
import { el, setText } from "./dom.js";
import { duration, weekdays } from "./format.js";
import { panel, twice } from "./parts.js";
import { RuleForm, stateWord } from "./rule-form.js";
import { may } from "./session.js";
import { t, term } from "./texts.js";

/** The panel; `known(rules)` hears of the rules there are. `stop()` ends it. */
export function rulesPanel(state, known) {
  const panel_ = new Rules(state, known);
  return { node: panel_.node, stop: () => panel_.stop() };
}

class Rules {
  constructor(state, known) {
    this.state = state;
    this.known = known;
    this.told = null;
    this.list = el("ol", { class: "rule-list", "aria-label": t("rules.title") });
    this.note = el("p", { class: "note", role: "status" }, t("loading"));
    this.said = el("p", { class: "note", role: "status", hidden: true });
    this.quiet = el("p", { class: "note muted", hidden: true });
    const mayChange = may("configure");
    this.add = mayChange ? el("button", { class: "button primary", type: "button", disabled: true, click: () => this.edit(null) }, t("rules.add")) : null;
    this.node = panel(t("rules.title"), this.add, this.said, this.list, this.note, this.quiet);
    this.off = state.on("reload", () => this.load());
    this.load();
  }

  stop() {
    this.off();
    this.form?.close();
  }

  async load() {
    try {
      this.told = await get("/api/v1/alert-rules");
      if (this.add) this.add.disabled = false;
      this.draw();
    } catch (error) {
      this.note.hidden = false;
      setText(this.note, error.message);
    }
  }

  draw() {
    const { rules, quiet_hours: quiet } = this.told;
    this.list.replaceChildren(...rules.map((rule) => this.row(rule)));
    this.note.hidden = rules.length > 0;
    setText(this.note, t("rules.none"));
    this.quiet.hidden = quiet.length === 0;
    setText(this.quiet, t("rules.quiet", { windows: windows(quiet) }));
    this.known(rules);
  }

  row(rule) {
    const title = rule.name || rule.id;
    const button = (key, act) => el("button", { class: "button", type: "button", "data-do": key, "aria-label": `${t(`rules.${key}`)}: ${title}`, click: act }, t(`rules.${key}`));
    const actions = el("div", { class: "actions" }, button("edit", () => this.edit(rule)),
      button(rule.enabled ? "disable" : "enable", () => this.change(rule, "PUT", { ...rule, enabled: !rule.enabled })),
      twice(t("rules.remove"), t("rules.remove_sure"), () => this.change(rule, "DELETE")));
    const told = [rule.channels.join(", ") || t("rules.dashboard_only"),
      ...rule.escalate.map((step) => t("rules.then", { duration: duration(step.after_s), channels: step.channels.join(", ") }))];
    const part = (key, first, ...further) => el("div", {}, el("small", {}, t(`rules.${key}`)), el("div", {}, first), ...further.map((text) => el("div", { class: "muted" }, text)));
    return el("li", { "data-rule": rule.id },
      el("div", {}, el("b", {}, title), el("div", { class: "alert-head" }, el("span", { class: "pill", "data-state": rule.enabled ? "good" : "idle" }, t(rule.enabled ? "rules.on" : "rules.off")),
        el("span", { class: "tag" }, t(`severity.${rule.severity}`)))),
      part("what", t(`kind.${rule.event}`), ...this.filters(rule)),
      part("when", rule.schedule.length ? windows(rule.schedule) : t("rules.always"), ...(rule.min_duration_s ? [t("rules.for", { duration: duration(rule.min_duration_s) })] : [])),
      part("whom", told[0], ...told.slice(1)), may("configure") ? actions : null);
  }

  /** What the rule looks at, in words. */
  filters(rule) {
    const cameras = rule.cameras.map((id) => this.state.camera(id)?.name ?? id);
    const looked = this.state.site.cameras.filter((camera) => !rule.cameras.length || rule.cameras.includes(camera.id));
    const named = (kind) => rule[kind].map((id) => looked.flatMap((camera) => camera[kind]).find((shape) => shape.id === id)?.name ?? id);
    return [cameras.join(", "), named("zones").join(", "), named("lines").join(", "), rule.classes.map((name) => term("class", name)).join(", "),
      rule.states.map((name) => stateWord(rule.event, name)).join(", "), rule.breaches.map((name) => term("rule", name)).join(", "),
      rule.above === null ? "" : t("rules.more_than", { count: rule.above })].filter(Boolean);
  }

  edit(rule) {
    this.form = new RuleForm(this.state, this.told, rule, (made) => this.save(made, rule === null), (made, answer) => this.saved(answer, made.id));
    this.form.open();
  }

  /** The server's answer; throws what it refuses, so that the form says it. */
  async save(rule, isNew) {
    const { body } = await ask(isNew ? "/api/v1/alert-rules" : `/api/v1/alert-rules/${rule.id}`, { method: isNew ? "POST" : "PUT", body: rule });
    const at = this.told.rules.findIndex((row) => row.id === rule.id);
    if (at < 0) this.told.rules.push(rule);
    else this.told.rules[at] = rule;
    return body;
  }

  async change(rule, method, body = undefined) {
    try {
      const answer = (await ask(`/api/v1/alert-rules/${rule.id}`, { method, body })).body;
      this.told.rules = this.told.rules.flatMap((row) => (row.id !== rule.id ? [row] : body ? [body] : []));
      this.saved(answer, rule.id);
    } catch (error) {
      this.say(error.message, "bad");
    }
  }

  /** The list is as it was saved, before the processes that it concerns have taken it up. */
  saved({ running }, id) {
    this.draw();
    this.say(t(running ? "rules.saved" : "rules.saved_for_later"), "good");
    const row = [...this.list.children].find((node) => /** @type {HTMLElement} */ (node).dataset.rule === id);
    (/** @type {HTMLElement | null} */ (row?.querySelector("[data-do=edit]")) ?? this.add)?.focus();
  }

  say(text, tone) {
    this.said.hidden = false;
    this.said.dataset.tone = tone;
    setText(this.said, text);
  }
}

/** "Mon, Tue 08:00–18:00; Sat …" */
function windows(rows) {
  const days = weekdays();
  return rows.map((row) => `${row.days.length === 7 ? t("rules.daily") : row.days.map((name) => days[name]).join(", ")} ${row.start}–${row.end}`).join("; ");
}
