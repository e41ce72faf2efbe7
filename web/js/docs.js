// The API page: shows /schema/openapi.json. Everything comes from this server, so it works without the internet.

import { get } from "./api.js";
import { el } from "./dom.js";

const main = document.getElementById("main");

function show(schema) {
  const groups = new Map();
  for (const [path, methods] of Object.entries(schema.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operationNode(schema, path, method, operation));
    }
  }
  main.replaceChildren(
    el("h1", {}, `${schema.info.title} API`),
    el("p", {}, schema.info.description ?? ""),
    el("p", {}, "Machine-readable: ", el("a", { href: "/schema/openapi.json" }, "/schema/openapi.json"), ` (OpenAPI ${schema.openapi})`),
    ...[...groups].flatMap(([tag, nodes]) => [el("h2", {}, tag), ...nodes]),
  );
}

function operationNode(schema, path, method, operation) {
  const parameters = operation.parameters ?? [];
  const body = el("div", { class: "operation-body" }, el("p", {}, operation.description ?? ""));
  if (parameters.length) body.append(el("h3", {}, "Parameters"), parameterTable(parameters));
  body.append(el("h3", {}, "Answers"), answerTable(schema, operation.responses));
  if (method === "get" && !path.includes("{") && !path.endsWith("/stream")) {
    body.append(el("div", { class: "try" }, el("a", { href: path }, `Open ${path}`)));
  }
  return el("details", { class: "panel operation" },
    el("summary", {}, el("span", { class: "method" }, method.toUpperCase()), el("code", {}, path), el("span", {}, operation.summary ?? "")),
    body);
}

const row = (...cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell)));
const table = (names, rows) => el("div", { class: "table-scroll" }, el("table", {},
  el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...rows)));

function parameterTable(parameters) {
  return table(["Name", "In", "Type", "Meaning"], parameters.map((parameter) => {
    const kinds = (parameter.schema?.oneOf ?? [parameter.schema ?? {}]).map((kind) => kind.type).filter((kind) => kind && kind !== "null");
    const note = [parameter.description, parameter.schema?.default !== undefined && parameter.schema.default !== null ? `Default: ${parameter.schema.default}.` : ""];
    return row(el("code", {}, parameter.name), parameter.in, kinds.join(" or ") || "string", note.filter(Boolean).join(" "));
  }));
}

function answerTable(schema, responses) {
  return table(["Status", "Type", "Meaning"], Object.entries(responses).map(([status, response]) => {
    const [media, content] = Object.entries(response.content ?? {})[0] ?? ["", null];
    const fields = content ? describe(schema, content.schema, 0) : null;
    const meaning = el("div", {}, response.description ?? "");
    if (fields !== null && typeof fields === "object") meaning.append(el("pre", {}, JSON.stringify(fields, null, 2)));
    return row(el("code", {}, status), media, meaning);
  }));
}

/** A schema as an example-like outline: field names with types. */
function describe(schema, node, depth) {
  if (!node || depth > 5) return "…";
  if (node.$ref) return describe(schema, schema.components.schemas[node.$ref.split("/").pop()], depth + 1);
  const choices = node.oneOf ?? node.anyOf;
  if (choices) {
    const first = choices.find((choice) => choice.type !== "null");
    const text = describe(schema, first, depth);
    return typeof text === "string" && choices.length > 1 ? `${text} | null` : text;
  }
  if (node.type === "array") return [describe(schema, node.items, depth + 1)];
  if (node.type === "object" && node.properties) {
    return Object.fromEntries(Object.entries(node.properties).map(([name, value]) => [name, describe(schema, value, depth + 1)]));
  }
  if (node.enum) return node.enum.join(" | ");
  const example = Array.isArray(node.examples) ? node.examples[0] : undefined;
  return example !== undefined ? `${node.type}, such as ${example}` : node.type ?? "object";
}

// At the end: what is used must have been initialised.
try {
  show(await get("/schema/openapi.json"));
} catch (error) {
  main.replaceChildren(el("p", {}, error.message));
}
