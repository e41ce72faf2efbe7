// Accounts, API tokens and the audit log: who may do what, and who did what. Tokens are everybody's own; the rest is for admins.

import { ask, get, send } from "./api.js";
import { el, setText } from "./dom.js";
import { dayAndTime } from "./format.js";
import { may, viewer } from "./session.js";
import { t, term } from "./texts.js";

const ROLES = ["viewer", "reception", "operator", "admin", "kiosk"];
const AUDIT_PAGE = 50;

/** The page. */
export function accountsPage(state) {
  const said = el("p", { class: "note", role: "status", hidden: true });
  const say = (text, tone = "") => {
    said.hidden = !text;
    said.dataset.tone = tone;
    setText(said, text);
  };
  /** Do a change and then what follows; a refusal is said. */
  const change = async (method, path, body, then) => {
    try {
      const answer = await send(method, path, body);
      say("");
      await then(answer);
    } catch (error) {
      say(error.message, "bad");
    }
  };
  return el("div", { class: "page accounts" }, el("div", { class: "page-head" }, el("h1", {}, t("accounts.title"))), said,
    may("admin") ? users(state, change, say) : null, may("admin") ? reset(change, say) : null, tokens(change, say), password(say), may("admin") ? kiosks(change) : null, may("admin") ? log(say) : null);
}

const panel = (title, ...children) => el("section", { class: "panel", "aria-label": title }, el("div", { class: "panel-head" }, el("h2", {}, title)), ...children);
const table = (keys, body, kind = "stacked") => el("div", { class: "table-scroll", tabindex: 0 }, el("table", { class: kind },
  el("thead", {}, el("tr", {}, ...keys.map((key) => el("th", { scope: "col" }, key ? t(`accounts.${key}`) : "")))), body));
const field = (key, node) => el("label", { class: "field" }, el("span", {}, t(`accounts.${key}`)), node);
const check = (key, node) => el("label", { class: "check" }, node, el("span", {}, t(`accounts.${key}`)));
const choices = (names, chosen) => names.map((name) => el("option", { value: name, selected: name === chosen }, t(`role.${name}`)));

function users(state, change, say) {
  const body = el("tbody", {});
  const load = async () => {
    const { users: rows } = await get("/api/v1/users");
    body.replaceChildren(...rows.map(row));
  };
  const row = (user) => {
    const path = `/api/v1/users/${encodeURIComponent(user.name)}`;
    const role = el("select", { "aria-label": t("accounts.role_of", { name: user.name }), change: (event) => change("PATCH", path, { role: event.target.value }, load) }, ...choices(ROLES, user.role));
    const cameras = el("select", { multiple: true, size: 3, "aria-label": t("accounts.cameras_of", { name: user.name }), change: (event) => {
      const chosen = [...event.target.selectedOptions].map((option) => option.value);
      change("PATCH", path, { cameras: chosen.includes("") || !chosen.length ? null : chosen }, load);
    } }, el("option", { value: "", selected: user.cameras === null }, t("history.all")),
      ...state.site.cameras.map((camera) => el("option", { value: camera.id, selected: user.cameras?.includes(camera.id) }, camera.name)));
    const own = user.name === viewer().name;
    const remove = el("button", { class: "button danger", type: "button", disabled: own, click: (event) => {
      if (event.currentTarget.dataset.sure) change("DELETE", path, undefined, load);
      event.currentTarget.dataset.sure = "yes";
      setText(event.currentTarget, t("accounts.remove_sure"));
    } }, t("accounts.remove"));
    const disable = el("button", { class: "button", type: "button", disabled: own, click: () => change("PATCH", path, { disabled: !user.disabled }, load) }, t(user.disabled ? "accounts.enable" : "accounts.disable"));
    return el("tr", { "data-user": user.name }, el("td", {}, el("b", {}, user.name), user.disabled ? el("div", { "data-tone": "bad" }, t("accounts.disabled")) : null),
      el("td", {}, role), el("td", { class: "whole" }, cameras), el("td", { class: "whole", "data-head": t("accounts.created") }, dayAndTime(new Date(user.created))),
      el("td", { class: "whole" }, el("div", { class: "actions" }, disable, remove)));
  };
  const name = el("input", { type: "text", maxlength: 64, autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
  const secret = el("input", { type: "password", maxlength: 256, autocomplete: "new-password" });
  const role = el("select", {}, ...choices(ROLES, "viewer"));
  const form = el("form", { class: "invitation", novalidate: true, submit: (event) => {
    event.preventDefault();
    change("POST", "/api/v1/users", { name: name.value.trim(), role: role.value, password: secret.value }, async () => {
      name.value = secret.value = "";
      await load();
    });
  } }, field("name", name), field("role", role), field("password", secret), el("button", { class: "button primary", type: "submit" }, t("accounts.add")));
  load().catch((error) => say(error.message, "bad"));
  return panel(t("accounts.users"), table(["name", "role", "cameras", "created", ""], body), form);
}

/** Devices that may only check visitors in and out. The list of accounts removes or locks them. */
function kiosks(change) {
  const link = el("div", { class: "note", hidden: true });
  const name = el("input", { type: "text", maxlength: 64, autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
  const form = el("form", { class: "invitation", novalidate: true, submit: (event) => {
    event.preventDefault();
    change("POST", "/api/v1/kiosks", { name: name.value.trim() }, (made) => {
      name.value = "";
      link.hidden = false;
      link.replaceChildren(el("p", {}, t("accounts.kiosk_once")), el("code", {}, location.origin + made.link));
    });
  } }, field("kiosk_name", name), el("button", { class: "button", type: "submit" }, t("accounts.make_kiosk")));
  return panel(t("accounts.kiosks"), link, form);
}

/** A new password for somebody who has lost theirs. */
function reset(change, say) {
  const name = el("input", { type: "text", maxlength: 64, autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
  const secret = el("input", { type: "password", maxlength: 256, autocomplete: "new-password" });
  const revoke = el("input", { type: "checkbox" });
  const form = el("form", { class: "invitation", novalidate: true, submit: (event) => {
    event.preventDefault();
    const path = `/api/v1/users/${encodeURIComponent(name.value.trim())}`;
    change("PATCH", path, { password: secret.value, revoke_tokens: revoke.checked }, async () => {
      say(t("accounts.reset_done", { name: name.value.trim() }));
      name.value = secret.value = "";
      revoke.checked = false;
    });
  } }, field("reset_name", name), field("new_password", secret), check("revoke_tokens", revoke), el("button", { class: "button", type: "submit" }, t("accounts.reset")));
  return panel(t("accounts.reset_title"), form);
}

function tokens(change, say) {
  const body = el("tbody", {});
  const secret = el("div", { class: "note", hidden: true });
  const load = async () => {
    const { tokens: rows } = await get("/api/v1/tokens");
    body.replaceChildren(...rows.map((token) => el("tr", { "data-token": token.id }, el("td", {}, el("b", {}, token.label)), el("td", {}, token.account), el("td", { class: "whole" }, token.permissions.map((name) => term("permission", name)).join(", ")),
      el("td", { "data-head": t("accounts.expires"), "data-tone": token.expired ? "bad" : null }, dayAndTime(new Date(token.expires))),
      el("td", {}, el("button", { class: "button danger", type: "button", click: () => change("DELETE", `/api/v1/tokens/${token.id}`, undefined, load) }, t("accounts.revoke"))))));
  };
  const label = el("input", { type: "text", maxlength: 100 });
  const days = el("input", { type: "number", min: 1, max: 730, value: 90 });
  const proof = el("input", { type: "password", maxlength: 256, autocomplete: "current-password" });
  const permission = el("select", {}, ...viewer().permissions.map((name) => el("option", { value: name }, term("permission", name))));
  const form = el("form", { class: "invitation", novalidate: true, submit: (event) => {
    event.preventDefault();
    change("POST", "/api/v1/tokens", { label: label.value.trim(), permissions: [permission.value], days: Number(days.value), password: proof.value }, async (made) => {
      label.value = proof.value = "";
      secret.hidden = false;
      secret.replaceChildren(el("p", {}, t("accounts.token_once")), el("code", {}, made.token));
      await load();
    });
  } }, field("label", label), field("permission", permission), field("days", days), field("own_proof", proof), el("button", { class: "button primary", type: "submit" }, t("accounts.make_token")));
  load().catch((error) => say(error.message, "bad"));
  return panel(t("accounts.tokens"), table(["label", "owner", "permission", "expires", ""], body), secret, form);
}

function password(say) {
  const inputs = ["old", "new"].map((name) => el("input", { type: "password", maxlength: 256, autocomplete: name === "old" ? "current-password" : "new-password" }));
  const revoke = el("input", { type: "checkbox" });
  const form = el("form", { class: "invitation", novalidate: true, submit: async (event) => {
    event.preventDefault();
    try {
      await ask("/api/v1/session/password", { method: "PUT", body: { old: inputs[0].value, new: inputs[1].value, revoke_tokens: revoke.checked } });
      // The answer is a new session, with a token of its own.
      location.reload();
    } catch (error) {
      say(error.message, "bad");
    }
  } }, field("old_password", inputs[0]), field("new_password", inputs[1]), check("revoke_tokens", revoke), el("button", { class: "button", type: "submit" }, t("accounts.change_password")));
  return panel(t("accounts.own_password"), form);
}

function log(say) {
  const body = el("tbody", {});
  let cursor = null;
  const load = async () => {
    const query = new URLSearchParams({ limit: String(AUDIT_PAGE), ...(cursor ? { cursor } : {}) });
    const page = await get(`/api/v1/audit?${query}`);
    cursor = page.next_cursor;
    more.hidden = !cursor;
    body.append(...page.entries.map((entry) => el("tr", {}, el("td", { class: "when" }, dayAndTime(new Date(entry.time))), el("td", {}, entry.who || "–", el("div", { class: "muted" }, [term("via", entry.via), entry.address].filter(Boolean).join(" "))),
      el("td", {}, entry.action), el("td", {}, entry.target), el("td", {}, entry.detail))));
  };
  const more = el("button", { class: "button", type: "button", hidden: true, click: () => load().catch((error) => say(error.message, "bad")) }, t("ppe.more"));
  load().catch((error) => say(error.message, "bad"));
  return panel(t("accounts.audit"), table(["time", "who", "action", "target", "detail"], body, ""), el("div", { class: "note" }, more));
}
