// @ts-check
/** The list of studies. @module */
import { get } from "./api.js";
import { spark } from "./charts.js";
import { ago, badge, failure, h, number, page } from "./dom.js";

const REFRESH = 4000;
const search = h("input", { type: "search", placeholder: "Find by name", "aria-label": "Find studies by name", on: { input: () => { cursors = [null]; load(); } } });
const body = h("tbody");
const more = h("div", { class: "row" });
/** @type {(string | null)[]} */
let cursors = [null];

/** @param {import("../service").StudyLine} study */
function row(study) {
  const done = study.trials.COMPLETED ?? 0;
  const total = Object.values(study.trials).reduce((/** @type {number} */ a, /** @type {any} */ b) => a + b, 0);
  const running = study.trials.RUNNING ?? 0;
  const path = `/studies/${encodeURIComponent(study.name)}`;
  const state = study.state === "STOPPED" ? badge("STOPPED") : running ? h("span", { class: "badge run" }, `${running} running`) : badge("ACTIVE");
  const goal = study.objectives > 1 ? `${study.objectives} objectives` : `${study.direction} ${study.metric}`;
  return h("tr", {},
    h("td", {}, h("a", { class: "whole", href: path }, study.name), h("div", { class: "quiet small" }, goal)),
    h("td", {}, state),
    h("td", { class: "number" }, study.best === undefined ? "–" : number(study.best)),
    h("td", {}, study.spark.length > 1 ? spark(study.spark, `Best so far, from ${number(study.spark[0])} to ${number(study.best)}`) : ""),
    h("td", { class: "number" }, number(done), study.budget ? h("span", { class: "quiet" }, ` of ${number(study.budget)}`) : total > done ? h("span", { class: "quiet" }, ` of ${number(total)}`) : ""),
    h("td", {}, ago(study.active_at)));
}

let asked = 0;
async function load() {
  const mine = ++asked;
  let found;
  try {
    found = await get("/v1/dashboard/studies", { text: search.value, cursor: cursors.at(-1) });
  } catch (problem) {
    if (mine === asked) body.replaceChildren(h("tr", {}, h("td", { colspan: 6 }, failure(String(/** @type {Error} */ (problem).message)))));
    return;
  }
  if (mine !== asked) return;
  const empty = search.value ? "No study has such a name." : "There is no study yet. Create one here, or from Python:";
  body.replaceChildren(...(found.studies.length ? found.studies.map(row) : [h("tr", {}, h("td", { colspan: 6 }, h("p", {}, empty),
    search.value ? null : h("code", {}, 'Client(url).create_study("first", space, objective="minimize")')))]));
  more.replaceChildren(
    ...(cursors.length > 1 ? [h("button", { type: "button", on: { click: () => { cursors.pop(); load(); } } }, "Newer")] : []),
    ...(found.next_cursor ? [h("button", { type: "button", on: { click: () => { cursors.push(found.next_cursor); load(); } } }, "Older")] : []));
}

page("Studies",
  h("div", { class: "head" }, h("h1", {}, "Studies"), h("div", { class: "actions" }, search, h("a", { class: "button main", href: "/new" }, "New study"))),
  h("section", { class: "card", "aria-label": "Studies" }, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of studies" }, h("table", { class: "studies" },
    h("thead", {}, h("tr", {}, ["Study", "State", "Best", "Best so far", "Trials", "Last activity"].map((text, i) => h("th", { scope: "col", class: i === 2 || i === 4 ? "number" : "" }, text)))), body)), more));
await load();
setInterval(() => { if (!document.hidden) load(); }, REFRESH);
