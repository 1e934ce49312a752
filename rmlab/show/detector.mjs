// Stop it without gold: a run goes on step by step, the reader stops it, and gold says what that lost, beside what
// rules lost. The runs and the rules' stops are a study's rows, by detector.py.

import {
  axesDrawn, axesOf, button, dotOf, endsDrawn, group, h, label, lineOf, num, pictureIn, rule, signed, svg, ticks, whole,
  widgetOf, within,
} from "./widget.mjs";

const LASTS = 12_000, TICK = [150, 800], CALM = 2.5; // ms: a run, a point, and slower where motion is unwelcome

// ---- arithmetic

// Gold that a stop loses to the best one of the run; null goes on to the end.
export const lossOf = (gold, stop) => Math.max(...gold) - gold[stop ?? gold.length - 1];
const mean = (values) => (values.length ? values.reduce((sum, x) => sum + x / values.length, 0) : null);

// The state that the traits mean; what does not fit the runs becomes what does.
export function soundOf({ runs, points }, traits) {
  const last = points.length - 1, order = [...new Set(traits.order)].filter((u) => runs[u]);
  const all = order.length ? order : runs.map((_, u) => u);
  const stops = traits.stops.slice(0, all.length).map((at) => within(at, 0, last));
  const over = stops.length === all.length || (traits.over && stops.length > 0);
  const place = over ? stops.length - 1 : stops.length;
  return { order: all, stops, over, place, last, run: runs[all[place]], done: stops.length === all.length,
    at: over ? stops[place] : within(traits.at, 0, last) };
}
export function numbersOf({ runs, rules }, s) { // the trait `result`
  const played = s.order.slice(0, s.stops.length).map((u) => runs[u]);
  const lost = played.map((run, k) => lossOf(run.gold, s.stops[k]));
  const each = rules.map(([name]) => [name, mean(played.map((run) => lossOf(run.gold, run.stops[name])))]);
  return { played: played.length, lost: s.over ? lost[s.place] : null, you: mean(lost),
    rules: Object.fromEntries(each) };
}

// ---- what is said

const bestOf = (gold) => gold.indexOf(Math.max(...gold));
const placeOf = ({ kind, points }, k) =>
  (kind === "ppo" ? `step ${whole(points[k])}` : `n = ${whole(points[k])}`).replaceAll(" ", "\u00a0");
export function sentence(d, s, result) {
  const { run, at, last, place, order } = s, where = `Run ${place + 1} of ${order.length}`;
  if (!s.over) {
    const seen = d.series.map(({ name, forms }) => {
      const x = run.seen[name], more = at ? ` (${signed(x[at] - x[at - 1])})` : "";
      return `${forms.at(-1)} ${num(x[at])}${more}`;
    });
    return `${where}, ${placeOf(d, at)} of ${whole(d.points[last])}: ${seen.join(", ")}. Gold is hidden. Stop here, or `
      + "go on?";
  }
  const { gold } = run, best = bestOf(gold), ends = lossOf(gold, null);
  const yours = at === last ? "You let it run to its end" : `You stopped at ${placeOf(d, at)}`;
  const went = at === best ? `where gold was best, ${num(gold[best])}: nothing lost`
    : `with gold ${num(gold[at])}; its best was ${num(gold[best])}, at ${placeOf(d, best)}: ${num(result.lost)} lost`;
  const end = at === last ? "" : ends < 0.005 ? " At its end nothing would have been lost."
    : ` At its end ${num(ends)} would have been lost.`;
  const score = !s.done ? "" : ` All ${order.length} runs are played: you lost ${num(result.you)} a run, never stopping`
    + ` ${num(result.rules.never)}${"budget" in result.rules
      ? `, the budget of the other runs ${num(result.rules.budget)}` : ""}.`;
  return `${where}. ${yours}, ${went}.${end}${score}`;
}

function tableOf(d, s, result) { // what each lost here, and on average so far
  const { run } = s, cell = (words) => h("td", {}, words), several = result.played > 1;
  const at = (k) => (k === null ? "not" : placeOf(d, k));
  const line = (name, stop, here, far) => h("tr", {}, h("th", { scope: "row" }, name), cell(at(stop)), cell(num(here)),
    several && cell(num(far)));
  const rows = d.rules.map(([name, words]) => [words, run.stops[name], lossOf(run.gold, run.stops[name]),
    result.rules[name]]).sort((a, b) => a[3] - b[3] || a[2] - b[2]);
  const head = ["stops at", "lost here", ...(several ? [`mean of ${result.played}`] : [])];
  return [h("caption", { class: "rmx-unseen" }, "Gold lost by you and by rules"),
    h("thead", {}, h("tr", {}, h("td"), head.map((x) => h("th", { scope: "col" }, x)))),
    h("tbody", {}, line("you", s.at, result.lost, result.you), rows.map((row) => line(...row)))];
}

// ---- what is drawn

const placesOf = ({ kind, points }) => (kind === "ppo" ? points : points.map(Math.log2));
function xAxisOf(d) {
  const xs = placesOf(d), names = d.kind === "ppo" ? ["PPO step", "step"]
    : ["n, answers that the winner is chosen from (log scale)", "n, answers chosen from"];
  const at = d.kind === "ppo" ? ticks(xs[0], xs.at(-1), 6).at.map((v) => [v, whole(v || 0)])
    : xs.map((v, k) => [v, whole(d.points[k])]);
  return { low: xs[0], high: xs.at(-1), at, names };
}
function yAxisOf([low, high]) {
  const { at, step } = ticks(low, high, 4);
  const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
  return { low, high, at: at.map((v) => [v, num(v, digits)]) };
}
function seriesPanel(plot, d, s, { name, forms, span }) {
  const tall = plot.width < 480 ? 90 : 120, xs = placesOf(d);
  const g = axesOf(plot, { x: xAxisOf(d), y: yAxisOf(span), titles: forms, tall });
  const values = s.run.seen[name], to = s.at + 1, style = "--ensemble:var(--single);--dash:none;--worth:var(--single)";
  const rest = s.over && s.at < s.last && lineOf(g, xs.slice(s.at), values.slice(s.at), "rmx-straight");
  const known = values.slice(0, s.over ? undefined : to).map((v, k) => `${num(v)} at ${placeOf(d, k)}`);
  const said = `${forms.at(-1)}: ${known.join(", ")}.`;
  return { g, said, nodes: [axesDrawn(g), svg("g", { style }, lineOf(g, xs.slice(0, to), values.slice(0, to),
    "rmx-proxy"), rest, dotOf(g, xs[s.at], values[s.at], 5, "rmx-at"))] };
}
function goldPanel(plot, d, s) {
  const { gold, stops } = s.run, x = xAxisOf(d), xs = placesOf(d), titles = ["gold"];
  const g = axesOf(plot, { x, y: yAxisOf(d.goldSpan), titles, tall: 150,
    ends: s.over ? [{ level: gold.at(-1), forms: ["gold"], strong: true }] : [] });
  const middle = g.left + g.wide / 2;
  if (!s.over) {
    const words = label(g, middle, g.t + 60, ["hidden until you stop"], { by: 0.5, c: "rmx-halo" });
    return { g, said: "Gold is hidden until you stop.", nodes: [axesDrawn(g), words] };
  }
  const best = bestOf(gold), far = new Set(d.rules.map(([name]) => stops[name]).filter((k) => k !== null));
  const name = (k, words, dy) => label(g, g.x(xs[k]), g.y(gold[k]) + dy, [words],
    { by: k > s.last / 2 ? 1 : 0, c: "rmx-halo", strong: false });
  const under = g.y(gold[s.at]) + 26 > g.end ? -24 : 8;
  const nodes = svg("g", { style: `--worth:var(--gold);--you:${d.you}` }, lineOf(g, xs, gold, "rmx-gold"),
    [...far].map((k) => dotOf(g, xs[k], gold[k], 4, "rmx-out")),
    rule(g.x(xs[s.at]), g.t, g.x(xs[s.at]), g.end, "rmx-cursor"), dotOf(g, xs[best], gold[best], 6, "rmx-peak"),
    dotOf(g, xs[s.at], gold[s.at], 5, "rmx-at rmx-yours"),
    s.at === best ? name(best, "you, at its best", under) : [name(best, "best", -24), name(s.at, "you", under)]);
  const said = `Gold: ${gold.map((v, k) => `${num(v)} at ${placeOf(d, k)}`).join(", ")}.`;
  return { g, said, nodes: [axesDrawn(g), nodes, endsDrawn(g)] };
}

// ---- together

// A choice of `count` of `all` runs, in a random order.
export function chosen(all, count, random = Math.random) {
  const out = Array.from({ length: all }, (_, u) => u);
  for (let k = out.length - 1; k > 0; k--) {
    const j = Math.floor(random() * (k + 1));
    [out[k], out[j]] = [out[j], out[k]];
  }
  return out.slice(0, Math.min(all, count));
}
export function paceOf(points, still) { // ms a point
  return within(LASTS / points, ...TICK) * (still ? CALM : 1);
}

function playerOf(ui, now, forward, drawn) {
  let timer = 0;
  const stop = () => { clearTimeout(timer); timer = 0; };
  const wait = () => {
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    timer = setTimeout(() => {
      if (!drawn.node.isConnected) return stop();
      forward();
      if (now().over) stop(); else wait();
    }, paceOf(ui.d.points.length, still));
  };
  return { stop, on: () => timer !== 0, toggle() { if (timer) stop(); else wait(); ui.later(); } };
}

function build(ui) {
  const { d, change, state } = ui, now = () => soundOf(d, state());
  const all = d.runs.flatMap((run) => run.gold), edge = 0.08 * (Math.max(...all) - Math.min(...all));
  d.goldSpan = [Math.min(...all) - edge, Math.max(...all) + edge];
  const panels = d.series.map((series) => ({ series, plot: ui.plotOf("rmx-still") })), plot = ui.plotOf("rmx-still");
  for (const panel of panels) panel.picture = pictureIn(panel.plot);
  const picture = pictureIn(plot);
  const halt = () => { // the run ends where it is
    const s = now();
    player.stop();
    if (!s.over) change({ stops: [...s.stops, s.at], over: true });
  };
  const forward = () => {
    const s = now();
    if (s.over) return;
    if (s.at + 1 < s.last) change({ at: s.at + 1 });
    else change({ at: s.last, stops: [...s.stops, s.last], over: true });
  };
  const player = playerOf(ui, now, forward, plot);
  const anew = () => {
    player.stop();
    change({ order: chosen(d.runs.length, d.round), stops: [], at: 0, over: false });
  };
  const main = button("", () => { // one button, so that the focus stays: stop here, next run, new choice
    const s = now();
    if (!s.over) halt(); else if (s.done) anew(); else change({ at: 0, over: false });
  });
  const play = button("", () => { if (!now().over) player.toggle(); });
  const step = button("step", () => { player.stop(); forward(); ui.later(); });
  const again = button("new choice", anew);
  const table = h("table", { class: "rmx-fits" }), note = h("p", { class: "rmx-small rmx-hint" });
  function draw(traits) {
    const s = soundOf(d, traits), result = numbersOf(d, s);
    for (const panel of panels) {
      const { g, said, nodes } = seriesPanel(panel.plot, d, s, panel.series);
      panel.picture.draw(g, panel.series.forms.at(-1), said, nodes);
    }
    const { g, said, nodes } = goldPanel(plot, d, s);
    picture.draw(g, "Gold", said, nodes);
    main.textContent = !s.over ? "stop here" : s.done ? "new choice" : "next run";
    play.textContent = player.on() ? "pause" : "play";
    for (const node of [play, step]) node.setAttribute("aria-disabled", String(s.over)); // the focus stays
    again.hidden = s.over && s.done;
    table.hidden = !s.over;
    table.replaceChildren(...(s.over ? tableOf(d, s, result) : []));
    note.textContent = s.over ? "Lost: gold below the best stop of the same run. Thresholds of rules, and the budget, "
      + "come from runs of other replicates; of this run rules see no gold. Hollow dots: where they stop."
      : `Axes reach over all ${d.runs.length} runs of this kind.`
        + (d.kl ? ` KL at ${placeOf(d, s.at)}: ${num(d.kl[s.at])} nats at most.` : "");
    return { said: sentence(d, s, result), result };
  }
  const bar = group("rmx-bar rmx-run", "the run", main, play, step, again);
  const plots = h("div", { class: "rmx-pair rmx-even" }, panels.map((x) => h("div", {}, x.plot.node)),
    h("div", {}, plot.node));
  return { nodes: [plots, bar, ui.say, table, note], draw };
}

export default widgetOf(["order", "stops", "at", "over"], build);
