// Who looks at the pages, and what they may change.

import { get, send, useToken } from "./api.js";

let session = { signed_in: false, name: "", role: null, permissions: [], setup: false };

/** Ask the server once, before the first page. */
export async function loadSession() {
  session = await get("/api/v1/session");
  useToken(session.csrf);
  return session;
}

/** End the session; what may be seen without one is shown next. */
export async function signOut() {
  await send("DELETE", "/api/v1/session");
  location.reload();
}

export const viewer = () => session;

/** Whether the viewer has this permission; the server decides anew with every request. */
export const may = (permission) => session.permissions.includes(permission);
