// Lines and zones as they are drawn: one form for both, and the geometry that drawing needs. No page is touched here.
// Points are shares of the source picture, y down.

export const CLASSES = ["person", "bicycle", "car", "motorcycle", "bus", "truck"];
/** What a new shape need not say. */
const DEFAULTS = { in_side: "positive", in_name: "", out_name: "", limit: null, kind: "area" };
const ID = /^[a-z0-9][a-z0-9_-]{0,31}$/;

/** All points of a line of the API. */
export const pointsOf = (line) => (line.points?.length ? line.points : [line.p1, line.p2]);

/** A line of the API as a shape. */
export function fromLine(line) {
  return { kind: "line", id: line.id, name: line.name, points: pointsOf(line).map((point) => [...point]), classes: [...line.classes], in_side: line.in_side, in_name: line.in_name ?? "", out_name: line.out_name ?? "" };
}

/** A zone of the API as a shape. */
export function fromZone(zone) {
  return { kind: "zone", id: zone.id, name: zone.name, points: zone.polygon.map((point) => [...point]), classes: [...zone.classes], limit: zone.limit, purpose: zone.kind ?? "area" };
}

/** What the API takes for this shape: what the editor knows of it; the rest stays as it is there. */
export function toSettings(shape) {
  const points = shape.points.map(rounded);
  const common = { id: shape.id, name: shape.name, classes: shape.classes };
  if (shape.kind === "zone") return { ...common, polygon: points, limit: shape.limit, kind: shape.purpose };
  const course = points.length > 2 ? { points } : { p1: points[0], p2: points[1] };
  return { ...common, ...course, in_side: shape.in_side, in_name: shape.in_name, out_name: shape.out_name };
}

/** What differs from `before` (settings as they were; {} for a new shape), with the id: what was not touched stays as it was written. */
export function toPatch(shape, before) {
  const settings = toSettings(shape);
  const differs = ([name, value]) => name !== "id" && JSON.stringify(value) !== JSON.stringify(before[name] ?? DEFAULTS[name]);
  return { id: shape.id, ...Object.fromEntries(Object.entries(settings).filter(differs)) };
}

/** Least number of points of a shape. */
export const leastPoints = (shape) => (shape.kind === "zone" ? 3 : 2);

const rounded = ([x, y]) => [Number(x.toFixed(4)), Number(y.toFixed(4))];
export const clamp = (value) => Math.min(1, Math.max(0, value));

/** An id that no shape of `taken` has: the name's letters, else the kind and a number. */
export function freeId(name, kind, taken) {
  const wanted = name.toLowerCase().normalize("NFKD").replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 28);
  const base = ID.test(wanted) ? wanted : kind;
  if (!taken.includes(base)) return base;
  for (let number = 2; ; number += 1) if (!taken.includes(`${base}-${number}`)) return `${base}-${number}`;
}

/** The middle of a line's whole length, and the unit normal of its `in` side there; `aspect` is width / height. */
export function inSide(points, side, aspect) {
  const flat = points.map(([x, y]) => [x * aspect, y]);
  const lengths = flat.slice(1).map(([x, y], index) => Math.hypot(x - flat[index][0], y - flat[index][1]));
  let left = lengths.reduce((total, length) => total + length, 0) / 2;
  let part = 0;
  while (part < lengths.length - 1 && left > lengths[part]) left -= lengths[part++];
  const [[ax, ay], [bx, by]] = [flat[part], flat[part + 1]];
  const length = lengths[part] || 1;
  const share = left / length;
  const flip = side === "negative" ? -1 : 1;
  return {
    middle: [ax + (bx - ax) * share, ay + (by - ay) * share],
    normal: [(-(by - ay) / length) * flip, ((bx - ax) / length) * flip],
  };
}

/** {in, out}: how often these paths (arrays of [x, y] samples) cross the line; what the counter's rules leave out is not known here. */
export function crossed(paths, line) {
  const total = { in: 0, out: 0 };
  const segments = line.points.slice(1).map((end, index) => [line.points[index], end]);
  for (const path of paths) {
    for (let index = 1; index < path.length; index += 1) {
      for (const [a, b] of segments) {
        const side = way(path[index - 1], path[index], a, b);
        if (side) total[(side > 0) === (line.in_side !== "negative") ? "in" : "out"] += 1;
      }
    }
  }
  return total;
}

const cross = ([ax, ay], [bx, by], [qx, qy]) => (bx - ax) * (qy - ay) - (by - ay) * (qx - ax);

/** 1 when the step p -> q goes to the positive side of a -> b through it, -1 the other way, 0 else. */
function way(p, q, a, b) {
  const before = cross(a, b, p);
  const after = cross(a, b, q);
  if (before === 0 || (before > 0) === (after > 0)) return 0;
  const first = cross(p, q, a);
  const second = cross(p, q, b);
  return first !== 0 && (first > 0) === (second > 0) ? 0 : after > 0 ? 1 : -1;
}
