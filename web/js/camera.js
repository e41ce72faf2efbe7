// One camera: its live picture, the lines and zones on it, and how it is.

import { ask, send } from "./api.js";
import { el, setText } from "./dom.js";
import { Editor, drawingHint } from "./editor.js";
import { heatmap } from "./heatmap.js";
import { health } from "./health.js";
import { LivePicture } from "./picture.js";
import { may } from "./session.js";
import { SourceForm } from "./source-form.js";
import { CLASSES, crossed, freeId, fromLine, fromZone, toPatch, toSettings } from "./shapes.js";
import { t, term } from "./texts.js";
import { Trails } from "./trails.js";
import { lineList } from "./wall.js";

const CHECK_MS = 300;

/** The page of camera `id`. */
export function cameraPage(state, pictures, id) {
  const camera = state.camera(id);
  if (!camera) return el("section", { class: "panel empty" }, el("h2", {}, t("camera.unknown", { camera: id })), el("a", { href: "#/" }, t("camera.back")));
  const page = new CameraPage(state, camera);
  pictures.add(id, page);
  page.node.stop = () => {
    pictures.remove(id, page);
    page.close();
  };
  return page.node;
}

class CameraPage {
  constructor(state, camera) {
    this.state = state;
    this.camera = camera;
    this.trails = new Trails();
    this.aspect = 16 / 9;
    this.editable = may("configure");
    this.load();
    const host = el("div", { class: "stage" });
    // Lines and zones are the editor's, so the picture itself draws boxes only.
    this.picture = new LivePicture(host, { ...camera, lines: [], zones: [] }, state, true);
    this.heat = heatmap(state, camera);
    host.append(this.heat.canvas);
    this.editor = new Editor(host, {
      select: (shape) => this.select(shape),
      change: (shape, done) => this.changed(shape, done),
      drawn: (kind, points) => this.add(kind, points),
      drawing: (kind) => this.hint(kind),
    });
    this.host = host;
    this.hints = el("div", { class: "hints" });
    this.panel = el("section", { class: "panel shapes", "aria-label": t("camera.shapes") });
    this.health = health(camera.id);
    this.settings = this.editable ? new SourceForm(camera.id) : null;
    this.message = el("p", { class: "note message", role: "status", hidden: true });
    this.lines = lineList(state, camera);
    this.counts = el("section", { class: "panel today", "aria-label": t("today") }, el("div", { class: "panel-head" }, el("h2", {}, t("history.today"))), this.lines);
    this.node = el("div", { class: "camera-page" },
      el("div", { class: "camera-head" }, el("a", { href: "#/" }, t("camera.back")), el("h1", {}, camera.name)),
      el("div", { class: "camera-main" }, host, this.hints, this.heat.control),
      el("div", { class: "camera-side" }, this.panel, this.counts, this.health, this.settings?.node ?? ""));
    this.timer = setInterval(() => this.preview(), 1000);
    this.draw();
    if (this.editable) this.loadTag();
  }

  /** The state that changes are based on: whoever else changes the camera meanwhile is not overwritten. */
  async loadTag() {
    this.tag = await ask(`/api/v1/cameras/${this.camera.id}`).then(({ tag }) => tag, () => null);
  }

  close() {
    clearInterval(this.timer);
    clearTimeout(this.checkSoon);
    this.picture.close();
    this.editor.close();
    this.health.stop();
    this.lines.stop();
  }

  load() {
    this.shapes = [...this.camera.lines.map(fromLine), ...this.camera.zones.map(fromZone)];
    this.before = new Map(this.shapes.map((shape) => [shape, toSettings(shape)]));
    this.selected = null;
    this.dirty = false;
  }

  pixels() {
    return this.picture.pixels();
  }

  /** A message of the live socket. */
  show(header, jpeg) {
    this.picture.show(header, jpeg);
    if (header.state !== "live") return;
    this.trails.add(header);
    const aspect = header.width / header.height;
    if (aspect !== this.aspect) {
      this.aspect = aspect;
      this.host.style.setProperty("--aspect", aspect);
      this.draw();
    }
  }

  draw() {
    this.editor.show({ shapes: this.shapes, selected: this.selected, editable: this.editable, aspect: this.aspect });
    this.panel.replaceChildren(...this.panelParts());
    this.panel.toggleAttribute("data-unsaved", this.dirty);
    this.preview();
  }

  panelParts() {
    const add = (kind, text) => el("button", { class: "button", type: "button", click: () => this.editor.begin(kind) }, text);
    const items = this.shapes.map((shape) => el("li", {},
      el("button", { class: "shape-item", type: "button", "aria-pressed": String(shape === this.selected), click: () => this.select(shape === this.selected ? null : shape) },
        el("span", { class: `swatch swatch-${shape.kind}`, "aria-hidden": "true" }), el("span", { class: "shape-title" }, shape.name), el("span", { class: "muted" }, t(`camera.${shape.kind}`))),
      shape === this.selected ? this.form(shape) : null));
    return [
      el("div", { class: "panel-head" }, el("h2", {}, t("camera.shapes"))),
      items.length ? el("ul", { class: "shape-list" }, ...items) : el("p", { class: "note" }, t("camera.no_shapes")),
      this.editable
        ? el("div", { class: "actions" }, add("line", t("camera.add_line")), add("zone", t("camera.add_zone")))
        : el("p", { class: "note" }, t("camera.read_only")),
      this.dirty ? this.saveBar() : null,
      this.message,
    ].filter(Boolean);
  }

  saveBar() {
    return el("div", { class: "actions save" },
      el("span", { class: "muted" }, t("camera.unsaved")),
      el("button", { class: "button", type: "button", click: () => { this.load(); this.draw(); } }, t("camera.discard")),
      el("button", { class: "button primary", type: "button", click: () => this.save() }, t("camera.save")));
  }

  form(shape) {
    const disabled = !this.editable;
    const name = el("input", { type: "text", value: shape.name, maxlength: 64, disabled, input: (event) => { shape.name = event.target.value; this.changed(shape, false); } });
    const classes = CLASSES.map((className) => el("label", { class: "check" },
      el("input", { type: "checkbox", checked: shape.classes.includes(className), disabled, change: (event) => {
        shape.classes = CLASSES.filter((other) => (other === className ? event.target.checked : shape.classes.includes(other)));
        this.changed(shape, true);
      } }), term("class", className)));
    const word = (field) => el("label", { class: "field" }, el("span", {}, t(`camera.${field}`)), el("input", { type: "text", value: shape[field], maxlength: 64, disabled, input: (event) => {
      shape[field] = event.target.value;
      this.changed(shape, false);
    } }));
    const purpose = shape.kind === "zone" ? el("label", { class: "field" }, el("span", {}, t("camera.purpose")), el("select", { disabled, change: (event) => {
      shape.purpose = event.target.value;
      this.changed(shape, false);
    } }, ...["area", "queue"].map((value) => el("option", { value, selected: value === shape.purpose }, t(`camera.purpose_${value}`))))) : null;
    const limit = shape.kind === "zone" ? el("label", { class: "field" }, el("span", {}, t("camera.limit")),
      el("input", { type: "number", min: 1, step: 1, value: shape.limit ?? "", placeholder: t("camera.no_limit"), disabled, input: (event) => {
        shape.limit = event.target.value === "" ? null : Math.max(1, Math.round(Number(event.target.value)));
        this.changed(shape, false);
      } })) : null;
    const flip = shape.kind === "line" && this.editable ? el("button", { class: "button", type: "button", click: () => {
      shape.in_side = shape.in_side === "negative" ? "positive" : "negative";
      this.changed(shape, true);
    } }, t("camera.flip")) : null;
    const corner = this.editable ? el("button", { class: "button", type: "button", click: () => this.addCorner(shape) }, t(shape.kind === "zone" ? "camera.corner_add" : "camera.bend_add")) : null;
    const remove = this.editable ? el("button", { class: "button danger", type: "button", click: () => this.remove(shape) }, t("camera.delete")) : null;
    this.note = el("p", { class: "verdict", role: "status" });
    this.tally = el("p", { class: "muted tally" });
    return el("div", { class: "shape-form" },
      el("label", { class: "field" }, el("span", {}, t("camera.name")), name),
      el("fieldset", {}, el("legend", {}, t("camera.classes")), ...classes),
      ...(shape.kind === "line" ? [word("in_name"), word("out_name")] : [purpose, limit]),
      el("div", { class: "actions" }, flip, corner, remove),
      this.note, shape.kind === "line" ? this.tally : null,
      this.editable ? el("p", { class: "muted keys" }, t("camera.keys")) : null);
  }

  hint(kind) {
    this.hints.replaceChildren(...(kind ? [drawingHint(kind)] : []));
  }

  // Changes

  select(shape) {
    if (shape === this.selected) return;
    this.selected = shape;
    this.draw();
    if (shape) this.check(shape);
  }

  add(kind, points) {
    const number = this.shapes.filter((shape) => shape.kind === kind).length + 1;
    const name = t(`camera.new_${kind}`, { number });
    const id = freeId(name, kind, this.shapes.map((shape) => shape.id));
    const shape = kind === "line"
      ? { kind, id, name, points, classes: [...CLASSES], in_side: "positive", in_name: "", out_name: "" }
      : { kind, id, name, points, classes: ["person"], limit: null, purpose: "area" };
    this.shapes.push(shape);
    this.selected = shape;
    this.dirty = true;
    this.draw();
    this.check(shape);
    this.panel.querySelector(".shape-form input")?.focus();
  }

  addCorner(shape) {
    // Into the longest side, where there is most room for it.
    const sides = shape.kind === "zone" ? shape.points : shape.points.slice(0, -1);
    const lengths = sides.map(([x, y], index) => {
      const [nx, ny] = shape.points[(index + 1) % shape.points.length];
      return Math.hypot((nx - x) * this.aspect, ny - y);
    });
    const at = lengths.indexOf(Math.max(...lengths));
    const [a, b] = [shape.points[at], shape.points[(at + 1) % shape.points.length]];
    shape.points.splice(at + 1, 0, [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2]);
    this.changed(shape, true);
  }

  remove(shape) {
    this.shapes = this.shapes.filter((other) => other !== shape);
    this.selected = null;
    this.dirty = true;
    this.draw();
  }

  /** A shape was changed; with `whole` everything that shows it is made anew. */
  changed(shape, whole) {
    const wasDirty = this.dirty;
    this.dirty = true;
    if (whole) {
      const active = document.activeElement;
      const index = active instanceof SVGElement ? active.dataset.index : undefined;
      this.draw();
      if (index !== undefined) this.editor.handleOf(shape, index)?.focus();
    } else if (!wasDirty) {
      this.panel.append(this.saveBar());
      this.panel.setAttribute("data-unsaved", "");
    }
    this.check(shape);
  }

  /** Ask the server whether this shape can ever count: the same rule that saving applies. */
  check(shape) {
    clearTimeout(this.checkSoon);
    if (!this.note || !this.editable) return;
    this.checkSoon = setTimeout(async () => {
      const asked = JSON.stringify(toSettings(shape));
      const answer = await send("POST", `/api/v1/cameras/${this.camera.id}/${shape.kind}s/check`, toSettings(shape)).catch((error) => ({ problem: error.message }));
      if (this.selected !== shape || JSON.stringify(toSettings(shape)) !== asked) return;
      this.note.dataset.tone = answer.problem ? "bad" : "good";
      setText(this.note, answer.problem || (shape.kind === "line" ? t("camera.can_count") : ""));
    }, CHECK_MS);
  }

  preview() {
    if (this.selected?.kind !== "line" || !this.tally) return;
    setText(this.tally, t("camera.preview", crossed(this.trails.paths(), this.selected)));
  }

  async save() {
    this.say(t("camera.saving"));
    const patches = (kind) => this.shapes.filter((shape) => shape.kind === kind).map((shape) => toPatch(shape, this.before.get(shape) ?? {}));
    const body = { lines: patches("line"), zones: patches("zone") };
    try {
      const { body: saved, tag } = await ask(`/api/v1/cameras/${this.camera.id}`, { method: "PATCH", body, tag: this.tag });
      this.tag = tag;
      Object.assign(this.camera, { lines: saved.lines, zones: saved.zones });
      this.load();
      this.draw();
      this.say(t("camera.saved"));
    } catch (error) {
      this.say(t("camera.save_failed", { message: error.message }), true);
    }
  }

  say(text, bad = false) {
    this.message.hidden = false;
    this.message.dataset.tone = bad ? "bad" : "good";
    setText(this.message, text);
  }
}
