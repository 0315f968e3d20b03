// @ts-check
/**
 * Building pages. Whatever comes from a user goes in as text: there is no way in here to put HTML into a page.
 * @module
 */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * An element. Properties are attributes, but for `on` (listeners by event) and `hidden`, `checked`, `value`, `disabled`.
 * @param {string} tag @param {Record<string, any>} [properties] @param {...(Child | Child[])} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/**
 * The same for SVG.
 * @param {string} tag @param {Record<string, any>} [properties] @param {...(Child | Child[])} children
 * @returns {any}
 */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

/** @param {any} element @param {Record<string, any>} properties @param {any[]} children */
function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (["checked", "value", "disabled", "hidden", "selected"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

/** The page's own part, emptied. @param {string} title @param {...(Child | Child[])} children */
export function page(title, ...children) {
  document.title = `${title} · Suffice`;
  const main = /** @type {HTMLElement} */ (document.getElementById("main"));
  main.replaceChildren(...fill(h("div"), {}, children).childNodes);
  return main;
}

/** A message for everyone, screen readers included. @param {string} text @param {Child[]} [more] */
export function failure(text, more = []) {
  return h("div", { class: "message bad", role: "alert" }, h("p", {}, text), more);
}

/** What a Problem says, field by field. @param {any} problem */
export function explained(problem) {
  const errors = problem.errors ?? [];
  const list = errors.map((/** @type {any} */ e) => h("li", {}, h("code", {}, e.field), `: expected ${e.expected}`));
  return failure(list.length ? "This cannot be taken:" : problem.message, list.length ? [h("ul", {}, list)] : []);
}

/** A labelled control. @param {string} label @param {HTMLElement} control */
export const field = (label, control) => h("label", { class: "field" }, label, control);

/** A select. @param {[string, string][]} options @param {string} [chosen] @param {(value: string) => void} [onChange] */
export function select(options, chosen, onChange) {
  const made = options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  return h("select", { on: { change: (/** @type {any} */ e) => onChange?.(e.target.value) } }, made);
}

/** A checkbox. @param {string} label @param {boolean} checked @param {(on: boolean) => void} onChange */
export function tick(label, checked, onChange) {
  const box = h("input", { type: "checkbox", checked, on: { change: () => onChange(box.checked) } });
  return h("label", { class: "inline" }, box, label);
}

// --- numbers and times -----------------------------------------------------------------------------------------------

/** A number as people read it. @param {any} x @param {number} [digits] */
export function number(x, digits = 4) {
  if (typeof x !== "number") return x === null || x === undefined ? "–" : String(x);
  if (!Number.isFinite(x)) return "–";
  if (x === 0) return "0"; // not −0
  if (Number.isInteger(x) && Math.abs(x) < 1e7) return x.toLocaleString("en").replaceAll(",", "\u202f").replace("-", "−");
  const size = Math.abs(x);
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? Number(x.toPrecision(digits - 1)).toExponential() : String(Number(x.toPrecision(digits)));
  return text.replace(/e\+?(-?)(\d+)/, (_, sign, power) => `e${sign}${power}`).replaceAll("-", "−");
}

/** @param {number} share */
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.01 ? 1 : 0)} %`;

/** @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 100) return `${seconds.toFixed(1)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} days`;
}

/** How long ago, with the exact time on hover. @param {string | null | undefined} time */
export function ago(time) {
  if (!time) return h("span", {}, "–");
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  const text = seconds < 5 ? "just now" : `${duration(seconds < 100 ? Math.round(seconds) : seconds).replace(".0", "")} ago`;
  return h("time", { datetime: time, title: new Date(time).toLocaleString() }, text);
}

/** A parameter's value in a few characters. @param {any} value @returns {string} */
export const short = (value) => (Array.isArray(value) ? value.map((one) => number(one)).join(", ") : typeof value === "number" ? number(value) : value === undefined || value === null ? "–" : String(value));

/** A trial's state as a badge. @param {string} state */
export function badge(state) {
  const kinds = { COMPLETED: "ok", RUNNING: "run", ACTIVE: "ok", WAITING: "", PRUNED: "warn", STOPPED: "warn", INFEASIBLE: "warn" };
  const kind = kinds[/** @type {keyof typeof kinds} */ (state)] ?? "bad";
  return h("span", { class: `badge ${kind}` }, state.toLowerCase());
}

/** Hand a file to the browser. @param {string} name @param {Blob} blob */
export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name.replace(/[^\w.-]+/g, "-") }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Rows as CSV; texts that a spreadsheet would run as formulas are marked as texts. @param {any[][]} rows */
export function csv(rows) {
  const cell = (/** @type {any} */ value) => {
    let text = value === null || value === undefined ? "" : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** A table with a head; cells are texts or nodes. @param {string} caption @param {string[]} head @param {Child[][]} rows */
export function table(caption, head, rows) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))));
}
