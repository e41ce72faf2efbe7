// What is drawn over a picture: zones, lines with their in side, boxes. Coordinates are normalised, y down.

import { inSide, pointsOf } from "./shapes.js";
import { t, term } from "./texts.js";

const TRACK_COLOURS = ["#4cc9f0", "#ffb454", "#7ee787", "#ff8fa3", "#c3a6ff", "#f9e784", "#5ee6d0", "#ffa8e2"];
const IN = "#7cc0ff";
const OUT = "#ffb866";
/** Width and colour: a dark rim below, then the line. @type {[number, string][]} */
const LINE_STROKES = [[5, "rgb(0 0 0 / 50%)"], [2.4, "#fff"]];
/** The same for an arrow, whose colour is its own. @type {(colour: string) => [number, string][]} */
const arrowStrokes = (colour) => [[4.5, "rgb(0 0 0 / 50%)"], [2.2, colour]];
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";

/** Draw everything into `area` = {x, y, w, h} in canvas pixels; `scale` is canvas pixels per CSS pixel. */
export function drawOverlay(context, area, scale, camera, header, counts, detailed) {
  /** @type {(point: number[]) => [number, number]} */
  const at = ([x, y]) => [area.x + x * area.w, area.y + y * area.h];
  context.lineJoin = "round";
  context.lineCap = "round";
  for (const zone of camera.zones) drawZone(context, at, scale, zone, header.occupancy?.[zone.id], detailed);
  header.boxes.forEach((box, index) => {
    drawBox(context, at, scale, box, header.tracks[index], header.classes[index], detailed);
  });
  for (const line of camera.lines) drawLine(context, area, at, scale, line, counts(line.id), detailed);
}

function drawZone(context, at, scale, zone, occupancy, detailed) {
  const over = zone.limit !== null && occupancy > zone.limit;
  context.beginPath();
  zone.polygon.forEach((corner, index) => (index ? context.lineTo(...at(corner)) : context.moveTo(...at(corner))));
  context.closePath();
  context.fillStyle = over ? "rgb(255 90 80 / 20%)" : "rgb(110 190 255 / 13%)";
  context.fill();
  context.strokeStyle = over ? "#ff7b72" : "rgb(150 205 255 / 75%)";
  context.lineWidth = 1.25 * scale;
  context.setLineDash([5 * scale, 4 * scale]);
  context.stroke();
  context.setLineDash([]);
  if (detailed) {
    const top = zone.polygon.reduce((best, corner) => (corner[1] < best[1] ? corner : best));
    const inside = occupancy === undefined ? "" : `  ${occupancy}${zone.limit === null ? "" : ` / ${zone.limit}`}`;
    label(context, scale, ...at(top), zone.name + inside, over ? "#ff7b72" : "#cfe6ff", 12);
  }
}

function drawBox(context, at, scale, [x1, y1, x2, y2], track, kind, detailed) {
  const [left, top] = at([x1, y1]);
  const [right, bottom] = at([x2, y2]);
  const colour = TRACK_COLOURS[track % TRACK_COLOURS.length];
  context.strokeStyle = "rgb(0 0 0 / 45%)";
  context.lineWidth = 3.2 * scale;
  context.strokeRect(left, top, right - left, bottom - top);
  context.strokeStyle = colour;
  context.lineWidth = 1.6 * scale;
  context.strokeRect(left, top, right - left, bottom - top);
  if (detailed) label(context, scale, left, top, `${term("class", kind)} ${track}`, colour, 11);
  else if (kind !== "person") label(context, scale, left, top, term("class", kind), colour, 10);
}

function drawLine(context, area, at, scale, line, counts, detailed) {
  const points = pointsOf(line);
  for (const [width, colour] of LINE_STROKES) {
    context.strokeStyle = colour;
    context.lineWidth = width * scale;
    context.beginPath();
    points.forEach((point, index) => (index ? context.lineTo(...at(point)) : context.moveTo(...at(point))));
    context.stroke();
  }
  const { middle, normal } = inSide(points, line.in_side, area.w / area.h);
  const centre = [area.x + middle[0] * area.h, area.y + middle[1] * area.h];
  const reach = (detailed ? 30 : 22) * scale;
  drawArrow(context, scale, centre, normal, reach, IN, detailed ? `${t("in.on_picture")} ${counts.in}` : t("in.on_picture"));
  drawArrow(context, scale, centre, [-normal[0], -normal[1]], reach, OUT, detailed ? `${t("out.on_picture")} ${counts.out}` : t("out.on_picture"));
  if (detailed) label(context, scale, ...at(points[0]), line.name, "#fff", 12);
}

function drawArrow(context, scale, from, normal, reach, colour, text) {
  const [[x, y], [nx, ny]] = [from, normal];
  const [ex, ey] = [x + nx * reach, y + ny * reach];
  for (const [width, stroke] of arrowStrokes(colour)) {
    context.strokeStyle = stroke;
    context.lineWidth = width * scale;
    context.beginPath();
    context.moveTo(x + nx * 5 * scale, y + ny * 5 * scale);
    context.lineTo(ex, ey);
    for (const side of [1, -1]) {
      context.moveTo(ex, ey);
      context.lineTo(ex - (nx + side * ny) * 5 * scale, ey - (ny - side * nx) * 5 * scale);
    }
    context.stroke();
  }
  label(context, scale, ex, ey, text, colour, 11, [nx, ny]);
}

function label(context, scale, x, y, text, colour, size, away = null) {
  context.font = `600 ${size * scale}px ${FONT}`;
  context.textBaseline = "middle";
  const pad = 4 * scale;
  const height = (size + 6) * scale;
  const width = context.measureText(text).width + 2 * pad;
  // Beyond a point in a direction, or on top of a corner.
  let left = away ? x + (away[0] * (width + 8 * scale)) / 2 - width / 2 : x;
  let middle = away ? y + (away[1] * (height + 8 * scale)) / 2 : y - height / 2 - 2 * scale;
  left = Math.min(Math.max(left, 2 * scale), context.canvas.width - width - 2 * scale);
  middle = Math.min(Math.max(middle, height / 2 + 2 * scale), context.canvas.height - height / 2 - 2 * scale);
  context.fillStyle = "rgb(8 12 16 / 72%)";
  context.beginPath();
  context.roundRect(left, middle - height / 2, width, height, 3.5 * scale);
  context.fill();
  context.fillStyle = colour;
  context.fillText(text, left + pad, middle + 0.5 * scale);
}
