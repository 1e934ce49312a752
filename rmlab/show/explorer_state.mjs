// What the explorer shows, without a page: the pool's ensembles, the traits made sound, the address, the curves and
// what is said of them.

import {
  AGGREGATORS, along, average, bestOf, curve, harmonic, klBound, ladders, prices, standardError, tilts,
} from "./explorer_math.mjs";

const FEW = 10; // effective answers: with fewer, the luck of one answer's gold decides; as in tilt.py
export const TRAITS = ["ensemble", "members", "aggregator", "strength", "n", "prompt", "optimiser", "beta"];

const mean = (table) => table.map(average);
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// ---- numbers as text

export const num = (x, digits = 2) => {
  const t = x.toFixed(digits);
  return (+t ? t : t.replace("-", "")).replace("-", "−");
};
export const signed = (x) => (num(x)[0] === "−" ? "" : "+") + num(x);
export const whole = (n) => n.toLocaleString("en");
const rounded = (beta) => (isFinite(beta) ? `${+beta.toPrecision(2)}` : "∞");
export const called = (tilt, x) => (tilt ? `β = ${rounded(x)}` : `n = ${whole(x)}`).replaceAll(" ", "\u00a0");

// ---- what a pool has to choose from

export function choicesOf(d) {
  const ensembles = [...d.ensembles];
  if (!ensembles.some((e) => e.name === "single")) {
    ensembles.unshift({ name: "single", label: "one reward model", members: [...d.columns.keys()] });
  }
  const single = ensembles.find((e) => e.name === "single");
  const several = ensembles.find((e) => e.name === "pretrain")
    ?? ensembles.find((e) => e !== single && e.members.length > 1);
  const places = []; // of n: 16 an octave, of which every fourth is where curves are drawn
  for (let k = 0; k <= 16 * Math.log2(d.N); k++) places.push(Math.round(2 ** (k / 16)));
  const stops = [...new Set([...places, d.N])], grid = [...new Set([...places.filter((_, k) => k % 4 === 0), d.N])];
  const choices = { ensembles, single, several, stops, grid };
  const all = (e, aggregator) => ({ ...chosen(choices, e), aggregator, n: d.N });
  choices.presets = [
    ["one judge", all(single, "mean")],
    ...(several ? [["several, their mean", all(several, "mean")], ["several, the worst", all(several, "min")]] : []),
    ["ask gold", { aggregator: "gold", n: d.N }],
  ];
  return choices;
}

const usual = ({ single }, e) => (e === single ? e.members.slice(0, 1) : [...e.members]);
export const chosen = (choices, e) => ({ ensemble: e.name, members: usual(choices, e) }); // the traits that choose it
export function sizesOf({ ensembles }, e) { // of its series, the smallest first
  const sizes = ensembles.filter((x) => x === e || (e.series && x.series === e.series));
  return sizes.sort((a, b) => a.members.length - b.members.length);
}
export function leadOf(choices, e) { // of its series: the one in the menu
  const sizes = sizesOf(choices, e);
  return sizes.find((x) => x.name === e.series) ?? sizes[sizes.length >> 1];
}

// ---- the traits, made sound

// The state that the traits mean: `at` is n, or beta where the optimiser is the tilt. What the pool does not have
// becomes what it has.
export function sound(d, choices, traits) {
  const ensemble = choices.ensembles.find((e) => e.name === traits.ensemble) ?? choices.ensembles[0];
  const aggregator = traits.aggregator in AGGREGATORS ? traits.aggregator : "mean";
  const least = aggregator === "entropic" ? 1e-3 : 0, most = aggregator === "quantile" ? 1 : Infinity;
  let members = traits.members.filter((c) => ensemble.members.includes(c));
  const strange = members.length < Math.max(1, traits.members.length);
  if (strange || (ensemble === choices.single && members.length > 1)) members = usual(choices, ensemble);
  const within = (x, low, high) => clamp(Math.round(x) || low, low, high);
  const tilt = traits.optimiser === "tilt", n = within(traits.n, 1, d.N);
  return {
    ensemble, members, aggregator, strength: clamp(+traits.strength || 0, least, most), tilt, n,
    at: tilt ? +traits.beta || 0 : n, prompt: within(traits.prompt, 0, d.P - 1),
  };
}

// The address's end, "#x=": which explorer of the page, and its traits.
export function toAddress({ ensemble, members, aggregator, strength, tilt, at, n, prompt }, place) {
  const words = [place, ensemble.name, members.join("."), aggregator, strength, n, prompt, ...(tilt ? [at] : [])];
  return "#x=" + words.join("~");
}
export function fromAddress(text, place) { // the traits, or null where it means nothing or another explorer
  if (!text.startsWith("#x=")) return null;
  let words = text.slice(3);
  try { words = decodeURIComponent(words); } catch { /* a stray % is text */ }
  const [where, ensemble, members, aggregator, strength, n, prompt, beta] = words.split("~"), tilt = beta !== undefined;
  if (where !== String(place) || prompt === undefined || !(aggregator in AGGREGATORS)) return null;
  if (![strength, n, prompt, beta ?? 1].every((x) => isFinite(x))) return null;
  return {
    ensemble, members: members.split(".").map(Number), aggregator, strength: +strength, n: +n, prompt: +prompt,
    optimiser: tilt ? "tilt" : "best_of_n", ...(tilt ? { beta: +beta } : {}),
  };
}

// ---- the curves

// Keeps what was computed; `range` holds the gold axis still between the presets.
export function storeOf(d, choices) {
  const { presets, grid } = choices, judged = presets.map(([, to]) => to).filter((to) => to.aggregator !== "gold");
  return {
    d, choices, key: "", now: null, known: {},
    range: judged.flatMap((to) => mean(curve(d, to.members, to.aggregator, 1, grid).gold)),
  };
}

// An optimiser's curve: the slider's stops, the grid where it is drawn, and the KL of both.
function sweep({ d, choices: { stops, grid } }, members, aggregator, strength, tilt) {
  if (!tilt) {
    const reaches = stops.map(klBound), kl = grid.map(klBound);
    return { stops, grid, kl, reaches, ...curve(d, members, aggregator, strength, grid) };
  }
  const rows = ladders(d, members, aggregator, strength), betas = prices(d, rows), line = [Infinity, ...betas];
  const all = tilts(d, rows, line), kl = mean(all.kl);
  return { ...all, rows, stops: betas, grid: line, kl, reaches: kl.slice(1), ess: all.ess.map(harmonic) };
}

export function curvesOf(store, { members, aggregator, strength, tilt }) { // all that does not depend on n or beta
  const key = JSON.stringify([members, aggregator, strength, tilt]);
  if (key === store.key) return store.now;
  const { gold: golds, proxy, ...rest } = sweep(store, members, aggregator, strength, tilt), gold = mean(golds);
  const se = golds.map((row) => standardError(row.map((x, p) => x - golds[0][p]))), end = gold.length - 1;
  const last = tilt ? Math.max(0, rest.ess.findLastIndex((x) => x >= FEW)) : end; // beyond it, dotted
  const peak = gold.indexOf(Math.max(...gold.slice(0, last + 1)));
  const summit = peak === last && last < end ? "best before the dots" : "peak"; // there gold may still rise
  store.key = key;
  return (store.now = { ...rest, gold, proxy: mean(proxy), se, last, peak, summit });
}

const reachOf = ({ d, choices }, tilt) => // the KL where rivals are drawn
  (tilt ? Array.from({ length: 65 }, (_, k) => klBound(d.N) * (k / 64) ** 2) : choices.grid.map(klBound));
function solo(store, c, tilt) { // mean gold at each KL, of a column that judges alone, or of gold itself: the oracle
  const key = `${c} ${tilt}`;
  if (!store.known[key]) {
    const { kl, gold } = c === "gold" ? sweep(store, [], c, 1, tilt) : sweep(store, [c], "mean", 1, tilt);
    store.known[key] = along(reachOf(store, tilt), kl, mean(gold));
  }
  return store.known[key];
}

// Beside the judges' curve: the oracle's, and the average of their ensemble's members alone. Columns not yet known wait
// for another call once `until` is past: then `waiting`.
export function rivalsOf(store, { ensemble, members, aggregator, tilt }, until = Infinity) {
  const at = reachOf(store, tilt);
  if (aggregator === "gold") return { at, oracle: null, alone: null };
  const oracle = solo(store, "gold", tilt), lines = [];
  if (members.length < 2) return { at, oracle, alone: null };
  for (const c of ensemble.members) {
    if (!store.known[`${c} ${tilt}`] && performance.now() > until) return { at, oracle, alone: null, waiting: true };
    lines.push(solo(store, c, tilt));
  }
  return { at, oracle, alone: at.map((_, k) => average(lines.map((line) => line[k]))) };
}

export function pointOf({ d }, now, { tilt, at }) { // at n or at beta: means over prompts, ess harmonic
  const { gold, proxy, kl, ess } = tilt ? tilts(d, now.rows, [at]) : bestOf(now.rows, [at]);
  return {
    gold: average(gold[0]), proxy: average(proxy[0]), kl: tilt ? average(kl[0]) : klBound(at),
    ess: tilt ? harmonic(ess[0]) : Infinity,
  };
}

export function resultOf({ tilt }, now, { gold, proxy, kl, ess }) { // the trait `result`
  const peak = now.grid[now.peak], peak_gold = now.gold[now.peak];
  if (!tilt) return { gold, proxy, peak_n: peak, peak_gold };
  return { gold, proxy, kl, ess, peak_beta: isFinite(peak) ? peak : null, peak_gold };
}

// ---- what is said

export function readable(text) { // "- price : fair ! i know" -> "– price: fair! I know"
  return text.replace(/(^| )- (\w+) : /g, "$1– $2: ").replace(/ ([.,!?;:])/g, "$1").replace(/\bi\b/g, "I")
    .replace(/(^|[.!?] )([a-z])/g, (_, end, letter) => end + letter.toUpperCase());
}

export function readout({ tilt }, now, { gold, kl }) {
  const start = now.gold[0], over = gold < start ? `${num(start - gold)} under` : `${signed(gold - start)} over`;
  const peak = `${called(tilt, now.grid[now.peak])}: ${num(now.gold[now.peak])}`;
  return `${tilt ? ` · KL ${num(kl)}` : ""} · gold ${num(gold)} (${over} a uniform pick) · best was ${peak}`;
}

export function sentence(d, { ensemble, members, aggregator, strength, tilt, at }, now, { gold, proxy, kl, ess }) {
  const start = now.gold[0], top = now.gold[now.peak], best = now.grid[now.peak];
  const there = called(tilt, best), side = gold >= start ? "above" : "below";
  const one = aggregator === "gold" || members.length === 1, all = members.length === ensemble.members.length;
  const rule = AGGREGATORS[aggregator][0].replace("λ", num(strength));
  const who = aggregator === "gold" ? "Gold itself" : one ? `One judge (${d.columns[members[0]]})`
    : `${all ? "The" : `${members.length} of ${ensemble.members.length}`} judges (${ensemble.label}), by ${rule}`;
  const does = tilt ? `, the tilt at ${called(tilt, at).replace("β", "beta")}: KL ${num(kl)} nats, `
    : `${one ? " chooses" : ", choose"} from ${at === 1 ? "1 answer" : whole(at) + " answers"}: `;
  const past = ess < FEW ? `${num(ess, 1)} effective answers: the pool cannot represent this policy.`
    : at === best ? `This is its ${now.summit}.`
    : top - gold < 0.005 ? `The peak, at ${there}, is no higher to two digits.`
    : kl > now.kl[now.peak] ? `That is ${num(top - gold)} below the peak, which was at ${there}.`
    : `The ${now.summit}, ${num(top)}, comes at ${there}.`;
  return `${who}${does}gold is ${num(gold)}, ${num(Math.abs(gold - start))} ${side} a uniform pick; the proxy is `
    + `${num(proxy)}. ${past}`;
}

export function caption(d, { members, aggregator, tilt }, now) {
  const judged = aggregator !== "gold";
  return `Averages over ${d.P} requests; band: ± 1 standard error of gold's difference to ${called(tilt, now.grid[0])}.`
    + (judged ? ` Oracle: gold itself ${tilt ? "is the proxy" : "chooses"}.` : "")
    + (judged && members.length > 1 ? " One alone: the members judging singly, averaged." : "")
    + (now.last < now.grid.length - 1 ? ` Dotted: fewer than ${FEW} effective answers a request (harmonic mean).` : "");
}

export function hint(d, choices, { ensemble, members, aggregator }) {
  const sizes = sizesOf(choices, ensemble), seeds = ensemble.members.some((c) => /^p\d+ f\d+$/.test(d.columns[c]));
  const counts = sizes.map((e) => e.members.length).join(", ");
  return (seeds ? "p: pretraining seed, f: finetuning seed. " : "")
    + (aggregator === "gold" ? "Gold chooses: nobody else is asked."
    : sizes.length > 1 ? `Each number of ${ensemble.series} was trained for itself: ${counts}.`
    : members.length === 1 ? "With one judge every aggregator gives its score." : "");
}
