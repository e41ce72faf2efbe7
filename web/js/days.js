// Which days a page is about: some to press, and two dates.

import { el } from "./dom.js";
import { addDays } from "./format.js";
import { field } from "./parts.js";
import { t } from "./texts.js";

const PRESETS = { today: [0, 0], yesterday: [-1, -1], week: [-6, 0], month: [-29, 0] };

/** The choice; `days` are the first and the last one. `most` days at a time, `changed()` hears of each choice. */
export class Days {
  constructor(today, most, changed) {
    this.today = today;
    this.most = most;
    this.changed = changed;
    this.preset = null;
    this.days = [today, today];
    this.buttons = Object.keys(PRESETS).map((name) => el("button", { type: "button", "data-preset": name, click: () => this.choose(name) }, t(`history.${name}`)));
    this.dates = [0, 1].map((position) => el("input", { type: "date", max: today, change: (event) => this.pick(position, event.target) }));
    /** For a toolbar. */
    this.nodes = [el("div", { class: "segments", role: "group", "aria-label": t("history.range") }, ...this.buttons),
      field(t("history.from"), this.dates[0]), field(t("history.to"), this.dates[1])];
  }

  choose(name) {
    this.preset = name;
    this.days = PRESETS[name].map((days) => addDays(this.today, days));
    this.show();
  }

  pick(position, input) {
    if (!input.value) return;
    this.preset = null;
    this.days[position] = input.value;
    // The other end follows, so that a range is never empty or without end.
    const other = 1 - position;
    if (this.days[0] > this.days[1]) this.days[other] = input.value;
    if (addDays(this.days[0], this.most) <= this.days[1]) this.days[other] = addDays(input.value, position ? 1 - this.most : this.most - 1);
    this.show();
  }

  show() {
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.preset === this.preset));
    this.dates.forEach((input, position) => { input.value = this.days[position]; });
    this.changed();
  }
}
