// @ts-check
/** A sampling, or one of the gateway's decisions: prompt by prompt, and answer by answer. @module */
import { get, place, send } from "./api.js";
import { Figure } from "./charts.js";
import { ago, explained, failure, h, number, page, percent } from "./dom.js";
import { reasonBars, saved } from "./sampled.js";

const [kind, id] = place();
const path = `/v1/dashboard/${kind}/${encodeURIComponent(id)}`;
const SPEED = 700; // ms a step when played
const REFRESH = 4000; // ms
const MOST = 500; // prompts in the table

/** A decision replayed: the posterior after every answer. */
function player() {
  const title = h("h2", { id: "replay" }, "A decision, answer by answer");
  const chances = h("div", { class: "steps" });
  const words = h("p", { class: "verdict", role: "status" });
  const slider = h("input", { type: "range", min: 0, value: "0", "aria-label": "Answers seen", on: { input: () => show(Number(slider.value)) } });
  const play = h("button", { type: "button", on: { click: toggle } }, "Play");
  const figure = new Figure("Confidence and what one more answer is worth", { level: "h3" });
  const element = h("section", { class: "card", "aria-labelledby": "replay", hidden: true }, title, h("div", { class: "row" }, play, h("label", { class: "inline" }, "Answers seen", slider)), words, chances, figure.element);
  /** @type {import("../service").ReplayOut} */
  let replay;
  /** @type {any} */
  let timer = null;

  /** @param {import("../service").ReplayOut} found */
  function open(found) {
    replay = found;
    element.hidden = false;
    title.textContent = `${found.title}: answer by answer`;
    slider.max = String(found.steps.length - 1);
    slider.value = slider.max;
    curve();
    show(found.steps.length - 1);
  }

  function toggle() {
    if (timer) return stop();
    play.textContent = "Pause";
    if (slider.value === slider.max) show(0);
    timer = setInterval(() => (Number(slider.value) < Number(slider.max) ? show(Number(slider.value) + 1) : stop()), SPEED);
  }
  function stop() { clearInterval(timer); timer = null; play.textContent = "Play"; }

  /** @param {number} k */
  function show(k) {
    slider.value = String(k);
    const step = replay.steps[k];
    const final = replay.steps[replay.steps.length - 1].posterior.map((/** @type {any} */ a) => a.answer);
    const known = new Map(step.posterior.map((/** @type {any} */ a) => [a.answer, a.probability]));
    const rows = [...final.map((/** @type {string} */ a) => [a, known.get(a) ?? 0, ""]), ["none of them", step.none, "none"]];
    chances.replaceChildren(...rows.map(([answer, p, look]) => {
      const bar = h("div", { class: "fill" });
      bar.style.width = `${100 * p}%`;
      return h("div", { class: `chance ${look}` }, h("span", {}, answer, answer === step.pick ? h("strong", {}, " ✓") : ""), h("div", { class: "track" }, bar), h("span", { class: "share" }, percent(p)));
    }));
    const came = k === 0 ? "Before any answer." : step.answer === undefined || step.answer === null ? `Answer ${k} failed.` : `Answer ${k}: ${step.answer}${step.score === undefined || step.score === null ? "" : `, score ${number(step.score, 3)}`}${step.tokens ? `, ${number(step.tokens)} tokens` : ""}.`;
    const then = step.stop ? [h("strong", {}, "Enough: "), `${step.stop.reason}${step.stop.message ? ` (${step.stop.message})` : ""}.`] : [`Draw ${step.draw ? number(step.draw) : "more"}${step.gain === undefined || step.gain === null ? "" : `: an answer more adds ${number(step.gain, 3)} to P(right)${step.cost === undefined || step.cost === null ? "" : ` and costs ${number(step.cost, 3)}`}`}.`];
    words.replaceChildren(came, " ", ...then);
  }

  function curve() {
    const { steps } = replay;
    const x = steps.map((/** @type {any} */ _, /** @type {number} */ i) => i);
    const [gain, cost] = ["gain", "cost"].map((name) => steps.map((/** @type {any} */ s) => s[name] ?? null));
    const stopped = steps.findIndex((/** @type {any} */ s) => s.stop);
    const tip = (/** @type {number} */ i) => `after ${i} answers\nconfidence ${percent(steps[i].confidence)}${gain[i] === null ? "" : `\ngain ${number(gain[i], 3)}`}${cost[i] === null ? "" : `\ncost ${number(cost[i], 3)}`}`;
    figure.draw({ x: { label: "answers seen", whole: true }, y: { label: "probability", domain: [0, 1] }, described: `Confidence after each of ${steps.length - 1} answers.`,
      layers: [
        { kind: "line", x, y: steps.map((/** @type {any} */ s) => s.confidence), look: "" }, { kind: "dots", x, y: steps.map((/** @type {any} */ s) => s.confidence), size: 3, name: "P(the pick is right)", tip },
        { kind: "line", x, y: gain, look: "best", name: "gain of one more" }, { kind: "line", x, y: cost, look: "other", name: "its cost" },
        ...(stopped >= 0 ? [/** @type {any} */ ({ kind: "rule", across: true, value: stopped, name: "enough" })] : []),
      ],
      data: { head: ["answers", "confidence", "gain", "cost"], rows: steps.map((/** @type {any} */ s, /** @type {number} */ i) => [i, s.confidence, s.gain, s.cost]) } });
  }
  return { element, open };
}

/** Prompts in order: how many answers, how sure, and where that is known whether they were right. */
function byPrompt() {
  const figure = new Figure("Prompt by prompt");
  /** @param {import("../service").PromptLine[]} prompts @param {Record<string, boolean>} right by prompt, as far as the right answers are known */
  function draw(prompts, right) {
    const done = prompts.map((p, i) => ({ ...p, at: i + 1 })).filter((p) => p.confidence !== undefined);
    if (!done.length) return figure.say("No prompt is decided yet.");
    const labelled = done.filter((p) => right[p.prompt] !== undefined);
    const tip = (/** @type {any} */ p) => `${p.prompt}\n${p.samples} answers, ${percent(p.agreement ?? 0)} of them equal\nconfidence ${percent(p.confidence)}${right[p.prompt] === undefined ? "" : right[p.prompt] ? "\nright" : "\nwrong"}\n${p.reason}`;
    figure.draw({ x: { label: "prompt", whole: true }, y: { label: "share", domain: [0, 1] }, note: "dots: confidence; larger ones took more answers",
      described: `Confidence, agreement${labelled.length ? " and accuracy" : ""} over ${done.length} prompts.`,
      layers: [
        ...groups(done).map(({ size, own, name }) => /** @type {any} */ ({ kind: "dots", look: "soft", size, name, x: own.map((p) => p.at), y: own.map((p) => p.confidence), tip: (/** @type {number} */ i) => tip(own[i]) })),
        { kind: "line", x: done.map((p) => p.at), y: running(done.map((p) => p.confidence ?? 0)), look: "best", name: "mean confidence so far" },
        { kind: "line", x: done.map((p) => p.at), y: running(done.map((p) => p.agreement ?? 0)), look: "other", name: "mean agreement so far" },
        ...(labelled.length ? [/** @type {any} */ ({ kind: "line", x: labelled.map((p) => p.at), y: running(labelled.map((p) => (right[p.prompt] ? 1 : 0))), look: "truth", name: "accuracy so far" })] : []),
      ],
      data: { head: ["prompt", "answers", "tokens", "agreement", "confidence", "right", "reason"], rows: prompts.map((p) => [p.prompt, p.samples, p.tokens, p.agreement, p.confidence, right[p.prompt], p.reason]) } });
  }
  return { element: figure.element, draw };
}

/** Prompts by how many answers they took, in three sizes. @param {any[]} done */
function groups(done) {
  const sorted = done.map((p) => p.samples).sort((a, b) => a - b);
  const [low, high] = [sorted[Math.floor(sorted.length / 3)], sorted[Math.floor((2 * sorted.length) / 3)]];
  const parts = [{ size: 2.6, from: 0, to: low, name: `up to ${low} answers` }, { size: 4, from: low + 1, to: high, name: `to ${high}` }, { size: 6, from: high + 1, to: Infinity, name: "more" }];
  return parts.map((part) => ({ ...part, own: done.filter((p) => p.samples >= part.from && p.samples <= part.to) })).filter((part) => part.own.length);
}

/** @param {number[]} values */
function running(values) {
  let sum = 0;
  return values.map((value, i) => (sum += value) / (i + 1));
}

/** Wilson's 95 % interval of a share of n. @param {number} share @param {number} n */
function wilson(share, n) {
  const z2 = 1.96 ** 2;
  const middle = (share + z2 / (2 * n)) / (1 + z2 / n);
  const half = (1.96 / (1 + z2 / n)) * Math.sqrt((share * (1 - share)) / n + z2 / (4 * n * n));
  return [middle - half, middle + half];
}

/** Whether confidence is deserved, where the right answers are known. @param {(right: Record<string, boolean>) => void} then */
function reliability(then) {
  const figure = new Figure("Is the confidence deserved?");
  const words = h("p", { class: "verdict", "aria-live": "polite" });
  const file = h("input", { type: "file", accept: "application/json,.json", on: { change: async () => {
    try { wanted = { labels: JSON.parse(await file.files[0].text()) }; await draw(); } catch (problem) { words.replaceChildren(explained(problem)); }
  } } });
  /** @type {any} */
  let wanted = null;
  async function draw() {
    const found = await send("POST", `${path}/reliability`, wanted);
    then(found.right);
    const x = found.bins.map((/** @type {any} */ b) => b.confidence);
    const y = found.bins.map((/** @type {any} */ b) => b.accuracy);
    const spread = found.bins.map((/** @type {any} */ b) => wilson(b.accuracy, b.prompts));
    words.textContent = `Of ${number(found.prompts)} labelled prompts ${percent(found.accuracy)} were answered right, with a mean confidence of ${percent(found.confidence)}; the expected calibration error is ${percent(found.error)}.`;
    figure.draw({ x: { label: "confidence", domain: [0, 1] }, y: { label: "share that is right", domain: [0, 1] }, note: "bars: 95 % intervals", described: words.textContent,
      layers: [
        { kind: "line", x: [0, 1], y: [0, 1], look: "dash", name: "deserved" },
        { kind: "error", x, low: spread.map((/** @type {number[]} */ ends) => ends[0]), high: spread.map((/** @type {number[]} */ ends) => ends[1]), outside: true },
        { kind: "dots", x, y, size: 5, name: "prompts", tip: (i) => `${found.bins[i].prompts} prompts\nconfidence ${percent(x[i])}\nright ${percent(y[i])}` },
      ],
      data: { head: ["from", "to", "prompts", "confidence", "right"], rows: found.bins.map((/** @type {any} */ b) => [b.low, b.high, b.prompts, b.confidence, b.accuracy]) } });
  }
  /** @param {import("../service").SamplingView} found */
  async function follow(found) {
    if (found.labels) wanted ??= {};
    if (!wanted) return figure.say('The right answers are not known here. Give them with the sampling, as metadata {"labels": {prompt: answer}}, or choose a file {prompt: answer}; it is not kept.');
    if (!found.prompts.some((/** @type {any} */ p) => p.samples)) return figure.say("There is no answer yet.");
    try { await draw(); } catch (problem) { words.replaceChildren(explained(problem)); }
  }
  return { element: h("section", { class: "card" }, figure.element, words, h("label", { class: "field" }, "Right answers from a JSON file", file)), follow };
}

async function sampling() {
  /** @type {import("../service").SamplingView} */
  let found = await get(path);
  const one = player();
  const open = async (/** @type {string} */ prompt) => {
    one.open(await get(`${path}/replay`, { prompt }));
    one.element.scrollIntoView({ block: "start", behavior: "smooth" });
  };
  /** @type {Record<string, boolean>} */
  let right = {};
  const picture = byPrompt();
  const trusted = reliability((known) => { right = known; picture.draw(found.prompts, right); });
  const [state, facts, reasons, said, body] = [h("span", {}), h("div", { class: "through" }), h("div", { class: "through" }), h("h2", {}), h("tbody", {})];
  const row = (/** @type {any} */ p) => h("tr", {}, h("td", {}, p.prompt), h("td", { class: "number" }, number(p.samples)), h("td", { class: "number" }, number(p.tokens)), h("td", { class: "number" }, p.agreement === undefined ? "–" : percent(p.agreement)), h("td", { class: "number" }, p.confidence === undefined ? "–" : percent(p.confidence)), h("td", {}, p.reason ?? "open"),
    h("td", {}, p.samples ? h("button", { type: "button", class: "plain", "aria-label": `Replay ${p.prompt}`, on: { click: () => open(p.prompt) } }, "Replay") : ""));

  function show() {
    const { line, prompts } = found;
    state.className = `badge ${line.open ? "run" : "ok"}`;
    state.textContent = line.open ? `${line.open} open` : "all decided";
    facts.replaceChildren(saved(line));
    reasons.replaceChildren(reasonBars(line.reasons));
    picture.draw(prompts, right);
    said.textContent = prompts.length > MOST ? `Prompts: the first ${MOST} of ${prompts.length}` : "Prompts";
    const focused = document.activeElement?.getAttribute("aria-label");
    body.replaceChildren(...prompts.slice(0, MOST).map(row));
    if (focused?.startsWith("Replay ")) [...body.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === focused)?.focus({ preventScroll: true });
    trusted.follow(found);
  }

  async function look() {
    const before = JSON.stringify(found);
    found = await get(path).catch(() => found);
    if (JSON.stringify(found) !== before) show();
  }

  const { line } = found;
  page(`Sampling ${id.slice(0, 8)}`, h("p", { class: "crumbs" }, h("a", { href: "/samplings" }, "Samplings")),
    h("div", { class: "head" }, h("h1", {}, `Sampling ${id.slice(0, 8)}`), state),
    h("p", { class: "quiet small" }, `Rule ${line.rule}, at most ${line.max_samples} answers a prompt · created `, ago(line.created_at)),
    facts, h("div", { class: "pair" }, h("section", { class: "card" }, picture.element), reasons), one.element, trusted.element,
    h("section", { class: "card" }, said, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Prompts" }, h("table", {}, h("thead", {}, h("tr", {}, ["Prompt", "Answers", "Tokens", "Agreement", "Confidence", "Why no more", "Replay"].map((text, i) => h("th", { scope: "col", class: [1, 2, 3, 4].includes(i) ? "number" : "" }, text)))), body))));
  show();
  setInterval(() => { if (!document.hidden) look(); }, REFRESH);
}

async function decision() {
  const found = await get(`${path}/replay`);
  const one = player();
  page("Decision", h("p", { class: "crumbs" }, h("a", { href: "/samplings" }, "Samplings")), h("h1", {}, "A decision of the gateway"), h("p", { class: "quiet small" }, `Rule ${found.rule}, ${found.drawn} answers, at most ${found.max_samples}; replayed by the configured policy.`), one.element);
  one.open(found);
}

try { await (kind === "decisions" ? decision() : sampling()); } catch (problem) {
  if (!("status" in /** @type {any} */ (problem))) throw problem;
  page("Not found", h("p", { class: "crumbs" }, h("a", { href: "/samplings" }, "Samplings")), h("h1", {}, id), failure(/** @type {any} */ (problem).message));
}
