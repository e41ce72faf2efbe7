// Lines and zones over a picture, to be looked at and moved: by mouse, touch and keyboard. SVG, in the picture's own units.

import { el, svg } from "./dom.js";
import { clamp, inSide, leastPoints } from "./shapes.js";
import { t } from "./texts.js";

const HEIGHT = 1000;
const STEP = 0.005;
const LARGE = 0.05;
const HANDLE_PX = 8;
const CLOSE_PX = 14;
const MIDDLE = { line: [[0.5, 0.25], [0.5, 0.75]], zone: [[0.35, 0.35], [0.65, 0.35], [0.65, 0.65], [0.35, 0.65]] };

/** Emits `select(shape)`, `change(shape)` while a point moves, `drawn(kind, points)` and `drawing(kind | null)`. */
export class Editor {
  constructor(host, handlers) {
    this.host = host;
    this.handlers = handlers;
    this.shapes = [];
    this.selected = null;
    this.editable = false;
    this.drawing = null; // {kind, points, pointer}
    this.aspect = 16 / 9;
    this.svg = svg("svg", { class: "editor", role: "group" });
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    this.svg.addEventListener("pointermove", (event) => this.move(event));
    host.append(this.svg);
    this.onKey = (event) => this.key(event);
    document.addEventListener("keydown", this.onKey);
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(host);
  }

  close() {
    document.removeEventListener("keydown", this.onKey);
    this.sizes.disconnect();
  }

  show({ shapes, selected, editable, aspect }) {
    Object.assign(this, { shapes, selected, editable, aspect });
    this.draw();
  }

  /** Begin to draw a new shape. */
  begin(kind) {
    this.drawing = { kind, points: [], pointer: null };
    this.svg.classList.add("drawing");
    this.handlers.drawing(kind);
    this.draw();
  }

  cancel() {
    this.drawing = null;
    this.svg.classList.remove("drawing");
    this.handlers.drawing(null);
    this.draw();
  }

  // Coordinates

  width() { return HEIGHT * this.aspect; }
  /** SVG units per CSS pixel. */
  unit() { return HEIGHT / Math.max(1, this.svg.getBoundingClientRect().height); }
  at([x, y]) { return [x * this.width(), y * HEIGHT]; }
  place(event) {
    const box = this.svg.getBoundingClientRect();
    return [clamp((event.clientX - box.left) / box.width), clamp((event.clientY - box.top) / box.height)];
  }
  /** @param {number[]} a @param {number[]} b @param {number} pixels */
  near(a, b, pixels) {
    const [[ax, ay], [bx, by]] = [a, b];
    const box = this.svg.getBoundingClientRect();
    return Math.hypot((ax - bx) * box.width, (ay - by) * box.height) <= pixels;
  }

  // Pointer

  press(event) {
    if (!this.drawing || event.button) return;
    event.preventDefault();
    const place = this.place(event);
    const { kind, points } = this.drawing;
    if (kind === "zone" && points.length >= 3 && this.near(points[0], place, CLOSE_PX)) { this.finish(); return; }
    if (points.length && this.near(points.at(-1), place, 3)) return;
    points.push(place);
    if (kind === "line" && points.length === 2) this.finish();
    else this.draw();
  }

  move(event) {
    if (this.drawing) {
      this.drawing.pointer = this.place(event);
      this.draw();
    }
  }

  finish() {
    const { kind, points } = this.drawing;
    this.drawing = null;
    this.svg.classList.remove("drawing");
    this.handlers.drawing(null);
    this.handlers.drawn(kind, points);
  }

  /** Let the pointer that pressed `handle` carry the shape's point until it is let go. */
  drag(event, handle, shape, index) {
    if (!this.editable || event.button) return;
    event.preventDefault();
    event.stopPropagation();
    handle.focus();
    handle.setPointerCapture(event.pointerId);
    const move = (moved) => this.moved(shape, index, this.place(moved));
    const end = () => {
      handle.removeEventListener("pointermove", move);
      this.handlers.change(shape, true);
    };
    handle.addEventListener("pointermove", move);
    handle.addEventListener("pointerup", end, { once: true });
    handle.addEventListener("pointercancel", end, { once: true });
  }

  moved(shape, index, place) {
    shape.points[index] = place;
    this.reposition(shape);
    this.handlers.change(shape, false);
  }

  // Keyboard

  key(event) {
    if (!this.drawing) return;
    if (event.key === "Escape") this.cancel();
    if (event.key !== "Enter" || event.repeat) return;
    const { kind, points } = this.drawing;
    if (!points.length) {
      // By keyboard alone: one in the middle, whose points the arrow keys then move. The key must not press the button again.
      event.preventDefault();
      points.push(...MIDDLE[kind].map((point) => [...point]));
      this.finish();
    } else if (kind === "zone" && points.length >= 3) this.finish();
  }

  handleKey(event, shape, index) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in steps) {
      event.preventDefault();
      const size = event.shiftKey ? LARGE : STEP;
      const [x, y] = shape.points[index];
      this.moved(shape, index, [clamp(x + steps[event.key][0] * size), clamp(y + steps[event.key][1] * size)]);
      this.handlers.change(shape, true);
    } else if ((event.key === "Delete" || event.key === "Backspace") && shape.points.length > leastPoints(shape)) {
      event.preventDefault();
      shape.points.splice(index, 1);
      this.draw();
      this.handlers.change(shape, true);
      this.handleOf(shape, Math.min(index, shape.points.length - 1))?.focus();
    }
  }

  handleOf(shape, index) {
    return this.svg.querySelector(`[data-handle="${CSS.escape(`${shape.kind} ${shape.id}`)}"][data-index="${index}"]`);
  }

  // Drawing

  draw() {
    const active = document.activeElement;
    this.svg.setAttribute("viewBox", `0 0 ${this.width()} ${HEIGHT}`);
    this.nodes = new Map();
    const focused = active instanceof SVGElement && active.dataset.handle ? { ...active.dataset } : null;
    const order = [...this.shapes].sort((a, b) => this.rank(a) - this.rank(b));
    this.svg.replaceChildren(...order.map((shape) => this.node(shape)), ...this.sketch());
    for (const shape of order) this.reposition(shape);
    if (focused) this.svg.querySelector(`[data-handle="${CSS.escape(focused.handle)}"][data-index="${focused.index}"]`)?.focus();
  }

  /** Zones below lines, and the chosen shape on top. */
  rank(shape) {
    return (shape === this.selected ? 2 : 0) + (shape.kind === "line" ? 1 : 0);
  }

  node(shape) {
    const chosen = shape === this.selected;
    const outline = svg(shape.kind === "zone" ? "polygon" : "polyline", { class: "shape" });
    const shadow = svg(shape.kind === "zone" ? "polygon" : "polyline", { class: "shape-shadow" });
    const parts = [shadow, outline];
    const arrows = shape.kind === "line" ? [svg("path", { class: "way way-in" }), svg("path", { class: "way way-out" })] : [];
    const name = svg("text", { class: "shape-name" }, shape.name);
    const group = svg("g", { class: `shape-group shape-${shape.kind}${chosen ? " chosen" : ""}`, "data-shape": shape.id }, ...parts, ...arrows, name);
    group.addEventListener("pointerdown", (event) => {
      if (!this.drawing && event.button === 0) this.handlers.select(shape);
    });
    const handles = chosen && this.editable ? shape.points.map((_, index) => this.handle(shape, index)) : [];
    group.append(...handles);
    this.nodes.set(shape, { outline, shadow, arrows, name, handles });
    return group;
  }

  handle(shape, index) {
    const label = t("camera.point", { shape: shape.name, number: index + 1, count: shape.points.length });
    const node = svg("circle", { class: "handle", tabindex: 0, role: "button", "aria-label": label, "data-handle": `${shape.kind} ${shape.id}`, "data-index": index });
    node.addEventListener("pointerdown", (event) => this.drag(event, node, shape, index));
    // Inside an SVG the style touch-action is not heard: a finger would scroll the page away from the point it carries.
    node.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    node.addEventListener("keydown", (event) => this.handleKey(event, shape, index));
    return node;
  }

  /** Put a shape's nodes where its points are; nothing is made anew, so a drag keeps its handle. */
  reposition(shape) {
    const nodes = this.nodes.get(shape);
    if (!nodes) return;
    const unit = this.unit();
    const points = shape.points.map((point) => this.at(point));
    const text = points.map((point) => point.join(",")).join(" ");
    nodes.outline.setAttribute("points", text);
    nodes.shadow.setAttribute("points", text);
    nodes.handles.forEach((node, index) => {
      node.setAttribute("cx", points[index][0]);
      node.setAttribute("cy", points[index][1]);
      node.setAttribute("r", HANDLE_PX * unit);
    });
    const top = points.reduce((best, point) => (point[1] < best[1] ? point : best));
    nodes.name.setAttribute("x", Math.min(top[0], this.width() - 60 * unit));
    nodes.name.setAttribute("y", Math.max(16 * unit, top[1] - 12 * unit));
    nodes.name.setAttribute("font-size", 13 * unit);
    if (shape.kind === "line") {
      const { middle, normal } = inSide(shape.points, shape.in_side, this.aspect);
      const from = [middle[0] * HEIGHT, middle[1] * HEIGHT];
      nodes.arrows[0].setAttribute("d", arrow(from, normal, unit));
      nodes.arrows[1].setAttribute("d", arrow(from, [-normal[0], -normal[1]], unit));
    }
  }

  sketch() {
    if (!this.drawing) return [];
    const points = [...this.drawing.points, ...(this.drawing.pointer ? [this.drawing.pointer] : [])].map((point) => this.at(point));
    const unit = this.unit();
    return [
      svg("polyline", { class: "sketch", points: points.map((point) => point.join(",")).join(" ") }),
      ...this.drawing.points.map((point, index) => svg("circle", { class: index ? "sketch-point" : "sketch-point first", cx: this.at(point)[0], cy: this.at(point)[1], r: 6 * unit })),
    ];
  }
}

/** The path of an arrow of 34 px from `from` along the unit vector. */
function arrow(from, normal, unit) {
  const [[x, y], [nx, ny]] = [from, normal];
  const [sx, sy, ex, ey] = [x + nx * 6 * unit, y + ny * 6 * unit, x + nx * 34 * unit, y + ny * 34 * unit];
  const head = [1, -1].map((side) => `M${ex} ${ey}L${ex - (nx + side * ny) * 7 * unit} ${ey - (ny - side * nx) * 7 * unit}`);
  return `M${sx} ${sy}L${ex} ${ey}${head.join("")}`;
}

/** The words of what to do while drawing. */
export const drawingHint = (kind) => el("p", { class: "hint", role: "status" }, t(kind === "line" ? "camera.draw_line" : "camera.draw_zone"));
