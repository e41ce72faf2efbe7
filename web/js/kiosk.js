// Self check-in and check-out: a tablet at the entrance, signed in as a kiosk. A scanner types the code and Enter.

import { get, send } from "./api.js";
import { canScan, scan } from "./scan.js";
import { loadSession, may } from "./session.js";
import { loadTexts, t } from "./texts.js";

const SHOWN_MS = 8000;
const form = /** @type {HTMLFormElement} */ (document.getElementById("form"));
const code = /** @type {HTMLInputElement} */ (document.getElementById("code"));
const briefing = /** @type {HTMLInputElement} */ (document.getElementById("briefing"));
const nda = /** @type {HTMLInputElement} */ (document.getElementById("nda"));
const error = /** @type {HTMLElement} */ (document.getElementById("error"));
const refused = /** @type {HTMLElement} */ (document.getElementById("refused"));
const done = /** @type {HTMLElement} */ (document.getElementById("done"));

const camera = /** @type {HTMLButtonElement} */ (document.getElementById("camera"));
const view = /** @type {HTMLVideoElement} */ (document.getElementById("view"));

let rules = { briefing: "", nda_version: "" };
let timer = 0;
/** @type {(() => void) | null} Ends the camera, while it is on. */
let dark = null;

/** Sign this device in by the link that an administrator has made. */
async function openLink(name, secret) {
  await send("POST", "/api/v1/kiosk-session", { name, secret });
  return loadSession();
}

/** What the reception asks for; without the permission, the way to sign in. */
async function start() {
  await loadTexts();
  const [name, secret] = location.hash.slice(1).split(":");
  if (secret) history.replaceState(null, "", location.pathname);
  let session = await loadSession();
  // Devices that start with a stored address open the same link every time: it counts once, the session goes on.
  if (secret && !(may("kiosk") && session.name === name)) session = await openLink(name, secret);
  if (!may("kiosk")) {
    location.assign("/login/");
    return;
  }
  const staff = session.permissions.length > 1;
  /** @type {HTMLElement} */ (document.getElementById("staff")).hidden = !staff;
  form.hidden = staff;
  if (staff) return;
  rules = await get("/api/v1/kiosk");
  for (const [id, shown] of [["briefing-row", rules.briefing], ["briefing-text", rules.briefing], ["nda-row", rules.nda_version]]) {
    /** @type {HTMLElement} */ (document.getElementById(id)).hidden = !shown;
  }
  /** @type {HTMLElement} */ (document.getElementById("briefing-text")).textContent = rules.briefing;
  /** @type {HTMLElement} */ (document.getElementById("nda-version")).textContent = rules.nda_version;
  camera.hidden = !canScan();
}

// Whoever stands here could use a person's session for more than this page.
/** @type {HTMLButtonElement} */ (document.getElementById("limit")).addEventListener("click", async () => {
  try {
    await send("PUT", "/api/v1/session/kiosk", { kiosk: true });
    await start();
    code.focus();
  } catch (problem) {
    show(refused, /** @type {Error} */ (problem).message);
  }
});

/** Show one of the two lines; the next visitor must not read the last one's name for long. */
function show(node, text) {
  error.hidden = done.hidden = true;
  node.textContent = text;
  node.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => { node.hidden = true; }, SHOWN_MS);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = code.value.trim();
  if (!text) return;
  try {
    const step = { briefing: briefing.checked, nda_version: nda.checked ? rules.nda_version : "" };
    const visit = await send("POST", `/api/v1/kiosk/${encodeURIComponent(text)}`, step);
    show(done, visit.state === "checked_out" ? t("kiosk.goodbye", { name: visit.name }) : t("kiosk.welcome", { name: visit.name, host: visit.host }));
    form.reset();
  } catch (problem) {
    show(error, /** @type {Error} */ (problem).message);
  }
  code.focus();
});

camera.addEventListener("click", async () => {
  camera.disabled = true;
  try {
    if (dark) {
      dark();
      dark = null;
    } else {
      dark = await scan(view, (text) => {
        code.value = text;
        form.requestSubmit();
      });
    }
  } catch (problem) {
    show(error, t("kiosk.no_camera", { why: /** @type {Error} */ (problem).message }));
  }
  view.hidden = !dark;
  camera.textContent = t(dark ? "kiosk.camera_off" : "kiosk.camera");
  camera.disabled = false;
});

start().catch((problem) => show(error, problem.message));
