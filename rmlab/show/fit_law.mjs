// Draw where gold goes, then fit the law to what is below a cut. The arithmetic is that of rmlab.measure.laws and of
// fit_law.py, held equal to it by a test. d is the root of KL, in root nats; a gain is gold minus gold at d = 0.

import {
  axesDrawn, axesOf, bandOf, button, choiceOf, dotOf, dragged, endsDrawn, gripAt, h, handleOf, label, lineOf, nearest,
  num, option, pictureIn, select, signed, slider, svg, ticks, whole, widgetOf, within,
} from "./widget.mjs";

const STEPS = [["draw", "1 draw"], ["truth", "2 show"], ["fit", "3 fit"]];
const FORMS = { quadratic: "d (α − β d)", log: "d (α − β log d)", log1p: "d (α − β log(1 + d))",
  power: "d (α − β d^γ)" };
const NUDGE = 0.05; // gold that an arrow key moves a height by
const FEWEST = 3; // points that a fit needs to be tested beyond them: one more than it has coefficients

// ---- arithmetic

export function straightOf(d, gold, k) { // through the points k - 1 and k, at every d
  const slope = (gold[k] - gold[k - 1]) / (d[k] - d[k - 1]);
  return d.map((x) => gold[k] + slope * (x - d[k]));
}
export const missedBy = (heights, gold) => // the mean absolute error of a sketch
  heights.reduce((sum, v, k) => sum + Math.abs(v - gold[k]) / gold.length, 0);

export const gainOf = ([alpha, beta], d) => d * (alpha - beta * d);
export function leastSquares(d, gain, weights) { // [alpha, beta] of the quadratic form
  let [a, b, c, p, q] = [0, 0, 0, 0, 0]; // sums of d^2, d^3, d^4, and of gains with d and d^2
  d.forEach((x, k) => {
    const w = weights[k] * x;
    a += w * x; b += w * x * x; c += w * x * x * x; p += w * gain[k]; q += w * x * gain[k];
  });
  const free = a * c - b * b;
  return [(c * p - b * q) / free, (b * p - a * q) / free];
}
export function rootMeanSquare(law, d, gain, weights) {
  const all = weights.reduce((sum, w) => sum + w, 0);
  return Math.sqrt(d.reduce((sum, x, k) => sum + (weights[k] * (gainOf(law, x) - gain[k]) ** 2) / all, 0));
}
export function fitted({ d, n, weight, gold }, cut, law) { // least squares up to n = cut, and its errors and a law's
  const gain = gold.value.map((v) => v - gold.value[0]), part = (keep) => {
    const at = d.map((_, k) => k).filter((k) => d[k] > 0 && keep(n[k]));
    return [d, gain, weight].map((column) => at.map((k) => column[k]));
  };
  const inside = part((v) => v <= cut), outside = part((v) => v > cut), best = leastSquares(...inside);
  const errors = (one) => [inside, outside].map((points) => rootMeanSquare(one, ...points));
  return { best, best_errors: errors(best), errors: errors(law) };
}

// ---- the state

export function soundOf({ curves, seen }, traits) {
  const curve = curves.find((c) => c.name === traits.curve) ?? curves[0], last = curve.n.length - 1;
  const from = curve.n.indexOf(seen), sketch = traits.sketch.length === last - from ? traits.sketch : null;
  const stops = curve.n.slice(FEWEST, last), step = STEPS.some(([name]) => name === traits.step) ? traits.step : "draw";
  const cut = stops[nearest(stops.map(Math.log), Math.log(Math.max(1, traits.cut)))];
  return { curve, from, last, step, sketch, law: [traits.alpha, traits.beta], cut, stops };
}
export function numbersOf(s) { // the trait `result`
  const { curve, from, sketch, law, cut } = s, after = curve.gold.value.slice(from + 1);
  const straight = straightOf(curve.d, curve.gold.value, from).slice(from + 1), found = fitted(curve, cut, law);
  return {
    sketch_error: sketch && missedBy(sketch, after), straight_error: missedBy(straight, after), cut,
    best_alpha: found.best[0], best_beta: found.best[1], best_rmse_in: found.best_errors[0],
    best_rmse_out: found.best_errors[1], rmse_in: found.errors[0], rmse_out: found.errors[1],
  };
}

// ---- what is said

const named = (n) => `n = ${whole(n)}`;
export function sentence(s, result) {
  const { curve, from, last, step, sketch, law, cut } = s, { n, gold } = curve, top = Math.max(...gold.value);
  const start = `${num(gold.value[from])} at ${named(n[from])}`, end = named(n[last]);
  if (step === "draw") {
    return sketch ? `You draw gold going from ${start} to ${num(sketch.at(-1))} at ${end}. Now show the truth.`
      : `Gold of the winner is shown up to ${named(n[from])}, where it is ${num(gold.value[from])}. Where does it go? `
        + `Draw it, up to ${end}: with finger or mouse, or each height with the arrow keys.`;
  }
  const peak = gold.value.indexOf(top);
  if (step === "truth") {
    const yours = sketch ? `Your sketch is off by ${num(result.sketch_error)} on average` : "You drew nothing";
    return `Gold goes from ${start} to ${num(gold.value[last])} at ${end}; its peak is ${num(top)}, at `
      + `${named(n[peak])}. ${yours}; a straight continuation is off by ${num(result.straight_error)}.`;
  }
  const at = law[1] > 0 && law[0] > 0 ? law[0] / (2 * law[1]) : null;
  const where = at === null ? "It has no peak." : `Its peak is at d = ${num(at)}`
    + (at > curve.d[last] ? ", beyond what is seen." : ".");
  const own = curve.laws.find((x) => x.form === "quadratic")?.peak_d, theirs = own?.value === null || !own ? ""
    : ` Least squares of all points has it at ${num(own.value)}`
      + (own.low === null || own.high === null ? "." : ` (95%: ${num(own.low)} to ${num(own.high)}).`);
  return `With α = ${num(law[0])} and β = ${num(law[1])} your law misses gold up to ${named(cut)} by `
    + `${num(result.rmse_in, 3)}, and beyond it by ${num(result.rmse_out, 3)}; least squares up to there misses by `
    + `${num(result.best_rmse_in, 3)} and ${num(result.best_rmse_out, 3)}. ${where}${theirs}`;
}

function tableOf({ curve, law }, result) { // the two fits, and the rows' of the whole curve
  const own = curve.laws.find((x) => x.form === "quadratic"), cell = (words) => h("td", {}, words);
  const ranged = ({ value, low, high }) =>
    [num(value), low === null ? "" : h("span", {}, ` ${num(low)} to ${num(high)}`)];
  const row = (name, ...cells) => h("tr", {}, h("th", { scope: "row" }, name), cells.map(cell));
  const head = ["α", "β", "error below", "beyond"].map((x) => h("th", { scope: "col" }, x));
  return [h("caption", { class: "rmx-unseen" }, "Fits of d (α − β d)"), h("thead", {}, h("tr", {}, h("td"), head)),
    h("tbody", {},
      row("you", num(law[0]), num(law[1]), num(result.rmse_in, 3), num(result.rmse_out, 3)),
      row("least squares", num(result.best_alpha), num(result.best_beta), num(result.best_rmse_in, 3),
        num(result.best_rmse_out, 3)),
      own && row("of all points", ranged(own.alpha), ranged(own.beta), "", ""))];
}
function formsOf({ curve }) { // how each form, fitted up to the rows' cut, does beyond it
  const ends = ({ low, high }) => (low === null ? "" : h("span", {}, ` ${num(low, 3)} to ${num(high, 3)}`));
  const more = ({ form, excess }) => (form === "quadratic" ? "" : [signed(excess.value, 3), ends(excess)]);
  const out = (x) => (x === null ? "" : num(x, 3));
  const row = (law) => h("tr", {}, h("th", { scope: "row" }, FORMS[law.form] ?? law.form),
    h("td", {}, out(law.rmse_out)), h("td", {}, more(law)));
  const head = ["error beyond", "more than the first's"].map((x) => h("th", { scope: "col" }, x));
  return [h("thead", {}, h("tr", {}, h("td"), head)), h("tbody", {}, curve.laws.map(row))];
}

// ---- what is drawn

function panelOf(plot, d, s) {
  const { curve, from, last } = s, x = { low: 0, high: curve.d[last] * 1.01, at: ticks(0, curve.d[last], 6).at
    .map((v) => [v, num(v, 1)]) };
  x.names = ["d = √KL (root nats), KL the upper bound log n − (n − 1)/n", "d = √KL (root nats)"];
  const at = ticks(...d.span, 5), y = { low: d.span[0], high: d.span[1], at: at.at.map((v) => [v, num(v, 1)]) };
  const { ends, under, over } = PICTURES[s.step](d, s);
  const top = curve.n.map((n, k) => [curve.d[k], k ? whole(n) : named(n).replaceAll(" ", "\u00a0")]);
  const g = axesOf(plot, { x, y, top, ends, titles: ["gold reward of the winner"], tall: 280 });
  const { gold } = curve, seen = s.step === "draw" ? from : last, to = (line) => line.slice(0, seen + 1);
  const style = `--worth:var(--gold);--you:${d.you[0]};--you-dash:${d.you[1]}`;
  const base = svg("g", { style }, bandOf(g, to(curve.d), to(gold.low), to(gold.high), "rmx-band"), under(g),
    lineOf(g, to(curve.d), to(gold.value), "rmx-gold"), over(g));
  return { g, style, nodes: [axesDrawn(g), base, endsDrawn(g)] };
}
const PICTURES = {
  draw: (d, s) => ({
    ends: [{ level: s.sketch ? s.sketch.at(-1) : s.curve.gold.value[s.from], forms: ["you"], strong: true }],
    under: () => null, over: (g) => (s.sketch ? yours(g, s) : label(g, g.x(s.curve.d[s.from]) + 24, g.t + 4,
      ["draw from here to the right"], { c: "rmx-halo" })),
  }),
  truth: (d, s) => {
    const { curve, from, last, sketch } = s, straight = straightOf(curve.d, curve.gold.value, from);
    return {
      ends: [{ level: curve.gold.value[last], forms: ["gold"], strong: true },
        ...(sketch ? [{ level: sketch.at(-1), forms: ["you"], strong: true }] : []),
        { level: straight[last], forms: ["straight on", "straight"] }],
      under: (g) => [lineOf(g, curve.d.slice(from), straight.slice(from), "rmx-straight"), sketch && yours(g, s)],
      over: () => null,
    };
  },
  fit: (d, s) => {
    const { curve, last, law, cut } = s, start = curve.gold.value[0], fine = Array.from({ length: 61 }, (_, k) =>
      (k / 60) * curve.d[last]);
    const { best } = fitted(curve, cut, law), line = (one) => fine.map((x) =>
      within(start + gainOf(one, x), ...d.span));
    const mine = line(law), theirs = line(best);
    return {
      ends: [{ level: curve.gold.value[last], forms: ["gold"], strong: true },
        { level: mine.at(-1), forms: ["you"], strong: true }, { level: theirs.at(-1), forms: ["least squares"] }],
      under: () => null,
      over: (g) => [lineOf(g, fine, theirs, "rmx-straight"), lineOf(g, fine, mine, "rmx-you"),
        curve.d.map((x, k) => dotOf(g, x, curve.gold.value[k], 4, curve.n[k] <= cut ? "rmx-in" : "rmx-out"))],
    };
  },
};
const yours = (g, { curve, from, sketch }) =>
  lineOf(g, curve.d.slice(from), [curve.gold.value[from], ...sketch], "rmx-you");

function described({ curve, from, last, step }) {
  const { gold, n } = curve, seen = step === "draw" ? from : last, top = gold.value.slice(0, seen + 1);
  const points = top.map((v, k) => `${num(v)} at ${named(n[k])}`);
  return `Gold against the root of KL: ${points.join(", ")}.`;
}

// ---- the sketch

// Heights after a pointer went from `last` to `to`, both {x, y} with x in d and y in gold: those of every d that it
// crossed, and of the nearest one where it is close.
export function sketched(heights, d, last, to, close) {
  const out = [...heights], [a, b] = last && last.x > to.x ? [to, last] : [last ?? to, to];
  d.forEach((x, k) => {
    if (a.x <= x && x <= b.x && b.x > a.x) out[k] = a.y + ((x - a.x) / (b.x - a.x)) * (b.y - a.y);
  });
  const k = nearest(d, to.x);
  if (!last || Math.abs(d[k] - to.x) <= close) out[k] = to.y;
  return out;
}

function sketchOn(ui, plot, picture, geometry) { // handles for the keys, and a pad for a finger
  const heights = (s) => s.sketch ?? s.curve.n.slice(s.from + 1).map(() => s.curve.gold.value[s.from]);
  const now = () => soundOf(ui.d, ui.state()), [low, high] = ui.d.span, most = Math.round((high - low) / NUDGE);
  const count = Math.max(...ui.d.curves.map((c) => c.n.length));
  const handles = Array.from({ length: count }, (_, k) => handleOf("", (to) => {
    const s = now(), sketch = [...heights(s)]; // another list: a model does not see a change inside its own
    sketch[k] = low + to * NUDGE;
    ui.change({ sketch });
  }));
  const pad = h("div", { class: "rmx-pad", "aria-hidden": true });
  let last = null;
  dragged(pad, (e, down) => {
    const s = now(), { g } = geometry(), at = picture().place(e), beyond = s.curve.d.slice(s.from + 1);
    const to = { x: within(g.value(at.x), 0, s.curve.d[s.last]), y: within(g.level(at.y), low, high) };
    ui.change({ sketch: sketched(heights(s), beyond, down ? null : last, to, (8 / g.wide) * s.curve.d[s.last]) });
    last = to;
  });
  function draw(s, g, style) {
    const on = s.step === "draw", values = heights(s), start = g.x(s.curve.d[s.from]) + 6;
    pad.hidden = !on;
    Object.assign(pad.style, { left: `${start}px`, top: `${g.t - 8}px`, width: `${g.left + g.wide + 12 - start}px`,
      height: `${g.end - g.t + 12}px` });
    handles.forEach(({ node, place }, k) => {
      const n = s.curve.n[s.from + 1 + k];
      node.style.display = on && n ? "" : "none";
      if (!on || !n) return;
      node.setAttribute("aria-label", `your gold at ${named(n)}`);
      node.setAttribute("style", style);
      place(Math.round((values[k] - low) / NUDGE), most, `${num(values[k])} at ${named(n)}`,
        [dotOf(g, s.curve.d[s.from + 1 + k], values[k], 7, s.sketch ? "rmx-at rmx-yours" : "rmx-at rmx-open")], true);
    });
  }
  return { handles, pad, draw };
}

// ---- together

function build(ui) {
  const { d, change, state } = ui, plot = ui.plotOf("rmx-still"), now = () => soundOf(d, state());
  let last = null, picture = null;
  const sketch = sketchOn(ui, plot, () => picture, () => last);
  const cut = handleOf("the cut, up to which the law is fitted", (k) => change({ cut: now().stops[k] }));
  picture = pictureIn(plot, [...sketch.handles, cut]);
  plot.node.append(sketch.pad);
  dragged(plot.node, (e) => {
    const s = now(), { stops, curve } = s;
    if (s.step !== "fit") return;
    const places = stops.map((n) => curve.d[curve.n.indexOf(n)]);
    change({ cut: stops[nearest(places, last.g.value(picture.place(e).x))] });
  });
  const curve = select(ui, "curve", "whose winner", d.curves.map((c) => option(c.name, c.label)), (name) =>
    ({ curve: name, sketch: [], step: state().step === "fit" ? "fit" : "draw" }));
  const steps = choiceOf("step", "steps", change), range = (most) => ({ min: 0, max: most, step: 0.01 });
  const alpha = slider(ui, "alpha", "α, gold a root nat", range(d.most[0]), (x) => ({ alpha: x }));
  const beta = slider(ui, "beta", "β, gold a nat", range(d.most[1]), (x) => ({ beta: x }));
  const solve = button("least squares", () => {
    const { best } = fitted(now().curve, now().cut, [0, 0]);
    change({ alpha: within(best[0], 0, d.most[0]), beta: within(best[1], 0, d.most[1]) });
  });
  const again = button("reset", () => change({ sketch: [], step: "draw", alpha: d.start[0], beta: d.start[1] }));
  const table = h("table", { class: "rmx-fits" }), forms = h("table", { class: "rmx-fits" });
  const summary = h("summary"), fold = h("details", {}, summary, forms);
  const sliders = h("div", { class: "rmx-row" }, alpha.field, beta.field, h("div", { class: "rmx-low" }, solve));
  const fits = h("div", {}, sliders, table, fold);
  const note = h("p", { class: "rmx-small rmx-hint" });
  function draw(traits) {
    const s = soundOf(d, traits), result = numbersOf(s), { g, style, nodes } = (last = panelOf(plot, d, s));
    const said = sentence(s, result), fit = s.step === "fit";
    cut.node.style.display = fit ? "" : "none";
    cut.place(s.stops.indexOf(s.cut), s.stops.length - 1, named(s.cut),
      gripAt(g, g.x(s.curve.d[s.curve.n.indexOf(s.cut)])));
    sketch.draw(s, g, style);
    plot.node.classList.toggle("rmx-still", !fit);
    picture.draw(g, "Gold against the root of KL", described(s), nodes);
    curve.box.value = s.curve.name;
    steps.draw(STEPS, s.step);
    fits.hidden = !fit;
    for (const [part, v] of [[alpha, s.law[0]], [beta, s.law[1]]]) {
      part.box.value = v;
      part.out.value = num(v);
    }
    table.replaceChildren(...tableOf(s, result).filter(Boolean));
    summary.textContent = `Other forms of the law, fitted up to ${named(s.curve.cut)}`;
    fold.hidden = s.curve.laws.length < 2;
    forms.replaceChildren(...formsOf(s));
    note.textContent = `Band: 95% interval of gold, ${s.curve.units} replicates. `
      + (fit ? "Errors: root mean square, in gold, up to the cut and beyond it; points that few answers decide weigh "
        + "less. Least squares sees what is up to the cut; that of all points is the rows', with 95% intervals."
        : `Errors: the mean over n beyond ${whole(d.seen)} of the absolute difference, in gold. Straight on: the line `
          + "through the last two points that are shown.");
    return { said, result };
  }
  const controls = h("div", { class: "rmx-row" }, curve.field, steps.node, h("div", { class: "rmx-low" }, again));
  controls.classList.add("rmx-row-steps");
  return { nodes: [controls, plot.node, ui.say, fits, note], draw };
}

export default widgetOf(["curve", "step", "sketch", "alpha", "beta", "cut"], build);
