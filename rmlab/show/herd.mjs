// Herding: of what the winner is overrated by, what all members believe, and what is one member's own. The tables are a
// study's rows, or two studies' side by side, by herd.py.

import {
  axesDrawn, axesOf, choiceOf, bandOf, dotOf, dragged, endsDrawn, gripAt, h, handleOf, label, lineOf, nearest, num,
  option, pictureIn, rule, select, svg, ticks, whole, widgetOf, within,
} from "./widget.mjs";

// The state that the traits mean; what the rows do not have becomes what they have.
export function soundOf({ methods, studies, ns }, traits) {
  const { sets } = studies[0], [method] = methods.find(([name]) => name === traits.method) ?? methods[0];
  const sizes = sets.filter((e) => e.method === method).map((e) => e.k).sort((a, b) => a - b);
  const k = sizes[nearest(sizes, traits.k)], set = sets.find((e) => e.method === method && e.k === k);
  const rules = Object.keys(set.rules), aggregator = rules.includes(traits.aggregator) ? traits.aggregator : rules[0];
  const found = studies.map((study) => study.sets.find((e) => e.method === method && e.k === k) ?? null);
  const at = nearest(ns.map(Math.log), Math.log(Math.max(1, traits.n)));
  return { method, sizes, k, set, rules, aggregator, found, at };
}
const rowsOf = (set, { aggregator }) => set?.rules[aggregator] ?? null;

export function numbersOf({ ns, studies }, s) { // the trait `result`
  const numbers = s.found.map((set, i) => {
    const row = rowsOf(set, s), at = (table) => table?.value[s.at] ?? null;
    const far = s.aggregator === "mean" && set?.ceiling, one = (kind) => (far ? far[kind][s.at] : null);
    return [studies[i].name, row && { own: at(row.own), shared: at(row.shared), idiosyncratic: at(row.idiosyncratic),
      shared_share: at(row.shared_share), predicted: one("predicted"), measured: one("measured"),
      ceiling: one("ceiling") }];
  });
  return { n: ns[s.at], ...Object.fromEntries(numbers) };
}

// ---- what is said

const percent = (x) => `${Math.round(100 * x)}%`;
const between = ({ low, high }, at, show) =>
  (low[at] === null ? "" : ` (95%: ${show(low[at])} to ${show(high[at])})`);

export function sentence({ ns, studies }, s) {
  const n = whole(ns[s.at]), rows = s.found.map((set) => rowsOf(set, s)), several = studies.length > 1;
  const known = rows.map((row, i) => [row?.shared_share, studies[i].name])
    .filter(([share]) => (share?.value[s.at] ?? null) !== null);
  if (ns[s.at] === 1 || !known.length) return `The winner of ${n} is a random answer: it is overrated by nothing.`;
  const shares = known.map(([share, name]) => percent(share.value[s.at]) + (several ? ` where judges are ${name}`
    : between(share, s.at, percent)));
  const lacking = rows.map((row, i) =>
    (row ? null : ` The rows of ${studies[i].name} judges do not have these members.`));
  return `Of what the winner of ${n} is overrated by, ${shares.join(" and ")} is shared by all members: no further `
    + `member of their kind removes it.${lacking.filter(Boolean).join("")}`;
}

function readings({ ns, studies }, s) { // a line a study
  const one = (row, set, name) => {
    const part = (words, table) => `${words} ${num(table.value[s.at])}${between(table, s.at, num)}`;
    const far = s.aggregator === "mean" && ns[s.at] > 1 && set.ceiling;
    const further = far ? ` Gaussian errors and two members would predict ${num(far.ceiling[s.at])} for members `
      + `without end; for these ${set.k} they predict ${num(far.predicted[s.at])}, and ${num(far.measured[s.at])} `
      + "is measured." : "";
    return h("p", { class: "rmx-small" }, h("b", {}, `${studies.length > 1 ? `${name}, ` : ""}n = ${whole(ns[s.at])}`
      .replaceAll(" ", "\u00a0")), ` · ${part("overrated by", row.own)} · ${part("shared", row.shared)} · `
      + `${part("their own", row.idiosyncratic)}.${further}`);
  };
  return s.found.map((set, i) => rowsOf(set, s) && one(rowsOf(set, s), set, studies[i].name)).filter(Boolean);
}

// ---- what is drawn

function panelOf(plot, d, s, i) {
  const study = d.studies[i], set = s.found[i], row = rowsOf(set, s), xs = d.ns.map(Math.log2), last = xs.length - 1;
  const x = { low: 0, high: xs.at(-1), at: xs.map((v, k) => [v, whole(d.ns[k])]) };
  x.names = ["n, answers that the winner is chosen from (log scale)", "n, answers chosen from"];
  const y = { low: 0, high: d.most, at: ticks(0, d.most, 5).at.map((v) => [v, num(v, 1)]) };
  const name = d.studies.length > 1 ? `${study.name}: ` : "";
  const titles = [`${name}what the winner is overrated by (standard deviations of members)`,
    `${name}overrated by (members' standard deviations)`, `${name}overrated by (members' sd)`];
  const other = row && study.sets.filter((e) => e.method === s.method && e.k !== s.k && rowsOf(e, s));
  const far = row && s.aggregator === "mean" && set.ceiling ? set.ceiling.ceiling : null;
  const end = (level, strong, ...forms) => ({ level: within(level, 0, d.most), forms, strong });
  const ends = row ? [end(row.shared.value[last] / 2, true, "shared by all", "shared"),
    end((row.shared.value[last] + row.own.value[last]) / 2, true, "their own"),
    ...other.map((e) => end(rowsOf(e, s).own.value[last], false, `all, with ${e.k}`, `with ${e.k}`)),
    ...(far ? [end(far[last], false, "without end, predicted", "without end")] : [])] : [];
  const g = axesOf(plot, { x, y, ends, titles, tall: 250 });
  if (!row) {
    const words = label(g, g.left + g.wide / 2, g.t + 90, ["the rows do not have", "these members"],
      { by: 0.5, c: "rmx-halo" });
    return { g, nodes: [axesDrawn(g), words], above: [], said: "These members are not in the rows." };
  }
  const { own, shared } = row, zero = xs.map(() => 0), style = `--ensemble:${set.look[0]}`;
  const nodes = svg("g", { style }, bandOf(g, xs, zero, shared.value, "rmx-shared"),
    bandOf(g, xs, shared.value, own.value, "rmx-own"), lineOf(g, xs, shared.value, "rmx-edge"),
    lineOf(g, xs, own.value, "rmx-whole"),
    other.map((e) => lineOf(g, xs, rowsOf(e, s).own.value.map((v) => within(v, 0, d.most)), "rmx-straight")),
    far && lineOf(g, xs, far.map((v) => within(v, 0, d.most)), "rmx-start rmx-hollow"));
  const at = xs[s.at], place = (v) => g.y(within(v, 0, d.most)), bar = ({ low, high }) =>
    low[s.at] !== null && rule(g.x(at), place(low[s.at]), g.x(at), place(high[s.at]), "rmx-whisker rmx-wide");
  const share = row.shared_share.value[s.at], side = s.at > last / 2 ? { by: 1, dx: -9 } : { by: 0, dx: 9 };
  const words = share === null ? [] : label(g, g.x(at) + side.dx, g.y(shared.value[s.at] / 2) - g.L / 2,
    [percent(share)], { by: side.by, c: "rmx-halo" });
  const above = svg("g", { style: `${style};--worth:${set.look[0]}` }, bar(own), bar(shared),
    dotOf(g, at, own.value[s.at], 5, "rmx-at"), dotOf(g, at, shared.value[s.at], 4, "rmx-at"), words);
  const said = `Two areas, one on the other, rise with n. At n = ${whole(d.ns[last])}: shared `
    + `${num(shared.value[last])}, their own ${num(row.idiosyncratic.value[last])}, together ${num(own.value[last])} `
    + "standard deviations.";
  return { g, nodes: [axesDrawn(g), nodes, endsDrawn(g)], above: [above], said };
}

function build(ui) {
  const { d, change } = ui, { studies } = d;
  const tables = studies.flatMap((x) => x.sets.flatMap((e) => Object.values(e.rules)));
  d.most = Math.ceil(10 * Math.max(...tables.flatMap((row) => row.own.value))) / 10;
  const panels = studies.map((study) => {
    const plot = ui.plotOf(), about = studies.length > 1 ? `, ${study.name}` : "";
    const handle = handleOf(`n, how many answers the winner is chosen from${about}`, (k) => change({ n: d.ns[k] }));
    const panel = { plot, handle, picture: pictureIn(plot, [handle]), g: null };
    dragged(plot.node, (e) =>
      change({ n: d.ns[nearest(d.ns.map(Math.log2), panel.g.value(panel.picture.place(e).x))] }));
    return panel;
  });
  const method = select(ui, "method", "members", d.methods.map(([name, words]) => option(name, words)), (name) =>
    ({ method: name }));
  const size = choiceOf("size", "how many", ({ size: k }) => change({ k: +k }));
  const aggregator = choiceOf("aggregator", "chosen by their", change);
  const readout = h("div"), note = h("p", { class: "rmx-small rmx-hint" });
  function draw(traits) {
    const s = soundOf(d, traits), n = d.ns[s.at], said = sentence(d, s);
    panels.forEach((panel, i) => {
      const { g, nodes, above, said: words } = panelOf(panel.plot, d, s, i);
      panel.g = g;
      panel.handle.place(s.at, d.ns.length - 1, `n = ${whole(n)}`, gripAt(g, g.x(Math.log2(n))));
      panel.picture.draw(g, `Herding${studies.length > 1 ? `, ${studies[i].name}` : ""}`, words, nodes, above);
    });
    method.box.value = s.method;
    size.draw(s.sizes.map((k) => [k, `${k}`]), s.k);
    aggregator.draw(s.rules.map((name) => [name, s.set.labels[name]]), s.aggregator);
    readout.replaceChildren(...readings(d, s));
    const { units } = rowsOf(s.set, s);
    const origin = s.set.origin.replace(/\bK\b/, s.k), about = origin[0].toUpperCase() + origin.slice(1);
    note.textContent = `${about}. Bars: 95% intervals, ${units} replicates. `
      + `${s.k - 1} of the ${s.k} members choose and the one `
      + `left out is read, in turn: its error at their winner is what members share. `
      + (s.aggregator === "mean" ? "" : "Under this rule the areas are what its members overrate the winner by on "
        + "average; that they agree there more than elsewhere comes on top. ")
      + (s.sizes.length > 1 ? "Dotted: the whole with another number of members." : "");
    return { said, result: numbersOf(d, s) };
  }
  const controls = h("div", { class: "rmx-row" }, method.field, size.node, aggregator.node);
  controls.classList.add("rmx-row-steps");
  const plots = h("div", { class: studies.length > 1 ? "rmx-pair rmx-even" : "" }, panels.map((x) => h("div", {},
    x.plot.node)));
  return { nodes: [controls, plots, ui.say, readout, note], draw };
}

export default widgetOf(["method", "k", "aggregator", "n"], build);
