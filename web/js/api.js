// Requests to the REST interface; a refusal's own words reach the user.

import { t } from "./texts.js";

let csrf = "";

/** Send this token with every change: the session's. */
export function useToken(token) {
  csrf = token;
}

/** The JSON of a GET; throws an Error whose message can be shown. */
export async function get(path) {
  let response;
  try {
    response = await fetch(path, { headers: { Accept: "application/json" } });
  } catch {
    throw new Error(t("error.unreachable"));
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.detail ?? t("error.status", { status: response.status }));
  return body;
}

/** The JSON of the answer to a change, null where it has no body; throws an Error whose message can be shown. */
export async function send(method, path, body) {
  const headers = { Accept: "application/json", "Content-Type": "application/json" };
  if (csrf) headers["X-CSRF-Token"] = csrf;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Error(t("error.unreachable"));
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Error([answer?.detail ?? t("error.status", { status: response.status }), ...(answer?.reasons ?? [])].join(" "));
  return answer;
}
