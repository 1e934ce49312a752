// Promised and delivered: what a judge's score promises of its winner, and what gold delivers. The tables are a study's
// rows, by promised.py; nothing here is computed that they have.

import {
  axesDrawn, axesOf, bandOf, choiceOf, dotOf, dragged, endsDrawn, gripAt, h, handleOf, label, lineOf, nearest, num,
  option, pictureIn, rule, select, signed, svg, ticks, whole, widgetOf,
} from "./widget.mjs";

const NAMES = { none: "as it is", temperature: "temperature", isotonic: "isotonic" };

// The state that the traits mean; what the rows do not have becomes what they have.
export function soundOf({ ensembles, recalibrations, ns }, traits) {
  const ensemble = ensembles.find((e) => e.name === traits.ensemble) ?? ensembles[0];
  const row = ensemble.rules.find((r) => r.name === traits.aggregator) ?? ensemble.rules[0];
  const recalibration = recalibrations.includes(traits.recalibration) ? traits.recalibration : recalibrations[0];
  return { ensemble, row, recalibration, at: nearest(ns.map(Math.log), Math.log(Math.max(1, traits.n))) };
}

// The mean over pairs of the distance of their bin to the diagonal.
export function pooledError({ confidence, agreement, pairs }) {
  const all = pairs.reduce((a, b) => a + b, 0);
  return pairs.reduce((sum, m, b) => sum + (m / all) * Math.abs(confidence[b] - agreement[b]), 0);
}

export function numbersOf({ ns }, { row, recalibration, at }) { // the trait `result`
  const rates = row.rates[recalibration], of = (table, k) => table?.value[k] ?? null;
  return {
    n: ns[at], promised: of(rates?.promised, at), delivered: of(row.delivered, at), gap: of(rates?.gap, at),
    ece: of(row.errors[recalibration]?.ece, 0), bins_ece: row.bins ? pooledError(row.bins) : null,
  };
}

// ---- what is said

const interval = ({ low, high }, k, digits, show = num) =>
  (low[k] === null ? "" : ` (95%: ${show(low[k], digits)} to ${show(high[k], digits)})`);
const wins = (rate) => Math.round(100 * rate);
const who = ({ ensemble }) => (ensemble.name === "single" ? ["the judge", "s"] : ["the judges", ""]);

export function sentence({ ns }, s) {
  const { row, recalibration, at } = s, rates = row.rates[recalibration], n = whole(ns[at]), [judges, ending] = who(s);
  const delivered = wins(row.delivered.value[at]);
  if (!rates) {
    return `Of the winner of ${n}, gold delivers ${delivered} wins in 100 over a random answer. What ${judges} `
      + `promise${ending} after isotonic regression the rows do not have; who wins it does not change, but for ties.`;
  }
  const promised = wins(rates.promised.value[at]), gap = promised - delivered, { low, high } = rates.gap;
  const unsure = low[at] !== null && low[at] <= 0 && high[at] >= 0 && ns[at] > 1;
  const verdict = ns[at] === 1 ? "the one answer is itself random"
    : gap === 0 ? "as promised" : `${Math.abs(gap)} ${gap > 0 ? "fewer" : "more"} than promised`;
  return `Of the winner of ${n}, ${judges} promise${ending} ${promised} wins in 100 over a random answer; `
    + `gold delivers ${delivered}: ${verdict}${unsure ? ", and the interval of the gap includes none" : ""}.`;
}

function readings({ ns }, { row, recalibration, at }) {
  const rates = row.rates[recalibration], one = (name, table, show) =>
    table && ` · ${name} ${show(table.value[at], 3)}${interval(table, at, 3, show)}`;
  return [h("b", {}, `n = ${whole(ns[at])}`.replaceAll(" ", "\u00a0")), one("promised", rates?.promised, num),
    one("delivered", row.delivered, num), one("gap", rates?.gap, signed)].filter(Boolean);
}

function errorsOf({ recalibrations }, { row, recalibration }) { // of calibration, before and after
  const known = recalibrations.filter((name) => row.errors[name]), one = (name) => {
    const { ece } = row.errors[name], words = `${NAMES[name]} ${num(ece.value[0], 3)}`;
    return name === recalibration ? h("b", {}, words + interval(ece, 0, 3)) : words;
  };
  const heat = row.errors.none?.temperature.value[0], side = heat < 1 ? "too modest" : "too sure";
  const mends = heat && Math.abs(heat - 1) > 0.005 ? ` Its temperature as it is, ${num(heat)}, is `
    + `${heat < 1 ? "below" : "above"} 1: it is ${side}.` : "";
  const listed = known.flatMap((name, k) => [k ? ", " : "", one(name)]);
  return [h("b", {}, "Calibration error"), " (ECE) on held-out pairs: ", listed, ".", mends];
}

// ---- what is drawn

function diagramOf(plot, d, s) {
  const { bins } = s.row, low = d.least, at = ticks(low, 1).at, marks = at.map((v) => [v, num(v, 1)]);
  const x = { low: 0.5, high: 1, at: ticks(0.5, 1).at.map((v) => [v, num(v, 1)]) };
  x.names = ["stated probability of the answer it favours", "stated probability"];
  const raw = s.recalibration === "none" ? "" : ", scores as they are";
  const titles = [`share of held-out pairs that came true${raw}`, `share that came true${raw}`];
  const g = axesOf(plot, { x, y: { low, high: 1, at: marks }, titles, tall: 230 });
  const style = `--ensemble:${s.ensemble.look[0]}`, diagonal = lineOf(g, [0.5, 1], [0.5, 1], "rmx-start");
  if (!bins) {
    const words = ["no diagram: the rows have", "no bins of these judges"];
    return [g, "No bins of these judges are in the rows.", [axesDrawn(g), diagonal,
      label(g, g.left + g.wide / 2, g.t + 70, words, { by: 0.5, c: "rmx-halo" })]];
  }
  const most = Math.max(...bins.pairs), { confidence, agreement } = bins;
  const strip = bandOf(g, confidence, confidence, agreement, "rmx-strip");
  const bars = bins.low[0] === null ? [] : confidence.map((c, b) =>
    rule(g.x(c), g.y(bins.low[b]), g.x(c), g.y(bins.high[b]), "rmx-whisker"));
  const dots = confidence.map((c, b) =>
    dotOf(g, c, agreement[b], 3 + 2.5 * Math.sqrt(bins.pairs[b] / most), "rmx-dot"));
  const words = confidence.map((c, b) => `${num(c)} stated, ${num(agreement[b])} came true`).join("; ");
  return [g, `Reliability on held-out pairs, ${confidence.length} bins: ${words}.`,
    [axesDrawn(g), strip, diagonal, svg("g", { style }, bars, lineOf(g, confidence, agreement, "rmx-join"), dots)]];
}

function ratesOf(plot, d, s) {
  const { row, recalibration, at, ensemble } = s, rates = row.rates[recalibration], xs = d.ns.map(Math.log2);
  const x = { low: 0, high: xs.at(-1), at: xs.map((v, k) => [v, whole(d.ns[k])]) };
  x.names = ["n, answers that the winner is chosen from (log scale)", "n, answers chosen from"];
  const [low, high] = d.span, y = { low, high, at: ticks(low, high).at.map((v) => [v, num(v, 1)]) };
  const last = d.ns.length - 1, end = (name, table) => ({ level: table.value[last], forms: [name], strong: true });
  const ends = [end("delivered", row.delivered), ...(rates ? [end("promised", rates.promised)] : [])];
  const titles = ["win rate of the winner over a random answer", "win rate of the winner"];
  const g = axesOf(plot, { x, y, ends, titles, tall: 230 });
  const band = (table, c) => bandOf(g, xs, table.low, table.high, c);
  const level = (v, words) => [rule(g.left, g.y(v), g.left + g.wide, g.y(v), "rmx-start"),
    label(g, g.left + 6, g.y(v) + 3, [words], { c: "rmx-halo" })];
  const { promised } = rates ?? {}, gap = promised && (promised.value[at] - row.delivered.value[at]);
  const style = `--ensemble:${ensemble.look[0]};--dash:6 4;--worth:var(--gold)`;
  const nodes = svg("g", { style },
    promised && bandOf(g, xs, row.delivered.value, promised.value, "rmx-strip"), level(0.5, "a random answer"),
    band(row.delivered, "rmx-band"), promised && band(promised, "rmx-band rmx-band-proxy"),
    lineOf(g, xs, row.delivered.value, "rmx-gold"), promised && lineOf(g, xs, promised.value, "rmx-proxy"));
  const points = svg("g", { style }, dotOf(g, xs[at], row.delivered.value[at], 5, "rmx-at"),
    promised && dotOf(g, xs[at], promised.value[at], 5, "rmx-at rmx-at-proxy"));
  const middle = promised && g.y((promised.value[at] + row.delivered.value[at]) / 2) - g.L / 2;
  const side = at > last / 2 ? { by: 1, x: g.x(xs[at]) - 8 } : { by: 0, x: g.x(xs[at]) + 8 };
  const words = promised && at > 0 ? label(g, side.x, middle, [signed(gap)], { by: side.by, c: "rmx-halo" }) : [];
  const [from, to] = [0, last].map((k) => num(row.delivered.value[k]));
  const said = `Delivered goes from ${from} at n = ${whole(d.ns[0])} to ${to} at n = ${whole(d.ns[last])}`
    + (promised ? `, promised to ${num(promised.value[last])}.` : "; no promise in the rows.");
  return { g, said, nodes: [axesDrawn(g), nodes, endsDrawn(g)], above: [points, words] };
}

function build(ui) {
  const { d, change } = ui, all = d.ensembles.flatMap((e) => e.rules);
  const every = all.flatMap((r) => [r.delivered, ...Object.values(r.rates).map((x) => x.promised)])
    .flatMap((t) => [...t.value, ...t.low, ...t.high]).filter((v) => v !== null);
  d.span = [Math.min(0.45, Math.floor(10 * Math.min(...every)) / 10), Math.ceil(20 * Math.max(...every)) / 20];
  d.least = Math.min(0.5, ...all.flatMap((r) => (r.bins ? [...r.bins.agreement, ...r.bins.low] : [])).filter((v) => v));
  d.least = Math.floor(10 * d.least) / 10;
  const left = ui.plotOf("rmx-still"), right = ui.plotOf();
  const handle = handleOf("n, how many answers the winner is chosen from", (k) => change({ n: d.ns[k] }));
  const diagram = pictureIn(left), curves = pictureIn(right, [handle]);
  let g = null;
  const pick = (e) => change({ n: d.ns[nearest(d.ns.map(Math.log2), g.value(curves.place(e).x))] });
  dragged(right.node, pick);
  const ensemble = select(ui, "ensemble", "judges", d.ensembles.map((e) => option(e.name, e.label)),
    (name) => ({ ensemble: name }));
  const aggregator = select(ui, "aggregator", "aggregator", [], (name) => ({ aggregator: name }));
  const mend = choiceOf("recalibration", "recalibration", change);
  const readout = h("p", { class: "rmx-readout" }), errors = h("p", { class: "rmx-small" });
  const note = h("p", { class: "rmx-small rmx-hint" });
  function draw(traits) {
    const s = soundOf(d, traits), n = d.ns[s.at], last = d.ns.length - 1;
    const [gl, words, nodes] = diagramOf(left, d, s), rates = ratesOf(right, d, s);
    g = rates.g;
    diagram.draw(gl, "Reliability", words, nodes);
    handle.place(s.at, last, `n = ${whole(n)}`, gripAt(g, g.x(Math.log2(n)))); // the sentence follows, said live
    curves.draw(g, "Promised and delivered", rates.said, rates.nodes, rates.above);
    ensemble.box.value = s.ensemble.name;
    aggregator.box.replaceChildren(...s.ensemble.rules.map((r) => option(r.name, r.label)));
    aggregator.box.value = s.row.name;
    aggregator.box.disabled = s.ensemble.rules.length === 1;
    mend.draw(d.recalibrations.map((name) => [name, NAMES[name] ?? name]), s.recalibration);
    readout.replaceChildren(...readings(d, s));
    errors.replaceChildren(...errorsOf(d, s).flat(Infinity));
    const raw = s.row.bins && s.recalibration !== "none"
      ? " The diagram is of the scores as they are: the rows have no bins after a recalibration." : "";
    note.textContent = `Bands and bars: 95% intervals, ${s.row.units} replicates. A recalibration is fitted on `
      + `held-out pairs; the number on the strip is promised minus delivered.${raw}`;
    return { said: sentence(d, s), result: numbersOf(d, s) };
  }
  const controls = h("div", { class: "rmx-row" }, ensemble.field, aggregator.field, mend.node);
  const panel = (...kids) => h("div", {}, kids);
  const pair = h("div", { class: "rmx-pair" }, panel(left.node, errors), panel(right.node));
  return { nodes: [controls, pair, readout, ui.say, note], draw };
}

export default widgetOf(["ensemble", "aggregator", "recalibration", "n"], build);
