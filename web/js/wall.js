// The camera wall: a live tile per camera, which leads to the camera's page.

import { arrow, el, setText } from "./dom.js";
import { count } from "./format.js";
import { LivePicture } from "./picture.js";
import { may } from "./session.js";
import { t } from "./texts.js";

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
    const open = el("a", { class: "tile-picture", href: `#/camera/${camera.id}`, "aria-label": t("cameras.open", { camera: camera.name }) });
    const node = el("article", { class: "panel tile", "data-camera": camera.id }, open,
      el("div", { class: "tile-foot" }, el("h3", { class: "tile-name" }, camera.name), lineList(state, camera)));
    const picture = new LivePicture(open, camera, state);
    tiles.set(node, { camera, picture });
    onScreen.observe(node);
    grid.append(node);
  }
  const add = may("configure") ? el("a", { class: "button", href: "#/add" }, t("source.new")) : null;
  const note = off.length ? el("p", { class: "off" }, t("cameras.off"), ...off.map((camera) => el("a", { href: `#/camera/${camera.id}` }, camera.name))) : null;
  return el("section", { class: "wall-area", "aria-label": t("cameras") }, grid, el("div", { class: "wall-foot" }, note, add));
}

/** Counts in and out per line of a camera, kept up to date until `node.stop()`. */
export function lineList(state, camera) {
  const rows = camera.lines.map((line) => {
    const values = { in: el("span", {}, "0"), out: el("span", {}, "0") };
    const cell = (direction) => el("span", { class: "line-count", title: t(`${direction}.today`) }, arrow(direction), values[direction]);
    const node = el("li", { "data-line": line.id }, el("span", { class: "line-name", title: line.name }, line.name), cell("in"), cell("out"));
    return { line, values, node };
  });
  const update = () => {
    for (const { line, values } of rows) {
      const total = state.lineCounts(camera.id, line.id);
      for (const direction of ["in", "out"]) setText(values[direction], count(total[direction]));
    }
  };
  update();
  const node = rows.length ? el("ul", { class: "lines" }, ...rows.map((row) => row.node)) : el("p", { class: "muted" }, t("lines.none"));
  node.stop = state.on("counts", update);
  return node;
}
