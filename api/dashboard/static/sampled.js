// @ts-check
/** What pages about one sampling and about all of them share. @module */
import { bars } from "./charts.js";
import { h, number, percent } from "./dom.js";

/** What was saved, in words and numbers. @param {import("../service").SavedOut} total */
export function saved(total) {
  const tile = (/** @type {string} */ term, /** @type {any} */ fact, /** @type {any} */ more) => h("div", { class: "tile" }, h("dt", {}, term), h("dd", {}, fact), h("dd", {}, more));
  const tokens = total.fixed_tokens > 0;
  const share = tokens ? 1 - total.tokens / total.fixed_tokens : total.fixed_samples ? 1 - total.samples / total.fixed_samples : 0;
  return h("dl", { class: "tiles" },
    tile(tokens ? "Tokens saved" : "Answers saved", percent(share), tokens ? `${number(Math.round(total.tokens))} in place of ${number(Math.round(total.fixed_tokens))}` : `${number(total.samples)} in place of ${number(total.fixed_samples)}`),
    tile("Answers per prompt", total.prompts ? number(total.samples / total.prompts, 3) : "–", total.prompts ? `at most ${number(Math.round(total.fixed_samples / total.prompts))} were allowed` : ""),
    tile("Mean confidence", total.confidence === undefined ? "–" : percent(total.confidence), "P(the answer given is right)"),
    tile("Prompts decided", number(total.prompts), ""));
}

/** Why no more was drawn. @param {Record<string, number>} reasons */
export function reasonBars(reasons) {
  const sorted = Object.entries(reasons).sort((a, b) => b[1] - a[1]);
  const all = sorted.reduce((sum, [, n]) => sum + n, 0);
  return h("section", { class: "card" }, h("h2", {}, "Why no more was drawn"), sorted.length ? bars(sorted.map(([name, n]) => ({ name, values: [n], text: percent(n / all) })), [""]) : h("p", { class: "quiet small" }, "Nothing is decided yet."));
}
