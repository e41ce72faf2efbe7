// Starts the dashboard: loads the site, shows the page of the address, connects the live data.

import { get } from "./api.js";
import { el } from "./dom.js";
import { events } from "./events.js";
import { useZone } from "./format.js";
import { connection, siteHeader, themeButton } from "./header.js";
import { hours } from "./hours.js";
import { Pictures } from "./live.js";
import { State } from "./state.js";
import { Live } from "./stream.js";
import { strip, systemPage } from "./system.js";
import { totals } from "./totals.js";
import { wall } from "./wall.js";
import { zones } from "./zones.js";

const RETRY_MS = 3000;
const main = document.getElementById("main");

themeButton();
start();

async function start() {
  let site;
  try {
    site = await get("/api/v1/cameras");
  } catch (error) {
    connection("reconnecting");
    document.getElementById("loading")?.replaceChildren(`${error.message} Trying again …`);
    setTimeout(start, RETRY_MS);
    return;
  }
  useZone(site.timezone);
  const state = new State(site);
  state.clockOffsetMs = Date.parse(site.time) - Date.now();
  siteHeader(state);
  connect(state);
  const pages = makePages(state);
  addEventListener("hashchange", () => showPage(pages));
  showPage(pages);
}

/** The pages, made once; the overview keeps its figures while another page is shown. */
function makePages(state) {
  let overview = null;
  const pictures = state.site.cameras.length ? new Pictures() : null;
  return {
    overview: () => (overview ??= state.site.cameras.length ? overviewPage(state, pictures) : emptyPage()),
    system: () => systemPage(),
  };
}

let shown = null;

function showPage(pages) {
  const name = location.hash === "#/system" ? "system" : "overview";
  if (shown?.dataset.page === "system") shown.stop();
  shown = pages[name]();
  shown.dataset.page = name;
  main.replaceChildren(shown);
  for (const link of document.querySelectorAll(".nav [data-page]")) {
    if (link.dataset.page === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function overviewPage(state, pictures) {
  return el("div", { class: "overview" },
    el("div", { class: "totals" }, ...totals(state), hours(state)),
    wall(state, pictures),
    el("div", { class: "side" }, zones(state), events(state)),
    strip());
}

function emptyPage() {
  const example = '"cameras": [\n  {"id": "entrance", "name": "Entrance",\n   "url": "rtsp://user:password@10.0.0.7/stream",\n   "lines": [{"id": "door", "p1": [0.2, 0.6], "p2": [0.8, 0.6]}]}\n]';
  return el("section", { class: "panel empty" }, el("h2", {}, "No cameras yet"),
    el("p", {}, "Add one to config.json, then run crowdperf ctl update."), el("pre", {}, example),
    el("p", {}, "Lines count who goes in and out, zones count who is inside."));
}

function connect(state) {
  let redis = "up";
  let transport = "connecting";
  let goodAt = null;
  let wasAway = false;
  const show = () => {
    const name = transport === "live" && redis === "down" ? "down" : transport;
    if (name === "live") goodAt = state.now();
    connection(name, goodAt);
  };
  const stream = new Live({
    state: (name) => {
      transport = name;
      if (name === "live" && wasAway) returned(state);
      wasAway = name === "reconnecting";
      show();
    },
    status: (message) => {
      state.clockOffsetMs = Date.parse(message.time) - Date.now();
      redis = message.redis;
      show();
    },
    counts: (message) => state.setCounts(message),
    occupancy: (message) => state.setZones(message.zones),
    event: (message) => state.emit("event", message),
    lost: () => { state.emit("reload"); stream.restart(true); },
  });
}

/** After an interruption the server may be another one: with another site the page starts anew. */
async function returned(state) {
  const now = await get("/api/v1/cameras").catch(() => null);
  if (!now) return;
  const definition = (site) => JSON.stringify({ ...site, time: "", cameras: site.cameras.map((camera) => ({ ...camera, state: "" })) });
  if (definition(now) !== definition(state.site)) location.reload();
  else state.emit("reload");
}
