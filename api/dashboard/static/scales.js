// @ts-check
/** From values to places on a picture. @module */
import { number, short } from "./dom.js";

/**
 * @typedef {object} Scale
 * @property {(value: any) => number} at the place of a value; NaN where it has none
 * @property {{value: any, text: string}[]} ticks
 * @property {(place: number) => any} [back] the value at a place
 * @property {number} [step] between neighbours, where there are choices
 */

/**
 * Numbers between two places, evenly or on a logarithmic scale.
 * @param {[number, number]} domain @param {[number, number]} range @param {{log?: boolean, whole?: boolean, count?: number, pad?: number}} [how]
 * @returns {Scale}
 */
export function numeric(domain, range, how = {}) {
  const { log = false, whole = false, count = 6, pad = 0 } = how;
  const to = log ? Math.log10 : (/** @type {number} */ x) => x;
  const from = log ? (/** @type {number} */ x) => 10 ** x : (/** @type {number} */ x) => x;
  let [low, high] = [to(domain[0]), to(domain[1])];
  if (!(high > low)) { const half = Math.abs(low) * 0.05 || 0.5; low -= half; high += half; }
  const room = (high - low) * pad;
  low -= room; high += room;
  const at = (/** @type {any} */ value) => (typeof value === "number" ? range[0] + ((to(value) - low) / (high - low)) * (range[1] - range[0]) : NaN);
  const back = (/** @type {number} */ place) => from(low + ((place - range[0]) / (range[1] - range[0])) * (high - low));
  const values = log && high - low >= 1 ? powers(low, high, count) : steps(from(low), from(high), count, whole);
  return { at, back, ticks: values.map((value) => ({ value, text: number(value, 3) })) };
}

/** @param {any[]} choices @param {[number, number]} range @returns {Scale} */
export function choice(choices, range) {
  const step = (range[1] - range[0]) / Math.max(choices.length, 1);
  const places = new Map(choices.map((value, i) => [value, range[0] + (i + 0.5) * step]));
  const every = Math.ceil(choices.length / 12);
  return {
    at: (value) => places.get(value) ?? NaN,
    back: (place) => choices[Math.min(choices.length - 1, Math.max(0, Math.floor((place - range[0]) / step)))],
    ticks: choices.filter((_, i) => i % every === 0).map((value) => ({ value, text: short(value) })),
    step: Math.abs(step),
  };
}

/** Round numbers between two. @param {number} low @param {number} high @param {number} count @param {boolean} whole */
function steps(low, high, count, whole) {
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = power * ([1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999) ?? 10);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

/** Powers of ten between two, and twice and five times those where there are few. @param {number} low @param {number} high @param {number} count */
function powers(low, high, count) {
  const every = Math.max(1, Math.ceil((high - low) / count));
  const found = [];
  for (let k = Math.floor(low); k <= high + 1e-9; k += every) {
    for (const times of high - low < 2.2 && count > 3 ? [1, 2, 5] : [1]) {
      const place = k + Math.log10(times);
      if (place >= low - 1e-9 && place <= high + 1e-9) found.push(Number((times * 10 ** k).toPrecision(12)));
    }
  }
  return found;
}

/** The range of what there is, or null. @param {Iterable<any>} values @returns {[number, number] | null} */
export function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) if (typeof value === "number" && Number.isFinite(value)) { if (value < low) low = value; if (value > high) high = value; }
  return low <= high ? [low, high] : null;
}

/** How a parameter of a study is drawn. @param {any} spec @param {[number, number]} range @param {number} [count] @returns {Scale} */
export function ofParameter(spec, range, count = 5) {
  if (spec.type === "float" || spec.type === "int") return numeric([spec.low, spec.high], range, { log: spec.log, whole: spec.type === "int", count });
  return choice(spec.type === "bool" ? [false, true] : spec.choices, range);
}

const COLOURS = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];

/**
 * A colour between dark and bright, for a share between 0 and 1; the same in light and dark.
 * @param {number} share @returns {[number, number, number]} red, green, blue
 */
export function colour(share) {
  const place = Math.min(0.99999, Math.max(0, share)) * (COLOURS.length - 1);
  const k = Math.floor(place);
  const [r, g, b] = COLOURS[k].map((c, i) => Math.round(c + (place - k) * (COLOURS[k + 1][i] - c)));
  return [r, g, b];
}
