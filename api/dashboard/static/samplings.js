// @ts-check
/** How many answers were enough, over all samplings and the gateway's decisions. @module */
import { get } from "./api.js";
import { Figure } from "./charts.js";
import { ago, failure, h, number, page, percent } from "./dom.js";
import { reasonBars, saved } from "./sampled.js";

/** Saved share and confidence, from one sampling to the next. @param {import("../service").SamplingLine[]} lines the newest first */
function overTime(lines) {
  const figure = new Figure("From one sampling to the next");
  const done = [...lines].reverse().filter((line) => line.prompts && line.fixed_samples);
  if (!done.length) { figure.say("Nothing is decided yet."); return figure.element; }
  const shares = done.map((line) => (line.fixed_tokens > 0 ? 1 - line.tokens / line.fixed_tokens : 1 - line.samples / line.fixed_samples));
  const x = done.map((_, i) => i + 1);
  const tip = (/** @type {number} */ i) => `${new Date(done[i].created_at).toLocaleString()}\nsaved ${percent(shares[i])}\nconfidence ${percent(done[i].confidence ?? 0)}\n${done[i].prompts} prompts, ${done[i].rule}`;
  figure.draw({ x: { label: "sampling, in the order of creation", whole: true }, y: { label: "share", domain: [0, 1] }, described: `Saved share and mean confidence of ${done.length} samplings.`,
    layers: [
      { kind: "line", x, y: shares, look: "thin" }, { kind: "dots", x, y: shares, name: "saved against the most allowed", tip, href: (i) => `/samplings/${done[i].id}` },
      { kind: "line", x, y: done.map((l) => l.confidence), look: "best thin" }, { kind: "dots", x, y: done.map((l) => l.confidence), look: "best", name: "mean confidence", tip, href: (i) => `/samplings/${done[i].id}` },
    ],
    data: { head: ["created", "saved", "confidence", "prompts", "samples", "tokens"], rows: done.map((l, i) => [l.created_at, shares[i], l.confidence, l.prompts, l.samples, l.tokens]) } });
  return figure.element;
}

/** Of the gateway: how sure it was, decision by decision. @param {any[]} decisions the newest first */
function byDecision(decisions) {
  const figure = new Figure("The gateway, decision by decision");
  const done = [...decisions].reverse().filter((one) => one.confidence !== undefined);
  if (!done.length) { figure.say("No decision has a confidence yet."); return figure.element; }
  const x = done.map((_, i) => i + 1 - done.length);
  let sum = 0;
  const means = done.map((one, i) => (sum += one.confidence) / (i + 1));
  figure.draw({ x: { label: "decision, the newest at 0", whole: true }, y: { label: "P(the answer given is right)", domain: [0, 1] }, described: `Confidence of ${done.length} decisions, ${percent(means.at(-1) ?? 0)} in the mean.`,
    layers: [
      { kind: "dots", x, y: done.map((one) => one.confidence), look: "soft", name: "decision", tip: (i) => `${done[i].model}\n${done[i].samples} answers, confidence ${percent(done[i].confidence ?? 0)}\n${done[i].reason}`, href: (i) => `/decisions/${encodeURIComponent(done[i].id)}` },
      { kind: "line", x, y: means, look: "best", name: "mean so far" },
    ],
    data: { head: ["decision", "answers", "confidence", "tokens", "reason"], rows: done.map((one) => [one.id, one.samples, one.confidence, one.tokens, one.reason]) } });
  return figure.element;
}

/** @param {string} label @param {string[]} head @param {any[][]} rows @param {number[]} numbers columns of numbers */
const list = (label, head, rows, numbers) => h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, h("table", {},
  h("thead", {}, h("tr", {}, head.map((text, i) => h("th", { scope: "col", class: numbers.includes(i) ? "number" : "" }, text)))),
  h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => h("td", { class: numbers.includes(i) ? "number" : "" }, cell)))))));

let shown = "";
async function show() {
  const [found, gateway] = await Promise.all([get("/v1/dashboard/samplings"), get("/v1/dashboard/decisions").catch(() => ({ decisions: [], gateway: false }))]); // those take an admin
  const all = JSON.stringify([found, gateway]);
  if (all === shown) return;
  shown = all;
  const lines = found.samplings;
  const rows = lines.map((/** @type {any} */ l) => [h("a", { class: "whole", href: `/samplings/${l.id}` }, l.id.slice(0, 8)), l.rule, number(l.prompts + l.open), l.open ? `${number(l.open)} open` : "all decided", number(l.samples), l.fixed_tokens > 0 ? percent(1 - l.tokens / l.fixed_tokens) : l.fixed_samples ? percent(1 - l.samples / l.fixed_samples) : "–", l.confidence === undefined ? "–" : percent(l.confidence), ago(l.created_at)]);
  const decided = gateway.decisions.map((/** @type {any} */ d) => [h("a", { class: "whole", href: `/decisions/${encodeURIComponent(d.id)}` }, d.id.slice(0, 14)), d.model, d.policy, number(d.samples), d.confidence === undefined ? "–" : percent(d.confidence), d.reason, d.tokens === undefined ? "–" : number(d.tokens), d.saved === undefined ? "–" : number(d.saved)]);
  page("Samplings", h("h1", {}, "How many answers were enough"),
    lines.length ? [saved(found.total), h("div", { class: "pair" }, h("section", { class: "card" }, overTime(lines)), reasonBars(found.total.reasons)),
      h("section", { class: "card" }, h("h2", {}, `Samplings${found.next_cursor ? `: the newest ${lines.length}` : ""}`), list("Samplings", ["Sampling", "Rule", "Prompts", "State", "Answers", "Saved", "Confidence", "Created"], rows, [2, 4, 5, 6]))]
      : h("section", { class: "card" }, h("p", {}, "There is no sampling yet. They come from ", h("code", {}, "client.sample(draw, prompts)"), " and ", h("code", {}, "POST /v1/samplings"), ".")),
    gateway.gateway ? h("section", { class: "card" }, h("h2", {}, "The gateway's newest decisions"), decided.length ? byDecision(gateway.decisions) : null, decided.length ? list("Decisions of the gateway", ["Decision", "Model", "Policy", "Answers", "Confidence", "Why no more", "Tokens", "Saved"], decided, [3, 4, 6, 7]) : h("p", { class: "quiet" }, "None yet.")) : null);
}
const REFRESH = 5000; // ms
try {
  await show();
  setInterval(() => { if (!document.hidden) show().catch(() => {}); }, REFRESH);
} catch (problem) {
  if (!("status" in /** @type {any} */ (problem))) throw problem;
  page("Samplings", h("h1", {}, "Samplings"), failure(/** @type {any} */ (problem).message));
}
