// The explorer's arithmetic, without a picture: the twin of CompactPool, held equal to it by a test.
// A pool `d` has P prompts, M kept answers, C members (columns), F terms of gold's bill; an answer's weight says how
// many of the N answers it stands for. An answer's worth is its gold; where the pool has no gold, the mean of the
// members that do not judge; where all judge, null. Best-of-n draws n answers with replacement and keeps the best by
// the proxy; the tilt is the KL-regularised optimum, an answer having a chance in proportion to
// weight * exp(proxy / beta).

export const TIE = 1e-9; // as in compact.py
export const AGGREGATORS = { // label, and the slider of λ: least, most, step, usual; null where λ is not used
  mean: ["mean", null],
  median: ["median", null],
  min: ["min (worst case)", null],
  max: ["max (optimist)", null],
  mean_std: ["mean − λ std", [0, 3, 0.1, 1]],
  uwo: ["mean − λ variance (UWO)", [0, 3, 0.1, 1]],
  quantile: ["lower quantile at λ", [0, 0.5, 0.05, 0.25]],
  entropic: ["entropic, temperature λ", [0.1, 5, 0.1, 1]],
  gold: ["gold itself", null],
};

export function aggregate(s, aggregator, strength) { // K member scores -> one score
  const k = s.length;
  let mean = 0, low = Infinity, high = -Infinity, spread = 0;
  for (let i = 0; i < k; i++) { mean += s[i] / k; low = Math.min(low, s[i]); high = Math.max(high, s[i]); }
  if (aggregator === "mean") return mean;
  if (aggregator === "min") return low;
  if (aggregator === "max") return high;
  if (aggregator === "median" || aggregator === "quantile") {
    const t = new Float64Array(s).sort(), at = (aggregator === "median" ? 0.5 : strength) * (k - 1), i = Math.floor(at);
    return at > i ? t[i] + (at - i) * (t[i + 1] - t[i]) : t[i];
  }
  if (aggregator === "entropic") {
    for (let i = 0; i < k; i++) spread += Math.expm1((low - s[i]) / strength) / k;
    return low - strength * Math.log1p(spread);
  }
  for (let i = 0; i < k; i++) spread += (s[i] - mean) ** 2 / k; // ddof = 0
  if (aggregator === "mean_std") return mean - strength * Math.sqrt(spread);
  if (aggregator === "uwo") return mean - strength * spread;
  throw new Error("unknown aggregator " + aggregator);
}

export function goldOf(counts, bill) { // one answer's counts (F) -> what each term adds to its gold (F)
  return bill.map(({ values, slope }, f) => {
    const last = values.length - 1;
    return values[Math.min(counts[f], last)] + slope * Math.max(counts[f] - last, 0);
  });
}

export async function unpack(meta, bytes) { // CompactPool.packed() -> d
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = await new Response(stream).arrayBuffer();
  const types = { "<f4": Float32Array, "<u4": Uint32Array, "<i2": Int16Array, "|u1": Uint8Array }, d = { ...meta };
  let at = 0;
  for (const [name, kind, size] of meta.layout) { d[name] = new types[kind](raw, at, size); at += d[name].byteLength; }
  d.P = meta.prompts.length; d.C = meta.columns.length; d.F = meta.bill?.length ?? 0; d.M = d.weight.length / d.P;
  const total = (_, i) => goldOf(countsOf(d, i), d.bill).reduce((a, b) => a + b, 0);
  d.gold = d.bill ? Float64Array.from(d.weight, total) : d.gold_values ?? null;
  d.start = new Int32Array(d.weight.length + 1); // of each answer's tokens
  d.lengths.forEach((length, i) => { d.start[i + 1] = d.start[i] + length; });
  return Object.assign(d, magnitudes(d));
}

// How large scores and gold are: the decimals that tell them apart, 10 to the power of 2 less these, and the octave of
// the scores. With a bill they are of the size of 1; of others the middle nine tenths say it, whatever is far outside.
function magnitudes(d) {
  if (d.bill) return { digits: 2, grain: 1, octave: 0 };
  const spread = (x) => { // as a normal distribution's standard deviation
    const t = Float64Array.from(x).sort(), at = (q) => t[Math.round(q * (t.length - 1))];
    return (at(0.95) - at(0.05)) / 3.3 || (at(1) - at(0)) / 6.6 || 1;
  };
  const scores = d.columns.map((_, c) => spread(columnOf(d, c)));
  const least = Math.min(...scores, ...(d.gold ? [spread(d.gold)] : []));
  const digits = Math.min(8, Math.max(0, Math.round(2 - Math.log10(least))));
  return { digits, grain: 10 ** (2 - digits), octave: Math.round(Math.log2(average(scores))) };
}
export const countsOf = (d, i) => d.counts.subarray(i * d.F, (i + 1) * d.F);
export const scoreOf = (d, i, c) => d.scores[i * d.C + c] * d.scale[c] + d.offset[c];
export function columnOf(d, c) { // a member's scores of all P * M answers, made when first asked for
  d.columnScores ??= [];
  return (d.columnScores[c] ??= Float64Array.from(d.weight, (_, i) => scoreOf(d, i, c)));
}
export function answerOf(d, i) { // as words, or as the text that it is
  const tokens = d.tokens.subarray(d.start[i], d.start[i + 1]);
  if (d.vocab) return Array.from(tokens, (t) => d.vocab[t]).join(" ");
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(tokens);
}
export const heldOut = (d, members) => [...d.columns.keys()].filter((c) => !members.includes(c));
function worthOf(d, members) { // of all P * M answers, or null
  const others = heldOut(d, members), key = others.join();
  if (d.gold || !others.length) return d.gold;
  if (d.held?.key !== key) {
    const columns = others.map((c) => columnOf(d, c)), mean = (_, i) => average(columns.map((s) => s[i]));
    d.held = { key, worth: Float64Array.from(d.weight, mean) };
  }
  return d.held.worth;
}

// One a prompt: the answers' proxy `s` and worth `own`, the answers in the proxy's order, and ascending groups of equal
// proxy: where each starts in the order, its log U, mean worth and mean proxy. This holds for every n: it is made once
// for (members, aggregator, strength).
export function ladders(d, members, aggregator, strength) {
  const scores = new Float64Array(members.length), columns = members.map((c) => columnOf(d, c));
  const all = worthOf(d, members);
  d.orders ??= Array.from({ length: d.P }, () => [...Array(d.M).keys()]); // the last order asked for: close to the next
  return d.orders.map((sorted, p) => {
    const base = p * d.M, s = new Float64Array(d.M), own = all && all.subarray(base, base + d.M);
    for (let i = 0; i < d.M; i++) {
      for (let k = 0; k < scores.length; k++) scores[k] = columns[k][base + i];
      s[i] = aggregator === "gold" ? own[i] : aggregate(scores, aggregator, strength);
    }
    const order = Int32Array.from(sorted.sort((a, b) => s[a] - s[b] || a - b)), start = [];
    order.forEach((i, place) => { if (!place || s[i] - s[order[place - 1]] > TIE) start.push(place); });
    const size = start.length, [w, worth, proxy] = [0, 1, 2].map(() => new Float64Array(size));
    start.push(d.M);
    let total = 0, above = 0;
    for (let g = 0; g < size; g++) {
      for (let place = start[g]; place < start[g + 1]; place++) {
        const i = order[place], weight = d.weight[base + i];
        w[g] += weight; worth[g] += weight * (own ? own[i] : 0); proxy[g] += weight * s[i];
      }
      worth[g] /= w[g]; proxy[g] /= w[g]; total += w[g];
    }
    const logU = new Float64Array(size); // counted from the top, where U^n needs the digits
    for (let g = size - 1; g >= 0; g--) { logU[g] = Math.log1p(-above / total); above += w[g]; }
    return { s, own, order, start, logU, worth: own && worth, proxy };
  });
}

// [worth, proxy] of best-of-n on one prompt: a group wins with U^n - U'^n
export function expected({ logU, worth, proxy }, n) {
  let u = 1, worthAt = 0, proxyAt = 0;
  for (let g = logU.length - 1; g >= 0 && u > 0; g--) {
    const x = g ? n * logU[g - 1] : -Infinity, below = x < -40 ? 0 : Math.exp(x); // under 1e-17
    worthAt += (u - below) * (worth ? worth[g] : 0); proxyAt += (u - below) * proxy[g]; u = below;
  }
  return [worthAt, proxyAt];
}

export function bestOf(rows, ns) { // {worth, proxy}: for each n a list over prompts; or null
  const at = ns.map((n) => rows.map((l) => expected(l, n)));
  return { worth: rows[0].own && at.map((r) => r.map((x) => x[0])), proxy: at.map((r) => r.map((x) => x[1])) };
}
export function curve(d, members, aggregator, strength, ns) { // the same, and the ladders
  const rows = ladders(d, members, aggregator, strength);
  return { rows, ...bestOf(rows, ns) };
}

export function typicalWinner({ order, start, logU }, n) { // of one ladder: the first answer with U^n >= 1/2
  const g = logU.findIndex((u) => n * u >= -Math.LN2 - 1e-12);
  return Math.min(...order.subarray(start[g], start[g + 1]));
}

export function tilted(d, p, { s, own }, beta) { // on one prompt; `mass` holds the answers' chances, of `total`
  const base = p * d.M, mass = new Float64Array(d.M), top = Math.max(...s), { weight } = d;
  let held = 0, total = 0, under = 0, worth = 0, square = 0;
  for (let i = 0; i < d.M; i++) {
    const w = weight[base + i], x = (s[i] - top) / beta, m = x < -40 ? 0 : w * Math.exp(x); // under 1e-17
    mass[i] = m; held += w; total += m; under += m * (s[i] - top); worth += own ? m * own[i] : 0; square += m * m;
  }
  under /= total;
  const kl = Math.max(0, under / beta - Math.log(total / held)); // E[s] / beta - log E0[exp(s / beta)]
  return { mass, total, worth: worth / total, proxy: top + under, kl, ess: total * total / square };
}

export function tilts(d, rows, betas) { // {worth, proxy, kl, ess}: for each beta a list over prompts; worth or null
  const at = betas.map((beta) => rows.map((l, p) => tilted(d, p, l, beta)));
  const all = ["worth", "proxy", "kl", "ess"].map((k) => [k, at.map((r) => r.map((x) => x[k]))]);
  return { ...Object.fromEntries(all), ...(rows[0].own ? {} : { worth: null }) };
}

// Round betas, eight an octave, falling: their mean KL rises from about 0 to where best-of-n's bound ends.
export function prices(d, rows) {
  const all = [...new Set(Array.from({ length: 193 }, (_, k) => +(2 ** (10 + d.octave - k / 8)).toPrecision(2)))];
  const kl = (beta) => average(rows.map((l, p) => tilted(d, p, l, beta).kl));
  const past = (level) => {
    let low = 0, high = all.length;
    while (low < high) { const k = (low + high) >> 1; if (kl(all[k]) > level) high = k; else low = k + 1; }
    return low;
  };
  const end = Math.max(1, past(Math.min(klBound(d.N), 0.98 * kl(all.at(-1))))); // less where answers tie for the best
  return all.slice(Math.min(past(0.005), end - 1), end);
}

export function typicalTilted(d, p, row, beta) { // the median by the proxy
  const { mass, total } = tilted(d, p, row, beta), { order, start } = row;
  let g = -1, below = 0;
  do {
    for (let place = start[++g]; place < start[g + 1]; place++) below += mass[order[place]];
  } while (below < (0.5 - 1e-12) * total);
  return Math.min(...order.subarray(start[g], start[g + 1]));
}

// Of one prompt's weights those of its best tenth by score; equal scores at its end share what is left of it.
function bestTenth(w, score) {
  const order = [...w.keys()].sort((a, b) => score[b] - score[a]), room = w.reduce((a, b) => a + b, 0) / 10;
  let last = 0, above = 0, level = 0;
  for (let held = 0; last < w.length - 1 && (held += w[order[last]]) < room * (1 - TIE);) last++;
  const end = score[order[last]];
  w.forEach((x, i) => { if (score[i] > end + TIE) above += x; else if (score[i] >= end - TIE) level += x; });
  const share = (room - above) / level; // of those at the end
  return w.map((x, i) => x * (score[i] > end + TIE ? 1 : score[i] >= end - TIE ? share : 0));
}

// The members' correlation (K rows of K) within prompts, averaged over prompts; with `tail`, as the best tenth of a
// prompt's answers by the members' mean show it: what the mean does not explain is measured there, what it does
// explain over all answers, so that the choice by itself changes nothing.
export function correlation(d, members, tail) {
  const K = members.length, columns = members.map((c) => columnOf(d, c)), out = members.map(() => Array(K).fill(0));
  const over = (w, f) => w.reduce((a, x, i) => a + x * f(i), 0) / w.reduce((a, b) => a + b, 0);
  const centred = (s, w) => { const m = over(w, (i) => s[i]); return s.map((x) => x - m); };
  for (let p = 0; p < d.P; p++) {
    const base = p * d.M;
    let w = Float64Array.from(d.weight.subarray(base, base + d.M)), shared = () => 0;
    let rows = columns.map((s) => centred(s.subarray(base, base + d.M), w));
    if (tail) {
      const mean = w.map((_, i) => rows.reduce((a, s) => a + s[i], 0) / K), power = over(w, (i) => mean[i] ** 2);
      const slope = rows.map((s) => (power > 0 ? over(w, (i) => s[i] * mean[i]) / power : 0));
      w = bestTenth(w, mean);
      rows = rows.map((s, k) => centred(s.map((x, i) => x - slope[k] * mean[i]), w));
      shared = (j, k) => slope[j] * slope[k] * power;
    }
    const product = (j, k) => over(w, (i) => rows[j][i] * rows[k][i]) + shared(j, k);
    const spread = rows.map((_, k) => product(k, k));
    for (let j = 0; j < K; j++) for (let k = 0; k < j; k++) {
      out[j][k] += product(j, k) / Math.sqrt(Math.max(spread[j] * spread[k], 1e-24)) / d.P;
    }
  }
  return out.map((row, j) => row.map((x, k) => (j === k ? 1 : j > k ? x : out[k][j])));
}

export function effective(matrix) { // [mean correlation of two members, how many independent ones they are worth]
  const K = matrix.length, rho = (matrix.flat().reduce((a, b) => a + b, 0) - K) / (K * (K - 1));
  return [rho, K / Math.max(1, 1 + (K - 1) * rho)]; // never more than there are
}

export const klBound = (n) => Math.log(n) - (n - 1) / n;
export const along = (at, x, y) => at.map((v) => { // y at each v of the rising x, by straight lines; flat beyond
  const k = x.findIndex((u) => u >= v);
  return k < 1 ? y.at(k) : y[k - 1] + ((v - x[k - 1]) / (x[k] - x[k - 1])) * (y[k] - y[k - 1]);
});
export const harmonic = (x) => 1 / average(x.map((v) => 1 / v));
export const average = (x) => x.reduce((a, b) => a + b, 0) / x.length;
export function standardError(x) {
  const m = average(x);
  return Math.sqrt(x.reduce((a, b) => a + (b - m) ** 2, 0) / Math.max(1, x.length - 1) / x.length);
}
