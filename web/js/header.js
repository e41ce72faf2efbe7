// The bar at the top: site, clock, state of the connection, theme.

import { el, icon, setText } from "./dom.js";
import { clock, day, zoneName } from "./format.js";

const WORDS = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", down: "No data" };

/** Set up the theme button at once: it needs no data. */
export function themeButton() {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const show = () => {
    const dark = root.dataset.theme === "dark";
    button.replaceChildren(icon(dark ? "sun" : "moon"));
    button.setAttribute("aria-label", dark ? "Use the light theme" : "Use the dark theme");
  };
  button.addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("crowdperf.theme", root.dataset.theme); } catch { /* storage is off: it lasts for this page */ }
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (change) => {
    let chosen = null;
    try { chosen = localStorage.getItem("crowdperf.theme"); } catch { /* storage is off */ }
    if (!chosen) root.dataset.theme = change.matches ? "dark" : "light";
    show();
  });
  show();
}

/** Show the connection's state, and a banner that explains any other than live. */
export function connection(name, since = null) {
  const pill = document.getElementById("connection");
  const banner = document.getElementById("banner");
  pill.dataset.state = name;
  setText(pill, WORDS[name]);
  const texts = {
    reconnecting: `The connection is lost${since ? `; figures are as of ${clock(since)}` : ""}. Connecting again …`,
    down: `Redis does not answer${since ? `; figures are as of ${clock(since)}` : ""}. This page recovers by itself.`,
  };
  banner.hidden = !(name in texts);
  setText(banner, texts[name] ?? "");
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
