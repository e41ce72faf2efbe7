// Requests to the REST interface; a refusal's own words reach the user.

/** The JSON of a GET; throws an Error whose message can be shown. */
export async function get(path) {
  let response;
  try {
    response = await fetch(path, { headers: { Accept: "application/json" } });
  } catch {
    throw new Error("The server does not answer.");
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.detail ?? `The server answered with status ${response.status}.`);
  return body;
}
