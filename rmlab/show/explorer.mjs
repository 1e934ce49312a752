// The explorer: traits in, picture and panels out. explorer.py joins its modules into the one script that JupyterLab,
// Colab and a page without a kernel run: no library, no network.

import { unpack } from "./explorer_math.mjs";
import { studyOf, viewOf } from "./explorer_study.mjs";
import {
  TRAITS, called, caption, choicesOf, curvesOf, fromAddress, pointOf, readout, resultOf, rivalsOf, sentence, sound,
  storeOf, toAddress,
} from "./explorer_state.mjs";
import { drawPlot } from "./explorer_plot.mjs";
import { alikePanel, answerPanel, controls, drawAlike, drawAnswer, drawControls } from "./explorer_panels.mjs";
import { dragged, h, idOf, rulerIn, stageOf, voiceOf } from "./widget.mjs";

function bytesOf(model, name) {
  const raw = model.get(name);
  return raw.buffer ? new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength) : raw;
}

async function render({ model, el: root }) {
  const d = await unpack(JSON.parse(model.get("meta")), bytesOf(model, "data"));
  d.study = d.study ? studyOf(d.study, bytesOf(model, "study")) : null;
  const choices = choicesOf(d), store = storeOf(d, choices);
  const ui = { d, choices, id: idOf(), width: 0, touched: false, dirty: false }, stage = stageOf(() => draw());
  ui.later = stage.later;
  ui.state = () => sound(d, choices, Object.fromEntries(TRAITS.map((name) => [name, model.get(name)])));
  ui.now = () => store.now;
  ui.change = (traits) => { ui.touched = ui.dirty = true; model.set(traits); }; // drawn, and saved, in the next frame
  const parts = build(ui, root), address = addressOf(model, root), voice = voiceOf(parts);
  const draw = () => {
    const s = drawFrame(ui, store, parts, model, voice);
    if (ui.touched) address.write(s);
  };

  address.read();
  for (const name of TRAITS) model.on("change:" + name, ui.later);
  addEventListener("hashchange", address.read);
  stage.watch(parts.plot, parts.ruler, (width) => { ui.width = width; });
  draw();
  return () => {
    stage.stop();
    voice.stop();
    address.stop();
    removeEventListener("hashchange", address.read);
    for (const name of TRAITS) model.off("change:" + name, ui.later);
  };
}

function build(ui, root) {
  const plot = h("div", { class: "rmx-plot" }), ruler = rulerIn(plot), readings = h("p", { class: "rmx-readout" });
  const say = h("p", { class: "rmx-say", "aria-hidden": true }); // seen at once; said when the hand rests
  const status = h("p", { class: "rmx-status rmx-unseen", role: "status", "aria-live": "polite" });
  const note = h("p", { class: "rmx-small rmx-hint" });
  const c = controls(ui), alike = alikePanel(ui), answer = answerPanel(ui);
  root.classList.add("rmx");
  root.replaceChildren(c.shown, c.judges, c.about, plot, c.pressure, readings, say, status, note, c.judging, alike.node,
    c.requests, answer.request, answer.node);
  const parts = { plot, ruler, readings, say, status, note, controls: c, alike, answer, natsAt: null };
  const drag = (e) => { // to the stop nearest the pointer
    const { stops, reaches } = ui.now(), nats = parts.natsAt(e.clientX), far = reaches.map((v) => Math.abs(v - nats));
    ui.change({ [ui.state().tilt ? "beta" : "n"]: stops[far.indexOf(Math.min(...far))] });
  };
  dragged(plot, drag);
  return parts;
}

function drawFrame(ui, store, parts, model, voice) {
  const { d, id, width } = ui, s = ui.state(), now = curvesOf(store, s);
  if (s.tilt) s.at = Math.min(now.stops[0], Math.max(now.stops.at(-1), s.at));
  const point = pointOf(store, now, s), rivals = rivalsOf(store, s, performance.now() + 5);
  if (rivals.waiting) ui.later();
  // the plot first: it measures words, which is quick while nothing on the page has changed
  const view = viewOf(d, point, now, rivals, s.members.length);
  parts.natsAt = drawPlot({ d, id, width, ...parts }, s, { ...view, range: store.range }, point);
  drawControls(parts.controls, ui, s, now, point);
  parts.readings.replaceChildren(h("b", {}, called(s.tilt, s.at)), readout(d, s, now, point));
  parts.note.textContent = caption(d, s, now, point);
  voice.say([sentence(d, s, now, point), drawAlike(parts.alike, ui, s)]);
  drawAnswer(parts.answer, ui, s, now);
  save(ui, model, s, resultOf(d, s, now, point));
  return s;
}

function save(ui, model, { members }, result) { // what the browser set right, and its result
  const differs = (name, value) => JSON.stringify(value) !== JSON.stringify(model.get(name));
  for (const [name, value] of Object.entries({ members, result })) {
    if (differs(name, value)) { ui.dirty = true; model.set(name, value); }
  }
  if (ui.dirty) model.save_changes();
  ui.dirty = false;
}

function addressOf(model, root) { // on a page without a kernel the address keeps the state
  const onPage = root.classList.contains("anywidget-offline");
  const place = () => [...document.querySelectorAll(".anywidget-offline")].indexOf(root); // which of the page's
  let timer = 0;
  return {
    read() {
      const traits = onPage && fromAddress(location.hash, place());
      if (!traits) return;
      model.set(traits);
      requestAnimationFrame(() => root.scrollIntoView({ block: "start" }));
    },
    write(s) {
      clearTimeout(timer);
      if (onPage) timer = setTimeout(() => history.replaceState(null, "", toAddress(s, place())), 300);
    },
    stop: () => clearTimeout(timer),
  };
}

export default { render };
