// @ts-check
/** Controls for the values of parameters. @module */
import { field, h, select } from "./dom.js";

/**
 * A control for a parameter's value.
 * @param {any} spec @param {any} [value] @returns {{label: HTMLElement, read: () => any}} `read` gives undefined where it was left empty
 */
export function control(spec, value) {
  const choices = spec.type === "bool" ? [false, true] : spec.choices;
  if (choices) {
    const made = select(choices.map((/** @type {any} */ c, /** @type {number} */ i) => [String(i), String(c)]), String(Math.max(0, choices.indexOf(value))));
    return { label: field(spec.name, made), read: () => choices[Number(made.value)] };
  }
  if (spec.type === "time_steps") {
    const steps = h("input", { type: "text", value: value === undefined ? "" : value.join(", "), placeholder: `${spec.k} from ${spec.high} down to ${spec.low}` });
    return { label: field(spec.name, steps), read: () => steps.value.split(",").map(parsed).filter((/** @type {any} */ one) => one !== undefined) };
  }
  const input = h("input", { type: "text", inputmode: "decimal", value: value === undefined ? "" : String(value), placeholder: `${spec.low} to ${spec.high}` });
  return { label: field(spec.name, input), read: () => parsed(input.value) };
}

/** A number where it is one; otherwise the text, for the service to explain. @param {string} text */
export function parsed(text) {
  const trimmed = text.trim();
  if (trimmed === "") return undefined;
  const value = Number(trimmed);
  return Number.isNaN(value) ? trimmed : value;
}

/** A value as one writes it in a list: numbers and true, false as themselves. @param {string} text */
export function literal(text) {
  const trimmed = text.trim();
  if (trimmed === "true" || trimmed === "false") return trimmed === "true";
  const value = Number(trimmed);
  return trimmed !== "" && !Number.isNaN(value) ? value : trimmed;
}
