// Counts by hour as series: buckets, sums, the same range a week before. No page is touched here.

import { addDays, midnight } from "./format.js";

const HOUR_MS = 3_600_000;
const MOST_HOURS = 24 * 3;

/** The range [first day, last day] of the site as {from, to, by, days}; `by` is the width of a bucket. */
export function rangeOf(first, last) {
  const from = midnight(first);
  const to = midnight(addDays(last, 1));
  return { first, last, from, to, by: to.getTime() - from.getTime() <= MOST_HOURS * HOUR_MS ? "hour" : "day" };
}

/** The same days a week before. */
export const weekBefore = (range) => ({ ...rangeOf(addDays(range.first, -7), addDays(range.last, -7)), by: range.by });

/** The beginnings of a range's buckets, as Unix milliseconds. */
export function buckets(range) {
  const starts = [];
  if (range.by === "hour") for (let at = range.from.getTime(); at < range.to.getTime(); at += HOUR_MS) starts.push(at);
  else for (let name = range.first; name <= range.last; name = addDays(name, 1)) starts.push(midnight(name).getTime());
  return starts;
}

/** {times, in, out}: the rows {hour or day, direction, count} in the range's buckets. */
export function series(range, rows) {
  const times = buckets(range);
  const index = new Map(times.map((time, position) => [time, position]));
  const result = { times: times.map((time) => time / 1000), in: times.map(() => 0), out: times.map(() => 0) };
  for (const row of rows) {
    const position = index.get(Date.parse(row[range.by]));
    if (position !== undefined) result[row.direction][position] += row.count;
  }
  return result;
}

/** {in, out} of rows. */
export function totals(rows) {
  const total = { in: 0, out: 0 };
  for (const row of rows) total[row.direction] += row.count;
  return total;
}
