// @ts-check
/** Pictures of what happened in a study: from its history alone, without a model. @module */
import { get, studyPath } from "./api.js";
import { Figure } from "./charts.js";
import { field, h, number, percent, select, short, tick } from "./dom.js";
import { parallel } from "./parallel.js";

const FENCE = 1.5; // interquartile ranges beyond the quartiles, from where values count as far away (Tukey)

/** @param {string} study @param {number} trial */
export const trialPath = (study, trial) => `/studies/${encodeURIComponent(study)}/trials/${trial}`;

/** Results and the best so far, by trial; one figure per objective. @param {import("../service").StudyOut} study @param {number} index */
export function progress(study, index) {
  const objective = study.objectives[index];
  const figure = new Figure(study.objectives.length > 1 ? `Progress: ${objective.metric}` : "Progress");
  const how = { all: false, log: false };
  /** @type {any} */
  let last = null;
  const redraw = () => last && draw(last);
  const all = tick("Show results far away", false, (on) => { how.all = on; redraw(); });
  const log = tick("Log scale", false, (on) => { how.log = on; redraw(); });

  /** @param {import("../service").Overview} overview */
  function draw(overview) {
    last = overview;
    const p = overview.progress[index];
    if (!p.total) all.hidden = log.hidden = true;
    if (!p.total) return figure.say(overview.running.length ? "The first result is on its way." : "There is no result yet.");
    const larger = p.direction === "maximize";
    const fence = limit(p.values, larger);
    const far = p.values.filter((/** @type {number} */ v) => (larger ? v < fence : v > fence)).length;
    const positive = p.values.every((/** @type {number} */ v) => v > 0);
    all.hidden = !far || (how.log && positive);
    log.hidden = !positive;
    const cut = far > 0 && !how.all && !(how.log && positive);
    const drawn = (/** @type {number[]} */ values) => (cut ? values.map((v) => (larger ? Math.max(v, fence) : Math.min(v, fence))) : values);
    const shown = drawn(p.values);
    const r = index === 0 ? overview.recommended : null;
    const end = Math.max(p.numbers.at(-1) ?? 0, p.best_numbers.at(-1) ?? 0);
    const many = p.numbers.length > 400;
    figure.draw({
      x: { label: "trial", whole: true },
      y: { label: p.metric, log: how.log && positive },
      height: innerWidth < 560 ? 280 : 340,
      note: `${p.direction} ${p.metric}${p.total > p.numbers.length ? `; ${number(p.numbers.length)} of ${number(p.total)} results drawn` : ""}${cut ? `; ${far} far away, drawn at the edge` : ""}`,
      described: `${p.total} results${p.best_numbers.length ? `; the best is ${number(p.best_values.at(-1))} of trial ${p.best_numbers.at(-1)}` : ""}.`,
      layers: [
        { kind: "dots", x: p.numbers, y: shown, size: many ? 2.2 : 3.6, look: "soft", name: "result", look_of: (i) => (p.feasible[i] ? "soft" : "bad"), tip: (i) => `trial ${p.numbers[i]}\n${p.metric} ${number(p.values[i], 6)}${p.feasible[i] ? "" : "\nbreaks an outcome constraint"}`, href: (i) => trialPath(study.name, p.numbers[i]) },
        ...(p.feasible.includes(false) ? [/** @type {any} */ ({ kind: "dots", x: [], y: [], look: "bad", name: "breaks a constraint" })] : []),
        { kind: "line", x: [...p.best_numbers, end], y: drawn([...p.best_values, ...p.best_values.slice(-1)]), step: true, look: "best", name: study.fidelity ? "best so far at the target" : "best so far", outside: true },
        ...(r ? recommended(r, p.metric, study.name) : []),
      ],
      data: { head: ["trial", p.metric, "constraints hold"], rows: p.numbers.map((/** @type {number} */ n, /** @type {number} */ i) => [n, p.values[i], p.feasible[i]]) },
    });
  }
  return { element: h("section", { class: "card" }, figure.element, h("div", { class: "row" }, log, all)), draw };
}

/** With several objectives: what the front dominates, by trial. @param {import("../service").StudyOut} study */
export function hypervolume(study) {
  const figure = new Figure("How far the front has come");
  const words = h("p", { class: "verdict" });
  /** @param {import("../service").Overview} overview */
  function draw(overview) {
    const found = overview.hypervolume;
    if (!found?.numbers.length) { words.textContent = ""; return figure.say("No trial has all objectives yet."); }
    const { numbers, values } = found;
    const last = values.at(-1) ?? 0;
    const stood = numbers[values.findIndex((/** @type {number} */ v) => v >= 0.99 * last)];
    words.textContent = last > 0 ? `99 % of the volume was there after trial ${stood}.` : "No trial is better than the reference in every objective yet.";
    figure.draw({
      x: { label: "trial", whole: true }, y: { label: "hypervolume" },
      note: `above ${Object.entries(found.reference).map(([metric, value]) => `${metric} ${number(/** @type {number} */ (value), 3)}`).join(", ")}`,
      described: `The dominated volume grew from ${number(values[0])} to ${number(last)}.`,
      layers: [
        { kind: "line", x: numbers, y: values, look: "best", step: true },
        { kind: "dots", x: numbers, y: values, look: "best", size: 3, tip: (i) => `after trial ${numbers[i]}\nhypervolume ${number(values[i])}\n${percent(last ? values[i] / last : 0)} of today's`, href: (i) => trialPath(study.name, numbers[i]) },
      ],
      data: { head: ["trial", "hypervolume"], rows: numbers.map((/** @type {number} */ n, /** @type {number} */ i) => [n, values[i]]) },
    });
  }
  return { element: h("section", { class: "card" }, figure.element, words), draw };
}

/** The recommended trial, with what the model expects of it. @param {any} r @param {string} metric @param {string} study @returns {any[]} */
function recommended(r, metric, study) {
  const value = r.mean ?? r.value;
  if (value === null || value === undefined) return [];
  const expected = r.mean === undefined ? "" : `\nexpected ${number(r.mean)} ± ${number(r.sd, 2)}`;
  const bars = r.mean === undefined ? [] : [{ kind: "error", x: [r.number], low: [r.mean - 1.96 * r.sd], high: [r.mean + 1.96 * r.sd], look: "best", outside: true }];
  return [...bars, { kind: "dots", x: [r.number], y: [value], look: "best", size: 6, name: "recommended (95 % interval)", outside: true, tip: () => `recommended: trial ${r.number}\n${metric} ${number(r.value)}${expected}\n${r.why}`, href: () => trialPath(study, r.number) }];
}

/** Beyond which values are far away, on the bad side. @param {number[]} values @param {boolean} larger */
function limit(values, larger) {
  if (values.length < 8) return larger ? -Infinity : Infinity;
  const sorted = [...values].sort((a, b) => a - b);
  const at = (/** @type {number} */ q) => sorted[Math.round(q * (sorted.length - 1))];
  const [low, high] = [at(0.25), at(0.75)];
  return larger ? low - FENCE * (high - low) : high + FENCE * (high - low);
}

/** What trials were expected to gain, against what they cost, and the advice in words. @param {import("../service").StudyOut} study */
export function gains(study) {
  const figure = new Figure("Gain against cost");
  const words = h("p", { class: "verdict", "aria-live": "polite" });
  const unit = study.objectives[0].metric;
  /** @param {import("../service").Overview} overview @param {import("../service").AdviceOut | null} advice */
  function draw(overview, advice) {
    words.replaceChildren(...advised(overview, advice, unit));
    const g = overview.gains;
    const gain = advice?.gain ?? 0;
    if (!g.numbers.length && !(gain > 0)) {
      const designed = Object.keys(overview.methods).every((method) => ["quasi-random", "queued", "added"].includes(method));
      return figure.say(designed ? "No trial was chosen by a model yet: the first ones are spread over the space." : "The acquisition of these trials does not say what it expects to gain.");
    }
    const at = Math.max(0, ...g.numbers, ...overview.progress[0].numbers.slice(-1)) + 1;
    const positive = g.gains.map((v) => (v !== null && v > 0 ? v : null));
    const costs = g.costs.some((/** @type {any} */ c) => c !== null && c !== undefined);
    const now = gain > 0 ? [{ kind: "dots", x: [at], y: [gain], look: "best", size: 6, name: "one more trial, now", tip: () => `one more trial\ngain ${number(gain)}${advice?.cost === undefined ? "" : `, cost ${number(advice.cost)}`}` }] : [];
    figure.draw({
      x: { label: "trial", whole: true },
      y: { label: `expected gain in ${unit}`, log: true },
      note: "as expected when the trial was chosen",
      described: `Expected gains of ${g.numbers.length} trials, the last ${number(g.gains.at(-1) ?? advice?.gain)}.`,
      layers: [
        { kind: "line", x: g.numbers, y: positive, look: "thin" },
        { kind: "dots", x: g.numbers, y: positive, size: g.numbers.length > 300 ? 2 : 3.4, name: "expected gain", tip: (i) => `trial ${g.numbers[i]}\ngain ${number(g.gains[i])}${g.costs[i] ? `\ncost ${number(g.costs[i])}` : ""}`, href: (i) => trialPath(study.name, g.numbers[i]) },
        ...(costs ? [/** @type {any} */ ({ kind: "line", x: g.numbers, y: g.costs, look: "other", name: "expected cost" })] : []),
        .../** @type {any[]} */ (now),
      ],
      data: { head: ["trial", "expected gain", "expected cost"], rows: g.numbers.map((/** @type {number} */ n, /** @type {number} */ i) => [n, g.gains[i], g.costs[i]]) },
    });
  }
  return { element: h("section", { class: "card" }, figure.element, words), draw };
}

/** @param {import("../service").Overview} overview @param {import("../service").AdviceOut | null} advice @param {string} unit @returns {any[]} */
export function advised(overview, advice, unit) {
  if (overview.study.state === "STOPPED") return [h("strong", {}, "Stopped by you. "), "Results are still taken; nothing new is handed out until it is resumed."];
  if (overview.stop && overview.stop.reason !== "gain below cost") return [h("strong", {}, `${sentence(overview.stop.reason)}. `), sentence(overview.stop.message ?? "")];
  if (overview.study.context?.length && !advice) return [`What to use, and what to try next, depends on the context: ${overview.study.context.join(", ")}.`];
  if (!advice) return ["What one more trial is worth is not known yet."];
  if (advice.gain === undefined || advice.gain === null) return [h("strong", {}, "Go on. "), sentence(advice.why)];
  if (overview.study.objectives.length > 1) return [advice.gain > 0 ? "One more trial is expected to push the front further." : "One more trial is not expected to push the front further."];
  const gain = `One more trial is expected to gain ${number(advice.gain)} in ${unit}`;
  if (advice.pays === undefined || advice.pays === null) return [`${gain}. No cost is set, so only the budget stops.`];
  return advice.pays ? [h("strong", {}, "Go on. "), `${gain}, and to cost ${number(advice.cost)}.`]
    : [h("strong", {}, "Stop. "), `${gain}, which is less than its cost of ${number(advice.cost)}.`];
}

/** @param {string} text */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** A line per trial through all parameters. @param {import("../service").StudyOut} study */
export function everything(study) {
  const shown = ["float", "int", "categorical", "ordinal", "bool"];
  const specs = study.parameters.filter((/** @type {any} */ p) => shown.includes(p.type)).slice(0, 16);
  const objective = study.objectives[0];
  const lines = parallel(specs, objective.metric, objective.direction === "maximize", (n) => trialPath(study.name, n));
  return { element: h("section", { class: "card", hidden: !specs.length }, ...lines.element), draw: (/** @type {any} */ overview) => lines.draw(overview.parallel) };
}

/** Outcome constraints: what was measured, and the bound. @param {import("../service").StudyOut} study @param {number} index */
export function constraint(study, index) {
  const figure = new Figure(`Constraint: ${study.outcome_constraints[index]}`);
  const words = h("p", { class: "verdict" });
  /** @param {import("../service").Overview} overview */
  function draw(overview) {
    const c = overview.constraints[index];
    if (!c.numbers.length) return figure.say(`${c.metric} was not measured yet.`);
    const holds = (/** @type {number} */ v) => (c.upper ? v <= c.bound : v >= c.bound);
    words.textContent = `${percent(c.share ?? 0)} of the results satisfy it.`;
    figure.draw({
      x: { label: "trial", whole: true }, y: { label: c.metric },
      described: words.textContent,
      layers: [
        { kind: "rule", value: c.bound, name: `bound ${number(c.bound)}` },
        { kind: "dots", x: c.numbers, y: c.values, look: "soft", look_of: (i) => (holds(c.values[i]) ? "soft" : "bad"), name: "holds", tip: (i) => `trial ${c.numbers[i]}\n${c.metric} ${number(c.values[i])}\n${holds(c.values[i]) ? "holds" : "broken"}`, href: (i) => trialPath(study.name, c.numbers[i]) },
        { kind: "dots", x: [], y: [], look: "bad", name: "broken" },
      ],
      data: { head: ["trial", c.metric], rows: c.numbers.map((/** @type {number} */ n, /** @type {number} */ i) => [n, c.values[i]]) },
    });
  }
  return { element: h("section", { class: "card" }, figure.element, words), draw };
}

/** Results by the fidelity they were measured at. @param {import("../service").StudyOut} study */
export function fidelity(study) {
  const figure = new Figure("Fidelities");
  const words = h("p", { class: "verdict" });
  /** @param {import("../service").Overview} overview */
  function draw(overview) {
    const f = overview.fidelity;
    if (!f) return;
    const [name] = Object.keys(f.target);
    const levels = f.levels[name];
    const spec = /** @type {any} */ (study.parameters.find((/** @type {any} */ p) => p.name === name));
    const numeric = levels.every((/** @type {any} */ v) => typeof v === "number");
    const at = levels.filter((/** @type {any} */ v) => v === f.target[name]).length;
    words.textContent = `${number(f.spent)} spent so far (${f.cost}); ${at} of ${levels.length} results at the target, ${name} ${short(f.target[name])}.`;
    if (!f.numbers.length) return figure.say("There is no result yet.");
    figure.draw({
      x: numeric ? { label: name, log: spec?.log } : { label: name, choices: [...new Set(levels)] },
      y: { label: study.objectives[0].metric },
      described: words.textContent,
      layers: [
        ...(numeric ? [/** @type {any} */ ({ kind: "rule", across: true, value: f.target[name], name: "target" })] : []),
        { kind: "dots", x: levels, y: f.values, look: "soft", name: "result", tip: (i) => `trial ${f.numbers[i]}\n${name} ${short(levels[i])}\n${study.objectives[0].metric} ${number(f.values[i])}`, href: (i) => trialPath(study.name, f.numbers[i]) },
      ],
      data: { head: ["trial", name, study.objectives[0].metric], rows: f.numbers.map((/** @type {number} */ n, /** @type {number} */ i) => [n, levels[i], f.values[i]]) },
    });
  }
  return { element: h("section", { class: "card" }, figure.element, words), draw };
}

/** What the newest trials reported on the way. @param {import("../service").StudyOut} study */
export function curves(study) {
  const figure = new Figure("On the way");
  async function draw() {
    const found = await get(`${studyPath(study.name, "/v1/dashboard")}/curves`);
    const list = found.curves;
    if (!list.length) return figure.say("Nothing was reported on the way.");
    const looks = /** @type {Record<string, string>} */ ({ RUNNING: "best", PRUNED: "early thin" });
    const ends = list.map((/** @type {any} */ c) => [c.steps.at(-1), c.values.at(-1)]);
    figure.draw({
      x: { label: "step", whole: true }, y: { label: found.metric },
      note: `the newest ${list.length} trials that reported`,
      described: `Intermediate values of ${list.length} trials.`,
      layers: [
        ...list.map((/** @type {any} */ c) => ({ kind: "line", x: c.steps, y: c.values, look: looks[c.state] ?? "thin" })),
        { kind: "line", x: [], y: [], look: "thin", name: "ended" }, { kind: "line", x: [], y: [], look: "best", name: "running" }, { kind: "line", x: [], y: [], look: "early thin", name: "stopped early" },
        { kind: "dots", x: ends.map((/** @type {any} */ e) => e[0]), y: ends.map((/** @type {any} */ e) => e[1]), size: 2.6, tip: (/** @type {number} */ i) => `trial ${list[i].number}, ${list[i].state.toLowerCase()}\nstep ${ends[i][0]}: ${number(ends[i][1])}`, href: (/** @type {number} */ i) => trialPath(study.name, list[i].number) },
      ],
      data: { head: ["trial", "step", found.metric], rows: list.flatMap((/** @type {any} */ c) => c.steps.map((/** @type {number} */ t, /** @type {number} */ i) => [c.number, t, c.values[i]])) },
    });
  }
  return { element: h("section", { class: "card" }, figure.element), draw };
}

/** Sequences of time steps: the best, the newest, and one of those in common use. @param {import("../service").StudyOut} study @param {any} spec */
export function schedules(study, spec) {
  const figure = new Figure(`Schedules: ${spec.name}`);
  const host = h("div", { class: "row" });
  /** @type {string | null} */
  let compared = null;
  /** @type {any} */
  let last = null;
  /** @param {import("../service").Overview} overview */
  function draw(overview) {
    last = overview;
    const found = overview.schedules.find((/** @type {any} */ one) => one.parameter === spec.name);
    if (!found) return;
    if (!host.childElementCount) {
      const options = /** @type {[string, string][]} */ ([["", "nothing"], ...Object.keys(found.known).map((name) => [name, name.replaceAll("_", " ")])]);
      compared = "trailing" in found.known ? "trailing" : Object.keys(found.known)[0] ?? "";
      host.append(field("Compare with", select(options, compared, (name) => { compared = name; draw(last); })));
    }
    if (!found.trials.length) return figure.say("There is no result yet.");
    const metric = study.objectives[0].metric;
    const step = Array.from({ length: spec.k }, (_, i) => i + 1);
    const [best, ...others] = found.trials;
    const line = (/** @type {any} */ t, /** @type {any} */ more) => ({ kind: "line", x: step, y: t.steps, ...more });
    const tip = (/** @type {number} */ i) => `trial ${best.number}\n${metric} ${number(best.value)}\nstep ${i + 1}: ${number(best.steps[i])}`;
    figure.draw({
      x: { label: "step", whole: true }, y: { label: spec.integer === false ? "noise level" : "time", log: spec.log },
      note: "thin: other good and new trials",
      described: `The best sequence is that of trial ${best.number}: ${best.steps.map((/** @type {number} */ t) => number(t)).join(", ")}.`,
      layers: /** @type {any[]} */ ([
        ...others.map((/** @type {any} */ t) => line(t, { look: "thin" })),
        ...(compared ? [line({ steps: found.known[compared] }, { look: "other", name: compared.replaceAll("_", " ") })] : []),
        line(best, { look: "best" }),
        { kind: "dots", x: step, y: best.steps, look: "best", size: 4, name: `best: trial ${best.number}`, tip, href: () => trialPath(study.name, best.number) },
      ]),
      data: { head: ["trial", metric, ...step.map((i) => `step ${i}`)], rows: [...found.trials.map((/** @type {any} */ t) => [t.number, t.value, ...t.steps]), ...Object.entries(found.known).map(([name, steps]) => [name, null, ...steps])] },
    });
  }
  return { element: h("section", { class: "card" }, figure.element, host), draw };
}
