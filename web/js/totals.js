// Today's totals: people and vehicles, in and out.

import { arrow, el, setText } from "./dom.js";
import { count } from "./format.js";
import { t } from "./texts.js";

function card(title, kind, state, admits) {
  const values = {};
  const figure = (direction) => {
    values[direction] = el("span", { class: "figure-value", "data-total": `${kind}.${direction}` }, "0");
    return el("div", { class: "figure" }, values[direction], el("span", { class: "figure-label" }, arrow(direction), t(direction)));
  };
  const node = el(
    "section",
    { class: "panel total", "aria-label": t("today.of", { what: title }) },
    el("div", { class: "total-head" }, el("h2", {}, title), el("span", { class: "muted" }, t("today"))),
    el("div", { class: "total-figures" }, figure("in"), figure("out")),
  );
  const update = () => {
    const total = state.sum(admits);
    for (const direction of ["in", "out"]) setText(values[direction], count(total[direction]));
  };
  state.on("counts", update);
  update();
  return node;
}

/** The two cards. */
export function totals(state) {
  return [
    card(t("people"), "person", state, (row) => row.class === "person"),
    card(t("vehicles"), "vehicle", state, (row) => row.class !== "person"),
  ];
}
