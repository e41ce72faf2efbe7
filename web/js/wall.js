// The camera wall, and one camera enlarged.

import { arrow, el, icon, setText } from "./dom.js";
import { count } from "./format.js";
import { LivePicture } from "./picture.js";

/** The grid of tiles. A page that is not shown has no tile on the screen, hence asks for no picture. */
export function wall(state, pictures) {
  const cameras = state.site.cameras.filter((camera) => camera.enabled);
  const off = state.site.cameras.filter((camera) => !camera.enabled);
  const size = cameras.length <= 1 ? "one" : cameras.length <= 4 ? "few" : cameras.length <= 9 ? "some" : "many";
  const grid = el("div", { class: "wall", "data-size": size });
  const tiles = new Map();
  const onScreen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const { camera, picture } = tiles.get(entry.target);
      if (entry.isIntersecting) pictures.add(camera.id, picture);
      else pictures.remove(camera.id, picture);
    }
  }, { rootMargin: "200px" });
  for (const camera of cameras) {
    const open = el("button", { class: "tile-picture", type: "button", "aria-label": `Enlarge ${camera.name}` });
    const node = el("article", { class: "panel tile", "data-camera": camera.id }, open,
      el("div", { class: "tile-foot" }, el("h3", { class: "tile-name" }, camera.name), lineList(state, camera)));
    const picture = new LivePicture(open, camera, state);
    open.addEventListener("click", () => enlarge(state, pictures, camera));
    tiles.set(node, { camera, picture });
    onScreen.observe(node);
    grid.append(node);
  }
  const note = off.length ? el("p", { class: "off" }, `Switched off: ${off.map((camera) => camera.name).join(", ")}`) : null;
  return el("section", { class: "wall-area", "aria-label": "Cameras" }, grid, note);
}

/** Counts in and out per line of a camera, kept up to date. */
function lineList(state, camera) {
  const rows = camera.lines.map((line) => {
    const values = { in: el("span", {}, "0"), out: el("span", {}, "0") };
    const cell = (direction) => el("span", { class: "line-count", title: `${direction} today` }, arrow(direction), values[direction]);
    const node = el("li", { "data-line": line.id }, el("span", { class: "line-name", title: line.name }, line.name), cell("in"), cell("out"));
    return { line, values, node };
  });
  const update = () => {
    for (const { line, values } of rows) {
      const total = state.lineCounts(camera.id, line.id);
      for (const direction of ["in", "out"]) setText(values[direction], count(total[direction]));
    }
  };
  state.on("counts", update);
  update();
  if (!rows.length) return el("p", { class: "muted" }, "No lines");
  return el("ul", { class: "lines" }, ...rows.map((row) => row.node));
}

/** Show one camera large; Esc, the button or a click outside closes. */
function enlarge(state, pictures, camera) {
  const dialog = document.getElementById("enlarged");
  const before = document.activeElement;
  const host = el("div", { class: "enlarged-picture" });
  const close = el("button", { class: "icon-button", type: "button", "aria-label": "Close", click: () => dialog.close() }, icon("close"));
  dialog.replaceChildren(
    el("div", { class: "enlarged-head" }, el("h2", { id: "enlarged-name" }, camera.name), close),
    host,
    el("div", { class: "enlarged-foot" }, lineList(state, camera)),
  );
  const picture = new LivePicture(host, camera, state, true);
  pictures.add(camera.id, picture);
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
  dialog.onclose = () => {
    pictures.remove(camera.id, picture);
    picture.close();
    dialog.replaceChildren();
    before?.focus();
  };
  dialog.showModal();
  close.focus();
}
