// @ts-check
/** A study: how it goes, what was learned, what to do next. It follows what happens without being loaded again. @module */
import { follow, get, paced, place, send, studyPath, whenSeen } from "./api.js";
import { ago, badge, explained, failure, h, number, page, short } from "./dom.js";
import { control } from "./forms.js";
import { gallery } from "./images.js";
import { advised, constraint, curves, everything, fidelity, gains, hypervolume, progress, schedules, trialPath } from "./history_plots.js";
import { NONE, contour, diagnostics, front, slices } from "./model_plots.js";
import { trialTable } from "./trials.js";

const HISTORY_PAUSE = 700; // ms between two looks at the history, and at the model
const MODEL_PAUSE = 6000;
const [, name] = place();
const path = studyPath(name);

/** @typedef {import("../service").RecommendedOut & {context?: Record<string, any>}} Recommended in a context, where one was chosen */

/** The facts on top. @param {import("../service").StudyOut} study */
function tiles(study) {
  const several = study.objectives.length > 1;
  const [best, trials, running, advice] = [h("div", { class: "tile" }), h("div", { class: "tile" }), h("div", { class: "tile" }), h("div", { class: "tile wide said" })];
  const term = (/** @type {any} */ host, /** @type {string} */ title, /** @type {any[]} */ ...facts) => host.replaceChildren(h("dt", {}, title), ...facts.map((fact, i) => h("dd", { class: i === 0 && host === advice ? "words" : "" }, fact)));
  /** @param {import("../service").Overview} overview @param {any} advised_ */
  function draw(overview, advised_) {
    const p = overview.progress[0];
    const r = /** @type {Recommended | undefined} */ (overview.recommended);
    const best_ = r && !several ? r.number : p.best_numbers.at(-1);
    const measured = study.fidelity ? undefined : r?.value; // with fidelities it was perhaps measured roughly
    const value = r && !several ? (measured ?? r.mean) : p.best_values.at(-1);
    const where = r?.context ? ` at ${Object.entries(r.context).map(([key, value]) => `${key} ${short(value)}`).join(", ")}` : "";
    term(best, several ? `Best ${p.metric}` : r ? `Recommended${where}` : "Best so far", best_ === undefined ? "–" : number(value, 5), best_ === undefined ? "no result yet" : [h("a", { href: trialPath(name, best_) }, `trial ${best_}`), r && !several && r.mean !== undefined ? `, expected ${number(r.mean)} ± ${number(r.sd, 2)}` : ""]);
    const counts = overview.study.trials;
    const done = counts.COMPLETED ?? 0;
    const budget = overview.study.budget?.trials;
    const others = Object.entries(counts).filter(([state]) => !["COMPLETED", "RUNNING"].includes(state)).map(([state, n]) => `${n} ${state.toLowerCase()}`).join(", ");
    term(trials, "Completed trials", number(done), [budget ? `${number(overview.used)} of ${number(budget)} used${others ? "; " : ""}` : "", others || (budget ? "" : "no budget set"), budget ? h("progress", { value: overview.used, max: budget, "aria-label": "Budget used" }) : ""]);
    const workers = new Set(overview.running.map((/** @type {any} */ t) => t.worker).filter(Boolean)).size;
    term(running, "Running", number(counts.RUNNING ?? 0), [workers ? `${workers} worker${workers > 1 ? "s" : ""}, ` : "", "last activity ", ago(overview.active_at)]);
    term(advice, "What to do next", h("span", {}, ...advised(overview, advised_, study.objectives[0].metric)), r && !several ? `Recommended is the ${r.why}.` : "");
  }
  return { element: h("dl", { class: "tiles" }, best, trials, running, advice), draw };
}

/** In which context: what is recommended and what one more trial is worth depend on it. @param {import("../service").StudyOut} study @param {() => void} changed */
function contextChoice(study, changed) {
  const specs = study.parameters.filter((/** @type {any} */ p) => (study.context ?? []).includes(p.name));
  const host = h("div", { class: "fields" });
  const said = h("div", { "aria-live": "polite" });
  /** @type {{name: string, read: () => any}[]} */
  let controls = [];
  host.addEventListener("change", changed);
  return {
    element: specs.length ? h("section", { class: "card" }, h("h2", {}, "In which context?"), h("p", { class: "verdict" }, "What to use, and whether to go on, depends on it."), host, said) : null,
    say: (/** @type {any} */ problem) => said.replaceChildren(problem ? explained(problem) : ""),
    /** At first that of the newest trial. @param {import("../service").Overview} overview @returns {Record<string, any> | null} */
    read: (overview) => {
      if (!controls.length && overview.parallel.numbers.length) {
        const made = specs.map((/** @type {any} */ p) => control(p, overview.parallel.columns[p.name]?.at(-1)));
        controls = made.map((/** @type {any} */ c, /** @type {number} */ i) => ({ name: specs[i].name, read: c.read }));
        host.replaceChildren(...made.map((/** @type {any} */ c) => c.label));
      }
      return controls.length ? Object.fromEntries(controls.map((c) => [c.name, c.read()])) : null;
    },
  };
}

/** What to do where nothing was tried yet. @param {string} name */
function firstSteps(name) {
  const { origin } = location;
  return h("section", { class: "card" }, h("h2", {}, "Nothing was tried yet"),
    h("p", { class: "verdict" }, "Trials come from workers that ask for one, run it and tell what came. In Python, where evaluate(params) returns the result:"),
    h("pre", { tabindex: 0 }, h("code", {}, `from suffice.api.client import Client\n\nwith Client("${origin}") as client:\n    client.study("${name}").optimize(evaluate, trials=20)`)),
    h("p", { class: "verdict" }, "In any language:"),
    h("pre", { tabindex: 0 }, h("code", {}, `curl -X POST ${origin}/v1/studies/${name}/ask -H 'Content-Type: application/json' -d '{}'`)),
    h("p", { class: "verdict" }, "This page follows by itself. A point of your own, or a result that you have already: Add a point, above."));
}

/** A dialog in which a point can be added, with its results if there are any. @param {import("../service").StudyOut} study */
function pointDialog(study) {
  const said = h("div", {});
  const host = h("div", { class: "fields" });
  const results = h("div", { class: "fields" });
  /** @type {{name: string, read: () => any}[]} */
  let controls = [];
  /** @type {{name: string, read: () => any}[]} */
  let measured = [];
  const dialog = h("dialog", { "aria-labelledby": "point" }, h("form", { on: { submit: add } }, h("h2", { id: "point" }, "Add a point"), said,
    h("fieldset", {}, h("legend", {}, "Where"), host), h("fieldset", {}, h("legend", {}, "Results, if it was tried already"), results),
    h("div", { class: "row" }, h("button", { class: "main", type: "submit" }, "Add"), h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel"))));

  /** @param {Record<string, any>} [start] */
  function open(start = {}) {
    said.replaceChildren();
    const specs = study.parameters.filter((/** @type {any} */ p) => p.type !== "constant");
    const made = specs.map((/** @type {any} */ p) => control(p, start[p.name]));
    controls = made.map((/** @type {any} */ c, /** @type {number} */ i) => ({ name: specs[i].name, read: c.read }));
    host.replaceChildren(...made.map((/** @type {any} */ c) => c.label));
    const metrics = study.objectives.map((/** @type {any} */ o) => ({ name: o.metric, type: "float", low: "nothing", high: "wait" }));
    const fields = metrics.map((/** @type {any} */ m) => control(m));
    measured = fields.map((/** @type {any} */ c, /** @type {number} */ i) => ({ name: metrics[i].name, read: c.read }));
    results.replaceChildren(...fields.map((/** @type {any} */ c) => { c.label.querySelector("input").placeholder = "leave empty to try it"; return c.label; }));
    dialog.showModal();
  }

  /** @param {Event} event */
  async function add(event) {
    event.preventDefault();
    const parameters = Object.fromEntries(controls.map((c) => [c.name, c.read()]).filter(([, value]) => value !== undefined));
    const measurements = measured.map((m) => ({ metric: m.name, value: m.read() })).filter((m) => m.value !== undefined);
    try {
      await send("POST", `${path}/trials`, { trials: [{ parameters, measurements }] });
      dialog.close();
    } catch (problem) { said.replaceChildren(explained(problem)); }
  }
  return { element: dialog, open };
}

/** @param {import("../service").Overview} overview */
function build(overview) {
  const { study } = overview;
  const several = study.objectives.length > 1;
  const facts = tiles(study);
  const dialog = pointDialog(study);
  const live = h("span", { class: "badge", role: "status" }, "connecting");
  const state = h("span", {});
  const toggle = h("button", { type: "button", on: { click: stopOrResume } });
  const said = h("div", { "aria-live": "polite" });
  const history = {
    progress: study.objectives.map((/** @type {any} */ _, /** @type {number} */ i) => progress(study, i)),
    constraints: (study.outcome_constraints ?? []).map((/** @type {any} */ _, /** @type {number} */ i) => constraint(study, i)),
    hypervolume: several ? hypervolume(study) : null, gallery: gallery(study), gains: several ? null : gains(study), fidelity: study.fidelity ? fidelity(study) : null,
    schedules: study.parameters.filter((/** @type {any} */ p) => p.type === "time_steps").map((/** @type {any} */ p) => schedules(study, p)), everything: everything(study), curves: curves(study),
  };
  const context = contextChoice(study, () => { askWithin(context.read(now)); model.front?.draw(now, context.read(now)); });
  const model = { diagnostics: diagnostics(study), slices: slices(study), contour: contour(study), front: several ? front(study) : null };
  const rows = trialTable(study);
  const first = firstSteps(study.name);
  history.curves.element.hidden = true;
  let now = overview;
  /** @type {any} */
  let advice = null;
  /** @type {any} */
  let within = null;

  const learned = h("div", { class: "stack" },
    h("div", { class: "pair" }, model.diagnostics.elements), model.slices.element,
    h("div", { class: "pair" }, model.contour.element, (history.gains ?? history.everything).element),
    history.gains ? history.everything.element : null);

  page(study.name,
    h("p", { class: "crumbs" }, h("a", { href: "/" }, "Studies")),
    h("div", { class: "head" }, h("h1", {}, study.name), state, live, h("div", { class: "actions" },
      h("button", { type: "button", on: { click: () => dialog.open(best()) } }, "Add a point"), toggle, h("a", { class: "button", href: `${path}/export`, download: `${study.name}.json` }, "Export"))),
    h("p", { class: "quiet small" }, defined(study)), said, facts.element, context.element, first,
    h("div", { class: "pair" }, history.progress.map((/** @type {any} */ p) => p.element)), several ? h("div", { class: "pair" }, model.front?.element, history.hypervolume?.element) : null, history.fidelity?.element, history.schedules.map((/** @type {any} */ one) => one.element), history.gallery.element,
    learned, history.curves.element, history.constraints.length ? h("div", { class: "pair" }, history.constraints.map((/** @type {any} */ c) => c.element)) : null,
    rows.element,
    h("section", { class: "card" }, h("h2", {}, "A second opinion"), h("p", { class: "verdict" }, "Ax fits a model of its own to the same results: sensitivity, cross-validation, contours. That takes seconds to minutes. ", h("a", { href: `/studies/${encodeURIComponent(name)}/analyses` }, "Ask for its analyses"))),
    dialog.element);

  /** The recommended configuration, as far as it is in the picture. */
  function best() {
    const at = now.recommended?.number ?? now.progress[0].best_numbers.at(-1);
    const i = now.parallel.numbers.indexOf(at ?? -1);
    return i < 0 ? {} : Object.fromEntries(Object.entries(now.parallel.columns).map(([column, values]) => [column, values[i]]));
  }

  async function stopOrResume() {
    try {
      await send("PATCH", path, { state: now.study.state === "ACTIVE" ? "STOPPED" : "ACTIVE" });
      said.replaceChildren();
      look();
    } catch (problem) { said.replaceChildren(explained(problem)); }
  }

  /** What is known, with what is recommended in the chosen context. */
  const known = () => (within && !several ? { ...now, recommended: within } : now);

  function show() {
    const stopped = now.study.state === "STOPPED";
    state.replaceChildren(stopped ? badge("STOPPED") : now.stop ? h("span", { class: "badge warn" }, now.stop.reason) : badge("ACTIVE"));
    first.hidden = Object.values(now.study.trials).some(Boolean);
    learned.hidden = !now.progress[0].total;
    toggle.textContent = stopped ? "Resume" : "Stop";
    facts.draw(known(), advice);
    for (const part of [...history.progress, ...history.constraints, ...history.schedules, history.gallery, history.hypervolume, history.fidelity, history.everything]) part?.draw(now);
    history.gains?.draw(now, advice);
    rows.mark(known().recommended?.number ?? -1);
    history.curves.element.hidden = !now.reports;
    if (now.reports) history.curves.draw();
  }

  const look = paced(async () => {
    try { now = await get(studyPath(name, "/v1/dashboard")); } catch (problem) {
      if (/** @type {any} */ (problem).status === 404) said.replaceChildren(failure("The study was deleted."));
      return;
    }
    show();
    await rows.load();
    if (now.study.data_version !== asked) { asked = now.study.data_version; ask(); think(); }
  }, HISTORY_PAUSE);

  /** What the engine recommends and advises. */
  const ask = paced(async () => {
    if (!now.progress[0].total) return; // nothing is known
    if (context.element) return askWithin(context.read(now));
    if (!several) await get(`${path}/best`).catch(() => null); // the next look shows it
    advice = await get(`${path}/advice`).catch(() => advice);
    now = await get(studyPath(name, "/v1/dashboard")).catch(() => now);
    show();
  }, MODEL_PAUSE);

  /** The same in a context. @param {any} chosen */
  async function askWithin(chosen) {
    if (!chosen) return;
    try {
      const found = several ? null : await send("POST", `${path}/best`, { context: chosen });
      within = found && { number: found.trial.number, mean: found.mean, sd: found.sd, why: found.why, context: chosen };
      advice = await send("POST", `${path}/advice`, { context: chosen });
      context.say(null);
    } catch (problem) { context.say(problem); }
    show();
  }

  /** What the model believes, once somebody looks there. */
  const think = paced(async () => {
    await model.front?.draw(now, context.element ? context.read(now) : null);
    if (!seen) return;
    if (!(await model.slices.draw())) {
      for (const part of [model.diagnostics, model.contour]) part.say(NONE);
      return;
    }
    const ranked = await model.diagnostics.draw();
    model.slices.sort(ranked);
    await model.contour.draw(ranked);
  }, MODEL_PAUSE);
  let seen = false;
  let asked = now.study.data_version;

  show();
  rows.load();
  model.front?.draw(now, context.element ? context.read(now) : null);
  ask();
  whenSeen(model.diagnostics.elements[0], () => { seen = true; think(); });
  follow(name, overview.sequence, look, (on) => { live.className = on ? "badge live" : "badge"; live.textContent = on ? "live" : "not connected"; });
}

/** The definition in a line. @param {import("../service").StudyOut} study */
function defined(study) {
  const parts = [
    `${study.parameters.length} parameter${study.parameters.length > 1 ? "s" : ""}`,
    study.objectives.map((/** @type {any} */ o) => `${o.direction} ${o.metric}`).join(", "),
    ...(study.outcome_constraints ?? []), ...(study.parameter_constraints ?? []),
    `acquisition ${typeof study.acquisition === "string" ? study.acquisition : study.acquisition.name}`.replaceAll("_", " "),
    study.cost ? `cost ${short(study.cost.price)}${study.cost.metric ? ` per ${study.cost.metric}` : " a trial"}` : "",
    study.earlier?.length ? `learns from ${study.earlier.join(", ")}` : "",
    study.engine === "ax" ? "suggestions by Ax" : "",
  ];
  return parts.filter(Boolean).join(" · ");
}

try { build(await get(studyPath(name, "/v1/dashboard"))); } catch (problem) {
  if (!("status" in /** @type {any} */ (problem))) throw problem;
  page("Not found", h("p", { class: "crumbs" }, h("a", { href: "/" }, "Studies")), h("h1", {}, name), failure(/** @type {any} */ (problem).message));
}
