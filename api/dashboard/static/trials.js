// @ts-check
/** The table of trials: filtered, sorted and paged by the service. @module */
import { get, studyPath } from "./api.js";
import { ago, badge, duration, failure, h, number, select, short } from "./dom.js";

const PAGE = 25;
const STATES = ["COMPLETED", "RUNNING", "WAITING", "PRUNED", "INFEASIBLE", "FAILED", "EXPIRED", "CANCELLED"];

/** @param {import("../service").StudyOut} study */
export function trialTable(study) {
  const wanted = { state: "", text: "", sort: "number", descending: true, offset: 0, limit: PAGE };
  /** @type {{id: string, name: string, number?: boolean}[]} */
  const columns = [
    { id: "number", name: "Trial" }, { id: "state", name: "State" },
    ...study.objectives.map((/** @type {any} */ o) => ({ id: `metric:${o.metric}`, name: o.metric, number: true })),
    ...study.parameters.filter((/** @type {any} */ p) => p.type !== "constant").map((/** @type {any} */ p) => ({ id: `parameter:${p.name}`, name: p.name, number: p.type === "float" || p.type === "int" })),
    { id: "method", name: "Chosen by" }, { id: "worker", name: "Worker" }, { id: "seconds", name: "Time", number: true }, { id: "finished_at", name: "Ended" },
  ];
  const body = h("tbody");
  const said = h("span", { class: "quiet small", "aria-live": "polite" });
  const before = h("button", { type: "button", on: { click: () => move(-PAGE) } }, "Before");
  const next = h("button", { type: "button", on: { click: () => move(PAGE) } }, "Next");
  const heads = columns.map((column) => {
    const head = h("th", { scope: "col", class: column.number ? "number" : "" }, h("button", { type: "button", on: { click: () => sort(column.id) } }, column.name));
    return { head, id: column.id };
  });
  let best = -1;
  let asked = 0;

  /** @param {number} by */
  function move(by) { wanted.offset = Math.max(0, wanted.offset + by); load(); }
  /** @param {string} id */
  function sort(id) {
    wanted.descending = wanted.sort === id ? !wanted.descending : id === "number";
    Object.assign(wanted, { sort: id, offset: 0 });
    load();
  }
  /** @param {any} change */
  function filter(change) { Object.assign(wanted, change, { offset: 0 }); load(); }

  async function load() {
    const mine = ++asked;
    let found;
    try { found = await get(`${studyPath(study.name, "/v1/dashboard")}/trials`, wanted); } catch (problem) {
      body.replaceChildren(h("tr", {}, h("td", { colspan: columns.length }, failure(String(/** @type {Error} */ (problem).message)))));
      return;
    }
    if (mine !== asked) return;
    for (const { head, id } of heads) head.setAttribute("aria-sort", id !== wanted.sort ? "none" : wanted.descending ? "descending" : "ascending");
    body.replaceChildren(...found.trials.map(row));
    const last = Math.min(found.matching, wanted.offset + PAGE);
    said.textContent = found.matching ? `${number(wanted.offset + 1)} to ${number(last)} of ${number(found.matching)}${found.matching < found.total ? ` (${number(found.total)} in all)` : ""}` : found.total ? "No trial passes." : "There is no trial yet.";
    before.disabled = !wanted.offset;
    next.disabled = last >= found.matching;
  }

  /** @param {import("../service").TrialLine} trial */
  function row(trial) {
    const cell = (/** @type {any} */ column) => {
      const [kind, name] = [column.id.split(":", 1)[0], column.id.slice(column.id.indexOf(":") + 1)];
      if (kind === "number") return h("a", { class: "whole", href: `/studies/${encodeURIComponent(study.name)}/trials/${trial.number}` }, `#${trial.number}`);
      if (kind === "state") return badge(trial.state);
      if (kind === "metric") return trial.values[name] === undefined ? "–" : `${number(trial.values[name], 5)}${trial.stderrs[name] ? ` ± ${number(trial.stderrs[name], 2)}` : ""}`;
      if (kind === "parameter") return short(trial.parameters[name]);
      if (kind === "seconds") return duration(trial.seconds);
      if (kind === "finished_at") return ago(trial.finished_at);
      return (trial[/** @type {"method" | "worker"} */ (kind)] ?? "–").replaceAll("_", " ");
    };
    return h("tr", { class: trial.number === best ? "best" : "" }, columns.map((column) => h("td", { class: column.number ? "number" : "" }, cell(column))));
  }

  /** @type {any} */
  let typing;
  const find = h("input", { type: "search", placeholder: "e.g. adam lr=0.01", "aria-label": "Filter trials by words", on: { input: () => { clearTimeout(typing); typing = setTimeout(() => filter({ text: find.value }), 200); } } });
  const states = select([["", "all states"], ...STATES.map((state) => /** @type {[string, string]} */ ([state, state.toLowerCase()]))], "", (state) => filter({ state }));
  states.setAttribute("aria-label", "Filter trials by state");
  const element = h("section", { class: "card", "aria-labelledby": "trials" },
    h("div", { class: "row" }, h("h2", { id: "trials" }, "Trials"), find, states, h("a", { class: "button push", href: `${studyPath(study.name, "/v1/dashboard")}/trials.csv`, download: `${study.name}.csv` }, "CSV")),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of trials" }, h("table", { class: "trials" }, h("thead", {}, h("tr", {}, heads.map(({ head }) => head))), body)),
    h("div", { class: "row" }, said, before, next));
  return { element, load, mark: (/** @type {number} */ number) => { best = number; } };
}
