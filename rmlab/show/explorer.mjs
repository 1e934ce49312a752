// The explorer: pure functions first (tested against Python), then the drawing. No library, no network.
// A pool `d` has P prompts, M kept answers, C members, F terms; weight says how many answers a kept one stands for.

const TIE = 1e-9;
export const AGGREGATORS = { // label, range and step of lambda, or null
  mean: ["mean", null], median: ["median", null], min: ["min (worst case)", null], max: ["max (optimist)", null],
  mean_std: ["mean − λ std", [0, 3, 0.1, 1]], uwo: ["mean − λ variance (UWO)", [0, 3, 0.1, 1]],
  quantile: ["lower quantile at λ", [0, 0.5, 0.05, 0.25]], entropic: ["entropic, temperature λ", [0.1, 5, 0.1, 1]],
  gold: ["gold itself", null],
};

export function aggregate(s, how, lam) {
  const k = s.length, mean = s.reduce((a, b) => a + b, 0) / k;
  const level = (q) => { const t = [...s].sort((a, b) => a - b), x = q * (k - 1), i = Math.floor(x); return i + 1 < k ? t[i] + (x - i) * (t[i + 1] - t[i]) : t[i]; };
  const variance = () => s.reduce((a, b) => a + (b - mean) ** 2, 0) / k;
  if (how === "mean") return mean;
  if (how === "median") return level(0.5);
  if (how === "min") return Math.min(...s);
  if (how === "max") return Math.max(...s);
  if (how === "mean_std") return mean - lam * Math.sqrt(variance());
  if (how === "uwo") return mean - lam * variance();
  if (how === "quantile") return level(lam);
  if (how === "entropic") { const low = Math.min(...s); return low - lam * Math.log(s.reduce((a, b) => a + Math.exp((low - b) / lam), 0) / k); }
  throw new Error("unknown aggregator " + how);
}

export function goldOf(counts, bill) { // one answer's counts (F) -> contributions (F)
  return bill.map((t, f) => { const c = counts[f], last = t.values.length - 1; return t.values[Math.min(c, last)] + t.slope * Math.max(c - last, 0); });
}

export async function unpack(meta, bytes) { // the page's dict and zlib bytes -> d
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = await new Response(stream).arrayBuffer();
  const types = { "<f4": Float32Array, "<i2": Int16Array, "|u1": Uint8Array }, d = { ...meta };
  let at = 0;
  for (const [name, kind, size] of meta.layout) { const T = types[kind]; d[name] = new T(raw, at, size); at += size * T.BYTES_PER_ELEMENT; }
  d.P = meta.prompts.length; d.C = meta.columns.length; d.F = meta.bill.length; d.M = d.weight.length / d.P;
  d.gold = Float64Array.from({ length: d.P * d.M }, (_, i) => goldOf(d.counts.subarray(i * d.F, (i + 1) * d.F), meta.bill).reduce((a, b) => a + b, 0));
  d.starts = new Int32Array(d.P * d.M + 1);
  for (let i = 0; i < d.P * d.M; i++) d.starts[i + 1] = d.starts[i] + d.lengths[i];
  return d;
}

export const score = (d, i, c) => d.scores[i * d.C + c] * d.scale[c] + d.offset[c];

export function ladders(d, members, how, lam) { // one a prompt: answers ascending, tie groups with log U, mean gold, mean proxy
  return Array.from({ length: d.P }, (_, p) => {
    const s = new Float64Array(d.M), base = p * d.M;
    for (let i = 0; i < d.M; i++) s[i] = how === "gold" ? d.gold[base + i] : aggregate(members.map((c) => score(d, base + i, c)), how, lam);
    const order = Array.from(s.keys()).sort((a, b) => s[a] - s[b] || a - b), groups = [];
    order.forEach((i, j) => {
      if (!j || s[i] - s[order[j - 1]] > TIE) groups.push({ w: 0, gold: 0, proxy: 0, rows: [] });
      const g = groups.at(-1), w = d.weight[base + i];
      g.w += w; g.gold += w * d.gold[base + i]; g.proxy += w * s[i]; g.rows.push(i);
    });
    const total = groups.reduce((a, g) => a + g.w, 0);
    for (let j = groups.length - 1, above = 0; j >= 0; j--) {
      const g = groups[j]; g.logU = Math.log1p(-above / total); above += g.w; g.gold /= g.w; g.proxy /= g.w;
    }
    return { s, groups };
  });
}

export function expected({ groups }, n) { // [gold, proxy] of best-of-n on one prompt
  let before = 0, gold = 0, proxy = 0;
  for (const g of groups) { const u = Math.exp(n * g.logU), won = u - before; before = u; if (won > 0) { gold += won * g.gold; proxy += won * g.proxy; } }
  return [gold, proxy];
}

export function curve(d, members, how, lam, ns) { // mean over prompts: {gold, proxy} (ns.length)
  const some = ladders(d, members, how, lam), mean = (n, j) => some.reduce((a, l) => a + expected(l, n)[j], 0) / d.P;
  return { gold: ns.map((n) => mean(n, 0)), proxy: ns.map((n) => mean(n, 1)) };
}

export function typicalWinner({ groups }, n) { // the median winner: first answer, ascending, with U^n >= 1/2
  return Math.min(...groups.find((g) => n * g.logU >= -Math.LN2 - 1e-12).rows);
}

export const klBound = (n) => Math.log(n) - (n - 1) / n;
export function readable(words) { // "the price is fair ." -> "The price is fair."
  const text = words.replace(/ ([.,!?;:])/g, "$1").replace(/(^|[.!?] )([a-z])/g, (m, a, b) => a + b.toUpperCase()).replace(/- (\w+):/g, "– $1:");
  return text.replace(/\bi\b/g, "I");
}

// ---- drawing

const el = (tag, attrs = {}, ...kids) => put(document.createElement(tag), attrs, kids);
const svg = (tag, attrs = {}, ...kids) => put(document.createElementNS("http://www.w3.org/2000/svg", tag), attrs, kids);
function put(node, attrs, kids) {
  for (const [k, v] of Object.entries(attrs)) if (k === "on") for (const [e, f] of Object.entries(v)) node.addEventListener(e, f); else if (v !== false && v != null) node.setAttribute(k, v === true ? "" : v);
  node.append(...kids.filter((x) => x != null)); return node;
}
const num = (x, digits = 2) => x.toFixed(digits).replace("-", "−"), signed = (x) => (x >= 0 ? "+" : "") + num(x);
const nice = (n) => n.toLocaleString("en");
let uid = 0;

async function render({ model, el: root }) {
  const raw = model.get("data"), d = await unpack(model.get("meta"), raw.buffer ? new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength) : raw);
  const id = "rmx" + Date.now().toString(36) + uid++, onPage = root.classList.contains("anywidget-offline");
  const families = [{ name: "single", label: "one reward model", members: [...d.columns.keys()] }, ...d.constructions];
  const family = () => families.find((f) => f.name === model.get("construction")) ?? families[0];
  const top = Math.log2(d.N), grid = [...new Set(Array.from({ length: 4 * Math.floor(top) + 1 }, (_, k) => Math.round(2 ** (k / 4))).concat(d.N))];
  const oracle = grid.map((n) => ladderMean(ladders(d, [0], "gold", 1), n, 0));
  function ladderMean(some, n, j) { return some.reduce((a, l) => a + expected(l, n)[j], 0) / d.P; }

  if (onPage && location.hash.startsWith("#x=")) {
    const [c, m, how, lam, n, p] = location.hash.slice(3).split("~");
    if (families.some((f) => f.name === c) && how in AGGREGATORS && m && p !== undefined)
      model.set({ construction: c, members: m.split(".").map(Number).filter((i) => i < d.C), how, lam: +lam, n: Math.min(d.N, Math.max(1, +n | 0)), prompt: +p % d.P });
  }

  // controls
  const stories = [
    ["One judge", () => ({ construction: "single", members: [0], how: "mean", n: d.N })],
    ["Several, their mean", () => ({ construction: "finetune", members: pick("finetune"), how: "mean", n: d.N })],
    ["Several, the worst", () => ({ construction: "pretrain", members: pick("pretrain"), how: "min", n: d.N })],
    ["Ask gold", () => ({ how: "gold", n: d.N })],
  ];
  const pick = (name) => [...(families.find((f) => f.name === name) ?? families[1] ?? families[0]).members];
  const change = (state) => { model.set(state); model.save_changes(); touched = true; };
  const choice = (name, label, options) => {
    const select = el("select", { id: id + name, on: { change: () => change(name === "construction" ? { construction: select.value, members: select.value === "single" ? [0] : pick(select.value) } : { how: select.value, ...(AGGREGATORS[select.value][1] ? { lam: AGGREGATORS[select.value][1][3] } : {}) }) } },
      ...options.map(([v, t]) => el("option", { value: v }, t)));
    return [el("label", { for: id + name }, label), select];
  };
  const [cLabel, cSelect] = choice("construction", "judges", families.map((f) => [f.name, f.label]));
  const [hLabel, hSelect] = choice("how", "aggregator", Object.entries(AGGREGATORS).map(([k, v]) => [k, v[0]]));
  const range = (name, label, attrs, input) => { const r = el("input", { id: id + name, type: "range", ...attrs, on: { input: () => input(+r.value) } }), o = el("output", { for: id + name }); return [el("label", { for: id + name }, label), r, o]; };
  const [lLabel, lRange, lOut] = range("lam", "λ", { min: 0, max: 3, step: 0.1 }, (v) => change({ lam: v }));
  const [nLabel, nRange, nOut] = range("n", "n, answers to pick from", { min: 0, max: 1000, step: 1 }, (v) => change({ n: Math.round(2 ** ((v / 1000) * top)) }));
  const toggles = el("div", { class: "rmx-members", role: "group", "aria-label": "which members judge" });
  const plot = el("div", { class: "rmx-plot" }), readout = el("p", { class: "rmx-readout" }), status = el("p", { class: "rmx-status", role: "status", "aria-live": "polite" });
  const step = (by) => change({ prompt: (model.get("prompt") + by + d.P) % d.P });
  const which = el("span", { class: "rmx-which" }), request = el("p", { class: "rmx-request" }), answer = el("div"), bill = el("div");
  root.classList.add("rmx");
  root.replaceChildren(
    el("div", { class: "rmx-stories", role: "group", "aria-label": "show me" }, el("span", { "aria-hidden": "true" }, "Show me"), ...stories.map(([t, f]) => el("button", { type: "button", on: { click: () => change(f()) } }, t))),
    el("div", { class: "rmx-controls" }, el("div", {}, cLabel, cSelect), el("div", {}, hLabel, hSelect), el("div", { class: "rmx-range" }, lLabel, lRange, lOut), el("div", { class: "rmx-range rmx-n" }, nLabel, nRange, nOut)),
    toggles, plot, readout, status,
    el("div", { class: "rmx-request-bar" }, el("button", { type: "button", "aria-label": "previous request", on: { click: () => step(-1) } }, "‹"), which, el("button", { type: "button", "aria-label": "next request", on: { click: () => step(1) } }, "›")),
    request, el("div", { class: "rmx-panels" }, answer, bill));

  // state -> picture
  let touched = false, key = "", now = null, timer = 0, frame = 0;
  function compute() {
    const state = [model.get("members"), model.get("how"), model.get("lam")];
    if (JSON.stringify(state) === key) return;
    key = JSON.stringify(state);
    const some = ladders(d, ...state), rows = grid.map((n) => some.map((l) => expected(l, n)));
    const mean = (r, j) => r.reduce((a, x) => a + x[j], 0) / d.P;
    const gold = rows.map((r) => mean(r, 0)), proxy = rows.map((r) => mean(r, 1));
    const se = rows.map((r, g) => { const diff = r.map((x, p) => x[0] - rows[0][p][0]), m = diff.reduce((a, b) => a + b, 0) / d.P; return Math.sqrt(diff.reduce((a, b) => a + (b - m) ** 2, 0) / Math.max(1, d.P - 1) / d.P); });
    const at = gold.indexOf(Math.max(...gold));
    now = { some, gold, proxy, se, peak: at };
  }
  function draw() {
    compute();
    const n = Math.min(d.N, Math.max(1, model.get("n"))), how = model.get("how"), members = model.get("members"), rule = AGGREGATORS[how][1];
    const gold = ladderMean(now.some, n, 0), proxy = ladderMean(now.some, n, 1), start = now.gold[0], peak = grid[now.peak];
    cSelect.value = family().name; hSelect.value = how; nRange.value = Math.round((Math.log2(n) / top) * 1000); nOut.value = nice(n);
    nRange.setAttribute("aria-valuetext", nice(n) + " answers");
    lRange.disabled = !rule;
    if (rule) { [lRange.min, lRange.max, lRange.step] = rule; lRange.value = model.get("lam"); lOut.value = (+model.get("lam")).toFixed(rule[2] < 0.1 ? 2 : 1); } else lOut.value = "–";
    drawMembers(members, how);
    drawPlot(n, gold, proxy);
    const who = how === "gold" ? "Gold itself" : members.length > 1 ? `${members.length} judges (${family().label}), ${AGGREGATORS[how][0]}` : `One judge (${d.columns[members[0]]})`;
    readout.replaceChildren(el("b", {}, `n = ${nice(n)}`), ` · gold ${num(gold)} (${signed(gold - start)} over a uniform pick) · proxy ${num(proxy)} · best was n = ${nice(peak)}: ${num(now.gold[now.peak])}`);
    status.textContent = `${who}, picking from ${nice(n)} answers: gold is ${num(gold)}, ${num(Math.abs(gold - start))} ${gold >= start ? "above" : "below"} a uniform pick. ` + (n > peak && gold < now.gold[now.peak] - 0.005 ? `The peak is behind, at n = ${nice(peak)}.` : `The peak is at n = ${nice(peak)}.`);
    drawAnswer(n, members, how);
    const result = { gold, proxy, peak_n: peak, peak_gold: now.gold[now.peak] };
    if (JSON.stringify(result) !== JSON.stringify(model.get("result"))) { model.set("result", result); model.save_changes(); }
    if (onPage && touched) { clearTimeout(timer); timer = setTimeout(() => history.replaceState(null, "", "#x=" + [family().name, members.join("."), how, model.get("lam"), n, model.get("prompt")].join("~")), 300); }
  }
  function drawMembers(members, how) {
    const single = family().name === "single", want = family().members.join();
    if (toggles.dataset.for !== family().name + want) {
      toggles.dataset.for = family().name + want;
      toggles.replaceChildren(...family().members.map((c) => el("label", {}, el("input", { type: single ? "radio" : "checkbox", name: id + "m", value: c, on: { change: (e) => {
        const on = new Set(model.get("members")); if (single) on.clear(); e.target.checked ? on.add(c) : on.delete(c);
        if (!on.size) { e.target.checked = true; return; }
        change({ members: family().members.filter((x) => on.has(x)) });
      } } }), el("span", {}, d.columns[c]))));
    }
    for (const box of toggles.querySelectorAll("input")) { box.checked = members.includes(+box.value); box.disabled = how === "gold"; }
  }
  function drawPlot(n, gold, proxy) {
    const W = Math.max(300, Math.min(760, plot.clientWidth || 640)), narrow = W < 480, left = 40, right = narrow ? 58 : 96, t = 40, mid = 218, low = 250, end = 318, wide = W - left - right;
    const xmax = klBound(d.N), x = (m) => left + (klBound(m) / xmax) * wide;
    const lo = Math.min(...now.gold.map((g, i) => g - now.se[i]), now.gold[0]) - 0.1, hi = Math.max(...now.gold.map((g, i) => g + now.se[i]), lo + 1.2) + 0.12;
    const y = (g) => mid - ((g - lo) / (hi - lo)) * (mid - t), plo = Math.min(0, ...now.proxy), phi = Math.max(...now.proxy, plo + 1), z = (v) => end - ((v - plo) / (phi - plo)) * (end - low);
    const path = (ys, f) => "M" + grid.map((m, i) => `${x(m).toFixed(1)} ${f(ys[i]).toFixed(1)}`).join("L");
    const text = (tx, ty, s, attrs = {}) => svg("text", { x: tx, y: ty, ...attrs }, s), rule = (x1, y1, x2, y2, c) => svg("line", { x1, y1, x2, y2, class: c });
    const ticks = (a, b) => { const by = [0.1, 0.2, 0.5, 1, 2].find((s) => (b - a) / s <= 5) ?? 5, out = []; for (let v = Math.ceil(a / by) * by; v <= b + 1e-9; v += by) out.push(v); return out; };
    const exit = oracle.findIndex((o) => o > hi), family_ = model.get("how") === "gold" ? "gold" : family().name;
    const spread = (s) => narrow ? s : s;
    const s = svg("svg", { viewBox: `0 0 ${W} 356`, width: W, height: 356, role: "img", "aria-labelledby": id + "t", class: "rmx-svg rmx-f-" + family_ },
      svg("title", { id: id + "t" }, "Gold reward and proxy against KL; the sentence below says what is seen."),
      svg("defs", {}, svg("clipPath", { id: id + "c" }, svg("rect", { x: left, y: t - 4, width: wide + 2, height: mid - t + 6 }))),
      ...ticks(lo, hi).flatMap((v) => [rule(left, y(v), left + wide, y(v), "rmx-grid"), text(left - 6, y(v) + 4, num(v, 1), { "text-anchor": "end" })]),
      ...[1, 4, 16, 64, 256, 1024, 4096, 16384].filter((m) => m <= d.N && (!narrow || [1, 16, 256, 4096].includes(m))).map((m) => text(x(m), t - 12, nice(m), { "text-anchor": "middle" })),
      text(left - 6, t - 12, "n", { "text-anchor": "end", class: "rmx-axis" }), text(left, t - 28, "gold reward", { class: "rmx-axis" }), text(left, low - 8, "proxy (std)", { class: "rmx-axis" }),
      text(left + wide / 2, 352, narrow ? "KL ≤ log n − (n−1)/n (nats)" : "KL from the policy, upper bound log n − (n−1)/n (nats)", { "text-anchor": "middle", class: "rmx-axis" }),
      ...ticks(0, xmax).map((v) => text(left + (v / xmax) * wide, end + 16, String(v), { "text-anchor": "middle" })),
      rule(left, end, left + wide, end, "rmx-grid"), ...[plo, phi].map((v) => text(left - 6, z(v) + 4, num(v, 1), { "text-anchor": "end" })),
      svg("path", { d: path(now.gold.map((g, i) => g + now.se[i]), y) + "L" + [...grid].reverse().map((m, i) => { const j = grid.length - 1 - i; return `${x(m).toFixed(1)} ${y(now.gold[j] - now.se[j]).toFixed(1)}`; }).join("L") + "Z", class: "rmx-band" }),
      rule(left, y(now.gold[0]), left + wide, y(now.gold[0]), "rmx-start"), text(left + wide + 5, y(now.gold[0]) + 4, narrow ? "uniform" : "uniform pick"),
      svg("path", { d: path(oracle, y), class: "rmx-oracle", "clip-path": `url(#${id}c)` }),
      exit > 0 && model.get("how") !== "gold" ? text(x(grid[exit]) + 5, t + 8, narrow ? "↑ oracle" : `↑ oracle, ${num(oracle.at(-1), 1)} at the end`) : null,
      svg("path", { d: path(now.gold, y), class: "rmx-gold" }), text(left + wide + 5, y(now.gold.at(-1)) + (Math.abs(y(now.gold.at(-1)) - y(now.gold[0])) < 12 ? 17 : 4), "gold", { class: "rmx-strong" }),
      svg("path", { d: path(now.proxy, z), class: "rmx-proxy" }), text(left + wide + 5, z(now.proxy.at(-1)) + 4, "proxy", { class: "rmx-strong" }),
      svg("circle", { cx: x(grid[now.peak]), cy: y(now.gold[now.peak]), r: 5, class: "rmx-peak" }), text(x(grid[now.peak]), y(now.gold[now.peak]) - 10, `peak, n = ${nice(grid[now.peak])}`, { "text-anchor": grid[now.peak] > d.N / 4 ? "end" : "middle" }),
      svg("g", { class: "rmx-handle" }, rule(x(n), t, x(n), end, "rmx-cursor"), svg("circle", { cx: x(n), cy: y(gold), r: 4.5, class: "rmx-at" }), svg("circle", { cx: x(n), cy: z(proxy), r: 3.5, class: "rmx-at-proxy" }), svg("rect", { x: x(n) - 6, y: end - 9, width: 12, height: 18, rx: 4, class: "rmx-grip" })));
    const drag = (e) => {
      const kl = Math.max(0, Math.min(xmax, (((e.clientX - s.getBoundingClientRect().left) * W) / s.getBoundingClientRect().width - left) / wide * xmax));
      let a = 0, b = top; for (let i = 0; i < 40; i++) { const m = (a + b) / 2; klBound(2 ** m) < kl ? (a = m) : (b = m); }
      change({ n: Math.max(1, Math.min(d.N, Math.round(2 ** a))) });
    };
    plot.onpointerdown = (e) => { plot.setPointerCapture(e.pointerId); drag(e); };
    plot.onpointermove = (e) => { if (e.buttons && plot.hasPointerCapture(e.pointerId)) drag(e); };
    plot.replaceChildren(s);
  }
  function drawAnswer(n, members, how) {
    const p = model.get("prompt") % d.P, l = now.some[p], i = typicalWinner(l, n), at = p * d.M + i, words = (j) => [...d.tokens.subarray(d.starts[j], d.starts[j + 1])].map((t) => d.vocab[t]).join(" ");
    const rank = (f) => { let r = 1; const mine = f(at); for (let j = p * d.M; j < (p + 1) * d.M; j++) if (f(j) > mine + TIE) r += d.weight[j]; return nice(Math.round(r)); };
    which.textContent = `request ${p + 1} of ${d.P}`;
    request.textContent = readable(d.prompts[p]);
    const ranks = members.map((c) => `${d.columns[c]}: ${rank((j) => score(d, j, c))}`), own = members.map((c) => score(d, at, c));
    const best = [...Array(d.M).keys()].reduce((a, b) => (d.gold[p * d.M + b] > d.gold[p * d.M + a] ? b : a), 0);
    answer.replaceChildren(el("h4", {}, `The typical winner at n = ${nice(n)}`), el("blockquote", {}, readable(words(at))),
      el("p", { class: "rmx-who" }, how === "gold" ? "Gold chose it." : members.length > 1 ? `Who chose it: ${d.columns[members[own.indexOf(Math.min(...own))]]} liked it least (${num(Math.min(...own))} std). Rank among ${nice(d.N)} — ${ranks.join(", ")}; gold: ${rank((j) => d.gold[j])}.` : `Score ${num(l.s[i])} std. Rank among ${nice(d.N)} — ${ranks[0]}; gold: ${rank((j) => d.gold[j])}.`),
      el("details", {}, el("summary", {}, `The best answer by gold: ${num(d.gold[p * d.M + best])}`), el("blockquote", {}, readable(words(p * d.M + best)))));
    const counts = d.counts.subarray(at * d.F, (at + 1) * d.F), worth = goldOf(counts, d.bill), most = Math.max(3, ...worth.map(Math.abs));
    const lines = d.bill.map((t, f) => ({ label: t.label, v: worth[f] })).filter((t) => Math.abs(t.v) > 1e-9);
    bill.replaceChildren(el("h4", {}, "Gold's bill for it"), el("ul", { class: "rmx-bill" }, ...lines.map((t) => el("li", {}, el("span", { class: "rmx-term" }, t.label), el("span", { class: "rmx-track", "aria-hidden": "true" }, el("i", { class: t.v < 0 ? "rmx-minus" : "rmx-plus", style: `width:${(Math.abs(t.v) / most) * 50}%` })), el("span", { class: "rmx-value" }, signed(t.v)))),
      el("li", { class: "rmx-total" }, el("span", { class: "rmx-term" }, "gold"), el("span", {}), el("span", { class: "rmx-value" }, num(d.gold[at])))));
  }
  const later = () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); };
  for (const name of ["construction", "members", "how", "lam", "n", "prompt"]) model.on("change:" + name, later);
  draw();
  const watch = new ResizeObserver(later); watch.observe(plot);
  return () => watch.disconnect();
}
export default { render };
