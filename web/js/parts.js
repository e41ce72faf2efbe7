// Parts that pages are put together from: panels, tables, labelled inputs, a choice of one.

import { el } from "./dom.js";

/** A section with its heading; `more` goes beside the heading. */
export const panel = (title, more, ...children) => el("section", { class: "panel", "aria-label": title },
  el("div", { class: "panel-head" }, el("h2", {}, title), more), ...children);

/** A table that scrolls sideways where it has no room; `heads` are [text, numeric]. */
export const table = (label, heads, body) => el("div", { class: "table-scroll", tabindex: 0, role: "group", "aria-label": label }, el("table", {},
  el("thead", {}, el("tr", {}, ...heads.map(([text, numeric]) => el(text ? "th" : "td", { scope: text ? "col" : null, class: numeric ? "num" : null }, text)))), body));

/** An input with its label, and a hint below. */
export const field = (label, node, hint = "") => el("label", { class: "field" }, el("span", {}, label), node, hint ? el("small", {}, hint) : null);

/** Buttons of which one is pressed; `names` maps a name to its text. */
export function segments(label, names, chosen, choose) {
  const buttons = Object.entries(names).map(([name, text]) => el("button", { type: "button", "aria-pressed": String(name === chosen), "data-choice": name, click: (event) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.currentTarget));
    choose(name);
  } }, text));
  return el("div", { class: "segments", role: "group", "aria-label": label }, ...buttons);
}

/** A button whose first press asks and whose second one does. */
export function twice(text, sure, act) {
  return el("button", { class: "button danger", type: "button", click: (event) => {
    const button = event.currentTarget;
    if (button.dataset.sure) act();
    button.dataset.sure = "yes";
    button.textContent = sure;
  } }, text);
}
