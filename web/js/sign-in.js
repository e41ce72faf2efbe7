// The two pages before the dashboard: signing in, and the first administrator by the one-time link.

import { loadTexts, t } from "./texts.js";

await loadTexts();
const form = /** @type {HTMLFormElement} */ (document.getElementById("form"));
const problem = /** @type {HTMLElement} */ (document.getElementById("error"));
const submit = /** @type {HTMLButtonElement} */ (document.getElementById("submit"));
const setup = form.dataset.kind === "setup";

/** What was typed into a field. */
function typed(name) {
  return /** @type {HTMLInputElement} */ (form.elements.namedItem(name)).value;
}

/** Where to go afterwards: a path of this server only, or anybody could send people elsewhere through this page. */
export function destination(search, origin) {
  const next = new URLSearchParams(search).get("next") ?? "/";
  try {
    const url = new URL(next, origin);
    return url.origin === origin ? url.pathname + url.search + url.hash : "/";
  } catch {
    return "/";
  }
}

function show(text) {
  problem.textContent = text;
  problem.hidden = false;
}

async function send(event) {
  event.preventDefault();
  problem.hidden = true;
  const name = typed("name").trim();
  const password = typed("password");
  if (!name || !password) return show(t("sign_in.both"));
  if (setup && password !== typed("again")) return show(t("setup.differ"));
  const body = setup ? { secret: location.hash.slice(1), name, password } : { name, password };
  submit.disabled = true;
  try {
    const response = await fetch(setup ? "/api/v1/setup" : "/api/v1/session", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify(body),
    });
    if (response.ok) return location.replace(setup ? "/" : destination(location.search, location.origin));
    const said = await response.json().catch(() => null);
    show([said?.detail ?? t("error.status", { status: response.status }), ...(said?.reasons ?? [])].join(" "));
  } catch {
    show(t("error.unreachable"));
  } finally {
    submit.disabled = false;
  }
}

form.addEventListener("submit", send);
