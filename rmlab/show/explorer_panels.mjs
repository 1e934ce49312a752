// The explorer's panels: controls, members and their correlation, one request's answer and gold's bill for it.
// `ui` is { d, choices, id, state, now, change, later }: the pool, what it has to choose from, a prefix of ids, the
// state and the curves as functions, how a control changes traits, and how another frame is asked for.

import {
  AGGREGATORS, TIE, answerOf, average, correlation, countsOf, effective, goldOf, heldOut, scoreOf, typicalTilted,
  typicalWinner,
} from "./explorer_math.mjs";
import { called, chosen, hint, leadOf, readable, sizesOf } from "./explorer_state.mjs";
import { button, group, h, num, option, press, select, signed, slider, titled, whole } from "./widget.mjs";

// ---- who judges, and how

const menuOf = (choices) => choices.ensembles.filter((e) => e === leadOf(choices, e)); // a series is there once

function columnOptions({ d, choices }) { // each of the single models once, under the first of the menu that has it
  const left = new Set(choices.single.members), one = (c) => left.delete(c) && option(c, d.columns[c]);
  const lists = menuOf(choices).filter((e) => e !== choices.single).map((e) => {
    const kids = sizesOf(choices, e).flatMap((x) => x.members.map(one));
    return kids.some((x) => x) && h("optgroup", { label: e.series ?? e.label }, kids);
  });
  return [lists, choices.single.members.map(one)];
}

export function controls(ui) {
  const { d, choices, change, state } = ui, { stops } = choices, menu = menuOf(choices);
  const presets = choices.presets.map(([label, to]) => ({ to, node: button(label, () => change(to)) }));
  const ensemble = select(ui, "ensemble", "judges", menu.map((e) => option(e.name, e.label)),
    (name) => chosen(choices, choices.ensembles.find((e) => e.name === name)));
  ensemble.field.hidden = menu.length === 1;
  const one = select(ui, "one", "which one", columnOptions(ui), (c) => ({ members: [+c] }));
  const rules = Object.entries(AGGREGATORS).filter(([name]) => d.gold || name !== "gold")
    .map(([name, [label]]) => option(name, label));
  const aggregator = select(ui, "aggregator", "aggregator", rules, (name) => {
    const range = AGGREGATORS[name][1];
    return { aggregator: name, ...(range ? { strength: range[3] } : {}) };
  });
  const strength = slider(ui, "strength", "λ", { min: 0, max: 3, step: 0.1 }, (x) => ({ strength: x }));
  const count = slider(ui, "count", "members", { min: 1, step: 1 }, (k) => {
    const { ensemble: e } = state(), sizes = sizesOf(choices, e);
    return sizes.length > 1 ? chosen(choices, sizes[k - 1]) : { members: e.members.slice(0, k) };
  });
  const places = { min: 0, max: stops.length - 1, step: 1 };
  const n = slider(ui, "n", "n, answers to choose from", places, (k) => ({ n: stops[k] }));
  const beta = slider(ui, "beta", "β, the proxy a nat must earn", places, (k) => ({ beta: ui.now().stops[k] }));
  const optimisers = [["best_of_n", "best of n"], ["tilt", "tilt"]]
    .map(([optimiser, label]) => button(label, () => change({ optimiser })));
  const toggles = group("rmx-members", "members that judge"), judging = titled("members that judge", toggles);
  const about = h("p", { class: "rmx-small rmx-hint" }), which = h("span");
  const turn = (by, label, sign) => button(sign, () => change({ prompt: (state().prompt + by + d.P) % d.P }),
    { "aria-label": `${label} request`, hidden: d.P === 1 });
  return {
    ...{ presets, ensemble, one, aggregator, strength, count, n, beta, optimisers, toggles, judging, about, which },
    shown: group("rmx-presets", "show me", h("span", { "aria-hidden": true }, "Show me"), presets.map((x) => x.node)),
    judges: h("div", { class: "rmx-controls" }, [ensemble, count, one, aggregator, strength].map((x) => x.field)),
    pressure: h("div", { class: "rmx-pressure" },
      titled("optimiser", group("rmx-ends", "optimiser", optimisers)), n.field, beta.field),
    requests: h("div", { class: "rmx-bar" }, turn(-1, "previous", "‹"), which, turn(1, "next", "›")),
  };
}

export function drawControls(c, ui, s, now, { kl }) {
  const { ensemble, members, aggregator, tilt, at } = s, range = AGGREGATORS[aggregator][1];
  const { box, out } = tilt ? c.beta : c.n, { strength } = c;
  c.ensemble.box.value = leadOf(ui.choices, ensemble).name;
  c.ensemble.box.selectedOptions[0].textContent = ensemble.label; // a series goes by the size that is chosen
  c.aggregator.box.value = aggregator;
  c.optimisers.forEach((node, k) => press(node, tilt === (k === 1)));
  c.n.field.hidden = tilt;
  c.beta.field.hidden = !tilt;
  box.max = now.stops.length - 1;
  box.value = now.stops.findLastIndex((x) => (tilt ? x >= at : x <= at));
  out.value = called(tilt, at).slice(4);
  box.setAttribute("aria-valuetext", tilt ? `${out.value}, KL ${num(kl)} nats` : `${whole(at)} answers`);
  strength.box.disabled = !range;
  strength.out.value = range ? num(s.strength, range[2] < 0.1 ? 2 : 1) : "not used";
  if (range) {
    [strength.box.min, strength.box.max, strength.box.step] = range;
    strength.box.value = s.strength;
  }
  for (const { to, node } of c.presets) {
    const same = ensemble.name === to.ensemble && members.join() === to.members.join();
    press(node, aggregator === to.aggregator && (aggregator === "gold" || same));
  }
  c.which.textContent = `request ${s.prompt + 1} of ${ui.d.P}`;
  c.about.textContent = hint(ui.d, ui.choices, s);
  drawMembers(c, ui, s);
}

function drawMembers(c, ui, { ensemble, members, aggregator }) {
  const { choices } = ui, K = ensemble.members.length, sizes = sizesOf(choices, ensemble), series = sizes.length > 1;
  const one = ensemble === choices.single && K > 1, gold = aggregator === "gold";
  c.one.field.hidden = !one;
  c.count.field.hidden = one || (K < 2 && !series);
  c.judging.hidden = one || K < 2;
  c.one.box.value = members[0];
  c.count.words.textContent = series ? ensemble.series : "members";
  c.count.box.max = series ? sizes.length : K;
  c.count.box.value = series ? sizes.indexOf(ensemble) + 1 : members.length;
  c.count.out.value = series ? K : `${members.length} of ${K}`;
  c.count.box.setAttribute("aria-valuetext", series ? ensemble.label : c.count.out.value);
  if (c.toggles.dataset.ensemble !== ensemble.name) {
    c.toggles.dataset.ensemble = ensemble.name;
    c.toggles.replaceChildren(...ensemble.members.map((m) => toggle(ui, ensemble, m)));
  }
  for (const box of c.toggles.querySelectorAll("input")) box.checked = members.includes(+box.value);
  for (const box of [c.one.box, c.count.box, ...c.toggles.querySelectorAll("input")]) box.disabled = gold;
}

function toggle({ d, state, change }, ensemble, m) { // a member, to be ticked
  const ticked = ({ target }) => {
    const members = ensemble.members.filter((x) => (x === m ? target.checked : state().members.includes(x)));
    if (members.length) change({ members });
    else target.checked = true; // at least one stays
  };
  const box = h("input", { type: "checkbox", value: m, on: { change: ticked } });
  return h("label", {}, box, h("span", {}, d.columns[m]));
}

// ---- do the members differ?

const PARTS = ["all answers", "the best tenth"]; // compared

export function alikePanel({ later }) {
  const p = { tail: false, shown: "", verdict: h("b"), reading: h("p", { class: "rmx-small rmx-hint" }) };
  p.matrix = h("div", { class: "rmx-scroll", role: "group", tabindex: 0, "aria-label": "correlation of the members" });
  p.parts = PARTS.map((label, k) => button(label, () => { p.tail = k === 1; later(); }));
  const title = h("summary", {}, "Do these members differ? ", p.verdict);
  const compared = group("rmx-ends", "answers compared", p.parts);
  p.node = h("details", { class: "rmx-alike", on: { toggle: () => later() } }, title, compared, p.matrix, p.reading);
  return p;
}

export function drawAlike(p, { d, choices }, { ensemble, members, aggregator }) { // returns the verdict
  const key = JSON.stringify([ensemble.name, members, p.tail, p.node.open]), K = members.length;
  p.node.hidden = aggregator === "gold" || K < 2;
  if (p.node.hidden) return "";
  if (key !== p.shown) {
    p.shown = key;
    const values = correlation(d, members, p.tail), [rho, worth] = effective(values);
    const [unit, after] = sizesOf(choices, ensemble).length > 1 ? [ensemble.series, " members"] : ["members", ""];
    p.verdict.textContent = `${K} ${unit}, ${num(worth, 1)} effective${after}${p.tail ? " in the best tenth" : ""}`;
    if (p.node.open) {
      p.parts.forEach((node, k) => press(node, p.tail === (k === 1)));
      p.reading.textContent = meaning(K, rho, worth, p.tail);
      p.matrix.replaceChildren(matrix(values, members.map((m) => d.columns[m]), PARTS[+p.tail]));
    }
  }
  return p.verdict.textContent + ".";
}

function meaning(K, rho, worth, tail) {
  const formula = rho < 0 ? `all ${K}` : `${K} / (1 + ${K - 1} × ${num(rho)}) ≈ ${num(worth, 1)} unrelated ones`;
  return "How the scores of two members go together among a request's answers: 1 is the same order and spacing, 0 is "
    + `no relation. On average ${num(rho)}, so ${K} are worth ${formula}. Members also agree where they are right: `
    + "compare the number between sets of judges. "
    + (tail ? "The best tenth are chosen by the members' mean; what the choice does by itself is taken out: lower than "
      + "for all answers, members part there." : "");
}

function matrix(values, names, part) {
  const unseen = (tag, words) => h(tag, { class: "rmx-unseen" }, words);
  const cell = (x, self) => h("td", { style: `--much:${Math.round(Math.max(0, x) * 50)}%`, class: self && "rmx-self" },
    self ? "1" : num(x).replace("0.", "."));
  const head = names.map((name, k) => h("th", { scope: "col" }, `${k + 1}`, unseen("span", ` ${name}`)));
  const rows = values.map((row, j) => h("tr", {},
    h("th", { scope: "row" }, h("b", {}, `${j + 1}`), ` ${names[j]}`), row.map((x, k) => cell(x, j === k))));
  return h("table", { class: "rmx-matrix" }, unseen("caption", `Correlation of two members' scores, ${part}`),
    h("thead", {}, h("tr", {}, h("td"), head)), h("tbody", {}, rows));
}

// ---- one request: its answer, who chose it, and gold's bill or number

// Where a request or an answer is read. Words are a line of ours; a text is whatever it is, and scrolls by itself.
function reader({ d }, label, c = "") {
  return h("div", d.vocab ? { class: c }
    : { class: `${c} rmx-text`, dir: "auto", role: "group", "aria-label": label });
}
function read(d, node, text, nothing) {
  const seen = /[^\s\p{Z}\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}]/u.test(text);
  const words = !seen ? nothing : d.vocab ? readable(text) : text;
  node.classList.toggle("rmx-nothing", !seen);
  if (node.textContent !== words) { // else it stays where it was scrolled to
    node.textContent = words;
    node.scrollTop = 0;
  }
}
function reach(node) { // with the keyboard, where it scrolls
  if (node.scrollHeight > node.clientHeight + 1) node.tabIndex = 0;
  else node.removeAttribute("tabindex");
}

export function answerPanel(ui) {
  const p = { request: reader(ui, "the request", "rmx-request"), worth: h("div"), title: h("p", { class: "rmx-h" }) };
  p.won = reader(ui, "the answer");
  p.star = reader(ui, "the best answer");
  p.choice = h("div");
  p.best = h("details", { on: { toggle: () => ui.later() } }, h("summary"), h("blockquote", {}, p.star));
  const answer = h("div", {}, p.title, h("blockquote", {}, p.won), p.choice, p.best);
  p.node = h("div", { class: ui.d.gold ? "rmx-panels" : "rmx-panels rmx-one" }, answer, ui.d.gold && p.worth);
  return p;
}

export function drawAnswer(p, { d }, s, now) {
  const { prompt, tilt, at, members, aggregator } = s, row = now.rows[prompt], base = prompt * d.M, { own } = row;
  const i = base + (tilt ? typicalTilted(d, prompt, row, at) : typicalWinner(row, at));
  const proxy = num(row.s[i - base], d.digits);
  const scores = members.map((c) => scoreOf(d, i, c)), lowest = scores.indexOf(Math.min(...scores));
  const who = aggregator === "gold" ? `gold itself, at ${proxy}.`
    : members.length === 1 ? `${d.columns[members[0]]}, at ${proxy}.`
    : `${members.length} judges, proxy ${proxy}; ${d.columns[members[lowest]]} was the minimum.`;
  read(d, p.request, d.prompts[prompt], "(an empty request)");
  p.title.textContent = `The ${tilt ? "median answer by the proxy" : "typical winner"} at ${called(tilt, at)}`;
  read(d, p.won, answerOf(d, i), "(says nothing)");
  p.choice.replaceChildren(h("p", { class: "rmx-small" }, h("b", {}, "Who chose it: "), who),
    ranks(d, base, i, members, scores, own));
  p.best.hidden = !own;
  if (own) {
    const star = own.indexOf(Math.max(...own));
    p.best.firstChild.textContent = (d.gold ? "The best answer by gold in this pool: "
      : "The answer that the held-out members like best: ") + num(own[star], d.digits);
    read(d, p.star, answerOf(d, base + star), "(says nothing)");
  }
  if (d.gold) {
    const unit = d.gold_unit ? ` (${d.gold_unit})` : "";
    const [title, list] = d.bill ? ["Gold's bill for it", billOf(d, i)] : [`Gold for it${unit}`, goldList(d, base, i)];
    p.worth.replaceChildren(h("p", { class: "rmx-h" }, title), list);
  }
  if (!d.vocab) [p.request, p.won, p.star].forEach(reach);
}

function ranks(d, base, i, members, scores, own) { // what each judge and gold, or who is held out, give to answer i
  const least = Math.min(...scores);
  const rank = (f) => {
    let above = 0;
    for (let j = base; j < base + d.M; j++) if (f(j) > f(i) + TIE) above += d.weight[j];
    return whole(Math.round(above) + 1);
  };
  const row = (name, f, c) =>
    h("tr", { class: c }, h("th", { scope: "row" }, name), h("td", {}, num(f(i), d.digits)), h("td", {}, rank(f)));
  const note = (x) => (members.length > 1 && x === least ? " (the minimum)" : "");
  const judges = members.map((c, k) => row(d.columns[c] + note(scores[k]), (j) => scoreOf(d, j, c)));
  const others = d.gold ? [] : heldOut(d, members), worth = (j) => own[j - base];
  const held = others.map((c) => row(`${d.columns[c]} (held out)`, (j) => scoreOf(d, j, c), "rmx-by-held"));
  const last = (d.gold || others.length > 1) && row(d.gold ? "gold" : "held out, their mean", worth, "rmx-by-gold");
  const head = ["judge", "score", `rank of ${whole(d.N)}`].map((words) => h("th", { scope: "col" }, words));
  const body = h("tbody", {}, judges, held, last);
  return h("table", { class: "rmx-ranks" }, h("thead", {}, h("tr", {}, head)), body);
}

const valued = (words) => h("span", { class: "rmx-value" }, words);
const bar = (x, most) => h("span", { class: "rmx-track", "aria-hidden": true }, // of x, left or right of the middle
  h("i", { class: x < 0 ? "rmx-minus" : "rmx-plus", style: `width:${(Math.abs(x) / most) * 50}%` }));

function goldList(d, base, i) { // gold's number, from a uniform pick's in the middle
  const w = d.weight.subarray(base, base + d.M), own = d.gold.subarray(base, base + d.M);
  const mean = average(Array.from(own, (x, j) => x * w[j])) / average([...w]);
  const best = Math.max(...own), gold = d.gold[i];
  const most = Math.max(Math.abs(best - mean), Math.abs(gold - mean)) || 1;
  const rows = [["the best in this pool", best], ["a uniform pick", mean], ["this answer", gold]];
  const wide = Math.max(...rows.map(([, x]) => num(x, d.digits).length));
  const lines = rows.map(([words, x], k) =>
    h("li", { class: k === 2 && "rmx-total" }, h("span", {}, words), bar(x - mean, most), valued(num(x, d.digits))));
  return h("ul", { class: "rmx-bill", style: `--value:${wide + 1}ch` }, lines);
}

function billOf(d, i) {
  const counts = countsOf(d, i), worth = goldOf(counts, d.bill), most = Math.max(3, ...worth.map(Math.abs));
  const lines = d.bill.map(({ name, label }, f) => {
    const times = counts[f] > 1 && name !== "coverage" ? ` × ${counts[f]}` : "";
    const line = () => h("li", {}, h("span", {}, label + times), bar(worth[f], most), valued(signed(worth[f])));
    return Math.abs(worth[f]) > 1e-9 && line();
  });
  const total = h("li", { class: "rmx-total" }, h("span", {}, "gold"), h("span"), valued(num(d.gold[i])));
  return h("ul", { class: "rmx-bill" }, lines, total);
}
