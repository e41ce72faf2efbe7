// The bar at the top: site, clock, state of the connection, theme.

import { el, icon, setText } from "./dom.js";
import { clock, day, zoneName } from "./format.js";
import { signOut, viewer } from "./session.js";
import { LANGUAGES, language, t, useLanguage } from "./texts.js";

const EXPLAINED = ["reconnecting", "down"];

/** Set up the theme button at once: it needs no data. */
export function themeButton() {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const show = () => {
    const dark = root.dataset.theme === "dark";
    button.replaceChildren(icon(dark ? "sun" : "moon"));
    button.setAttribute("aria-label", t(dark ? "theme.light" : "theme.dark"));
  };
  button.addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("crowdperf.theme", root.dataset.theme); } catch { /* storage is off: it lasts for this page */ }
    show();
  });
  // theme-boot.js follows the system; it listens first.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}

/** Who is signed in, with the way out; else the way in. */
export function account() {
  const host = document.getElementById("account");
  const { signed_in: signedIn, name, role } = viewer();
  if (!signedIn) {
    host.replaceChildren(el("a", { class: "button", href: "/login/",
      // Back to the page that is shown then, not now.
      click: (event) => { event.currentTarget.search = `?next=${encodeURIComponent(location.pathname + location.hash)}`; } }, t("account.sign_in")));
    return;
  }
  const button = el("button", { class: "button", type: "button", title: t("account.signed_in", { name, role: t(`role.${role}`) }),
    click: () => signOut().catch((error) => { button.textContent = error.message; }) }, t("account.sign_out"));
  host.replaceChildren(el("a", { class: "account-name", href: "#/accounts" }, name), button);
}

/** Offer the languages. */
export function languageChoice() {
  const select = /** @type {HTMLSelectElement} */ (document.getElementById("language"));
  select.replaceChildren(...Object.entries(LANGUAGES).map(([name, title]) =>
    el("option", { value: name, selected: name === language() }, title)));
  select.addEventListener("change", () => useLanguage(select.value));
}

/** Show the connection's state, and a banner that explains any other than live. */
export function connection(name, since = null) {
  const pill = document.getElementById("connection");
  const banner = document.getElementById("banner");
  pill.dataset.state = name;
  setText(pill, t(`connection.${name}`));
  banner.hidden = !EXPLAINED.includes(name);
  const key = since ? `banner.${name}_since` : `banner.${name}`;
  setText(banner, banner.hidden ? "" : t(key, { time: since ? clock(since) : "" }));
}

/** Show the site's name and run its clock. */
export function siteHeader(state) {
  document.title = `${state.site.name} – crowdperf`;
  setText(document.getElementById("site-name"), state.site.name);
  const node = document.getElementById("clock");
  const date = el("span", { class: "clock-day" });
  const time = el("span", {});
  const zone = el("span", { class: "clock-day" });
  node.replaceChildren(date, time, zone);
  const tick = () => {
    const now = state.now();
    setText(date, `${day(now)}, `);
    setText(time, clock(now));
    setText(zone, ` ${zoneName(now)}`);
    setTimeout(tick, 1000 - (now.getTime() % 1000));
  };
  tick();
}
