// How the channels of alerts deliver: what waits, what went out, what failed and why.

import { el } from "./dom.js";
import { count, dayAndTime } from "./format.js";
import { panel, table } from "./parts.js";
import { poll } from "./system.js";
import { t } from "./texts.js";

/** The panel, kept up to date; `stop()` ends that. */
export function channelsPanel() {
  const body = el("tbody", {});
  const note = el("p", { class: "note" }, t("loading"));
  const heads = [["channel"], ["state"], ["waiting", 1], ["last_sent"], ["sent", 1], ["failed", 1], ["dead", 1]];
  const rows = table(t("channels.title"), heads.map(([key, numeric]) => [t(`channels.${key}`), numeric]), body);
  rows.hidden = true;
  const node = panel(t("channels.title"), null, rows, note);
  const stop = poll((reply) => {
    if (!reply) return; // The banner tells that the server is away; what is shown stays.
    body.replaceChildren(...reply.channels.map(row));
    rows.hidden = reply.channels.length === 0;
    note.hidden = reply.channels.length > 0;
    note.textContent = t("channels.none");
  }, "/api/v1/alert-channels");
  return { node, stop };
}

function row(channel) {
  const moment = (text) => (text ? dayAndTime(new Date(text)) : "–");
  const [tone, words] = channel.problem ? ["bad", "fails"] : channel.waiting ? ["warn", "waits"] : channel.sent ? ["good", "delivers"] : ["idle", "unused"];
  const number = (value, below) => el("td", { class: "num" }, count(value), below ? el("div", { class: "muted" }, below) : null);
  return el("tr", { "data-channel": channel.id }, el("td", {}, el("b", {}, channel.id), el("div", { class: "muted" }, t(`channels.${channel.type}`))),
    el("td", {}, el("span", { class: "pill", "data-state": tone }, t(`channels.${words}`)), channel.problem ? el("div", { class: "error-text" }, channel.problem) : null),
    number(channel.waiting, channel.next_attempt ? t("channels.next", { time: moment(channel.next_attempt) }) : ""),
    el("td", {}, moment(channel.last_sent)), number(channel.sent),
    number(channel.failed, channel.last_failed ? moment(channel.last_failed) : ""),
    el("td", { class: "num", "data-tone": channel.dead_letters ? "bad" : null }, count(channel.dead_letters)));
}
