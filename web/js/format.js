// Numbers and times as people read them; times are always the site's, wherever the browser is.

let zone = "UTC";
let formats = {};

/** Use this IANA zone from now on. */
export function useZone(name) {
  zone = name;
  const make = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", ...options });
  formats = {
    clock: make({ hour: "2-digit", minute: "2-digit", second: "2-digit" }),
    day: make({ weekday: "short", day: "numeric", month: "short" }),
    hour: make({ hour: "2-digit" }),
    zone: make({ timeZoneName: "short" }),
  };
}
useZone("UTC");

const whole = new Intl.NumberFormat("en-GB");
const tenth = new Intl.NumberFormat("en-GB", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const count = (value) => whole.format(value);
export const fps = (value) => (value === null || value === undefined ? "–" : tenth.format(value));
export const clock = (date) => formats.clock.format(date);
export const day = (date) => formats.day.format(date);
export const hour = (date) => Number(formats.hour.format(date));
export const zoneName = (date) => formats.zone.formatToParts(date).find((part) => part.type === "timeZoneName")?.value ?? zone;

/** Bytes as MiB or GiB. */
export function bytes(value) {
  const mib = value / 2 ** 20;
  return mib < 1024 ? `${whole.format(Math.round(mib))} MiB` : `${tenth.format(mib / 1024)} GiB`;
}

/** Seconds as the two largest units. */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** Milliseconds. */
export const milliseconds = (value) => (value === null || value === undefined ? "–" : `${whole.format(Math.round(value))} ms`);

/** "a motorcycle" is shown as "Motorcycle". */
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
