// One alert rule in a dialog: all that the interface knows of a rule, so that saving loses nothing.

import { el, icon, setText } from "./dom.js";
import { duration, weekdays } from "./format.js";
import { field } from "./parts.js";
import { CLASSES, freeId } from "./shapes.js";
import { t, term } from "./texts.js";

const SEVERITIES = ["info", "warning", "critical"];
/** Name -> least value. */
const NUMBERS = { min_duration_s: 0, dedupe_s: 0, close_after_s: 0, max_per_hour: 1 };

/** A state of a camera, or of a visit, as people call it. */
export const stateWord = (event, name) => term(event === "CameraChanged" ? "state" : event === "VisitorNotice" ? "notice" : "visit", name);

/** The dialog. */
export class RuleForm {
  /** `told`: what the interface says of rules; `rule`: null for a new one; `save(rule)` rejects with the reason; `then(rule, answer)` follows. */
  constructor(state, told, rule, save, then) {
    this.state = state;
    this.told = told;
    this.isNew = rule === null;
    this.draft = structuredClone(rule ?? { ...told.blank, id: "", event: "ZoneChanged" });
    this.save = save;
    this.then = then;
    this.filters = el("div", { class: "rule-filters" });
    this.problem = el("p", { class: "verdict", role: "alert", "data-tone": "bad" });
    this.submit = el("button", { class: "button primary", type: "submit" }, t("rules.save"));
    const title = el("h2", { id: "rule-title" }, this.isNew ? t("rules.add") : t("rules.edit_title", { name: rule.name || rule.id }));
    const form = el("form", { class: "rule-form", novalidate: true, submit: (event) => { event.preventDefault(); this.send(); } },
      title, ...this.head(), this.filters, this.schedule(), this.telling(),
      el("details", {}, el("summary", {}, t("rules.fine")), el("div", { class: "two" }, ...["dedupe_s", "close_after_s", "max_per_hour"].map((name) => this.number(name)))),
      this.problem,
      el("div", { class: "actions" }, this.submit, el("button", { class: "button", type: "button", click: () => this.close() }, t("rules.cancel"))));
    this.dialog = el("dialog", { class: "dialog", "aria-labelledby": "rule-title", close: () => this.dialog.remove() }, form);
  }

  open() {
    this.drawFilters();
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.name.focus();
  }

  close() {
    this.dialog.close();
  }

  head() {
    const select = (key, names, word) => el("select", { "data-field": key, change: (event) => { this.draft[key] = event.target.value; if (key === "event") this.drawFilters(); } },
      ...names.map((name) => el("option", { value: name, selected: name === this.draft[key] }, word(name))));
    this.name = el("input", { type: "text", maxlength: 64, value: this.draft.name, "data-field": "name", input: () => { this.draft.name = this.name.value.trim(); } });
    return [field(t("rules.name"), this.name),
      el("div", { class: "two" }, field(t("rules.what"), select("event", this.told.kinds.map((kind) => kind.event), (name) => t(`kind.${name}`))),
        field(t("alerts.severity"), select("severity", SEVERITIES, (name) => t(`severity.${name}`)))),
      this.check("enabled")];
  }

  /** What the event can be narrowed to: another event has other filters, other cameras have other lines and zones. */
  drawFilters() {
    const { filters, states } = this.kind();
    const cameras = this.state.site.cameras;
    const looked = cameras.filter((camera) => !this.draft.cameras.length || this.draft.cameras.includes(camera.id));
    const shapes = (kind) => [...new Map(looked.flatMap((camera) => camera[kind].map((shape) => [shape.id, shape.name])))];
    const options = {
      zones: shapes("zones"), lines: shapes("lines"), classes: CLASSES.map((name) => [name, term("class", name)]),
      states: states.map((name) => [name, stateWord(this.draft.event, name)]), breaches: this.told.breaches.map((name) => [name, term("rule", name)]),
    };
    this.filters.replaceChildren(
      this.choices("cameras", cameras.map((camera) => [camera.id, camera.name]), () => this.drawFilters()),
      ...filters.map((name) => (name === "above" ? this.above() : this.choices(name, options[name]))), this.number("min_duration_s"));
  }

  kind() {
    return this.told.kinds.find((kind) => kind.event === this.draft.event);
  }

  /** Boxes to tick, none of them for all; what the rule names stays there to be seen, even where it is gone. */
  choices(key, options, then = () => {}) {
    const rest = this.draft[key].filter((id) => !options.some(([known]) => known === id)).map((id) => [id, id]);
    const all = [...options, ...rest];
    if (!all.length) return null;
    return el("fieldset", { "data-field": key }, el("legend", {}, t(`rules.${key}`), el("small", {}, ` ${t(`rules.${key === "states" ? "states_none" : "none_is_all"}`)}`)),
      ...all.map(([id, name]) => el("label", { class: "check" }, el("input", { type: "checkbox", value: id, checked: this.draft[key].includes(id), change: (event) => {
        const box = event.currentTarget;
        this.draft[key] = box.checked ? [...this.draft[key], id] : this.draft[key].filter((other) => other !== id);
        then();
        // The boxes may have been drawn anew: whoever uses the keyboard stays at the same one.
        /** @type {HTMLElement | null} */ (this.dialog.querySelector(`[data-field=${key}] input[value="${CSS.escape(id)}"]`))?.focus();
      } }), name)));
  }

  above() {
    return field(t("rules.above"), el("input", { type: "number", min: 0, step: 1, value: this.draft.above ?? "", "data-field": "above", placeholder: t("rules.above_default"),
      input: (event) => { this.draft.above = event.target.value === "" ? null : Number(event.target.value); } }));
  }

  number(key) {
    const hint = el("small", {});
    const show = () => setText(hint, key.endsWith("_s") && this.draft[key] >= 60 ? duration(this.draft[key]) : "");
    const input = el("input", { type: "number", min: NUMBERS[key], step: "any", value: this.draft[key], "data-field": key, placeholder: this.told.blank[key],
      input: (event) => { this.draft[key] = event.target.value === "" ? this.told.blank[key] : Number(event.target.value); show(); } });
    show();
    return el("label", { class: "field" }, el("span", {}, t(`rules.${key}`)), input, hint);
  }

  check(key, hint = "") {
    return el("label", { class: "check" }, el("input", { type: "checkbox", checked: this.draft[key], "data-field": key, change: (event) => { this.draft[key] = event.target.checked; } }),
      t(`rules.${key}`), hint ? el("small", {}, hint) : null);
  }

  schedule() {
    const rows = el("div", { class: "rows" });
    const names = weekdays();
    const draw = () => rows.replaceChildren(...this.draft.schedule.map((window_, place) => {
      const time = (key) => el("input", { type: "time", value: window_[key], "aria-label": t(`rules.${key}`), input: (event) => { window_[key] = event.target.value; } });
      const days = Object.entries(names).map(([day, name]) => el("label", { class: "day" }, el("input", { type: "checkbox", checked: window_.days.includes(day), change: (event) => {
        window_.days = Object.keys(names).filter((other) => (other === day ? event.target.checked : window_.days.includes(other)));
      } }), el("span", {}, name)));
      return el("div", { class: "row" }, el("div", { class: "days", role: "group", "aria-label": t("rules.days") }, ...days), time("start"), "–", time("end"), this.without("schedule", place, draw));
    }));
    draw();
    return el("fieldset", { class: "stack", "data-field": "schedule" }, el("legend", {}, t("rules.when"), el("small", {}, ` ${t("rules.schedule_none")}`)), rows,
      this.another("schedule", () => ({ days: ["mon", "tue", "wed", "thu", "fri"], start: "08:00", end: "18:00" }), draw));
  }

  telling() {
    const { channels, quiet_hours: quiet } = this.told;
    const known = (chosen) => [...new Set([...channels, ...chosen])];
    const boxes = (holder) => known(holder.channels).map((name) => el("label", { class: "check" }, el("input", { type: "checkbox", value: name, checked: holder.channels.includes(name), change: (event) => {
      holder.channels = event.target.checked ? [...holder.channels, name] : holder.channels.filter((other) => other !== name);
    } }), name));
    const rows = el("div", { class: "rows" });
    const draw = () => rows.replaceChildren(...this.draft.escalate.map((step, place) => el("div", { class: "row" },
      field(t("rules.after_s"), el("input", { type: "number", min: 0, step: "any", value: step.after_s, input: (event) => { step.after_s = Number(event.target.value); } })),
      el("div", { class: "days", role: "group", "aria-label": t("rules.channels") }, ...boxes(step)), this.without("escalate", place, draw))));
    draw();
    if (!known(this.draft.channels).length) return el("p", { class: "muted" }, t("rules.no_channels"));
    return el("div", { class: "stack" },
      el("fieldset", { "data-field": "channels" }, el("legend", {}, t("rules.channels"), el("small", {}, ` ${t("rules.channels_none")}`)), ...boxes(this.draft)),
      this.check("observe_quiet_hours", quiet.length ? "" : t("rules.no_quiet_hours")),
      el("fieldset", { class: "stack", "data-field": "escalate" }, el("legend", {}, t("rules.escalate"), el("small", {}, ` ${t("rules.escalate_hint")}`)), rows,
        this.another("escalate", () => ({ after_s: 600, channels: known([]).slice(0, 1) }), draw)));
  }

  another(key, make, draw) {
    return el("button", { class: "button", type: "button", click: () => { this.draft[key].push(make()); draw(); } }, t(`rules.${key}_add`));
  }

  without(key, place, draw) {
    return el("button", { class: "icon-button", type: "button", "aria-label": t(`rules.${key}_remove`), title: t(`rules.${key}_remove`), click: () => { this.draft[key].splice(place, 1); draw(); } }, icon("close"));
  }

  /** The rule as it is to be: filters of another event go back to their default. */
  made() {
    const fitting = this.kind().filters;
    const others = [...new Set(this.told.kinds.flatMap((kind) => kind.filters))].filter((name) => !fitting.includes(name));
    const reset = Object.fromEntries(others.map((name) => [name, this.told.blank[name]]));
    const id = this.draft.id || freeId(this.draft.name, "rule", this.told.rules.map((rule) => rule.id));
    return { ...this.draft, ...reset, id };
  }

  async send() {
    this.submit.disabled = true;
    setText(this.problem, "");
    try {
      const rule = this.made();
      const answer = await this.save(rule);
      this.close();
      this.then(rule, answer);
    } catch (error) {
      setText(this.problem, error.message);
    }
    this.submit.disabled = false;
  }
}
