// Visitors: who is expected and who is there, the reception's actions, invitations, and the way to a roll call.

import { ask, get, send } from "./api.js";
import { el, setText } from "./dom.js";
import { addDays, dayAndTime, midnight, siteDay } from "./format.js";
import { may } from "./session.js";
import { t } from "./texts.js";

const ON_SITE = ["checked_in", "on_site", "overstayed"];
const ACTIONS = {
  invited: ["arrive", "check-in", "cancel"], arrived: ["check-in", "deny"], checked_in: ["check-out"], on_site: ["check-out"],
  overstayed: ["check-out"], no_show: ["arrive"],
};

/** The page. */
export function visitorsPage(state) {
  return new VisitorsPage(state).node;
}

class VisitorsPage {
  constructor(state) {
    this.state = state;
    this.rows = el("tbody", {});
    this.figures = el("div", { class: "cards" });
    this.problem = el("p", { class: "note", role: "alert", "data-tone": "bad", hidden: true });
    this.empty = el("p", { class: "note", hidden: true }, t("visitors.none"));
    const head = ["visitors.name", "visitors.host", "visitors.expected", "visitors.state", "visitors.actions"].map((key) => el("th", { scope: "col" }, t(key)));
    this.node = el("div", { class: "page visitors" },
      el("div", { class: "page-head" }, el("h1", {}, t("visitors.title")),
        el("a", { class: "button", href: "/kiosk/" }, t("visitors.kiosk")),
        el("button", { class: "button", type: "button", click: () => this.rollCall(true) }, t("visitors.drill")),
        el("button", { class: "button danger", type: "button", click: (event) => this.evacuate(event.currentTarget) }, t("visitors.evacuate"))),
      this.problem, this.figures,
      el("section", { class: "panel", "aria-label": t("visitors.today") }, el("div", { class: "panel-head" }, el("h2", {}, t("visitors.today"))),
        el("div", { class: "table-scroll", tabindex: 0 }, el("table", { class: "stacked" }, el("thead", {}, el("tr", {}, ...head)), this.rows)), this.empty),
      this.invitation());
    const off = [state.on("event", (event) => { if (event.type === "VisitorChanged") this.loadSoon(); }), state.on("reload", () => this.load())];
    this.node.stop = () => { off.forEach((end) => end()); clearTimeout(this.due); };
    this.load();
  }

  loadSoon() {
    clearTimeout(this.due);
    this.due = setTimeout(() => this.load(), 200);
  }

  async load() {
    const today = siteDay(this.state.now());
    try {
      const range = new URLSearchParams({ from: midnight(today).toISOString(), to: midnight(addDays(today, 1)).toISOString() });
      const [live, day] = await Promise.all([get("/api/v1/visits"), get(`/api/v1/visits?${range}`)]);
      this.rules = live;
      const known = new Map([...live.visits, ...day.visits].map((visit) => [visit.id, visit]));
      this.draw([...known.values()].sort((a, b) => a.from.localeCompare(b.from)));
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    this.problem.hidden = false;
    setText(this.problem, error.message);
  }

  draw(visits) {
    const number = (key, states) => el("section", { class: "panel card" }, el("h2", {}, t(key)),
      el("span", { class: "figure-value", "data-figure": key }, String(visits.filter((visit) => states.includes(visit.state)).length)));
    this.figures.replaceChildren(number("visitors.expected_count", ["invited"]), number("visitors.waiting_count", ["arrived"]), number("visitors.on_site_count", ON_SITE), number("visitors.overstayed_count", ["overstayed"]));
    this.empty.hidden = visits.length > 0;
    this.rows.replaceChildren(...visits.map((visit) => this.row(visit)));
  }

  row(visit) {
    const tone = { overstayed: "bad", denied: "bad", no_show: "bad", checked_in: "good", on_site: "good" }[visit.state] ?? "idle";
    const button = (action) => el("button", { class: "button", type: "button", "data-action": action, click: () => this.act(visit, action) }, t(`visitors.${action}`));
    const approve = visit.listed && !visit.approved_by && may("review") ? button("approve") : null;
    const listed = visit.listed ? el("div", { "data-tone": "bad" }, t(`visitors.listed_${visit.listed}`)) : null;
    return el("tr", { "data-visit": visit.id },
      el("td", {}, el("b", {}, visit.name), visit.company ? el("div", { class: "muted" }, visit.company) : null, listed),
      el("td", { "data-head": t("visitors.host") }, visit.host, visit.purpose ? el("div", { class: "muted" }, visit.purpose) : null),
      el("td", { class: "whole when" }, dayAndTime(new Date(visit.from)), el("div", { class: "muted" }, `– ${dayAndTime(new Date(visit.to))}`)),
      el("td", {}, el("span", { class: "pill", "data-state": tone }, t(`visit.${visit.state}`)),
        visit.area ? el("div", { class: "muted" }, this.rules.areas[visit.area] ?? visit.area) : null,
        visit.auto_checked_out ? el("div", { "data-tone": "bad" }, t("visitors.auto")) : null,
        visit.reason ? el("div", { class: "muted" }, visit.reason) : null),
      el("td", { class: "whole" }, el("div", { class: "actions" }, ...(ACTIONS[visit.state] ?? []).map(button), approve,
        el("a", { class: "button", href: `/api/v1/visits/${visit.id}/badge`, target: "_blank", rel: "noopener" }, t("visitors.badge")))));
  }

  async act(visit, action) {
    this.problem.hidden = true;
    const body = { version: visit.version };
    // What the reception confirms by pressing check-in: the visitor has been told, and has accepted the document.
    if (action === "check-in") Object.assign(body, { briefing: Boolean(this.rules.briefing), nda_version: this.rules.nda_version });
    if (action === "check-in" && (this.rules.briefing || this.rules.nda_version) && !confirm(t("visitors.confirm_rules"))) return;
    if (action === "deny") {
      const reason = prompt(t("visitors.reason"));
      if (reason === null) return;
      Object.assign(body, { reason });
    }
    try {
      await send("POST", `/api/v1/visits/${visit.id}/${action}`, body);
    } catch (error) {
      this.fail(error);
    }
    await this.load();
  }

  invitation() {
    const inputs = {};
    const field = (name, attributes = {}) => {
      inputs[name] = el("input", { type: "text", maxlength: 200, ...attributes });
      return el("label", { class: "field" }, el("span", {}, t(`visitors.${name}`)), inputs[name]);
    };
    const walkIn = el("input", { type: "checkbox" });
    const said = el("p", { class: "verdict", role: "status" });
    const submit = el("button", { class: "button primary", type: "submit" }, t("visitors.invite"));
    const invite = async (event) => {
      event.preventDefault();
      submit.disabled = true;
      const values = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value.trim()]).filter(([, value]) => value));
      for (const name of ["start", "end"]) if (values[name]) values[name] = siteTime(values[name]).toISOString();
      try {
        const { body: visit } = await ask("/api/v1/visits", { method: "POST", body: { ...values, walk_in: walkIn.checked } });
        said.dataset.tone = visit.listed ? "bad" : "good";
        setText(said, visit.listed ? t(`visitors.listed_${visit.listed}`) : t(visit.walk_in ? "visitors.walked_in" : "visitors.invited_as", { name: visit.name, code: visit.code }));
        for (const input of Object.values(inputs)) input.value = "";
        walkIn.checked = false;
        await this.load();
      } catch (error) {
        said.dataset.tone = "bad";
        setText(said, error.message);
      }
      submit.disabled = false;
    };
    return el("section", { class: "panel", "aria-label": t("visitors.new") }, el("div", { class: "panel-head" }, el("h2", {}, t("visitors.new"))),
      el("form", { class: "invitation", novalidate: true, submit: invite },
        field("name"), field("company"), field("email", { type: "email" }), field("host"), field("host_email", { type: "email" }), field("purpose"),
        field("start", { type: "datetime-local" }), field("end", { type: "datetime-local" }),
        el("label", { class: "check" }, walkIn, t("visitors.walk_in")), submit, said));
  }

  /** The first press asks, the second one does. */
  evacuate(button) {
    if (!button.dataset.sure) {
      button.dataset.sure = "yes";
      setText(button, t("visitors.evacuate_sure"));
      return;
    }
    this.rollCall(false);
  }

  async rollCall(drill) {
    try {
      const call = await send("POST", "/api/v1/roll-calls", { drill });
      location.hash = `#/roll-call/${call.id}`;
    } catch (error) {
      this.fail(error);
    }
  }
}

/** "2026-05-01T09:30" as the site's clock shows it. */
function siteTime(text) {
  const [day, time] = text.split("T");
  const [hours, minutes] = time.split(":").map(Number);
  return new Date(midnight(day).getTime() + (hours * 60 + minutes) * 60_000);
}
