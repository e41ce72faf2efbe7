// Numbers and times as people read them; times are always the site's, wherever the browser is.

import { language } from "./texts.js";

const LOCALES = { en: "en-GB", de: "de-DE" };

let zone = "UTC";
let formats = {};
let whole;
let tenth;

/** Use this IANA zone, and the viewer's language, from now on. */
export function useZone(name) {
  zone = name;
  const locale = LOCALES[language()];
  whole = new Intl.NumberFormat(locale);
  tenth = new Intl.NumberFormat(locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const make = (options) => new Intl.DateTimeFormat(locale, { timeZone: zone, hourCycle: "h23", ...options });
  formats = {
    clock: make({ hour: "2-digit", minute: "2-digit", second: "2-digit" }),
    day: make({ weekday: "short", day: "numeric", month: "short" }),
    minute: make({ weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }),
    hour: make({ hour: "2-digit" }),
    parts: new Intl.DateTimeFormat("en-CA", { timeZone: zone, hourCycle: "h23", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" }),
    zone: make({ timeZoneName: "short" }),
  };
}
useZone("UTC");

export const count = (value) => whole.format(value);
export const fps = (value) => (value === null || value === undefined ? "–" : tenth.format(value));
export const clock = (date) => formats.clock.format(date);
export const day = (date) => formats.day.format(date);
export const dayAndTime = (date) => formats.minute.format(date);
export const hour = (date) => Number(part(date, "hour"));

function part(date, type) {
  return formats.parts.formatToParts(date).find((row) => row.type === type).value;
}

/** The site's day of a moment, as YYYY-MM-DD. */
export const siteDay = (date) => `${part(date, "year")}-${part(date, "month")}-${part(date, "day")}`;

/** Midnight at the site that begins the day YYYY-MM-DD. */
export function midnight(text) {
  const wanted = Date.parse(`${text}T00:00:00Z`);
  // The zone's offset at that moment is found by asking what the site's clock shows; twice, for days of a change.
  let at = wanted;
  for (let turn = 0; turn < 2; turn += 1) {
    const shown = Date.parse(`${siteDay(new Date(at))}T${part(new Date(at), "hour")}:${part(new Date(at), "minute")}:${part(new Date(at), "second")}Z`);
    at -= shown - wanted;
  }
  return new Date(at);
}

/** The day that is `days` after YYYY-MM-DD. */
export const addDays = (text, days) => new Date(Date.parse(`${text}T00:00:00Z`) + days * 86_400_000).toISOString().slice(0, 10);
export const zoneName = (date) => formats.zone.formatToParts(date).find((part) => part.type === "timeZoneName")?.value ?? zone;

/** The configuration's names of the days -> as people shorten them, Monday first. */
export function weekdays() {
  const format = new Intl.DateTimeFormat(LOCALES[language()], { timeZone: "UTC", weekday: "short" });
  return Object.fromEntries(["mon", "tue", "wed", "thu", "fri", "sat", "sun"].map((name, place) => [name, format.format(new Date(Date.UTC(2024, 0, 1 + place)))]));
}

/** Bytes as MiB or GiB. */
export function bytes(value) {
  const mib = value / 2 ** 20;
  return mib < 1024 ? `${whole.format(Math.round(mib))} MiB` : `${tenth.format(mib / 1024)} GiB`;
}

/** Seconds as the two largest units, the second one where there is any of it. */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (large, small, in_, name) => [`${Math.floor(s / large)} ${in_}`, Math.floor((s % large) / small) ? `${Math.floor((s % large) / small)} ${name}` : ""].filter(Boolean).join(" ");
  if (s < 60) return `${s} s`;
  if (s < 3600) return two(60, 1, "min", "s");
  return s < 86_400 ? two(3600, 60, "h", "min") : two(86_400, 3600, "d", "h");
}

/** Milliseconds. */
export const milliseconds = (value) => (value === null || value === undefined ? "–" : `${whole.format(Math.round(value))} ms`);

/** "a motorcycle" is shown as "Motorcycle". */
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
