// @ts-check
/** Pictures of what the model believes. The engine computes them, so they come after the rest, and when they are seen. @module */
import { get, send, studyPath } from "./api.js";
import { Figure, bars } from "./charts.js";
import { between, isoline } from "./contour.js";
import { field, h, number, percent, select, short, tick } from "./dom.js";
import { trialPath } from "./history_plots.js";
import { colour, extent } from "./scales.js";

const CHOICES = ["categorical", "ordinal", "bool"];
const MOST = 12; // slices
export const NONE = "There is no model yet: a few more results are needed.";

/** What to say where something is not there. @param {any} problem */
const why = (problem) => problem.message;

/** @param {import("../service").StudyOut} study */
const sliceable = (study) => study.parameters.filter((/** @type {any} */ p) => ["float", "int", ...CHOICES].includes(p.type) && !(p.low !== undefined && p.low === p.high));

/** @param {any} spec @returns {import("./charts.js").Axis} */
function axisOf(spec) {
  if (spec.type === "bool") return { label: spec.name, choices: [false, true] };
  if (CHOICES.includes(spec.type)) return { label: spec.name, choices: spec.choices };
  return { label: spec.name, log: spec.log, whole: spec.type === "int", domain: [spec.low, spec.high] };
}

/** Which parameters matter, and whether the model can be trusted. @param {import("../service").StudyOut} study */
export function diagnostics(study) {
  const importance = h("div", {});
  const note = h("p", { class: "note-below" });
  const figure = new Figure("Can the model be trusted?");
  const words = h("p", { class: "verdict" });
  const metric = study.objectives[0].metric;
  const cards = [
    h("section", { class: "card" }, h("h2", {}, "Which parameters matter"), importance, note),
    h("section", { class: "card" }, figure.element, words),
  ];
  /** @param {string} text */
  function say(text) {
    importance.replaceChildren(h("p", { class: "quiet small" }, text));
    figure.say(text);
  }
  async function draw() {
    let found;
    try { found = await get(`${studyPath(study.name)}/diagnostics`); } catch (problem) { say(why(problem)); return []; }
    const ranked = [...found.importance].sort((a, b) => b.total - a.total);
    importance.replaceChildren(bars(ranked.slice(0, 20).map((one) => ({ name: one.parameter, values: [one.total, one.alone], text: percent(one.total) })), ["soft", ""]));
    note.textContent = `Share of the variance of ${metric} over the space that a parameter explains: alone (dark), and with its interactions (light, in figures).`;
    calibration(figure, found, metric);
    words.replaceChildren(...trusted(found));
    return ranked.map((one) => one.parameter);
  }
  return { elements: cards, draw, say };
}

/** Each result against what is expected of it by all others. @param {Figure} figure @param {any} found @param {string} metric */
function calibration(figure, found, metric) {
  const points = found.leave_one_out;
  const [x, y] = [points.map((/** @type {any} */ p) => p.mean), points.map((/** @type {any} */ p) => p.observed)];
  const range = extent([...x, ...y]) ?? [0, 1];
  figure.draw({
    x: { label: `${metric} as predicted from all other results` }, y: { label: `${metric} as observed` },
    note: "each result predicted from all others, 95 % intervals",
    described: `Leave-one-out predictions of ${points.length} results; r² ${number(found.r2, 2)}.`,
    layers: [
      { kind: "line", x: range, y: range, look: "dash", name: "as predicted" },
      { kind: "error", across: true, y, low: points.map((/** @type {any} */ p) => p.mean - 1.96 * p.sd), high: points.map((/** @type {any} */ p) => p.mean + 1.96 * p.sd), outside: true },
      { kind: "dots", x, y, look: "soft", name: "result", size: points.length > 400 ? 2.2 : 3.4, tip: (i) => `observed ${number(y[i])}\nexpected ${number(x[i])} ± ${number(points[i].sd, 2)}` },
    ],
    data: { head: ["observed", "expected", "sd"], rows: points.map((/** @type {any} */ p) => [p.observed, p.mean, p.sd]) },
  });
}

/** @param {any} found @returns {any[]} */
function trusted(found) {
  const r2 = found.r2 <= 0 ? "The model explains nothing of results that it has not seen: more are needed. " : `The model explains ${percent(found.r2)} of the variance of results that it has not seen. `;
  const covered = found.coverage.map((/** @type {any} */ c) => `${percent(c.share)} lie in the ${percent(c.level)} interval`).join(", ");
  const earlier = Object.entries(found.earlier ?? {}).map(([name, share]) => ` Of the results' variation ${percent(/** @type {number} */ (share))} is explained by the earlier study ${name}.`);
  return [h("strong", {}, r2), `Of the results, ${covered}.`, ...earlier];
}

/** Slices along every parameter. @param {import("../service").StudyOut} study */
export function slices(study) {
  const specs = new Map(sliceable(study).map((/** @type {any} */ p) => [p.name, p]));
  const metrics = study.objectives.map((/** @type {any} */ o) => o.metric);
  const wanted = { through: "", metric: metrics[0] };
  const host = h("div", { class: "many" });
  const said = h("p", { class: "note-below" });
  /** @type {Map<string, Figure>} */
  const figures = new Map();
  /** @type {string[]} */
  let order = [...specs.keys()];
  const through = h("input", { type: "text", inputmode: "numeric", size: 13, placeholder: "recommended", on: { change: () => { wanted.through = through.value.trim(); draw(); } } });
  const of = select(metrics.map((m) => /** @type {[string, string]} */ ([m, m])), metrics[0], (metric) => { wanted.metric = metric; draw(); });
  const element = h("section", { class: "card" },
    h("div", { class: "row" }, h("h2", {}, "What the model expects along each parameter"), h("span", { class: "push row" }, metrics.length > 1 ? field("Objective", of) : null, field("Through trial", through))), host, said);

  /** The most important first. @param {string[]} ranked */
  function sort(ranked) {
    order = [...ranked.filter((name) => specs.has(name)), ...order.filter((name) => !ranked.includes(name))];
    if (specs.size > MOST) { draw(); return; }
    for (const name of order) { const figure = figures.get(name); if (figure) host.append(figure.element); }
  }

  /** Whether there was anything to draw. */
  async function draw() {
    let found;
    try {
      found = await get(`${studyPath(study.name, "/v1/dashboard")}/slices`, { ...wanted, parameter: order.slice(0, MOST) });
    } catch (problem) {
      if (!figures.size || /** @type {any} */ (problem).status !== 503) { host.replaceChildren(h("p", { class: "quiet small" }, why(problem))); figures.clear(); }
      return false;
    }
    if (!found.ready) { host.replaceChildren(h("p", { class: "quiet small" }, NONE)); figures.clear(); said.textContent = ""; return false; }
    element.hidden = !specs.size;
    if (!figures.size) host.replaceChildren();
    const drawn = new Set(found.slices.map((/** @type {any} */ one) => one.parameter));
    for (const [name, figure] of figures) if (!drawn.has(name)) { figure.element.remove(); figures.delete(name); }
    for (const one of found.slices) {
      let figure = figures.get(one.parameter);
      if (!figure) { figure = new Figure(one.parameter, { level: "h3", small: true }); figures.set(one.parameter, figure); }
      host.append(figure.element);
      picture(figure, specs.get(one.parameter), one, found.metric, study.name);
    }
    const at = Object.entries(found.slices[0]?.through ?? {}).map(([name, value]) => `${name} ${short(value)}`);
    const shared = at.length > 8 ? `${at.slice(0, 8).join(", ")} and ${at.length - 8} more` : at.join(", ");
    said.textContent = `Median of ${found.metric} without noise, with 50 and 95 % bands, through ${wanted.through ? `trial ${wanted.through}` : metrics.length > 1 ? `the trial that is best in ${metrics[0]}` : "the recommended configuration"} (${shared}). Faint results lie further from the slice.${found.slices[0]?.feasible ? " Red: where outcome constraints are more likely broken than not." : ""}`;
    return true;
  }
  return { element, draw, sort };
}

/** @param {Figure} figure @param {any} spec @param {any} one @param {string} metric @param {string} study */
function picture(figure, spec, one, metric, study) {
  const [inner, outer] = one.bands;
  const range = extent([...outer.lower, ...outer.upper]) ?? [0, 1];
  const room = (range[1] - range[0]) * 0.6;
  const near = one.data.filter((/** @type {any} */ p) => p.value >= range[0] - room && p.value <= range[1] + room);
  const choices = CHOICES.includes(spec.type);
  const belief = choices
    ? [{ kind: "error", x: one.values, low: outer.lower, high: outer.upper }, { kind: "error", x: one.values, low: inner.lower, high: inner.upper, look: "best" }, { kind: "dots", x: one.values, y: one.median, look: "best", size: 5 }]
    : [{ kind: "band", x: one.values, low: outer.lower, high: outer.upper }, { kind: "band", x: one.values, low: inner.lower, high: inner.upper, look: "inner" }, { kind: "line", x: one.values, y: one.median }];
  const bad = one.feasible ? one.feasible.map((/** @type {any} */ p, /** @type {number} */ i) => p < 0.5 || !one.allowed[i]) : one.allowed.map((/** @type {boolean} */ a) => !a);
  const broken = bad.some(Boolean) && !choices ? [{ kind: "band", look: "bad", x: one.values.map((/** @type {any} */ v, /** @type {number} */ i) => (bad[i] ? v : null)), low: bad.map(() => range[0]), high: bad.map(() => range[1]) }] : [];
  figure.draw({
    x: axisOf(spec), y: { label: metric },
    described: `Expected ${metric} along ${one.parameter}, between ${number(Math.min(...one.median.filter((/** @type {any} */ v) => v !== null)))} and ${number(Math.max(...one.median))}.`,
    layers: /** @type {any[]} */ ([
      ...broken, ...(choices ? [] : belief),
      { kind: "dots", x: near.map((/** @type {any} */ p) => p.at), y: near.map((/** @type {any} */ p) => p.value), look: "other", size: 3, opacity: (/** @type {number} */ i) => 0.12 + 0.88 * near[i].nearness ** 2, tip: (/** @type {number} */ i) => `trial ${near[i].number}\n${one.parameter} ${short(near[i].at)}\n${metric} ${number(near[i].value)}`, href: (/** @type {number} */ i) => trialPath(study, near[i].number) },
      ...(choices ? belief : []),
      { kind: "rule", across: true, value: one.through[one.parameter] },
    ]),
    data: { head: [one.parameter, "median", "50 % from", "to", "95 % from", "to"], rows: one.values.map((/** @type {any} */ v, /** @type {number} */ i) => [v, one.median[i], inner.lower[i], inner.upper[i], outer.lower[i], outer.upper[i]]) },
  });
}

/** The posterior over two parameters. @param {import("../service").StudyOut} study */
export function contour(study) {
  const specs = sliceable(study);
  const figure = new Figure("Two parameters at once");
  const wanted = { x: specs[0]?.name, y: specs[1]?.name, sd: false };
  const scaleBar = h("p", { class: "note-below" });
  const options = specs.map((/** @type {any} */ p) => /** @type {[string, string]} */ ([p.name, p.name]));
  const [across, up] = [select(options, wanted.x, (x) => { wanted.x = x; draw(); }), select(options, wanted.y, (y) => { wanted.y = y; draw(); })];
  const element = h("section", { class: "card" }, figure.element, h("div", { class: "row" }, field("Across", across), field("Up", up), tick("Uncertainty instead", false, (on) => { wanted.sd = on; paint(); })), scaleBar);
  /** @type {any} */
  let last = null;

  /** @param {string[]} [ranked] */
  async function draw(ranked) {
    if (specs.length < 2) return;
    if (ranked && ranked.length > 1 && !last) { [wanted.x, wanted.y] = ranked; across.value = wanted.x; up.value = wanted.y; }
    if (wanted.x === wanted.y) return figure.say("Choose two different parameters.");
    try { last = await get(`${studyPath(study.name, "/v1/dashboard")}/contour`, { x: wanted.x, y: wanted.y }); } catch (problem) {
      if (!last || /** @type {any} */ (problem).status !== 503) figure.say(why(problem));
      return;
    }
    paint();
  }

  function paint() {
    if (!last) return;
    const values = wanted.sd ? last.sd : last.median;
    const range = extent(values) ?? [0, 1];
    const share = (/** @type {number} */ v) => (range[1] > range[0] ? (v - range[0]) / (range[1] - range[0]) : 0.5);
    /** @type {any[]} */
    const [sx, sy] = [wanted.x, wanted.y].map((name) => specs.find((p) => p.name === name));
    const smooth = ![sx, sy].some((p) => CHOICES.includes(p.type));
    const levels = smooth ? [1, 2, 3, 4, 5, 6, 7].map((k) => range[0] + (k / 8) * (range[1] - range[0])) : [];
    const paths = levels.flatMap((level) => isoline(values, last.x.length, level).map((piece) => piece.map(([i, j]) => [between(last.x, i, sx.log), between(last.y, j, sy.log)])));
    const points = last.data;
    figure.draw({
      x: axisOf(sx), y: axisOf(sy), height: 400,
      note: `${wanted.sd ? "standard deviation" : "median"} of ${last.metric}, all else as recommended`,
      described: `${last.metric} between ${number(range[0])} and ${number(range[1])} over ${wanted.x} and ${wanted.y}.`,
      layers: /** @type {any[]} */ ([
        { kind: "cells", x: last.x, y: last.y, fill: (/** @type {number} */ i) => (values[i] === null || !last.allowed[i] ? null : colour(share(values[i]))) },
        { kind: "line", look: "iso", paths, x: [], y: [] },
        { kind: "dots", x: points.map((/** @type {any} */ p) => p.x), y: points.map((/** @type {any} */ p) => p.y), look: "hollow", size: 3, name: "trial", tip: (/** @type {number} */ i) => `trial ${points[i].number}\n${last.metric} ${number(points[i].value)}`, href: (/** @type {number} */ i) => trialPath(study.name, points[i].number) },
        { kind: "dots", x: [last.through[wanted.x]], y: [last.through[wanted.y]], look: "best", size: 6.5, name: "recommended" },
      ]),
      data: { head: [wanted.x, wanted.y, "median", "sd"], rows: last.median.map((/** @type {number} */ m, /** @type {number} */ i) => [last.x[i % last.x.length], last.y[Math.floor(i / last.x.length)], m, last.sd[i]]) },
    });
    scaleBar.textContent = `Dark ${number(range[0])}, bright ${number(range[1])}.`;
  }
  return { element: specs.length > 1 ? element : null, draw, say: (/** @type {string} */ text) => figure.say(text) };
}

/** With several objectives: what cannot be beaten in all of them, and how sure that is. @param {import("../service").StudyOut} study */
export function front(study) {
  const metrics = study.objectives.map((/** @type {any} */ o) => o.metric);
  const figure = new Figure("Pareto front");
  const words = h("p", { class: "verdict" });
  const pair = [metrics[0], metrics[1]];
  /** @type {any} */
  let last = null;
  const options = metrics.map((m) => /** @type {[string, string]} */ ([m, m]));
  const chosen = metrics.length > 2 ? h("div", { class: "row" }, field("Across", select(options, pair[0], (m) => { pair[0] = m; paint(); })), field("Up", select(options, pair[1], (m) => { pair[1] = m; paint(); }))) : null;
  const element = h("section", { class: "card" }, figure.element, chosen, words);

  /** @param {import("../service").Overview} overview @param {any} context where the study has one */
  async function draw(overview, context) {
    let found = { trials: [] };
    const path = `${studyPath(study.name)}/pareto`;
    try { found = await (context ? send("POST", path, { context }) : get(path)); } catch (problem) { words.textContent = why(problem); }
    last = { points: overview.front, front: found.trials };
    paint();
  }

  function paint() {
    if (!last) return;
    const { points, front: best } = last;
    if (!points.numbers.length) return figure.say("No trial has all objectives yet.");
    const [a, b] = pair;
    const at = (/** @type {any} */ t, /** @type {string} */ m) => t.expected?.[m]?.mean ?? mean(t.trial, m);
    const sd = (/** @type {any} */ t, /** @type {string} */ m) => t.expected?.[m]?.sd ?? 0;
    const sorted = [...best].sort((p, q) => at(p, a) - at(q, a));
    const [x, y] = [sorted.map((t) => at(t, a)), sorted.map((t) => at(t, b))];
    figure.draw({
      x: { label: `${a} (${direction(a)})` }, y: { label: `${b} (${direction(b)})` }, height: 360,
      note: "bars: ± 1 standard deviation of what is expected",
      described: `${best.length} of ${points.total} trials are on the front.`,
      layers: /** @type {any[]} */ ([
        { kind: "dots", x: points.columns[a], y: points.columns[b], look: "soft", name: "trial", size: 3, tip: (/** @type {number} */ i) => `trial ${points.numbers[i]}\n${a} ${number(points.columns[a][i])}\n${b} ${number(points.columns[b][i])}`, href: (/** @type {number} */ i) => trialPath(study.name, points.numbers[i]) },
        { kind: "error", x, low: y.map((v, i) => v - sd(sorted[i], b)), high: y.map((v, i) => v + sd(sorted[i], b)), look: "best", outside: true },
        { kind: "error", across: true, y, low: x.map((v, i) => v - sd(sorted[i], a)), high: x.map((v, i) => v + sd(sorted[i], a)), look: "best", outside: true },
        { kind: "line", x, y, look: "best thin", step: false },
        { kind: "dots", x, y, look: "best", size: 5.5, name: "on the front", tip: (/** @type {number} */ i) => `trial ${sorted[i].trial.number}\n${a} ${number(x[i])}\n${b} ${number(y[i])}${sorted[i].probability === undefined ? "" : `\nreally on the front: ${percent(sorted[i].probability)}`}`, href: (/** @type {number} */ i) => trialPath(study.name, sorted[i].trial.number) },
      ]),
      data: { head: ["trial", ...metrics, "probability"], rows: sorted.map((t) => [t.trial.number, ...metrics.map((/** @type {string} */ m) => at(t, m)), t.probability]) },
    });
    if (best.length) words.textContent = `${best.length} of ${number(points.total)} trials are beaten by no other in every objective.`;
  }
  /** @param {string} metric */
  function direction(metric) { return study.objectives.find((/** @type {any} */ o) => o.metric === metric)?.direction ?? "minimize"; }
  return { element, draw };
}

/** @param {any} trial @param {string} metric */
function mean(trial, metric) {
  const values = trial.measurements.filter((/** @type {any} */ m) => m.metric === metric && m.step === undefined).map((/** @type {any} */ m) => m.value);
  return values.reduce((/** @type {number} */ sum, /** @type {number} */ v) => sum + v, 0) / values.length;
}
