// Requests to the REST interface; a refusal's own words reach the user.

import { t } from "./texts.js";

let csrf = "";
const changes = new Set(); // Promises of the changes that are under way.

/** Send this token with every change: the session's. */
export function useToken(token) {
  csrf = token;
}

/**
 * One request. `tag` is the ETag that a change is based on.
 * @param {string} path
 * @param {{method?: string, body?: unknown, tag?: string | null}} options
 * @returns {Promise<{body: any, blob: Blob, headers: Headers, tag: string | null}>} `body` for JSON, `blob` for anything else
 * @throws {Error} whose message can be shown
 */
export function ask(path, options = {}) {
  const asked = request(path, options);
  if ((options.method ?? "GET") === "GET") return asked;
  const ended = asked.then(() => {}, () => {}).finally(() => changes.delete(ended));
  changes.add(ended);
  return asked;
}

/** When no change of this page's own is under way any more. */
export const settled = () => Promise.all(changes);

async function request(path, { method = "GET", body = undefined, tag = null }) {
  const headers = { Accept: "application/json, */*;q=0.5" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrf) headers["X-CSRF-Token"] = csrf;
  if (tag) headers["If-Match"] = tag;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Error(t("error.unreachable"));
  }
  const isJson = (response.headers.get("Content-Type") ?? "").includes("json");
  const answer = isJson ? await response.json().catch(() => null) : null;
  if (!response.ok) throw new Error([answer?.detail ?? t("error.status", { status: response.status }), ...(answer?.reasons ?? [])].join(" "));
  return { body: answer, blob: isJson ? new Blob() : await response.blob(), headers: response.headers, tag: response.headers.get("ETag") };
}

/** The JSON of a GET. */
export const get = async (path) => (await ask(path)).body;

/** The JSON of the answer to a change, null where it has no body. */
export const send = async (method, path, body = undefined) => (await ask(path, { method, body })).body;
