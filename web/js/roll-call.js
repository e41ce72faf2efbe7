// One evacuation: who is on site, marked safe from any number of devices at once.

import { get, send } from "./api.js";
import { el, setText } from "./dom.js";
import { dayAndTime } from "./format.js";
import { t } from "./texts.js";

/** The page of roll call `id`. */
export function rollCallPage(state, id) {
  const title = el("h1", {}, t("roll_call.title"));
  const progress = el("p", { class: "progress", role: "status" });
  const list = el("div", { class: "roll-call" });
  const problem = el("p", { class: "note", role: "alert", "data-tone": "bad", hidden: true });
  const end = el("button", { class: "button", type: "button", click: () => change(`/api/v1/roll-calls/${id}/end`) }, t("roll_call.end"));
  const node = el("div", { class: "page" },
    el("div", { class: "page-head" }, title, el("a", { class: "button", href: `/api/v1/roll-calls/${id}/report`, target: "_blank", rel: "noopener" }, t("roll_call.report")),
      el("a", { class: "button", href: `/api/v1/roll-calls/${id}/report.csv`, download: true }, "CSV"), end),
    progress, problem, list);

  const change = async (path, body = undefined) => {
    problem.hidden = true;
    try {
      await send("POST", path, body);
    } catch (error) {
      problem.hidden = false;
      setText(problem, error.message);
    }
    await load();
  };
  const person = (call, mark) => el("li", { "data-visit": mark.visit, "data-state": mark.state },
    el("div", {}, el("b", {}, mark.name), mark.company ? el("span", { class: "muted" }, ` ${mark.company}`) : null,
      el("div", { class: "muted" }, [t("roll_call.host", { name: mark.host }), mark.seen_at ? t("roll_call.seen", { time: dayAndTime(new Date(mark.seen_at * 1000)) }) : "",
        mark.by ? t("roll_call.by", { name: mark.by }) : ""].filter(Boolean).join(" · "))),
    el("button", { class: mark.state === "safe" ? "button" : "button primary", type: "button", disabled: call.ended_at > 0,
      click: () => change(`/api/v1/roll-calls/${id}/visits/${mark.visit}`, { state: mark.state === "safe" ? "missing" : "safe" }) },
    t(mark.state === "safe" ? "roll_call.undo" : "roll_call.safe")));
  const insides = new Map();
  const section = (name, place, people, ended) => {
    const inside = el("span", {});
    const show = (count) => setText(inside, t(ended ? "roll_call.inside_end" : "roll_call.inside", { count }));
    if (place.inside !== null) show(place.inside);
    if (!ended) insides.set(place.area, show);
    return el("section", { class: "panel", "aria-label": name, "data-area": place.area },
      el("div", { class: "panel-head" }, el("h2", {}, name), inside),
      el("p", { class: "muted place" }, [t("roll_call.listed", { count: place.listed }), place.staff ? t("roll_call.staff", { count: place.staff }) : "",
        place.counted === null ? t("roll_call.not_counted") : t("roll_call.counted", { count: place.counted, give: place.uncertainty })].filter(Boolean).join(" · ")),
      place.unlisted ? el("p", { class: "note", "data-tone": "bad" }, t("roll_call.unlisted", { count: place.unlisted })) : null,
      place.cameras ? el("p", { class: "muted place" }, t("roll_call.cameras", { names: place.cameras }),
        place.last_door ? ` ${t(place.last_entered ? "roll_call.last_in" : "roll_call.last_out", { door: place.last_door, time: dayAndTime(new Date(place.last_at * 1000)) })}` : "") : null,
      el("ul", {}, ...people));
  };
  const load = async () => {
    let call;
    try {
      call = await get(`/api/v1/roll-calls/${id}`);
    } catch (error) {
      problem.hidden = false;
      setText(problem, error.message);
      return;
    }
    setText(title, t(call.drill ? "roll_call.drill" : "roll_call.title"));
    const safe = call.marks.filter((mark) => mark.state === "safe").length;
    progress.dataset.tone = safe === call.marks.length ? "good" : "bad";
    setText(progress, t(call.ended_at ? "roll_call.ended" : "roll_call.progress", { safe, all: call.marks.length, time: dayAndTime(new Date((call.ended_at || call.started_at) * 1000)) }));
    end.hidden = call.ended_at > 0;
    const areas = grouped(call.marks);
    insides.clear();
    const sections = call.places.filter((place) => areas.has(place.area) || place.counted !== null || place.staff)
      .map((place) => section(place.title || t("roll_call.nowhere"), place, (areas.get(place.area) ?? []).map((mark) => person(call, mark)), call.ended_at > 0));
    list.replaceChildren(...sections);
    if (!call.marks.length) list.prepend(el("p", { class: "note" }, t("roll_call.nobody")));
  };
  const off = [state.on("event", (event) => {
    if (event.type === "RollCallChanged" && event.roll_call === id) load();
    if (event.type === "AreaChanged") insides.get(event.area)?.(event.occupancy);
  }), state.on("reload", load)];
  node.stop = () => off.forEach((done) => done());
  load();
  return node;
}

function grouped(marks) {
  const areas = new Map();
  for (const mark of marks) areas.set(mark.area, [...(areas.get(mark.area) ?? []), mark]);
  return areas;
}
