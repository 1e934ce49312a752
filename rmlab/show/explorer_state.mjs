// What the explorer shows, without a page: the pool's ensembles, the traits made sound, the address, the curves and
// what is said of them.

import {
  AGGREGATORS, along, average, bestOf, curve, harmonic, heldOut, klBound, ladders, prices, standardError, tilts,
} from "./explorer_math.mjs";
import { num, signed, whole } from "./widget.mjs";
import { rangeOf, rowAt, rowOf } from "./explorer_study.mjs";

const FEW = 10; // effective answers: with fewer, the luck of one answer's gold decides; as in tilt.py
export const TRAITS = ["ensemble", "members", "aggregator", "strength", "n", "prompt", "optimiser", "beta"];

const mean = (table) => table.map(average);
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// ---- numbers as text

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
    ...(d.gold ? [["ask gold", { aggregator: "gold", n: d.N }]] : []),
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
  const known = traits.aggregator in AGGREGATORS && (d.gold || traits.aggregator !== "gold");
  const aggregator = known ? traits.aggregator : "mean";
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

// Keeps what was computed; `range` holds the upper axis still between the presets.
export function storeOf(d, choices) {
  const { presets, grid } = choices, judged = presets.map(([, to]) => to).filter((to) => to.aggregator !== "gold");
  return {
    d, choices, key: "", now: null, known: {},
    range: judged.flatMap((to) => mean(curve(d, to.members, to.aggregator, 1, grid).worth ?? []))
      .concat(rangeOf(d.study, judged.map((to) => to.ensemble))),
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
  const { worth: rows, proxy, ...rest } = sweep(store, members, aggregator, strength, tilt), worth = rows && mean(rows);
  const se = rows && rows.map((row) => standardError(row.map((x, p) => x - rows[0][p]))), end = proxy.length - 1;
  const last = tilt ? Math.max(0, rest.ess.findLastIndex((x) => x >= FEW)) : end; // beyond it, dotted
  const peak = worth && worth.indexOf(Math.max(...worth.slice(0, last + 1)));
  const summit = peak === last && last < end ? "best before the dots" : "peak"; // there it may still rise
  store.key = key;
  return (store.now = { ...rest, worth, proxy: mean(proxy), se, last, peak, summit });
}

const reachOf = ({ d, choices }, tilt) => // the KL where rivals are drawn
  (tilt ? Array.from({ length: 65 }, (_, k) => klBound(d.N) * (k / 64) ** 2) : choices.grid.map(klBound));
function solo(store, c, tilt) { // mean gold at each KL, of a column that judges alone, or of gold itself: the oracle
  const key = `${c} ${tilt}`;
  if (!store.known[key]) {
    const { kl, worth } = c === "gold" ? sweep(store, [], c, 1, tilt) : sweep(store, [c], "mean", 1, tilt);
    store.known[key] = along(reachOf(store, tilt), kl, mean(worth));
  }
  return store.known[key];
}

// Beside the judges' gold: the oracle's, and the average of their ensemble's members alone. Columns not yet known wait
// for another call once `until` is past: then `waiting`.
export function rivalsOf(store, { ensemble, members, aggregator, tilt }, until = Infinity) {
  const at = reachOf(store, tilt);
  if (aggregator === "gold" || !store.d.gold) return { at, oracle: null, alone: null };
  const oracle = solo(store, "gold", tilt), lines = [];
  if (members.length < 2) return { at, oracle, alone: null };
  for (const c of ensemble.members) {
    if (!store.known[`${c} ${tilt}`] && performance.now() > until) return { at, oracle, alone: null, waiting: true };
    lines.push(solo(store, c, tilt));
  }
  return { at, oracle, alone: at.map((_, k) => average(lines.map((line) => line[k]))) };
}

// At n or at beta: means over prompts, ess harmonic; the study's row there, and `row` and `why` of rowOf.
export function pointOf({ d }, now, s) {
  const { tilt, at } = s, { worth, proxy, kl, ess } = tilt ? tilts(d, now.rows, [at]) : bestOf(now.rows, [at]);
  const found = rowOf(d, s);
  return {
    worth: worth && average(worth[0]), proxy: average(proxy[0]), kl: tilt ? average(kl[0]) : klBound(at),
    ess: tilt ? harmonic(ess[0]) : Infinity, ...found, study: rowAt(found.row, at),
  };
}

export function resultOf(d, { tilt }, now, { worth, proxy, kl, ess, study }) { // the trait `result`
  const rows = study && { study_gold: study.worth, study_low: study.low, study_high: study.high,
    study_proxy: study.proxy };
  const name = d.gold ? "gold" : "held_out", at = { proxy, ...(tilt ? { kl, ess } : {}), ...rows };
  if (!now.worth) return at;
  const best = now.grid[now.peak], where = tilt ? { peak_beta: isFinite(best) ? best : null } : { peak_n: best };
  return { [name]: worth, ...at, ...where, [`peak_${name}`]: now.worth[now.peak] };
}

// ---- what is said

export function readable(text) { // "- price : fair ! i know" -> "– price: fair! I know"
  return text.replace(/(^| )- (\w+) : /g, "$1– $2: ").replace(/ ([.,!?;:])/g, "$1").replace(/\bi\b/g, "I")
    .replace(/(^|[.!?] )([a-z])/g, (_, end, letter) => end + letter.toUpperCase());
}

const overOrUnder = (d, x, start) => // a uniform pick
  (x < start ? `${num(start - x, d.digits)} under` : `${signed(x - start, d.digits)} over`) + " a uniform pick";
const beside = (d, x, start) =>
  `${num(Math.abs(x - start), d.digits)} ${x >= start ? "above" : "below"} a uniform pick`;

export function readout(d, { tilt }, now, { worth, proxy, kl, row, study, why }) {
  const n = (x) => num(x, d.digits), reached = tilt ? ` · KL ${num(kl)}` : "";
  if (study) {
    const top = `best was ${called(tilt, row.grid[row.peak])}: ${n(row.worth[row.peak])}`;
    const about = study.exact ? "" : "≈ ", interval = `95%: ${n(study.low)} to ${n(study.high)}`;
    return ` · gold ${about}${n(study.worth)} (${interval}), ${row.of} · this corner ${n(worth)} · ${top}`;
  }
  if (!now.worth) return `${reached} · proxy ${n(proxy)} (${overOrUnder(d, proxy, now.proxy[0])})`;
  const best = `best was ${called(tilt, now.grid[now.peak])}: ${n(now.worth[now.peak])}`;
  const name = row || why ? "this corner: gold" : d.gold ? "gold" : `proxy ${n(proxy)} · held-out members`;
  return `${reached} · ${name} ${n(worth)} (${overOrUnder(d, worth, now.worth[0])}) · ${best}`;
}

export function sentence(d, s, now, point) {
  const { worth, proxy, kl, ess, row, study, why } = point;
  const { ensemble, members, aggregator, strength, tilt, at } = s, n = (x) => num(x, d.digits);
  const one = aggregator === "gold" || members.length === 1, all = members.length === ensemble.members.length;
  const rule = AGGREGATORS[aggregator][0].replace("λ", num(strength));
  const who = aggregator === "gold" ? "Gold itself" : one ? `One judge${study ? "" : ` (${d.columns[members[0]]})`}`
    : `${all ? "The" : `${members.length} of ${ensemble.members.length}`} judges (${ensemble.label}), by ${rule}`;
  const does = tilt ? `, the tilt at ${called(tilt, at).replace("β", "beta")}: KL ${num(kl)} nats, `
    : `${one ? " chooses" : ", choose"} from ${at === 1 ? "1 answer" : whole(at) + " answers"}: `;
  const few = ess < FEW && `${num(ess, 1)} effective answers: the pool cannot represent this policy.`;
  if (study) {
    const about = study.exact ? "" : "about ", here = one && aggregator !== "gold" ? ` (${d.columns[members[0]]})` : "";
    const interval = `95% interval ${n(study.low)} to ${n(study.high)}`;
    return `${who}${does}gold is ${about}${n(study.worth)} over ${row.of} (${interval}), `
      + `${beside(d, study.worth, row.worth[0])}; the proxy is ${n(study.proxy)}. `
      + past(d, s, row, study.worth, kl, "its")
      + ` In this corner${here} gold is ${n(worth)} and the proxy ${n(proxy)}.`;
  }
  if (d.gold) {
    const only = row ? ` The study's rows end at n = ${whole(d.study.end)}.` : why ? ` Only this corner: ${why}.` : "";
    return `${who}${does}gold is ${n(worth)}, ${beside(d, worth, now.worth[0])}; the proxy is ${n(proxy)}. `
      + (few || past(d, s, now, worth, kl, "its")) + only;
  }
  const others = heldOut(d, members), says = others.length === 1 ? `${d.columns[others[0]]}, held out, says`
    : `the ${others.length} members held out say`;
  return `${who}${does}the proxy is ${n(proxy)}, ${beside(d, proxy, now.proxy[0])}`
    + (now.worth ? `; ${says} ${n(worth)}, ${beside(d, worth, now.worth[0])}. ` : ". ")
    + (few || (now.worth ? past(d, s, now, worth, kl, "their") : alone(d))) + " There is no gold.";
}
function past(d, { tilt, at }, now, worth, kl, whose) { // where the worth stands to its peak
  const top = now.worth[now.peak], best = now.grid[now.peak], there = called(tilt, best);
  const shown = d.digits === 2 ? "two digits" : `${d.digits} decimals`;
  return at === best ? `This is ${whose} ${now.summit}.`
    : top - worth < 0.5 * 10 ** -d.digits ? `The peak, at ${there}, is no higher to ${shown}.`
    : kl > now.kl[now.peak] ? `That is ${num(top - worth, d.digits)} below the peak, which was at ${there}.`
    : `The ${now.summit}, ${num(top, d.digits)}, comes at ${there}.`;
}
const alone = (d) => (d.C === 1 ? "No other member is there to be held out."
  : "All members judge: untick one to hold it out.");

export function caption(d, s, now, { row, why }) {
  const { members, aggregator, tilt } = s, judged = aggregator !== "gold", whose = d.gold ? "gold's" : "their";
  if (row) return ofStudy(d, row, judged && members.length > 1);
  if (why) return `This corner: ${corner(d)}.` + rest(d, s, now);
  const band = `band: ± 1 standard error of ${whose} difference to ${called(tilt, now.grid[0])}`;
  const over = d.P === 1 ? "One request: no band." : `Averages over ${d.P} requests${now.worth ? `; ${band}` : ""}.`;
  return (d.gold ? "" : "This pool has no gold: what is shown is what reward models say"
      + `${now.worth ? ", those that judge and those held out (their mean)" : ""}, not what is true. `)
    + over + rest(d, s, now);
}
function rest(d, { members, aggregator, tilt }, now) { // of the pool's lines
  const judged = aggregator !== "gold";
  return (judged && d.gold ? ` Oracle: gold itself ${tilt ? "is the proxy" : "chooses"}.` : "")
    + (judged && d.gold && members.length > 1 ? " One alone: the members judging singly, averaged." : "")
    + (now.last < now.grid.length - 1 ? ` Dotted: fewer than ${FEW} effective answers a request (harmonic mean).` : "")
    + (d.vocab || d.M === d.N ? "" : ` Carried: ${whole(d.M)} of each request's ${whole(d.N)} answers, those that can `
      + "win and a weighted sample of the others.");
}

const corner = (d) => `the ${d.P === 1 ? "request" : `${d.P} requests`} and the reward models of this page`;
function ofStudy(d, row, several) { // what the picture of a study's row says
  const has = (name) => d.study.rows.some((r) => r.ensemble === name);
  return `Thick: the study's mean over ${row.of}; band: its 95% interval. Thin: this corner, ${corner(d)}.`
    + (has("oracle") && row.ensemble !== "oracle" ? " Oracle: gold itself chooses." : "")
    + (several && has("single") ? " One alone: the study's single models." : "");
}

export function hint(d, choices, { ensemble, members, aggregator }) {
  const sizes = sizesOf(choices, ensemble), seeds = ensemble.members.some((c) => /^p\d+ f\d+$/.test(d.columns[c]));
  const counts = sizes.map((e) => e.members.length).join(", ");
  return (seeds ? "p: pretraining seed, f: finetuning seed. " : "")
    + (aggregator === "gold" ? "Gold chooses: nobody else is asked."
    : sizes.length > 1 ? `Each number of ${ensemble.series} was trained for itself: ${counts}.`
    : members.length === 1 ? "With one judge every aggregator gives its score." : "");
}
