// The words of the pages: one file per language in /texts/, chosen by the viewer, else by the browser.

export const LANGUAGES = { en: "English", de: "Deutsch" };

let table = {};
let chosen = "en";

/** The language in use, a key of LANGUAGES. */
export const language = () => chosen;

function wanted() {
  let stored = null;
  try { stored = localStorage.getItem("crowdperf.language"); } catch { /* storage is off */ }
  for (const name of [stored, ...navigator.languages]) {
    const short = name?.slice(0, 2).toLowerCase();
    if (short in LANGUAGES) return short;
  }
  return "en";
}

/** Load the viewer's language; call it once, before anything is shown. */
export async function loadTexts() {
  chosen = wanted();
  const response = await fetch(`/texts/${chosen}.json`);
  if (!response.ok) throw new Error(`/texts/${chosen}.json: status ${response.status}`);
  table = await response.json();
  document.documentElement.lang = chosen;
  for (const node of marked("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of marked("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
}

/** @type {(selector: string) => NodeListOf<HTMLElement>} */
const marked = (selector) => document.querySelectorAll(selector);

/** Remember another language and begin anew with it. */
export function useLanguage(name) {
  try { localStorage.setItem("crowdperf.language", name); } catch { /* storage is off: the browser's language stays */ }
  location.reload();
}

/** The text of `key` with {name} replaced from `values`; a key without a text shows itself, so that it is seen. */
export function t(key, values = {}) {
  const text = table[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** The text of `<prefix>.<name>` where there is one, else `name` as words. */
export function term(prefix, name) {
  return table[`${prefix}.${name}`] ?? String(name).replaceAll("_", " ");
}
