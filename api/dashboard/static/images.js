// @ts-check
/** What trials made, as pictures. @module */
import { get, studyPath } from "./api.js";
import { failure, h, number } from "./dom.js";
import { trialPath } from "./history_plots.js";

/** @param {string} study @param {number} trial @param {string} name @param {string} alt */
const image = (study, trial, name, alt) => h("img", { src: `${studyPath(study)}/trials/${trial}/images/${encodeURIComponent(name)}`, alt, loading: "lazy" });

/** Those of the best and of the newest trials. @param {import("../service").StudyOut} study */
export function gallery(study) {
  const host = h("div", { class: "gallery" });
  const element = h("section", { class: "card", hidden: true }, h("h2", {}, "Images"), h("p", { class: "verdict" }, "Of the best trials that have some, then of the newest."), host);
  let shown = "";
  /** @param {import("../service").Overview} overview */
  function draw(overview) {
    const all = JSON.stringify(overview.pictured);
    if (all === shown) return;
    shown = all;
    element.hidden = !overview.pictured.length;
    const { metric } = study.objectives[0];
    host.replaceChildren(...overview.pictured.flatMap((/** @type {any} */ one) => one.images.map((/** @type {string} */ name) => h("figure", {},
      h("a", { href: trialPath(study.name, one.number) }, image(study.name, one.number, name, `${name} of trial ${one.number}`)),
      h("figcaption", { class: "small quiet" }, `trial ${one.number}${one.value === undefined ? "" : `: ${metric} ${number(one.value)}`}`)))));
  }
  return { element, draw };
}

/** Those of one trial; none: nothing. @param {string} study @param {number} trial */
export async function imagesOf(study, trial) {
  let found;
  try { found = (await get(`${studyPath(study)}/trials/${trial}/images`)).images; } catch (problem) { return failure(/** @type {any} */ (problem).message); }
  if (!found.length) return null;
  return h("section", { class: "card" }, h("h2", {}, "Images"), h("div", { class: "gallery" }, found.map((/** @type {any} */ one) => h("figure", {},
    h("a", { href: `${studyPath(study)}/trials/${trial}/images/${encodeURIComponent(one.name)}` }, image(study, trial, one.name, one.name)), h("figcaption", { class: "small quiet" }, one.name)))));
}
