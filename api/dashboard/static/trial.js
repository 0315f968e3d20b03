// @ts-check
/** A trial: what was chosen and why, what it was expected to gain, what came. @module */
import { get, place, send, studyPath } from "./api.js";
import { Figure } from "./charts.js";
import { ago, badge, duration, explained, failure, h, number, page, short, table } from "./dom.js";
import { imagesOf } from "./images.js";

const [, name, , text] = place();
const path = `${studyPath(name)}/trials/${text}`;

/** What is known of a trial as pairs. @param {[string, any][]} pairs */
const facts = (pairs) => h("div", { class: "scroll" }, h("table", { class: "plain-cells" }, h("tbody", {}, pairs.filter(([, value]) => value !== undefined && value !== "").map(([term, value]) => h("tr", {}, h("th", { scope: "row" }, term), h("td", {}, value))))));

/** @param {any} trial */
function chosen(trial) {
  const { source } = trial;
  const words = { "quasi-random": "Spread over the space, before there is a model to choose with.", queued: "A point that somebody added.", added: "Finished history that somebody added." };
  return h("section", { class: "card" }, h("h2", {}, "Why this one"),
    h("p", { class: "verdict" }, words[/** @type {keyof typeof words} */ (source.method)] ?? source.why ?? ""),
    facts([
      ["Chosen by", source.method.replaceAll("_", " ")],
      ["Why that", words[/** @type {keyof typeof words} */ (source.method)] ? source.why : undefined],
      ["Known then", `${number(source.observations ?? 0)} results, ${number(source.pending ?? 0)} pending${source.data_version === undefined ? "" : `, data version ${source.data_version}`}`],
      ["Expected result", source.mean === undefined ? undefined : `${number(source.mean)} ± ${number(source.sd, 2)}`],
      ["Expected gain", source.gain === undefined ? undefined : number(source.gain)],
      ["Expected cost", source.cost === undefined ? undefined : number(source.cost)],
      ["Numerics fell back to", (source.fallbacks ?? []).join(", ") || undefined],
    ]));
}

/** @param {any} trial @param {any} study */
function came(trial, study) {
  const results = trial.measurements.filter((/** @type {any} */ m) => m.step === undefined);
  const metric = study.objectives[0].metric;
  const own = results.filter((/** @type {any} */ m) => m.metric === metric);
  const card = h("section", { class: "card" }, h("h2", {}, "What came"));
  if (results.length) card.append(table("Measurements", ["Metric", "Value", "Standard error"], results.map((/** @type {any} */ m) => [m.metric, number(m.value, 6), m.stderr === undefined ? "–" : number(m.stderr, 2)])));
  else card.append(h("p", { class: "quiet" }, trial.state === "RUNNING" ? "It is running." : trial.state === "WAITING" ? "It waits for the next ask." : trial.reason ?? "Nothing was measured."));
  const { mean, sd } = trial.source;
  if (own.length && mean !== undefined && sd > 0) {
    const value = own.reduce((/** @type {number} */ sum, /** @type {any} */ m) => sum + m.value, 0) / own.length;
    const off = Math.abs(value - mean) / sd;
    card.append(h("p", { class: "verdict" }, h("strong", {}, off < 1 ? "About as expected. " : off < 2 ? "A little off. " : "A surprise. "), `${metric} came out ${number(value)}; ${number(mean)} ± ${number(sd, 2)} was expected (without noise), ${number(off, 2)} standard deviations away.`), interval(mean, sd, value, metric));
  }
  return card;
}

/** What was expected, and what came, on one line. @param {number} mean @param {number} sd @param {number} value @param {string} metric */
function interval(mean, sd, value, metric) {
  const figure = new Figure("Expected and observed", { level: "h3", small: true });
  figure.draw({
    x: { label: metric }, y: { label: "", choices: ["expected", "observed"] }, height: 130,
    described: `Expected ${number(mean)}, observed ${number(value)}.`,
    layers: [
      { kind: "error", across: true, y: ["expected"], low: [mean - 1.96 * sd], high: [mean + 1.96 * sd], name: "95 % interval" },
      { kind: "dots", x: [mean], y: ["expected"], size: 5, look: "hollow", tip: () => `expected ${number(mean)} ± ${number(sd, 2)}` },
      { kind: "dots", x: [value], y: ["observed"], size: 5, look: "best", tip: () => `observed ${number(value)}` },
    ],
    data: { head: ["", metric, "sd"], rows: [["expected", mean, sd], ["observed", value, null]] },
  });
  return figure.element;
}

/** What was reported on the way. @param {any} trial */
function reported(trial) {
  const stepped = trial.measurements.filter((/** @type {any} */ m) => m.step !== undefined);
  if (!stepped.length) return null;
  const metrics = [...new Set(stepped.map((/** @type {any} */ m) => m.metric))];
  return metrics.map((metric) => {
    const own = stepped.filter((/** @type {any} */ m) => m.metric === metric).sort((/** @type {any} */ a, /** @type {any} */ b) => a.step - b.step);
    const figure = new Figure(`On the way: ${metric}`);
    const [x, y] = [own.map((/** @type {any} */ m) => m.step), own.map((/** @type {any} */ m) => m.value)];
    figure.draw({ x: { label: "step", whole: true }, y: { label: /** @type {string} */ (metric) }, described: `${own.length} reports, the last ${number(y.at(-1))}.`,
      layers: [{ kind: "line", x, y }, { kind: "dots", x, y, size: 3, tip: (i) => `step ${x[i]}: ${number(y[i], 6)}` }],
      data: { head: ["step", /** @type {string} */ (metric)], rows: own.map((/** @type {any} */ m) => [m.step, m.value]) } });
    return h("section", { class: "card" }, figure.element);
  });
}

async function show() {
  const [trial, study, images] = await Promise.all([get(path), get(studyPath(name)), imagesOf(name, Number(text))]);
  const said = h("div", {});
  const cancel = h("button", { type: "button", on: { click: async () => {
    try { await send("POST", `${path}/cancel`, { reason: "cancelled on the dashboard" }); await show(); } catch (problem) { said.replaceChildren(explained(problem)); }
  } } }, "Cancel this trial");
  const ran = trial.started_at && trial.finished_at ? (Date.parse(trial.finished_at) - Date.parse(trial.started_at)) / 1000 : undefined;
  const beside = (/** @type {number} */ n, /** @type {string} */ label) => h("a", { class: "button", href: `/studies/${encodeURIComponent(name)}/trials/${n}` }, label);
  page(`Trial ${trial.number} of ${name}`,
    h("p", { class: "crumbs" }, h("a", { href: "/" }, "Studies"), " / ", h("a", { href: `/studies/${encodeURIComponent(name)}` }, name)),
    h("div", { class: "head" }, h("h1", {}, `Trial ${trial.number}`), badge(trial.state), h("div", { class: "actions" }, trial.number ? beside(trial.number - 1, "Before") : null, beside(trial.number + 1, "Next"), ["WAITING", "RUNNING"].includes(trial.state) ? cancel : null)),
    said,
    h("div", { class: "pair" },
      h("section", { class: "card" }, h("h2", {}, "What was chosen"), facts(Object.entries(trial.parameters).map(([key, value]) => [key, short(value)])),
        h("h3", {}, "When"), facts([["Created", ago(trial.created_at)], ["Started", trial.started_at ? ago(trial.started_at) : undefined], ["Ended", trial.finished_at ? ago(trial.finished_at) : undefined], ["Took", ran === undefined ? undefined : duration(ran)], ["Worker", trial.worker], ["Handed out", trial.attempts > 1 ? `${trial.attempts} times` : undefined], ["Reason", trial.reason]])),
      h("div", { class: "steps" }, chosen(trial))),
    came(trial, study), images, reported(trial));
}

try { await show(); } catch (problem) {
  if (!("status" in /** @type {any} */ (problem))) throw problem;
  page("Not found", h("p", { class: "crumbs" }, h("a", { href: `/studies/${encodeURIComponent(name)}` }, name)), h("h1", {}, `Trial ${text}`), failure(/** @type {any} */ (problem).message));
}
