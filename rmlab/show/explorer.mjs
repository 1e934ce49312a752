// The explorer's picture and controls; the numbers are explorer_math.mjs's. explorer.py joins the two into the one script
// that JupyterLab, Colab and a page without a kernel run: no library, no network.

import {
  AGGREGATORS, TIE, along, average, bestOf, correlation, countsOf, curve, effective, goldOf, harmonic, klBound, ladders, prices,
  scoreOf, standardError, tilts, typicalTilted, typicalWinner, unpack, wordsOf,
} from "./explorer_math.mjs";
import { called, drawPlot, make, num, rulerIn, whole } from "./explorer_plot.mjs";

// ---- words and nodes

export function readable(text) { // "- price : fair ! i know" -> "– price: fair! I know"
  return text.replace(/(^| )- (\w+) : /g, "$1– $2: ").replace(/ ([.,!?;:])/g, "$1").replace(/\bi\b/g, "I")
    .replace(/(^|[.!?] )([a-z])/g, (_, end, letter) => end + letter.toUpperCase());
}
const signed = (x) => (num(x)[0] === "−" ? "" : "+") + num(x);
const FEW = 10; // effective answers: with fewer, the luck of one answer's gold decides; as in tilt.py
const CONTROL = /^(input|select|button|summary)$/; // JupyterLab would take their arrow keys
const h = (tag, attrs = {}, ...kids) =>
  make(document.createElement(tag), CONTROL.test(tag) ? { "data-lm-suppress-shortcuts": "true", ...attrs } : attrs, kids);

// ---- the widget

async function render({ model, el: root }) {
  const raw = model.get("data");
  const d = await unpack(model.get("meta"), raw.buffer ? new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength) : raw);
  const id = `rmx${Math.random().toString(36).slice(2, 10)}-`, onPage = root.classList.contains("anywidget-offline");
  const families = [...d.constructions];
  if (!families.some((f) => f.name === "single")) families.unshift({ name: "single", label: "one reward model", members: [...d.columns.keys()] });
  const single = families.find((f) => f.name === "single");
  const several = families.find((f) => f.name === "pretrain") ?? families.find((f) => f !== single && f.members.length > 1);
  const usual = (f) => (f === single ? f.members.slice(0, 1) : [...f.members]);
  const sizes = (f) => families.filter((g) => g === f || (f.series && g.series === f.series)).sort((a, b) => a.members.length - b.members.length);
  const lead = (f) => sizes(f).find((g) => g.name === f.series) ?? sizes(f)[sizes(f).length >> 1]; // of a series: the one in the menu
  const places = []; // of n: 16 an octave
  for (let k = 0; k <= 16 * Math.log2(d.N); k++) places.push(Math.round(2 ** (k / 16)));
  const stops = [...new Set([...places, d.N])], grid = [...new Set([...places.filter((_, k) => k % 4 === 0), d.N])];
  const mean = (table) => table.map(average), reaches = stops.map(klBound);
  const reach = (tilt) => (tilt ? Array.from({ length: 65 }, (_, k) => klBound(d.N) * (k / 64) ** 2) : grid.map(klBound)); // the KL where rivals are drawn
  // An optimiser's curve: the slider's stops, the grid where it is drawn, and the KL of both.
  function sweep(members, how, lam, tilt) {
    if (!tilt) return { stops, grid, kl: reach(tilt), reaches, ...curve(d, members, how, lam, grid) };
    const rows = ladders(d, members, how, lam), betas = prices(d, rows), all = tilts(d, rows, [Infinity, ...betas]), kl = mean(all.kl);
    return { ...all, rows, stops: betas, grid: [Infinity, ...betas], kl, reaches: kl.slice(1), ess: all.ess.map(harmonic) };
  }

  // state: the traits, made sound
  const NAMES = ["construction", "members", "how", "lam", "n", "prompt", "optimiser", "beta"];
  function state() {
    const family = families.find((f) => f.name === model.get("construction")) ?? families[0], asked = model.get("members");
    const how = model.get("how") in AGGREGATORS ? model.get("how") : "mean";
    const lam = Math.min(how === "quantile" ? 1 : Infinity, Math.max(how === "entropic" ? 1e-3 : 0, +model.get("lam") || 0));
    let members = asked.filter((c) => family.members.includes(c));
    if (members.length < Math.max(1, asked.length) || (family === single && members.length > 1)) members = usual(family);
    if (members.join() !== asked.join()) { dirty = true; model.set("members", members); }
    const clamp = (x, low, high) => Math.min(high, Math.max(low, Math.round(x) || low));
    const tilt = model.get("optimiser") === "tilt", n = clamp(model.get("n"), 1, d.N), at = tilt ? +model.get("beta") || 0 : n;
    return { family, members, how, lam, tilt, at, n, prompt: clamp(model.get("prompt"), 0, d.P - 1) };
  }
  let touched = false, dirty = false, timer = 0, frame = 0, voice = 0, seen = [], told = [];
  const change = (part) => { touched = dirty = true; model.set(part); }; // drawn, and saved, in the next frame
  const place = () => String([...document.querySelectorAll(".anywidget-offline")].indexOf(root)); // which of the page's
  function fromAddress() {
    if (!onPage || !location.hash.startsWith("#x=")) return;
    let text = location.hash.slice(3);
    try { text = decodeURIComponent(text); } catch { /* a stray % is text */ }
    const [where, construction, members, how, lam, n, prompt, beta] = text.split("~"), tilt = beta !== undefined;
    if (where !== place() || prompt === undefined) return;
    if (![lam, n, prompt, beta ?? 1].every((x) => isFinite(x)) || !(how in AGGREGATORS)) return;
    model.set({ construction, members: members.split(".").map(Number), how, lam: +lam, n: +n, prompt: +prompt,
      optimiser: tilt ? "tilt" : "best_of_n", ...(tilt ? { beta: +beta } : {}) });
    requestAnimationFrame(() => root.scrollIntoView({ block: "start" }));
  }
  function toAddress({ family, members, how, lam, tilt, at, n, prompt }) {
    clearTimeout(timer);
    const words = [place(), family.name, members.join("."), how, lam, n, prompt, ...(tilt ? [at] : [])].join("~");
    timer = setTimeout(() => history.replaceState(null, "", "#x=" + words), 300);
  }

  // controls
  const choose = (f) => ({ construction: f.name, members: usual(f) });
  const presets = [
    ["one judge", { ...choose(single), how: "mean", n: d.N }],
    ["several, their mean", several && { ...choose(several), how: "mean", n: d.N }],
    ["several, the worst", several && { ...choose(several), how: "min", n: d.N }],
    ["ask gold", { how: "gold", n: d.N }],
  ].filter(([, to]) => to).map(([label, to]) => ({ to, button: h("button", { type: "button", on: { click: () => change(to) } }, label) }));
  const option = (value, words) => h("option", { value }, words);
  function select(name, label, options, to) {
    const box = h("select", { id: id + name, on: { change: () => change(to(box.value)) } }, options);
    return [h("div", { class: "rmx-" + name }, h("label", { for: id + name }, label), box), box];
  }
  const menu = families.filter((f) => f === lead(f)), left = new Set(single.members), one = (c) => left.delete(c) && option(c, d.columns[c]);
  const [familyField, familyBox] = select("construction", "judges", menu.map((f) => option(f.name, f.label)),
    (name) => choose(families.find((f) => f.name === name)));
  familyField.hidden = menu.length === 1;
  const [oneField, oneBox] = select("one", "which one", [...menu.filter((f) => f !== single), single].map((f) => [f, sizes(f).flatMap((g) => g.members.map(one))])
    .map(([f, kids]) => (f === single ? kids : kids.some((x) => x) && h("optgroup", { label: f.series ?? f.label }, kids))), (c) => ({ members: [+c] }));
  const [howField, howBox] = select("how", "aggregator", Object.entries(AGGREGATORS).map(([k, v]) => option(k, v[0])),
    (how) => ({ how, ...(AGGREGATORS[how][1] ? { lam: AGGREGATORS[how][1][3] } : {}) }));
  function slider(name, label, attrs, to) {
    const box = h("input", { id: id + name, type: "range", ...attrs, on: { input: () => change(to(+box.value)) } });
    const out = h("output", { for: id + name });
    return [h("div", { class: `rmx-range rmx-${name}` }, h("label", { for: id + name }, label), box, out), box, out];
  }
  const [lamField, lamBox, lamOut] = slider("lam", "λ", { min: 0, max: 3, step: 0.1 }, (lam) => ({ lam }));
  const [countField, countBox, countOut] = slider("count", "members", { min: 1, step: 1 }, (k) => {
    const { family } = state(), steps = sizes(family);
    return steps.length > 1 ? choose(steps[k - 1]) : { members: family.members.slice(0, k) };
  });
  const [nField, nBox, nOut] = slider("n", "n, answers to choose from", { min: 0, max: stops.length - 1, step: 1 }, (k) => ({ n: stops[k] }));
  const [betaField, betaBox, betaOut] = slider("beta", "β, the proxy a nat must earn", { min: 0, step: 1 }, (k) => ({ beta: now.stops[k] }));
  const optimisers = [["best_of_n", "best of n"], ["tilt", "tilt"]].map(([optimiser, label]) =>
    h("button", { type: "button", on: { click: () => change({ optimiser }) } }, label));
  const optimiserField = h("div", {}, h("span", { class: "rmx-label", "aria-hidden": true }, "optimiser"),
    h("div", { class: "rmx-ends", role: "group", "aria-label": "optimiser" }, optimisers));
  const toggles = h("div", { class: "rmx-members", role: "group", "aria-label": "members that judge" });
  const judging = h("div", {}, h("span", { class: "rmx-label", "aria-hidden": true }, "members that judge"), toggles);
  const hint = h("p", { class: "rmx-small rmx-hint" });
  const step = (by) => () => change({ prompt: (state().prompt + by + d.P) % d.P });
  const plot = h("div", { class: "rmx-plot" }), ruler = rulerIn(plot), readout = h("p", { class: "rmx-readout" });
  const sentence = h("p", { class: "rmx-say", "aria-hidden": true }); // seen at once; said when the hand rests
  const status = h("p", { class: "rmx-status rmx-unseen", role: "status", "aria-live": "polite" });
  const caption = h("p", { class: "rmx-small rmx-hint" });
  const which = h("span"), request = h("p", { class: "rmx-request" }), answer = h("div"), bill = h("div");
  const best = h("details", {}, h("summary"), h("blockquote"));
  let tail = false; // of the members' correlation: all answers, or the best tenth
  const ends = ["all answers", "the best tenth"].map((label, k) =>
    h("button", { type: "button", on: { click: () => { tail = k === 1; later(); } } }, label));
  const verdict = h("b"), matrix = h("div", { class: "rmx-scroll", role: "group", tabindex: 0, "aria-label": "correlation of the members" }), reading = h("p", { class: "rmx-small rmx-hint" });
  const alike = h("details", { class: "rmx-alike", on: { toggle: () => later() } }, h("summary", {}, "Do these members differ? ", verdict),
    h("div", { class: "rmx-ends", role: "group", "aria-label": "answers compared" }, ends), matrix, reading);
  fromAddress();
  root.classList.add("rmx");
  root.replaceChildren(
    h("div", { class: "rmx-presets", role: "group", "aria-label": "show me" },
      h("span", { "aria-hidden": true }, "Show me"), presets.map((x) => x.button)),
    h("div", { class: "rmx-controls" }, familyField, countField, oneField, howField, lamField), hint, plot,
    h("div", { class: "rmx-strength" }, optimiserField, nField, betaField), readout, sentence, status, caption, judging, alike,
    h("div", { class: "rmx-bar" },
      h("button", { type: "button", "aria-label": "previous request", on: { click: step(-1) } }, "‹"), which,
      h("button", { type: "button", "aria-label": "next request", on: { click: step(1) } }, "›")),
    request, h("div", { class: "rmx-panels" }, h("div", {}, answer, best), bill));

  // state -> picture. `now` holds what does not depend on n; `range` keeps the gold axis still between the presets.
  let key = "", now = null, natsAt = null;
  const range = presets.filter(({ to }) => to.how !== "gold").flatMap(({ to }) => mean(curve(d, to.members, to.how, 1, grid).gold));
  const known = {}; // mean gold at each KL of `reach`, of a column that judges alone, or of gold itself: the oracle
  function solo(c, tilt) {
    if (known[[c, tilt]]) return known[[c, tilt]];
    const { kl, gold } = c === "gold" ? sweep([], c, 1, tilt) : sweep([c], "mean", 1, tilt);
    return (known[[c, tilt]] = along(reach(tilt), kl, mean(gold)));
  }
  function alone({ members }, tilt) { // their average; columns not yet known take a few frames
    const until = performance.now() + 5;
    for (const c of members) {
      if (!known[[c, tilt]] && performance.now() > until) { later(); return null; }
      solo(c, tilt);
    }
    return reach(tilt).map((_, k) => average(members.map((c) => solo(c, tilt)[k])));
  }
  function compute({ members, how, lam, tilt }) {
    const asked = JSON.stringify([members, how, lam, tilt]);
    if (asked === key) return;
    key = asked;
    const { gold, proxy, ...rest } = sweep(members, how, lam, tilt);
    now = { ...rest, gold: mean(gold), proxy: mean(proxy), se: gold.map((g) => standardError(g.map((x, p) => x - gold[0][p]))) };
    now.last = tilt ? Math.max(0, now.ess.findLastIndex((x) => x >= FEW)) : grid.length - 1; // beyond it, dotted
    now.peak = now.gold.indexOf(Math.max(...now.gold.slice(0, now.last + 1)));
    now.summit = now.peak === now.last && now.last < now.grid.length - 1 ? "best before the dots" : "peak"; // there gold may still rise
  }
  function draw() {
    const s = state(), { family, members, how, lam, tilt } = s, slide = AGGREGATORS[how][1], name = (x) => called(tilt, x);
    compute(s);
    if (tilt) s.at = Math.min(now.stops[0], Math.max(now.stops.at(-1), s.at));
    const { at } = s, here = tilt ? tilts(d, now.rows, [at]) : bestOf(now.rows, [at]), [gold, proxy] = [here.gold, here.proxy].map((x) => average(x[0]));
    const kl = tilt ? average(here.kl[0]) : klBound(at), ess = tilt ? harmonic(here.ess[0]) : Infinity;
    drawCurves(s, { kl, gold, proxy }); // first: it measures words, which is quick while nothing on the page has changed
    const start = now.gold[0], peak = now.grid[now.peak], top = now.gold[now.peak];
    familyBox.value = lead(family).name; howBox.value = how;
    familyBox.selectedOptions[0].textContent = family.label; // a series goes by the size that is chosen
    optimisers.forEach((button, k) => button.setAttribute("aria-pressed", String(tilt === (k === 1)))); nField.hidden = tilt; betaField.hidden = !tilt;
    const [box, out] = tilt ? [betaBox, betaOut] : [nBox, nOut];
    box.max = now.stops.length - 1; box.value = now.stops.findLastIndex((x) => (tilt ? x >= at : x <= at)); out.value = name(at).slice(4);
    box.setAttribute("aria-valuetext", tilt ? `${out.value}, KL ${num(kl)} nats` : `${whole(at)} answers`);
    lamBox.disabled = !slide; lamOut.value = slide ? num(lam, slide[2] < 0.1 ? 2 : 1) : "not used";
    if (slide) { [lamBox.min, lamBox.max, lamBox.step] = slide; lamBox.value = lam; }
    for (const { to, button } of presets) {
      const same = how === to.how && (how === "gold" || (family.name === to.construction && members.join() === to.members.join()));
      button.setAttribute("aria-pressed", String(same));
    }
    drawMembers(s);
    drawAlike(s);
    caption.textContent = `Averages over ${d.P} requests; band: ± 1 standard error of gold's difference to ${name(now.grid[0])}.`
      + (how === "gold" ? "" : tilt ? " Oracle: gold itself is the proxy." : " Oracle: gold itself chooses.") + (how === "gold" || members.length < 2 ? "" : " One alone: the members judging singly, averaged.")
      + (now.last < now.grid.length - 1 ? ` Dotted: fewer than ${FEW} effective answers a request (harmonic mean).` : "");
    readout.replaceChildren(h("b", {}, name(at)), (tilt ? ` · KL ${num(kl)}` : "") + ` · gold ${num(gold)} (${gold < start ? num(start - gold) + " under" : signed(gold - start) + " over"} a uniform pick)`,
      ` · best was ${name(peak)}: ${num(top)}`);
    const who = how === "gold" ? "Gold itself" : members.length === 1 ? `One judge (${d.columns[members[0]]})`
      : `${members.length < family.members.length ? `${members.length} of ${family.members.length}` : "The"} judges (${family.label}), by ${AGGREGATORS[how][0].replace("λ", num(lam))}`;
    const does = tilt ? `, the tilt at ${name(at).replace("β", "beta")}: KL ${num(kl)} nats, `
      : `${how === "gold" || members.length === 1 ? " chooses" : ", choose"} from ${at === 1 ? "1 answer" : whole(at) + " answers"}: `;
    const there = name(peak).replaceAll(" ", "\u00a0"), past = ess < FEW ? `${num(ess, 1)} effective answers: the pool cannot represent this policy.`
      : at === peak ? `This is its ${now.summit}.`
      : top - gold < 0.005 ? `The peak, at ${there}, is no higher to two digits.`
      : kl > now.kl[now.peak] ? `That is ${num(top - gold)} below the peak, which was at ${there}.`
      : `The ${now.summit}, ${num(top)}, comes at ${there}.`;
    const say = `${who}${does}gold is ${num(gold)}, ${num(Math.abs(gold - start))} `
      + `${gold >= start ? "above" : "below"} a uniform pick; the proxy is ${num(proxy)}. ${past}`;
    const words = [say, alike.hidden ? "" : verdict.textContent + "."];
    if (words.join() !== seen.join()) {
      clearTimeout(voice);
      voice = setTimeout(() => { // what is new to who cannot see it
        status.textContent = words.filter((x, k) => x && x !== told[k]).join(" ");
        told = words;
      }, sentence.textContent ? 250 : 0);
      sentence.textContent = say;
      seen = words;
    }
    drawAnswer(s);
    const result = { gold, proxy, ...(tilt ? { kl, ess, peak_beta: isFinite(peak) ? peak : null } : { peak_n: peak }), peak_gold: top };
    if (JSON.stringify(result) !== JSON.stringify(model.get("result"))) { dirty = true; model.set("result", result); }
    if (dirty) model.save_changes();
    dirty = false;
    if (onPage && touched) toAddress(s);
  }
  function drawMembers({ family, members, how }) {
    const one = family === single && family.members.length > 1, K = family.members.length, steps = sizes(family), series = steps.length > 1;
    oneField.hidden = !one; countField.hidden = one || (K < 2 && !series); judging.hidden = one || K < 2;
    oneBox.value = members[0]; oneBox.disabled = how === "gold";
    countField.firstChild.textContent = series ? family.series : "members";
    countBox.max = series ? steps.length : K; countBox.value = series ? steps.indexOf(family) + 1 : members.length;
    countBox.disabled = how === "gold";
    countOut.value = series ? K : `${members.length} of ${K}`;
    countBox.setAttribute("aria-valuetext", series ? family.label : countOut.value);
    if (toggles.dataset.family !== family.name) {
      toggles.dataset.family = family.name;
      const toggled = (c) => ({ target }) => {
        const on = family.members.filter((x) => (x === c ? target.checked : state().members.includes(x)));
        if (on.length) change({ members: on });
        else target.checked = true; // at least one stays
      };
      toggles.replaceChildren(...family.members.map((c) => h("label", {},
        h("input", { type: "checkbox", value: c, on: { change: toggled(c) } }), h("span", {}, d.columns[c]))));
    }
    for (const box of toggles.querySelectorAll("input")) { box.checked = members.includes(+box.value); box.disabled = how === "gold"; }
    hint.textContent = (family.members.some((c) => /^p\d+ f\d+$/.test(d.columns[c])) ? "p: pretraining seed, f: finetuning seed. " : "")
      + (how === "gold" ? "Gold chooses: nobody else is asked."
        : series ? `Each number of ${family.series} was trained for itself: ${steps.map((f) => f.members.length).join(", ")}.`
        : members.length === 1 ? "With one judge every aggregator gives its score." : "");
  }
  let compared = "";
  function drawAlike({ family, members, how }) {
    const asked = JSON.stringify([family.name, members, tail, alike.open]), K = members.length;
    alike.hidden = how === "gold" || K < 2;
    if (alike.hidden || asked === compared) return;
    compared = asked;
    const values = correlation(d, members, tail), [rho, worth] = effective(values), digits = (x) => num(x).replace("0.", ".");
    const counted = sizes(family).length > 1 ? [family.series, " members"] : ["members", ""];
    verdict.textContent = `${K} ${counted[0]}, ${num(worth, 1)} effective${counted[1]}${tail ? " in the best tenth" : ""}`;
    if (!alike.open) return;
    ends.forEach((button, k) => button.setAttribute("aria-pressed", String(tail === (k === 1))));
    reading.textContent = `How the scores of two members go together among a request's answers: 1 is the same order and spacing, 0 is no relation. On average ${num(rho)}, `
      + `so ${K} are worth ${rho < 0 ? `all ${K}` : `${K} / (1 + ${K - 1} × ${num(rho)}) ≈ ${num(worth, 1)} unrelated ones`}. Members also agree where they are right: compare the number between sets of judges. `
      + (tail ? "The best tenth are chosen by the members' mean, which lowers it by itself: do not compare it with all answers." : "");
    const name = (k) => d.columns[members[k]];
    matrix.replaceChildren(h("table", { class: "rmx-matrix" }, h("caption", { class: "rmx-unseen" }, `Correlation of two members' scores, ${ends[+tail].textContent}`),
      h("thead", {}, h("tr", {}, h("td"), members.map((_, k) => h("th", { scope: "col" }, `${k + 1}`, h("span", { class: "rmx-unseen" }, ` ${name(k)}`))))),
      h("tbody", {}, values.map((row, j) => h("tr", {}, h("th", { scope: "row" }, h("b", {}, `${j + 1}`), ` ${name(j)}`),
        row.map((x, k) => h("td", { style: `--much:${Math.round(Math.max(0, x) * 50)}%`, class: j === k ? "rmx-self" : null }, j === k ? "1" : digits(x))))))));
  }
  function drawCurves(s, here) {
    const { family, how, tilt, members } = s;
    const rivals = { at: reach(tilt), oracle: how === "gold" ? null : solo("gold", tilt), alone: how !== "gold" && members.length > 1 ? alone(family, tilt) : null };
    natsAt = drawPlot({ d, id, plot, ruler, width }, s, { ...now, ...rivals, range }, here);
  }
  const drag = (e) => { // the stop nearest the pointer
    const { tilt } = state(), nats = natsAt(e.clientX), far = now.reaches.map((v) => Math.abs(v - nats));
    change({ [tilt ? "beta" : "n"]: now.stops[far.indexOf(Math.min(...far))] });
  };
  function drawAnswer({ prompt: p, tilt, at: by, members, how }) {
    const base = p * d.M, at = base + (tilt ? typicalTilted(d, p, now.rows[p], by) : typicalWinner(now.rows[p], by)), proxy = now.rows[p].s[at - base];
    const own = members.map((c) => scoreOf(d, at, c)), low = Math.min(...own);
    const rank = (f) => {
      let above = 0;
      for (let i = base; i < base + d.M; i++) if (f(i) > f(at) + TIE) above += d.weight[i];
      return whole(Math.round(above) + 1);
    };
    which.textContent = `request ${p + 1} of ${d.P}`;
    request.textContent = readable(d.prompts[p]);
    const row = (name, value, place, c) => h("tr", { class: c }, h("th", { scope: "row" }, name), h("td", {}, num(value)), h("td", {}, place));
    const note = (k) => (members.length > 1 && own[k] === low ? " (the minimum)" : "");
    const judges = members.map((c, k) => row(d.columns[c] + note(k), own[k], rank((i) => scoreOf(d, i, c))));
    const chose = how === "gold" ? `gold itself, at ${num(proxy)}.` : members.length === 1 ? `${d.columns[members[0]]}, at ${num(proxy)}.`
      : `${members.length} judges, proxy ${num(proxy)}; ${d.columns[members[own.indexOf(low)]]} was the minimum.`;
    answer.replaceChildren(h("p", { class: "rmx-h" }, `The ${tilt ? "median answer by the proxy" : "typical winner"} at ${called(tilt, by)}`), h("blockquote", {}, readable(wordsOf(d, at)) || "(says nothing)"),
      h("p", { class: "rmx-small" }, h("b", {}, "Who chose it: "), chose),
      h("table", { class: "rmx-ranks" }, h("thead", {}, h("tr", {}, ["judge", "score", `rank of ${whole(d.N)}`].map((w) => h("th", { scope: "col" }, w)))),
        h("tbody", {}, judges, row("gold", d.gold[at], rank((i) => d.gold[i]), "rmx-by-gold"))));
    let star = base;
    for (let i = base; i < base + d.M; i++) if (d.gold[i] > d.gold[star]) star = i;
    best.firstChild.textContent = `The best answer by gold in this pool: ${num(d.gold[star])}`;
    best.lastChild.textContent = readable(wordsOf(d, star)) || "(says nothing)";
    const counts = countsOf(d, at), worth = goldOf(counts, d.bill), most = Math.max(3, ...worth.map(Math.abs));
    const bar = (v) => h("span", { class: "rmx-track", "aria-hidden": true }, h("i", { class: v < 0 ? "rmx-minus" : "rmx-plus", style: `width:${(Math.abs(v) / most) * 50}%` }));
    const item = (words, v, show, c) => h("li", { class: c }, h("span", {}, words), bar(v), h("span", { class: "rmx-value" }, show(v)));
    bill.replaceChildren(h("p", { class: "rmx-h" }, "Gold's bill for it"), h("ul", { class: "rmx-bill" },
      d.bill.map((term, f) => (Math.abs(worth[f]) > 1e-9 ? item(term.label + (counts[f] > 1 && term.name !== "coverage" ? ` × ${counts[f]}` : ""), worth[f], signed) : null)),
      h("li", { class: "rmx-total" }, h("span", {}, "gold"), h("span"), h("span", { class: "rmx-value" }, num(d.gold[at])))));
  }

  const later = () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); };
  for (const name of NAMES) model.on("change:" + name, later);
  if (onPage) addEventListener("hashchange", fromAddress);
  ruler.renewed();
  let width = plot.clientWidth; // measured by the observer, so that a frame never waits for a layout
  draw();
  plot.onpointerdown = (e) => { if (e.button === 0) { plot.setPointerCapture(e.pointerId); drag(e); } };
  plot.onpointermove = (e) => { if (e.buttons && plot.hasPointerCapture(e.pointerId)) drag(e); };
  const watch = new ResizeObserver(() => { // the plot has another width, or its words another font
    const wider = plot.clientWidth !== width;
    width = plot.clientWidth;
    if (ruler.renewed() || wider) later();
  });
  watch.observe(plot); watch.observe(ruler.sample);
  return () => {
    watch.disconnect();
    cancelAnimationFrame(frame); clearTimeout(voice); clearTimeout(timer);
    removeEventListener("hashchange", fromAddress);
    for (const name of NAMES) model.off("change:" + name, later);
  };
}
export default { render };
