// @ts-check
/** The form for a new study. @module */
import { send } from "./api.js";
import { explained, field, h, page, select, tick } from "./dom.js";
import { literal, parsed } from "./forms.js";

const TYPES = /** @type {[string, string][]} */ ([["float", "number"], ["int", "whole number"], ["categorical", "choices"], ["ordinal", "ordered choices"], ["bool", "yes or no"]]);
const text = (/** @type {any} */ more = {}) => h("input", { type: "text", autocomplete: "off", ...more });

const name = text({ required: true, maxlength: 100, placeholder: "learning-rate" });
const metric = text({ value: "objective" });
const direction = select([["minimize", "minimize"], ["maximize", "maximize"]]);
const budget = text({ inputmode: "numeric", placeholder: "no limit" });
const cost = text({ inputmode: "decimal", placeholder: "none" });
const constraints = h("textarea", { rows: 2, placeholder: "x1 + x2 <= 20" });
const outcomes = h("textarea", { rows: 2, placeholder: "latency <= 0.2" });
const further = h("textarea", { rows: 4, placeholder: '{"noise": "none", "seed": 0}' });
const rows = h("div", { class: "steps" });
const said = h("div", { tabindex: -1 });
/** @type {Set<() => any>} */
const parameters = new Set();

/** One more parameter. */
function addParameter(focus = true) {
  const label = text({ required: true, placeholder: "lr" });
  const settings = h("div", { class: "fields" });
  let read = () => ({});
  const shape = (/** @type {string} */ type) => {
    const { made, values } = settingsOf(type);
    settings.replaceChildren(...made);
    read = values;
  };
  const type = select(TYPES, "float", shape);
  const row = h("div", { class: "parameter", role: "group", "aria-label": "Parameter" }, field("Name", label), field("Type", type), settings);
  const one = () => ({ name: label.value.trim(), type: type.value, ...read() });
  row.append(h("button", { type: "button", class: "plain", "aria-label": "Remove this parameter", on: { click: () => { parameters.delete(one); row.remove(); } } }, "Remove"));
  shape("float");
  parameters.add(one);
  rows.append(row);
  if (focus) label.focus();
}

/** What a type needs, as controls. @param {string} type */
function settingsOf(type) {
  if (type === "bool") return { made: [], values: () => ({}) };
  if (type === "categorical" || type === "ordinal") {
    const choices = text({ required: true, placeholder: "adam, sgd, lion" });
    return { made: [field("Choices, with commas between", choices)], values: () => ({ choices: choices.value.split(",").map(literal) }) };
  }
  const [low, high] = [text({ required: true, inputmode: "decimal" }), text({ required: true, inputmode: "decimal" })];
  let log = false;
  const values = () => ({ low: parsed(low.value), high: parsed(high.value), ...(log ? { log } : {}) });
  return { made: [field("From", low), field("To", high), tick("log scale", false, (on) => { log = on; })], values };
}

/** The study as the form has it. */
function document_() {
  const lines = (/** @type {any} */ area) => area.value.split("\n").map((/** @type {string} */ line) => line.trim()).filter(Boolean);
  const [trials, price] = [parsed(budget.value), parsed(cost.value)];
  return {
    name: name.value.trim(),
    parameters: [...parameters].map((one) => one()),
    objectives: [{ metric: metric.value.trim(), direction: direction.value }],
    ...(lines(constraints).length ? { parameter_constraints: lines(constraints) } : {}),
    ...(lines(outcomes).length ? { outcome_constraints: lines(outcomes) } : {}),
    ...(trials === undefined ? {} : { budget: { trials } }),
    ...(price === undefined ? {} : { cost: { price } }),
    ...(further.value.trim() ? JSON.parse(further.value) : {}),
  };
}

/** @param {Event} event */
async function create(event) {
  event.preventDefault();
  said.replaceChildren();
  try {
    const made = await send("POST", "/v1/studies", document_());
    location.href = `/studies/${encodeURIComponent(made.name)}`;
  } catch (problem) {
    const shown = problem instanceof SyntaxError ? { message: `Further settings: expected JSON (${problem.message})` } : problem;
    said.replaceChildren(explained(shown));
    said.focus();
  }
}

page("New study",
  h("p", { class: "crumbs" }, h("a", { href: "/" }, "Studies"), " / new"),
  h("h1", {}, "New study"),
  h("form", { class: "card", novalidate: false, on: { submit: create } }, said,
    h("div", { class: "fields" }, field("Name", name), field("What is measured", metric), field("Direction", direction), field("Budget of trials", budget)),
    h("fieldset", {}, h("legend", {}, "Parameters"), rows, h("div", {}, h("button", { type: "button", on: { click: () => addParameter() } }, "Add a parameter"))),
    h("details", {}, h("summary", {}, "Constraints, a cost, further settings"),
      h("fieldset", {}, field("Parameter constraints, one a line", constraints), field("Outcome constraints, one a line", outcomes),
        field("Cost of a trial, in the objective's unit: stop when none is expected to gain it", cost), field("Further settings, as JSON (fields of POST /v1/studies)", further))),
    h("div", { class: "row" }, h("button", { class: "main", type: "submit" }, "Create the study"), h("a", { class: "button", href: "/" }, "Cancel"))));
addParameter(false);
name.focus();
