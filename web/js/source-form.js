// A camera's source and settings: tried before they are saved, with the picture or the reason as the answer.

import { ask, get, send } from "./api.js";
import { el, setText } from "./dom.js";
import { freeId } from "./shapes.js";
import { t } from "./texts.js";

const NEW = { id: "", name: "", url: "", enabled: true, rtsp_transport: null, target_fps: null };

/** The panel of camera `id`; without one it adds a camera, whose id must not be one of `taken`. */
export class SourceForm {
  constructor(id = "", taken = []) {
    this.id = id;
    this.taken = taken;
    this.tag = null;
    this.form = el("form", { class: "source-form", novalidate: true, submit: (event) => { event.preventDefault(); this.save(); } });
    this.result = el("p", { class: "verdict", role: "status" });
    this.seen = el("div", { class: "tried", hidden: true });
    this.node = el("section", { class: "panel", "aria-label": t("source.title") },
      el("div", { class: "panel-head" }, el("h2", {}, t("source.title"))), this.form);
    if (id) this.load();
    else this.draw(NEW);
  }

  async load() {
    try {
      const { body, tag } = await ask(`/api/v1/cameras/${this.id}/config`);
      this.tag = tag;
      this.draw(body);
    } catch (error) {
      this.form.replaceChildren(el("p", { class: "note" }, error.message));
    }
  }

  draw(camera) {
    const field = (key, node, hint = "") => el("label", { class: "field" }, el("span", {}, t(`source.${key}`)), node, hint ? el("small", {}, hint) : null);
    this.name = el("input", { type: "text", value: camera.name, maxlength: 64 });
    this.url = el("input", { type: "text", value: camera.url, maxlength: 2000, autocomplete: "off", spellcheck: "false", placeholder: "rtsp://user:password@10.0.0.7/stream2" });
    this.transport = el("select", {}, ...["", "tcp", "udp"].map((value) => el("option", { value, selected: value === (camera.rtsp_transport ?? "") }, value || t("source.default"))));
    this.fps = el("input", { type: "number", min: 0.1, max: 240, step: "any", value: camera.target_fps ?? "", placeholder: t("source.default") });
    this.enabled = el("input", { type: "checkbox", checked: camera.enabled });
    this.test = el("button", { class: "button", type: "button", click: () => this.tryIt() }, t("source.test"));
    this.submit = el("button", { class: "button primary", type: "submit" }, t(this.id ? "camera.save" : "source.add"));
    const remove = this.id ? el("button", { class: "button danger", type: "button", click: (event) => this.remove(event.currentTarget) }, t("source.remove")) : null;
    this.form.replaceChildren(field("name", this.name), field("url", this.url, this.id ? t("source.url_hint") : ""),
      el("div", { class: "two" }, field("transport", this.transport), field("fps", this.fps)),
      el("label", { class: "check" }, this.enabled, t("source.enabled")),
      el("div", { class: "actions" }, this.test, this.submit, remove), this.result, this.seen);
    this.form.removeAttribute("data-unsaved");
  }

  settings() {
    return {
      name: this.name.value.trim(), url: this.url.value.trim(), enabled: this.enabled.checked,
      rtsp_transport: this.transport.value || null, target_fps: this.fps.value === "" ? null : Number(this.fps.value),
    };
  }

  say(text, tone = "") {
    this.result.dataset.tone = tone;
    setText(this.result, text);
  }

  async tryIt() {
    this.seen.hidden = true;
    this.test.disabled = true;
    this.say(t("source.testing"));
    try {
      const { url, rtsp_transport: transport } = this.settings();
      const { blob, headers } = await ask("/api/v1/camera-test", { method: "POST", body: { url, camera: this.id, rtsp_transport: transport ?? "tcp" } });
      const bitmap = await createImageBitmap(blob);
      const canvas = el("canvas", { width: bitmap.width, height: bitmap.height, role: "img", "aria-label": t("source.picture") });
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
      this.seen.replaceChildren(canvas);
      this.seen.hidden = false;
      this.say(t("source.works", { width: headers.get("X-Source-Width"), height: headers.get("X-Source-Height"), fps: headers.get("X-Source-Fps") }), "good");
    } catch (error) {
      this.say(error.message, "bad");
    }
    this.test.disabled = false;
  }

  async save() {
    this.submit.disabled = true;
    this.say(t("camera.saving"));
    try {
      const settings = this.settings();
      if (this.id) {
        await ask(`/api/v1/cameras/${this.id}`, { method: "PATCH", body: settings, tag: this.tag });
        await this.load();
        this.say(t("source.saved"), "good");
      } else {
        const given = Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== null && value !== ""));
        const id = freeId(settings.name, "camera", this.taken);
        await send("POST", "/api/v1/cameras", { id, ...given });
        location.hash = `#/camera/${id}`;
        location.reload();
      }
    } catch (error) {
      this.say(t("camera.save_failed", { message: error.message }), "bad");
    }
    this.submit.disabled = false;
  }

  /** The first press asks, the second one does. */
  async remove(button) {
    if (!button.dataset.sure) {
      button.dataset.sure = "yes";
      setText(button, t("source.remove_sure"));
      return;
    }
    try {
      await ask(`/api/v1/cameras/${this.id}`, { method: "DELETE", tag: this.tag });
      location.hash = "#/";
      location.reload();
    } catch (error) {
      this.say(t("camera.save_failed", { message: error.message }), "bad");
    }
  }
}

/** The page that adds a camera. */
export function newCameraPage(state) {
  const form = new SourceForm("", state.site.cameras.map((camera) => camera.id));
  return el("div", { class: "page narrow" }, el("div", { class: "page-head" }, el("h1", {}, t("source.new"))), form.node);
}
