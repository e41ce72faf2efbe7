// Who wears what, over time: figures of the interface by hour put into the buckets of a range. No page is touched here.

import { buckets } from "./series.js";

export const OUTCOMES = ["worn", "missing", "unsure"];

/** Share of those who were judged that wore it; null where nobody was. */
export const share = ({ worn, missing }) => (worn + missing ? worn / (worn + missing) : null);

const none = () => ({ worn: 0, missing: 0, unsure: 0 });

/** [{camera, zone, item, total, of}] in order of their names: `of` is what each bucket of `times` (Unix seconds) has. */
export function lines(times, rows) {
  const found = new Map();
  for (const row of rows) {
    const name = JSON.stringify([row.camera, row.zone, row.item]);
    if (!found.has(name)) found.set(name, { camera: row.camera, zone: row.zone, item: row.item, total: none(), of: times.map(none) });
    const line = found.get(name);
    const place = bucketOf(times, row.hour);
    for (const outcome of OUTCOMES) {
      line.total[outcome] += row[outcome] ?? 0;
      if (place >= 0) line.of[place][outcome] += row[outcome] ?? 0;
    }
  }
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, line]) => line);
}

/** The buckets of a range, Unix seconds. */
export const timesOf = (range) => buckets(range).map((time) => time / 1000);

/** The bucket in which a moment lies: hours are the world's, and a site's day may begin within one. */
function bucketOf(times, moment) {
  let place = -1;
  while (place + 1 < times.length && times[place + 1] <= moment) place += 1;
  return place;
}
