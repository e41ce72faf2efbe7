// Elements from code. Text goes in as text nodes only: names come from configuration files and are not to be trusted.

/** An element with attributes (functions become listeners) and children (strings become text). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/** Set a text only where it changed: an unchanged text costs no layout. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const PATHS = {
  in: "M8 2v10m0 0 4-4m-4 4-4-4",
  out: "M8 14V4m0 0 4 4M8 4 4 8",
  close: "m4 4 8 8m0-8-8 8",
  sun: "M8 1v1.5M8 13.500V15M1 8h1.500M13.500 8H15M3 3l1 1m8 8 1 1M13 3l-1 1M4 12l-1 1M11 8a3 3 0 1 1-6 0 3 3 0 0 1 6 0Z",
  moon: "M13.500 9.500A6 6 0 0 1 6.500 2.500a6 6 0 1 0 7 7Z",
  camera: "M2 5h8v6H2Zm8 2.500 4-2v5l-4-2M2 2l12 12",
};

/** A small line icon; decorative, so hidden from screen readers. */
export function icon(name, className = "") {
  return svg(
    "svg",
    { viewBox: "0 0 16 16", class: className, "aria-hidden": "true", fill: "none", stroke: "currentColor",
      "stroke-width": 1.6, "stroke-linecap": "round", "stroke-linejoin": "round" },
    svg("path", { d: PATHS[name] }),
  );
}

/** The arrow of a direction. */
export function arrow(direction) {
  return icon(direction, `arrow arrow-${direction}`);
}
