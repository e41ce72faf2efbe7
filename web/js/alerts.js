// Alerts that somebody has to answer: the panel of the overview.

import { get, send } from "./api.js";
import { el, setText } from "./dom.js";
import { dayAndTime } from "./format.js";
import { may } from "./session.js";
import { t } from "./texts.js";

const SHOWN = 30;

/** The panel; it is not there while no alert is open. */
export function alerts(state) {
  const list = el("ol", { class: "alerts" });
  const problem = el("p", { class: "note", "data-tone": "bad", role: "alert", hidden: true });
  const node = el("section", { class: "panel", "aria-label": t("alerts.title"), hidden: true },
    el("div", { class: "panel-head" }, el("h2", {}, t("alerts.title")), el("a", { href: "#/alerts" }, t("alerts.all_of_them"))), problem, list);
  let due = null;
  const load = async () => {
    due = null;
    const answers = await Promise.all(["open", "acknowledged"].map((name) => get(`/api/v1/alerts?state=${name}&limit=${SHOWN}`))).catch(() => null);
    if (!answers) return; // The banner tells that the server is away; what is shown stays.
    const rows = answers.flatMap((answer) => answer.alerts).sort((a, b) => b.alert.raised_at - a.alert.raised_at);
    node.hidden = rows.length === 0;
    list.replaceChildren(...rows.map((view) => row(state, view, answer)));
  };
  const answer = async (view, action) => {
    problem.hidden = true;
    try {
      await send("POST", `/api/v1/alerts/${encodeURIComponent(view.alert.id)}/${action}`);
    } catch (error) {
      problem.hidden = false;
      setText(problem, error.message);
    }
    await load();
  };
  state.on("event", (event) => {
    if (event.type === "AlertRaised" || event.type === "AlertChanged") due ??= setTimeout(load, 300);
  });
  state.on("reload", load);
  load();
  return node;
}

function row(state, view, answer) {
  const { alert } = view;
  const button = (action) => el("button", { class: "button", type: "button", click: () => answer(view, action) }, t(`alerts.${action}`));
  const place = state.camera(alert.camera)?.name;
  return el("li", { class: "alert-row", "data-severity": alert.severity, "data-alert": alert.id },
    el("div", {}, el("b", {}, alert.title), alert.count > 1 ? el("span", { class: "muted" }, ` ×${alert.count}`) : null),
    el("div", {}, alert.detail),
    el("div", { class: "muted" }, [dayAndTime(new Date(alert.raised_at * 1000)), place, view.acknowledged_by ? t("alerts.by", { name: view.acknowledged_by }) : ""].filter(Boolean).join(" · ")),
    may("review") ? el("div", { class: "actions" }, view.state === "open" ? button("acknowledge") : null, button("close")) : null);
}
