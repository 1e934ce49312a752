// What the explorer shows of a study beside its pool: mean curves of gold and proxy over replicates, with the interval
// of gold. The pool is one corner of that study: where the state is a row, the row leads, the corner is a thin line.

import { along, klBound } from "./explorer_math.mjs";

export function studyOf(about, bytes) { // StudyCurves.packed() -> its rows as numbers
  const { ns, steps, over } = about, L = ns.length, kl = ns.map(klBound), ints = new Int16Array(bytes.slice().buffer);
  const line = (r, q) => Array.from(ints.subarray((4 * r + q) * L, (4 * r + q + 1) * L), (x) => x * steps[+(q === 3)]);
  const rows = about.rows.map(([ensemble, aggregator, strength, units], r) => {
    const [worth, low, high, proxy] = [0, 1, 2, 3].map((q) => line(r, q)), peak = worth.indexOf(Math.max(...worth));
    const of = `${units > 1 ? `all ${units}` : "1"} ${units > 1 ? over : over.slice(0, -1)}`;
    return { ensemble, aggregator, strength, of, kl, grid: ns, worth, low, high, proxy, peak, summit: "peak" };
  });
  return { rows, singles: about.singles, end: ns.at(-1) };
}

const find = (study, name, rule) => study.rows.find((r) => r.ensemble === name && r.aggregator === rule);

// The study's row that the state is, or why it is none: {row, why}; both null without a study.
export function rowOf({ study, columns }, { ensemble, members, aggregator, strength, tilt }) {
  const none = (why) => ({ row: null, why });
  if (!study) return none(null);
  if (tilt) return none("the study's rows are of best of n");
  if (aggregator === "gold") {
    const row = find(study, "oracle", "gold");
    return row ? { row, why: null } : none("the study has no rows of gold itself as the judge");
  }
  const single = ensemble.name === "single", K = ensemble.members.length;
  if (single && !study.singles.includes(members[0])) return none(`${columns[members[0]]} is no single model`);
  if (!single && members.length < K) return none(`the study's rows are of all ${K} members`);
  if (!study.rows.some((r) => r.ensemble === ensemble.name)) return none(`the study has no rows of ${ensemble.label}`);
  const row = find(study, ensemble.name, members.length === 1 ? "mean" : aggregator);
  if (!row) return none("the study has no row of this aggregator");
  const other = row.strength !== null && Math.abs(row.strength - strength) > 1e-9;
  return other ? none(`the study's row is at λ = ${+row.strength.toFixed(4)}`) : { row, why: null };
}

// Gold with its interval and the proxy at n; between two n of the rows, by straight lines over KL.
export function rowAt(row, n) {
  if (!row || n > row.grid.at(-1)) return null;
  const [worth, low, high, proxy] = [row.worth, row.low, row.high, row.proxy]
    .map((line) => along([klBound(n)], row.kl, line)[0]);
  return { worth, low, high, proxy, exact: row.grid.includes(n) };
}

// What is drawn: the row with its interval and the pool's curves as `corner`, or the pool's curves alone: with a band
// of standard errors, or, beside a study, `thin`.
export function viewOf({ study }, { row }, now, rivals, judges) {
  const { worth, se } = now, edge = (by) => worth && worth.map((x, k) => x + by * se[k]);
  if (!study) return { ...now, ...rivals, low: edge(-1), high: edge(1), corner: null, thin: false };
  if (!row) return { ...now, ...rivals, low: worth, high: worth, corner: null, thin: true };
  const alone = judges > 1 ? find(study, "single", "mean")?.worth : null;
  const oracle = row.ensemble !== "oracle" ? find(study, "oracle", "gold")?.worth : null;
  const last = row.grid.length - 1;
  return { ...row, se: null, last, at: row.kl, alone, oracle, corner: now, thin: false };
}

export const rangeOf = (study, ensembles) => // what the axis holds of a study's rows
  (study ? study.rows.filter((r) => ensembles.includes(r.ensemble)).flatMap((r) => [...r.low, ...r.high]) : []);
