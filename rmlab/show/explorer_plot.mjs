// The explorer's picture. Every label is measured in the page's own font and placed by its size: whatever the font,
// none leaves the picture and none covers another.

import { klBound } from "./explorer_math.mjs";
import { called } from "./explorer_state.mjs";
import {
  apart, decimals, fitting, label, num, rule, svg, ticks, widest, within, wrap,
} from "./widget.mjs";

// ---- where things are

function levels(view, { grain }) { // what the panels show, the upper one only of a worth
  const { range, worth, low, high, peak, corner } = view, proxy = [...view.proxy, ...(corner?.proxy ?? [])];
  const plo = Math.min(...proxy), lower = { plo, phi: Math.max(...proxy, plo + 0.5 * grain) };
  if (!worth) return lower;
  const all = [...range, ...low, ...high, ...(corner?.worth ?? [])];
  const lo = Math.min(...all), hi = Math.max(...all), pad = Math.max(0.3 * grain, hi - lo);
  return { ...lower, lo: lo - 0.06 * pad, hi: hi + 0.14 * pad, top: worth[peak] };
}

// The labels at the lines' right ends: of the upper panel, and of the lower one.
function endings(ruler, W, d, { worth, proxy, oracle, alone, of, corner, thin }, { hi }) {
  const most = 0.26 * W, name = { level: proxy.at(-1), lines: ["proxy"], strong: true };
  const uniform = (level) => ({ level, lines: fitting(ruler, ["uniform pick"], most) });
  if (!worth) return { ends: [], low: [name, uniform(proxy[0])] };
  const lines = fitting(ruler, [thin ? "this corner" : of ?? (d.gold ? "gold" : "held out")], most, true);
  const ends = [{ level: worth.at(-1), lines, strong: true }, uniform(worth[0])];
  const add = (level, ...forms) => ends.push({ level, lines: fitting(ruler, forms, most) });
  if (oracle) {
    const far = num(oracle.at(-1), Math.max(0, d.digits - 1));
    if (oracle.at(-1) <= hi) add(oracle.at(-1), "oracle");
    else add(Infinity, `oracle, to\u00a0${far}\u00a0↑`, `oracle ↑\u00a0${far}`);
  }
  if (alone) add(alone.at(-1), "one alone");
  if (corner) add(corner.worth.at(-1), "this corner");
  return { ends, low: [name] };
}

function titlesOf(ruler, W, d, { aggregator }, { worth }) { // of the panels, in lines; a unit where it has room
  const gold = [...(d.gold_unit ? [`gold reward (${d.gold_unit})`] : []), "gold reward"];
  const upper = worth ? fitting(ruler, d.gold ? gold : ["held-out members: their mean"], W, true) : [];
  return [upper, wrap(ruler, aggregator === "gold" ? "proxy: gold itself" : "proxy: what the judges say", W, true)];
}

function geometry(ruler, W, d, s, curves) {
  const { up, down } = ruler.line(), L = up + down, most = klBound(d.N) || 1, span = levels(curves, d);
  const upper = !!curves.worth, coarse = Math.max(0, d.digits - 1);
  const titles = titlesOf(ruler, W, d, s, curves);
  const marked = (low, high, { at, step } = ticks(low, high)) =>
    at.map((v) => [v, num(v, step < 10 ? Math.max(high - low < 1 ? 2 : 1, decimals(step)) : 0)]);
  const grid = upper ? marked(span.lo, span.hi) : [];
  const scale = upper ? [span.plo, span.phi].map((v) => [v, num(v, coarse)]) : marked(span.plo, span.phi);
  const left = Math.ceil(widest(ruler, [...grid, ...scale].map((x) => x[1]).concat("−0.0"))) + 8;
  const { ends, low: lows } = endings(ruler, W, d, curves, span);
  const right = 10 + Math.ceil(Math.max(...[...lows, ...ends].map((l) => widest(ruler, l.lines, l.strong))));
  const wide = W - left - right, room = L * ends.reduce((sum, l) => sum + l.lines.length, 0);
  const row = (upper ? titles[0] : titles[1]).length * L + 4, t = row + L + 12;
  const mid = t + Math.max(196, room - 8 - L / 2), title = upper ? mid + L / 2 + 4 : 0;
  const low = upper ? title + titles[1].length * L + L / 2 + 4 : t, end = low + (upper ? 64 : 196);
  const summit = upper ? `${curves.summit}, ${called(s.tilt, curves.grid[curves.peak])}` : "";
  const peak = wrap(ruler, summit, wide - 4), above = 8 + peak.length * L; // px that the peak's words need over it
  const hi = Math.max(span.hi, span.lo + ((span.top - span.lo) * (mid - t)) / (mid - t - above));
  const long = "KL, upper bound (nats): log n − (n − 1)/n", short = "KL, upper bound (nats)";
  const axis = fitting(ruler, s.tilt ? ["KL (nats): exact on the pool"] : [long, short], wide + left);
  const H = Math.ceil(end + 8 + L + 4 + axis.length * L + 1);
  return {
    ...{ ruler, W, H, up, L, left, wide, row, t, mid, title, end, most, titles, grid, scale, ends, lows, peak, axis },
    upper,
    x: (nats) => left + (nats / most) * wide,
    y: (g) => (g === Infinity ? t - 8 : mid - ((g - span.lo) / (hi - span.lo)) * (mid - t)),
    z: (v) => end - 4 - ((v - span.plo) / (span.phi - span.plo)) * (end - 4 - low),
  };
}

// ---- what is drawn

function marks({ ruler, W, x }, { tilt }, { kl, grid }, N) { // n, or beta, along the top edge, as many as have room
  const mark = (v, m, k) => {
    const words = k ? called(tilt, m).slice(4) : called(tilt, m), half = ruler.width(words) / 2;
    return { at: x(v), x: within(x(v), half, W - half), half, words };
  };
  const clear = (a, b) => b.x - b.half - (a.x + a.half) >= 12;
  if (tilt) {
    const row = [mark(kl[0], grid[0], 0)];
    kl.forEach((v, k) => { const next = mark(v, grid[k], k); if (k && clear(row.at(-1), next)) row.push(next); });
    return row;
  }
  for (let step = 4; ; step *= 4) {
    const ns = [];
    for (let n = 1; n <= N / 2; n *= step) ns.push(n);
    const row = [...ns, N].map((n, k) => mark(klBound(n), n, k));
    if (row.every((b, k) => !k || clear(row[k - 1], b))) return row;
    if (step > N) return row.slice(0, 1);
  }
}

function axes(g, s, curves, N) {
  const { L, W, left, wide, x, y, z, t, end } = g, right = left + wide, far = num(g.most, g.most < 2 ? 1 : 0);
  const nats = ticks(0, g.most, Math.max(1, Math.min(5, Math.floor(wide / (g.ruler.width(far) + 12)))), 0.1);
  const level = (height, words) =>
    [rule(left, height, right, height, "rmx-grid"), label(g, left - 7, height - L / 2, [words], { by: 1 })];
  const mark = (v, top, bottom, below, words) =>
    [rule(v, top, v, bottom, "rmx-tick"), label(g, v, below, [words], { by: 0.5 })];
  return [
    g.upper ? label(g, 0, 0, g.titles[0], { strong: true }) : [],
    label(g, 0, g.title, g.titles[1], { strong: true }),
    marks(g, s, curves, N).map((m) => mark(m.at, t - 8, t - 3, g.row, m.words)),
    g.grid.map(([v, words]) => level(y(v), words)), g.scale.map(([v, words]) => level(z(v), words)),
    nats.at.map((v) => mark(x(v), end, end + 5, end + 8, num(v, g.most < 2 ? 1 : 0))),
    rule(left, end, right, end, "rmx-tick"),
    label(g, Math.min(left + wide / 2, W / 2), end + 8 + L + 4, g.axis, { by: 0.5 }),
  ];
}

function lines({ x, y, z, left, wide }, id, curves, c) { // `c`: the class of the worth's
  const { kl, worth, proxy, low, high, last, at, oracle, alone, corner, thin } = curves;
  const points = (ys, f, xs) => ys.map((v, k) => `${x(xs[k]).toFixed(1)} ${f(v).toFixed(1)}`);
  const path = (ys, f, c, xs) =>
    svg("path", { d: "M" + points(ys, f, xs).join("L"), class: c, "clip-path": `url(#${id}clip)` });
  const main = (ys, f, name) => [path(ys.slice(0, last + 1), f, name, kl),
    last < ys.length - 1 && path(ys.slice(last), f, name + " rmx-thin", kl.slice(last))];
  const thinly = (name) => `${name} rmx-corner`;
  const start = (level) => rule(left, level, left + wide, level, "rmx-start");
  if (!worth) return [start(z(proxy[0])), main(proxy, z, "rmx-proxy")];
  const edge = (line) => points(line.slice(0, last + 1), y, kl);
  return [
    !thin && svg("path", { d: `M${[...edge(high), ...edge(low).reverse()].join("L")}Z`, class: "rmx-band" }),
    start(y(worth[0])),
    oracle && path(oracle, y, "rmx-oracle", at), alone && path(alone, y, "rmx-alone", at),
    corner && [path(corner.worth, y, thinly(c), corner.kl), path(corner.proxy, z, thinly("rmx-proxy"), corner.kl)],
    main(worth, y, thin ? thinly(c) : c), main(proxy, z, thin ? thinly("rmx-proxy") : "rmx-proxy"),
  ];
}

function names(g, curves) { // of the lines, at their right ends, and of the peak
  const { x, y, z, L, left, wide, t, end } = g, edge = left + wide + 9;
  const block = (f) => (l) => ({ ...l, y: f(l.level), h: L * l.lines.length });
  const placed = (labels, f, top, bottom) => apart(labels.map(block(f)), top, bottom)
    .map((l) => label(g, edge, l.y - l.h / 2, l.lines, { strong: l.strong }));
  const lows = placed(g.lows, z, t - 8, end + 8);
  if (!g.upper) return lows;
  const px = x(curves.kl[curves.peak]), py = y(curves.worth[curves.peak]), half = widest(g.ruler, g.peak) / 2;
  const over = { by: 0.5, c: "rmx-halo" };
  return [
    placed(g.ends, y, t - 8, g.mid + L / 2), lows, svg("circle", { cx: px, cy: py, r: 5, class: "rmx-peak" }),
    label(g, within(px, left + 4 + half, left + wide - half), py - 8 - L * g.peak.length, g.peak, over),
  ];
}

function handle({ x, y, z, t, end, upper }, { kl, worth, proxy, study }) {
  const at = x(kl), lead = study ?? { worth, proxy };
  const dot = (cy, r, more = "") => svg("circle", { cx: at, cy, r, class: `rmx-at${more}` });
  return svg("g", { class: "rmx-handle", "aria-hidden": "true" }, rule(at, t - 3, at, end, "rmx-cursor"),
    study && [dot(y(worth), 3), dot(z(proxy), 2.5, " rmx-at-proxy")],
    upper && dot(y(lead.worth), 5), dot(z(lead.proxy), 4, " rmx-at-proxy"),
    svg("rect", { x: at - 8, y: end - 12, width: 16, height: 20, rx: 5, class: "rmx-grip" }),
    [-2.5, 2.5].map((dx) => rule(at + dx, end - 7, at + dx, end + 3, "rmx-ridge")));
}

function described(d, { tilt }, { grid, worth, proxy, peak, summit, of, corner, thin }) { // the picture in words
  const name = (k) => called(tilt, grid.at(k)), n = (x) => num(x, d.digits);
  const rises = `from ${n(proxy[0])} to ${n(proxy.at(-1))}`;
  if (!worth) return `The proxy rises ${rises} between ${name(0)} and ${name(-1)}; nothing is compared with it.`;
  const lead = of ? `Gold, over ${of}, with its 95% interval` : thin ? "Gold in this corner" : "Gold";
  const beside = corner ? ` A thin line, this corner's gold, goes from ${n(corner.worth[0])} to `
    + `${n(corner.worth.at(-1))}.` : "";
  return `${d.gold ? lead : "The held-out members' mean"} goes from ${n(worth[0])} at ${name(0)} to its ${summit}, `
    + `${n(worth[peak])}, at ${name(peak)}, and is ${n(worth.at(-1))} at ${name(-1)}; the proxy rises ${rises}.`
    + beside;
}

// Draws `curves` and the handle at `here`; returns the nats under a pointer's clientX.
export function drawPlot({ d, id, plot, ruler, width }, s, curves, here) {
  const W = within(width || 640, 280, 800), g = geometry(ruler, W, d, s, curves), { left, wide, t, H } = g;
  const [colour, dash] = s.aggregator === "gold" ? ["var(--gold)", "none"] : d.looks[s.ensemble.name];
  const style = `--ensemble:${colour};--dash:${dash};--worth:${d.gold ? "var(--gold)" : "currentColor"}`;
  const size = { viewBox: `0 0 ${W} ${H}`, width: W, height: H }, words = described(d, s, curves);
  const picture = svg("svg", { ...size, role: "img", "aria-label": words, class: "rmx-svg", style },
    svg("clipPath", { id: id + "clip" }, svg("rect", { x: left - 2, y: t - 8, width: wide + 4, height: H })),
    axes(g, s, curves, d.N), lines(g, id, curves, d.gold ? "rmx-gold" : "rmx-held"), names(g, curves), handle(g, here));
  plot.querySelector(".rmx-svg")?.remove();
  plot.append(picture);
  return (clientX) => {
    const r = picture.getBoundingClientRect();
    return ((((clientX - r.left) * W) / r.width - left) / wide) * g.most;
  };
}
