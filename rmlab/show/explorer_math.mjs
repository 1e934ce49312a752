// The explorer's arithmetic, without a picture: the twin of CompactPool, held equal to it by a test.
// A pool `d` has P prompts, M kept answers, C members (columns), F terms of gold's bill; an answer's weight says how
// many of the N answers it stands for. Best-of-n draws n answers with replacement and keeps the best by the proxy; the
// tilt is the KL-regularised optimum, an answer having a chance in proportion to weight * exp(proxy / beta).

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
  const types = { "<f4": Float32Array, "<i2": Int16Array, "|u1": Uint8Array }, d = { ...meta };
  let at = 0;
  for (const [name, kind, size] of meta.layout) { d[name] = new types[kind](raw, at, size); at += d[name].byteLength; }
  d.P = meta.prompts.length; d.C = meta.columns.length; d.F = meta.bill.length; d.M = d.weight.length / d.P;
  d.gold = Float64Array.from(d.weight, (_, i) => goldOf(countsOf(d, i), d.bill).reduce((a, b) => a + b, 0));
  d.start = new Int32Array(d.weight.length + 1); // of each answer's tokens
  d.lengths.forEach((length, i) => { d.start[i + 1] = d.start[i] + length; });
  return d;
}
export const countsOf = (d, i) => d.counts.subarray(i * d.F, (i + 1) * d.F);
export const scoreOf = (d, i, c) => d.scores[i * d.C + c] * d.scale[c] + d.offset[c];
export function columnOf(d, c) { // a member's scores of all P * M answers, made when first asked for
  d.columnScores ??= [];
  return (d.columnScores[c] ??= Float64Array.from(d.weight, (_, i) => scoreOf(d, i, c)));
}
export const wordsOf = (d, i) => Array.from(d.tokens.subarray(d.start[i], d.start[i + 1]), (t) => d.vocab[t]).join(" ");

// One a prompt: the answers' proxy `s`, the answers in its order, and ascending groups of equal proxy: where each
// starts in the order, its log U, mean gold and mean proxy. This holds for every n: it is made once for
// (members, aggregator, strength).
export function ladders(d, members, aggregator, strength) {
  const own = new Float64Array(members.length), columns = members.map((c) => columnOf(d, c));
  d.orders ??= Array.from({ length: d.P }, () => [...Array(d.M).keys()]); // the last order asked for: close to the next
  return d.orders.map((sorted, p) => {
    const base = p * d.M, s = new Float64Array(d.M);
    for (let i = 0; i < d.M; i++) {
      for (let k = 0; k < own.length; k++) own[k] = columns[k][base + i];
      s[i] = aggregator === "gold" ? d.gold[base + i] : aggregate(own, aggregator, strength);
    }
    const order = Int32Array.from(sorted.sort((a, b) => s[a] - s[b] || a - b)), start = [];
    order.forEach((i, place) => { if (!place || s[i] - s[order[place - 1]] > TIE) start.push(place); });
    const size = start.length, [w, gold, proxy] = [0, 1, 2].map(() => new Float64Array(size));
    start.push(d.M);
    let total = 0, above = 0;
    for (let g = 0; g < size; g++) {
      for (let place = start[g]; place < start[g + 1]; place++) {
        const i = order[place], weight = d.weight[base + i];
        w[g] += weight; gold[g] += weight * d.gold[base + i]; proxy[g] += weight * s[i];
      }
      gold[g] /= w[g]; proxy[g] /= w[g]; total += w[g];
    }
    const logU = new Float64Array(size); // counted from the top, where U^n needs the digits
    for (let g = size - 1; g >= 0; g--) { logU[g] = Math.log1p(-above / total); above += w[g]; }
    return { s, order, start, logU, gold, proxy };
  });
}

// [gold, proxy] of best-of-n on one prompt: a group wins with U^n - U'^n
export function expected({ logU, gold, proxy }, n) {
  let u = 1, goldAt = 0, proxyAt = 0;
  for (let g = logU.length - 1; g >= 0 && u > 0; g--) {
    const x = g ? n * logU[g - 1] : -Infinity, below = x < -40 ? 0 : Math.exp(x); // under 1e-17
    goldAt += (u - below) * gold[g]; proxyAt += (u - below) * proxy[g]; u = below;
  }
  return [goldAt, proxyAt];
}

export function bestOf(rows, ns) { // {gold, proxy}: for each n a list over prompts
  const at = ns.map((n) => rows.map((l) => expected(l, n)));
  return { gold: at.map((r) => r.map((x) => x[0])), proxy: at.map((r) => r.map((x) => x[1])) };
}
export function curve(d, members, aggregator, strength, ns) { // the same, and the ladders
  const rows = ladders(d, members, aggregator, strength);
  return { rows, ...bestOf(rows, ns) };
}

export function typicalWinner({ order, start, logU }, n) { // of one ladder: the first answer with U^n >= 1/2
  const g = logU.findIndex((u) => n * u >= -Math.LN2 - 1e-12);
  return Math.min(...order.subarray(start[g], start[g + 1]));
}

export function tilted(d, p, s, beta) { // on one prompt; `mass` holds the answers' chances, of `total`
  const base = p * d.M, mass = new Float64Array(d.M), top = Math.max(...s), { weight, gold: worth } = d;
  let held = 0, total = 0, under = 0, gold = 0, square = 0;
  for (let i = 0; i < d.M; i++) {
    const w = weight[base + i], x = (s[i] - top) / beta, m = x < -40 ? 0 : w * Math.exp(x); // under 1e-17
    mass[i] = m; held += w; total += m; under += m * (s[i] - top); gold += m * worth[base + i]; square += m * m;
  }
  under /= total;
  const kl = Math.max(0, under / beta - Math.log(total / held)); // E[s] / beta - log E0[exp(s / beta)]
  return { mass, total, gold: gold / total, proxy: top + under, kl, ess: total * total / square };
}

export function tilts(d, rows, betas) { // {gold, proxy, kl, ess}: for each beta a list over prompts
  const at = betas.map((beta) => rows.map((l, p) => tilted(d, p, l.s, beta)));
  return Object.fromEntries(["gold", "proxy", "kl", "ess"].map((k) => [k, at.map((r) => r.map((x) => x[k]))]));
}

// Round betas, eight an octave, falling: their mean KL rises from about 0 to where best-of-n's bound ends.
export function prices(d, rows) {
  const all = [...new Set(Array.from({ length: 193 }, (_, k) => +(2 ** (10 - k / 8)).toPrecision(2)))];
  const kl = (beta) => average(rows.map((l, p) => tilted(d, p, l.s, beta).kl));
  const past = (level) => {
    let low = 0, high = all.length;
    while (low < high) { const k = (low + high) >> 1; if (kl(all[k]) > level) high = k; else low = k + 1; }
    return low;
  };
  const end = Math.max(1, past(Math.min(klBound(d.N), 0.98 * kl(all.at(-1))))); // less where answers tie for the best
  return all.slice(Math.min(past(0.005), end - 1), end);
}

export function typicalTilted(d, p, { s, order, start }, beta) { // the median by the proxy
  const { mass, total } = tilted(d, p, s, beta);
  let g = -1, below = 0;
  do {
    for (let place = start[++g]; place < start[g + 1]; place++) below += mass[order[place]];
  } while (below < (0.5 - 1e-12) * total);
  return Math.min(...order.subarray(start[g], start[g + 1]));
}

// The members' correlation (K rows of K) within prompts, averaged over prompts; with `tail`, among the best tenth of a
// prompt's answers by the members' mean. Equal means at the tenth's end share what is left of it.
export function correlation(d, members, tail) {
  const K = members.length, columns = members.map((c) => columnOf(d, c)), out = members.map(() => Array(K).fill(0));
  for (let p = 0; p < d.P; p++) {
    const base = p * d.M, w = Float64Array.from(d.weight.subarray(base, base + d.M));
    if (tail) {
      const mean = w.map((_, i) => columns.reduce((a, s) => a + s[base + i], 0) / K);
      const order = [...w.keys()].sort((a, b) => mean[b] - mean[a]), room = w.reduce((a, b) => a + b, 0) / 10;
      let last = 0, above = 0, level = 0;
      for (let held = 0; last < d.M - 1 && (held += w[order[last]]) < room * (1 - TIE);) last++;
      const end = mean[order[last]];
      w.forEach((x, i) => { if (mean[i] > end + TIE) above += x; else if (mean[i] >= end - TIE) level += x; });
      const share = (room - above) / level; // of those at the end
      w.forEach((x, i) => { w[i] = x * (mean[i] > end + TIE ? 1 : mean[i] >= end - TIE ? share : 0); });
    }
    const kept = [...w.keys()].filter((i) => w[i]), total = w.reduce((a, b) => a + b, 0);
    const centred = columns.map((s) => {
      const m = kept.reduce((a, i) => a + w[i] * s[base + i], 0) / total;
      return Float64Array.from(kept, (i) => (s[base + i] - m) * Math.sqrt(w[i] / total));
    });
    const product = (a, b) => { let sum = 0; for (let i = 0; i < a.length; i++) sum += a[i] * b[i]; return sum; };
    const power = centred.map((a) => product(a, a));
    for (let j = 0; j < K; j++) for (let k = 0; k < j; k++) {
      out[j][k] += product(centred[j], centred[k]) / Math.sqrt(Math.max(power[j] * power[k], 1e-24)) / d.P;
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
