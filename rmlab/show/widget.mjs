// What every widget is made of: numbers as text, nodes and controls, words measured in the page's font, axes, a handle
// that is a slider, and what redraws when a trait, the width or the font changes. widgets.py joins it with a widget's
// own modules into the one script that it may have.

// ---- numbers as text

export const num = (x, digits = 2) => {
  const t = x.toFixed(digits);
  return (+t ? t : t.replace("-", "")).replace("-", "−");
};
export const signed = (x, digits = 2) => (num(x, digits)[0] === "−" ? "" : "+") + num(x, digits);
export const whole = (n) => n.toLocaleString("en");

// ---- nodes

export function make(node, attrs, kids) {
  for (const [k, v] of Object.entries(attrs)) {
    if (k === "on") for (const [event, f] of Object.entries(v)) node.addEventListener(event, f);
    else if (v !== false && v != null) node.setAttribute(k, v === true ? "" : v);
  }
  node.append(...kids.flat(Infinity).filter((x) => x != null && x !== false));
  return node;
}
export const svg = (tag, attrs = {}, ...kids) =>
  make(document.createElementNS("http://www.w3.org/2000/svg", tag), attrs, kids);

// Round values, at most `most` steps of at least `least` apart.
export function ticks(low, high, most = 5, least = 0) {
  const power = 10 ** Math.floor(Math.log10((high - low) / most)), out = [];
  const step = Math.max(least, power * [1, 2, 5, 10].find((s) => (high - low) / (s * power) <= most + 1e-9));
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) out.push(k * step);
  return { at: out, step };
}
export const decimals = (step) => Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));

export const within = (x, low, high) => Math.max(low, Math.min(high, x));

// ---- the size of words

// Measures words in the plot's font, each once. `sample` changes its size when the font does: `renewed` says so, and
// forgets them.
export function rulerIn(plot) {
  const mixed = ["Äg−↑β∞ ", svg("tspan", { class: "rmx-strong" }, "Äg−↑β∞")], sample = svg("text", {}, mixed);
  const texts = [svg("text"), svg("text", { class: "rmx-strong" })], known = new Map();
  plot.append(svg("svg", { class: "rmx-ruler", "aria-hidden": "true" }, sample, texts));
  function width(words, strong = false) {
    const key = `${+strong}${words}`;
    if (!known.has(key)) {
      texts[+strong].textContent = words;
      const length = texts[+strong].getComputedTextLength();
      if (!length) return 7 * words.length; // not on the page: nobody sees it, and nothing is kept
      known.set(key, length);
    }
    return known.get(key);
  }
  const extent = () => (sample.getComputedTextLength() ? sample.getBBox() : { y: -11, width: 0, height: 14 });
  let seen = extent();
  function renewed() {
    const last = seen;
    seen = extent();
    if (seen.width === last.width && seen.height === last.height) return false;
    known.clear();
    return true;
  }
  return { width, renewed, sample, line: () => ({ up: -seen.y, down: seen.height + seen.y }) }; // about a line's base
}

export function wrap(ruler, words, most, strong) { // into lines no wider than `most`, which a single word may be
  const lines = [];
  for (const word of words.split(" ")) {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
    if (lines.length && ruler.width(longer, strong) <= most) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}
// The first form that is narrow enough, or else the last, wrapped.
export const fitting = (ruler, forms, most, strong) =>
  wrap(ruler, forms.find((words) => ruler.width(words, strong) <= most) ?? forms.at(-1), most, strong);
export const widest = (ruler, lines, strong) => Math.max(...lines.map((words) => ruler.width(words, strong)));

// Blocks `h` high at `y`, moved between low and high so that none covers another.
export function apart(labels, low, high) {
  labels.sort((a, b) => a.y - b.y);
  let edge = low;
  for (const l of labels) { l.y = Math.max(l.y, edge + l.h / 2); edge = l.y + l.h / 2; }
  edge = high;
  for (const l of [...labels].reverse()) { l.y = Math.min(l.y, edge - l.h / 2); edge = l.y - l.h / 2; }
  return labels;
}

// Lines of words from the top `y`, centred on x or ending or beginning there, held inside the picture.
export function label({ ruler, W, L, up }, x, y, lines, { by = 0, strong, c } = {}) {
  return lines.map((words, k) => {
    const room = ruler.width(words, strong), start = within(x - by * room, 0, W - room), base = y + k * L + up;
    return svg("text", { x: start.toFixed(1), y: base.toFixed(1), class: strong ? "rmx-strong" : c }, words);
  });
}
export const rule = (x1, y1, x2, y2, c) => svg("line", { x1, y1, x2, y2, class: c });

// ---- controls

// JupyterLab would take the arrow keys of controls, and those of what scrolls.
const CONTROL = /^(input|select|button|summary)$/;
export function h(tag, attrs = {}, ...kids) {
  const own = CONTROL.test(tag) || attrs.role === "group" ? { "data-lm-suppress-shortcuts": "true" } : {};
  return make(document.createElement(tag), { ...own, ...attrs }, kids);
}
export const option = (value, words) => h("option", { value }, words);
export const button = (label, click, attrs = {}) => h("button", { type: "button", ...attrs, on: { click } }, label);
export const press = (node, on) => node.setAttribute("aria-pressed", String(on));
export const group = (c, label, ...kids) => h("div", { class: c, role: "group", "aria-label": label }, kids);
export const titled = (label, node) =>
  h("div", {}, h("span", { class: "rmx-label", "aria-hidden": true }, label), node);

export function select({ id, change }, name, label, options, to) {
  const box = h("select", { id: id + name, on: { change: () => change(to(box.value)) } }, options);
  return { box, field: h("div", { class: `rmx-${name}` }, h("label", { for: id + name }, label), box) };
}
export function slider({ id, change }, name, label, attrs, to) {
  const box = h("input", { id: id + name, type: "range", ...attrs, on: { input: () => change(to(+box.value)) } });
  const out = h("output", { for: id + name }), words = h("label", { for: id + name }, label);
  return { box, out, words, field: h("div", { class: `rmx-range rmx-${name}` }, words, box, out) };
}

// ---- what is said

// The sentence is seen at once; who cannot see it hears what is new when the hand rests.
export function voiceOf({ say, status }) {
  let timer = 0, seen = [], heard = [];
  return {
    say(words) {
      if (words.join() === seen.join()) return;
      clearTimeout(timer);
      timer = setTimeout(() => {
        status.textContent = words.filter((x, k) => x && x !== heard[k]).join(" ");
        heard = words;
      }, seen.length ? 250 : 0);
      say.textContent = words[0];
      seen = words;
    },
    stop: () => clearTimeout(timer),
  };
}

// ---- when it is drawn

export const idOf = () => `rmx${Math.random().toString(36).slice(2, 10)}-`; // before the ids of one widget's controls

// Draws in the next frame when `later` is called, and when a plot that is watched has another width or another font.
export function stageOf(draw) {
  const measures = [], seen = new ResizeObserver(() => { if (measures.map((f) => f()).some(Boolean)) later(); });
  let frame = 0;
  const later = () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); };
  function watch(plot, ruler, sized) { // in an observer, where the layout is known, and not in a frame
    let width = 0;
    const measure = () => {
      const wider = plot.clientWidth !== width;
      width = plot.clientWidth;
      sized(width);
      return ruler.renewed() || wider;
    };
    measure();
    measures.push(measure);
    seen.observe(plot);
    seen.observe(ruler.sample);
  }
  return { later, watch, stop: () => { seen.disconnect(); cancelAnimationFrame(frame); } };
}

export function dragged(node, to) { // `to` is called where a pointer goes down, and while it is down
  node.onpointerdown = (e) => {
    if (e.button !== 0) return;
    e.stopPropagation(); // one node holds a pointer: the innermost
    node.setPointerCapture(e.pointerId);
    to(e, true);
  };
  node.onpointermove = (e) => { if (e.buttons && node.hasPointerCapture(e.pointerId)) to(e, false); };
}

// A widget whose traits are `traits`, and its meta's tables `d`. `build(ui)` returns {nodes, draw}: what it consists
// of, and draw(state) -> {said, result}, which says and computes. ui: {d, id, state, change, later, say, plotOf}.
export function widgetOf(traits, build) {
  function render({ model, el: root }) {
    const stage = stageOf(() => draw()), say = h("p", { class: "rmx-say", "aria-hidden": true });
    const status = h("p", { class: "rmx-status rmx-unseen", role: "status", "aria-live": "polite" });
    const voice = voiceOf({ say, status }), plots = [];
    let dirty = false;
    const ui = { d: JSON.parse(model.get("meta")), id: idOf(), later: stage.later, say: [say, status] };
    ui.state = () => Object.fromEntries(traits.map((name) => [name, model.get(name)]));
    ui.change = (to) => { dirty = true; model.set(to); stage.later(); }; // drawn, and saved, in the next frame
    ui.plotOf = (c = "") => {
      const plot = { node: h("div", { class: `rmx-plot ${c}` }), width: 0 };
      plots.push(Object.assign(plot, { ruler: rulerIn(plot.node) }));
      return plot;
    };
    const parts = build(ui);
    function draw() {
      const { said, result } = parts.draw(ui.state());
      voice.say([said].flat());
      if (JSON.stringify(result) !== JSON.stringify(model.get("result"))) {
        dirty = true;
        model.set("result", result);
      }
      if (dirty) model.save_changes();
      dirty = false;
    }
    root.classList.add("rmx");
    root.replaceChildren(...parts.nodes.flat(Infinity));
    for (const plot of plots) stage.watch(plot.node, plot.ruler, (width) => { plot.width = width; });
    for (const name of traits) model.on("change:" + name, stage.later);
    draw();
    return () => {
      stage.stop();
      voice.stop();
      for (const name of traits) model.off("change:" + name, stage.later);
    };
  }
  return { render };
}

// ---- a panel: axes, lines and bands on them, and handles

// Where things are on one pair of axes. `x`: {low, high, at: [[value, words]], names: forms of its name, the longest
// first}; `y`: {low, high, at}; `titles`: forms of what stands above it, in the place of a name of y; `top`: marks
// along the upper edge, as x.at; `ends`: {level, forms, strong}, names at the lines' right ends; `tall`: how high.
export function axesOf({ ruler, width }, { x, y, titles, top, ends = [], tall = 220 }) {
  const { up, down } = ruler.line(), L = up + down, W = within(width || 640, 240, 800);
  const lead = fitting(ruler, titles, W, true), named = ends.map((e) => (
    { ...e, lines: fitting(ruler, e.forms, 0.28 * W, e.strong) }));
  const left = Math.ceil(widest(ruler, y.at.map((m) => m[1]))) + 9;
  const half = x.at.length ? ruler.width(x.at.at(-1)[1]) / 2 : 0;
  const right = Math.ceil(Math.max(half, ...named.map((e) => 10 + widest(ruler, e.lines, e.strong)))) + 1;
  const wide = W - left - right, t = lead.length * L + (top ? L + 4 : 0) + 12, end = t + tall;
  const axis = fitting(ruler, x.names, wide + left);
  const H = Math.ceil(end + 8 + L + 4 + axis.length * L + 2);
  const g = { ruler, W, H, L, up, left, wide, t, end, lead, named, axis };
  g.x = (v) => left + ((v - x.low) / (x.high - x.low)) * wide;
  g.y = (v) => end - ((v - y.low) / (y.high - y.low)) * tall;
  g.value = (at) => x.low + ((at - left) / wide) * (x.high - x.low); // of a place in the picture
  g.level = (at) => y.low + ((end - at) / tall) * (y.high - y.low);
  return Object.assign(g, { marks: roomy(g, x.at), tops: top ? roomy(g, top) : [], grid: y.at });
}
function roomy(g, marks) { // those whose words have room: first, last, and of the others as many as go in order
  const placed = marks.map(([v, words]) => {
    const half = g.ruler.width(words) / 2;
    return { v, words, half, at: within(g.x(v), half, g.W - half) };
  });
  const clear = (a, b) => b.at - b.half - (a.at + a.half) >= 10, last = placed.at(-1), out = placed.slice(0, 1);
  for (const m of placed.slice(1, -1)) if (clear(out.at(-1), m) && clear(m, last)) out.push(m);
  return placed.length > 1 && clear(out.at(-1), last) ? [...out, last] : out;
}
export function axesDrawn(g) { // grid, marks and names
  const { L, left, wide, t, end } = g, right = left + wide;
  const mark = (v, top, bottom, below, words) =>
    [rule(g.x(v), top, g.x(v), bottom, "rmx-tick"), label(g, g.x(v), below, [words], { by: 0.5 })];
  return [
    label(g, 0, 0, g.lead, { strong: true }),
    g.grid.map(([v, words]) => [rule(left, g.y(v), right, g.y(v), "rmx-grid"),
      label(g, left - 8, g.y(v) - L / 2, [words], { by: 1 })]),
    g.tops.map(({ v, words }) => mark(v, t - 8, t - 3, t - 9 - L, words)),
    g.marks.map(({ v, words }) => mark(v, end, end + 5, end + 8, words)),
    rule(left, end, right, end, "rmx-tick"),
    label(g, Math.min(left + wide / 2, g.W / 2), end + 8 + L + 4, g.axis, { by: 0.5 }),
  ];
}
export function endsDrawn(g) { // the names at the lines' right ends
  const blocks = g.named.map((e) => ({ ...e, y: g.y(e.level), h: g.L * e.lines.length }));
  return apart(blocks, g.t - 8, g.end + 4)
    .map((e) => label(g, g.left + g.wide + 9, e.y - e.h / 2, e.lines, { strong: e.strong }));
}
const pointsOf = (g, xs, ys) => ys.map((v, k) => `${g.x(xs[k]).toFixed(1)} ${g.y(v).toFixed(1)}`);
export const lineOf = (g, xs, ys, c, style) => svg("path", { d: "M" + pointsOf(g, xs, ys).join("L"), class: c, style });
export const bandOf = (g, xs, low, high, c, style) => // null where an interval is not known
  (low.some((v) => v === null) ? null
    : lineOf(g, [...xs, ...[...xs].reverse()], [...high, ...[...low].reverse()], c, style));
export const dotOf = (g, x, y, r, c, style) =>
  svg("circle", { cx: g.x(x).toFixed(1), cy: g.y(y).toFixed(1), r, class: c, style });

// A picture that stays, so that a handle keeps the focus while what is behind it is drawn anew.
export function pictureIn({ node }, handles = []) {
  const drawn = svg("g", { role: "img" }), over = svg("g", { "aria-hidden": "true" });
  const picture = svg("svg", { class: "rmx-svg", role: "group" }, drawn, handles.map((x) => x.node), over);
  node.append(picture);
  return {
    draw({ W, H }, name, words, nodes, above = []) {
      for (const [k, v] of Object.entries({ viewBox: `0 0 ${W} ${H}`, width: W, height: H, "aria-label": name })) {
        picture.setAttribute(k, v);
      }
      drawn.setAttribute("aria-label", words);
      drawn.replaceChildren(...nodes.flat(Infinity).filter(Boolean));
      over.replaceChildren(...above.flat(Infinity).filter(Boolean));
    },
    place({ clientX, clientY }) { // of a pointer, in the picture
      const r = picture.getBoundingClientRect(), W = picture.viewBox.baseVal.width;
      return { x: ((clientX - r.left) * W) / r.width, y: ((clientY - r.top) * W) / r.width };
    },
  };
}

// A handle that is a slider over stops 0 to `last`: `change(k)` where keys move it. `place` says where it is and what.
export function handleOf(name, change) {
  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 3, PageDown: -3, Home: -1e9,
    End: 1e9 };
  let at = 0, last = 0;
  const keydown = (e) => {
    if (!(e.key in steps) || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    change(within(at + steps[e.key], 0, last));
  };
  const node = svg("g", { class: "rmx-handle", role: "slider", tabindex: 0, "aria-label": name, "aria-valuemin": 0,
    "data-lm-suppress-shortcuts": "true", on: { keydown } });
  function place(k, most, text, nodes, vertical = false) {
    [at, last] = [k, most];
    for (const [key, v] of Object.entries({ max: most, now: k, text })) node.setAttribute(`aria-value${key}`, v);
    node.setAttribute("aria-orientation", vertical ? "vertical" : "horizontal");
    node.replaceChildren(...nodes.flat(Infinity).filter(Boolean));
  }
  return { node, place };
}
export function gripAt({ t, end }, x) { // a vertical line with a grip at its foot
  const reach = { x: x - 20, y: t, width: 40, height: end - t + 10, class: "rmx-hit" }; // as wide as a finger
  return [rule(x, t - 3, x, end, "rmx-cursor"), svg("rect", reach),
    svg("rect", { x: x - 8, y: end - 12, width: 16, height: 20, rx: 5, class: "rmx-grip" }),
    [-2.5, 2.5].map((dx) => rule(x + dx, end - 7, x + dx, end + 3, "rmx-ridge"))];
}
export const nearest = (values, x) => { // the index of the value nearest to x
  const far = values.map((v) => Math.abs(v - x));
  return far.indexOf(Math.min(...far));
};

// Buttons of which one is on: options [[value, words]].
export function choiceOf(name, words, change) {
  const box = group("rmx-ends", words);
  let shown = "";
  return {
    node: titled(words, box), box,
    draw(options, value, shut = []) {
      const key = JSON.stringify(options);
      if (key !== shown) {
        const nodes = options.map(([v, text]) => button(text, () => change({ [name]: v }), { "data-value": v }));
        box.replaceChildren(...nodes);
        shown = key;
      }
      for (const b of box.children) {
        press(b, b.dataset.value === String(value));
        b.disabled = shut.includes(b.dataset.value);
      }
    },
  };
}
