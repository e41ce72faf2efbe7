// Starts the dashboard: loads the site, shows the page of the address, connects the live data.

import { alerts } from "./alerts.js";
import { get, settled } from "./api.js";
import { areas } from "./areas.js";
import { el } from "./dom.js";
import { events } from "./events.js";
import { useZone } from "./format.js";
import { account, connection, languageChoice, siteHeader, themeButton } from "./header.js";
import { hours } from "./hours.js";
import { Pictures } from "./live.js";
import { Router } from "./router.js";
import { loadSession, may } from "./session.js";
import { State } from "./state.js";
import { Live } from "./stream.js";
import { strip } from "./system.js";
import { loadTexts, t } from "./texts.js";
import { totals } from "./totals.js";
import { wall } from "./wall.js";
import { zones } from "./zones.js";

const RETRY_MS = 3000;
const main = document.getElementById("main");

// What somebody has begun to write is not thrown away by a change that another one makes.
main.addEventListener("input", ({ target }) => {
  if (target instanceof Element) target.closest("form")?.setAttribute("data-unsaved", "");
});

await loadTexts();
themeButton();
languageChoice();
start();

async function start() {
  let site;
  try {
    await loadSession();
    if (!may("read") && may("kiosk")) {
      location.replace("/kiosk/");
      return;
    }
    if (!may("read")) {
      location.replace(`/login/?next=${encodeURIComponent(location.pathname + location.hash)}`);
      return;
    }
    site = await get("/api/v1/cameras");
  } catch (error) {
    connection("reconnecting");
    document.getElementById("loading")?.replaceChildren(t("error.again", { message: error.message }));
    setTimeout(start, RETRY_MS);
    return;
  }
  useZone(site.timezone);
  const state = new State(site);
  state.clockOffsetMs = Date.parse(site.time) - Date.now();
  siteHeader(state);
  account();
  document.querySelector(".nav [data-page=visitors]").toggleAttribute("hidden", !may("visitors"));
  connect(state);
  const pictures = state.site.cameras.length ? new Pictures() : null;
  new Router(main, {
    overview: () => (state.site.cameras.length ? overviewPage(state, pictures) : emptyPage()),
    // Loaded when they are first asked for, so that the first view needs little.
    camera: async (id) => (await import("./camera.js")).cameraPage(state, pictures, id),
    add: async () => (await import("./source-form.js")).newCameraPage(state),
    history: async () => (await import("./history.js")).historyPage(state),
    alerts: async () => (await import("./alerts-page.js")).alertsPage(state),
    accounts: async () => (await import("./accounts.js")).accountsPage(state),
    ppe: async () => (await import("./ppe.js")).ppePage(state),
    visitors: async () => (await import("./visitors.js")).visitorsPage(state),
    "roll-call": async (id) => (await import("./roll-call.js")).rollCallPage(state, id),
    system: async () => (await import("./system.js")).systemPage(),
  }, "overview").show();
}

/** The overview is made once and keeps its figures while another page is shown. */
function overviewPage(state, pictures) {
  const node = el("div", { class: "overview" },
    el("div", { class: "totals" }, ...totals(state), hours(state)),
    wall(state, pictures),
    el("div", { class: "side" }, alerts(state), areas(state), zones(state), events(state)),
    strip());
  node.keep = true;
  return node;
}

function emptyPage() {
  if (may("configure")) {
    return el("section", { class: "panel empty" }, el("h2", {}, t("empty.title")), el("p", {}, t("empty.why")),
      el("a", { class: "button primary", href: "#/add" }, t("source.new")));
  }
  const example = '"cameras": [\n  {"id": "entrance", "name": "Entrance",\n   "url": "rtsp://user:password@10.0.0.7/stream",\n   "lines": [{"id": "door", "p1": [0.2, 0.6], "p2": [0.8, 0.6]}]}\n]';
  return el("section", { class: "panel empty" }, el("h2", {}, t("empty.title")),
    el("p", {}, t("empty.how")), el("pre", {}, example),
    el("p", {}, t("empty.why")));
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
    configuration: () => settled().then(() => returned(state)),
    lost: async () => {
      const site = await get("/api/v1/cameras").catch(() => null);
      stream.restart(site?.last_id ?? "");
      state.emit("reload");
    },
  }, state.site.last_id);
}

/**
 * The site may be another one, after an interruption or by a change: then the page starts anew. Who is writing or drawing
 * finishes that first.
 */
async function returned(state) {
  const now = await get("/api/v1/cameras").catch(() => null);
  if (!now) return;
  const definition = (site) => JSON.stringify({ ...site, time: "", last_id: "", cameras: site.cameras.map((camera) => ({ ...camera, state: "" })) });
  if (definition(now) === definition(state.site)) state.emit("reload");
  else if (main.querySelector("[data-unsaved]")) addEventListener("hashchange", () => location.reload(), { once: true });
  else location.reload();
}
