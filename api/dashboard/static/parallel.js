// @ts-check
/** All parameters at once: a line per trial. Drag along an axis, or choose ranges, to see only what passes there. @module */
import { field, h, s, select, short } from "./dom.js";
import { downloads } from "./downloads.js";
import { parsed } from "./forms.js";
import { colour, extent, numeric, ofParameter } from "./scales.js";

const HEIGHT = 300;

/**
 * @param {any[]} parameters specifications of those that are drawn @param {string} metric @param {boolean} larger whether larger is better
 * @param {(number: number) => string} href of a trial
 */
export function parallel(parameters, metric, larger, href) {
  const host = h("div", { class: "scroll plot", role: "region", tabindex: 0, "aria-label": "Parallel coordinates; the table of trials has the same numbers" });
  const said = h("p", { class: "note-below", "aria-live": "polite" });
  /** @type {Map<string, [number, number]>} */
  const brushes = new Map();
  const clear = h("button", { type: "button", hidden: true, on: { click: () => { brushes.clear(); ranges(); paint(); } } }, "Clear the selection");
  const controls = h("div", { class: "fields" });
  const chosen = h("details", { on: { toggle: () => ranges() } }, h("summary", {}, "Choose ranges"), controls);
  /** @type {any} */
  let data = null;
  let width = 0;
  new ResizeObserver(() => { if (Math.round(host.clientWidth) !== width) { width = Math.round(host.clientWidth); paint(); } }).observe(host);

  const names = [...parameters.map((p) => p.name), metric];
  const range = /** @type {[number, number]} */ ([HEIGHT - 30, 44]);
  const scalesOf = () => [...parameters.map((p) => ofParameter(p, range)), numeric(extent(data.columns[metric]) ?? [0, 1], range, { count: 5 })];

  /** The same selection as controls, for keyboards and exact values. */
  function ranges() {
    if (!chosen.open || !data) return;
    const scales = scalesOf();
    controls.replaceChildren(...names.flatMap((name, k) => {
      const scale = scales[k];
      const kept = brushes.get(name);
      if (scale.step) {
        const options = /** @type {[string, string][]} */ ([["", "all"], ...scale.ticks.map((tick, i) => [String(i), tick.text])]);
        const at = kept ? scale.ticks.findIndex((tick) => Math.abs(scale.at(tick.value) - (kept[0] + kept[1]) / 2) < 1) : -1;
        return field(name, select(options, at < 0 ? "" : String(at), (i) => {
          const place = i === "" ? NaN : scale.at(scale.ticks[Number(i)].value);
          brush(name, place - 1, place + 1);
        }));
      }
      const ends = [kept ? scale.back?.(kept[1]) : undefined, kept ? scale.back?.(kept[0]) : undefined];
      const inputs = ends.map((value) => h("input", { type: "text", inputmode: "decimal", size: 8, value: value === undefined ? "" : String(Number(value.toPrecision(4))), placeholder: "any", on: { change: () => {
        const [low, high] = inputs.map((input) => { const value = parsed(input.value); return typeof value === "number" ? value : undefined; });
        if (low === undefined && high === undefined) return brush(name, NaN, NaN);
        brush(name, high === undefined ? range[1] - 1 : scale.at(high), low === undefined ? range[0] + 1 : scale.at(low));
      } } }));
      return [field(`${name} from`, inputs[0]), field(`${name} to`, inputs[1])];
    }));
  }

  /** Keep what passes between two places of an axis; all, where there are none. @param {string} name @param {number} low @param {number} high */
  function brush(name, low, high) {
    if (Number.isFinite(low) && Number.isFinite(high)) brushes.set(name, [low, high]);
    else brushes.delete(name);
    paint();
  }

  function paint() {
    if (!data || !width) return;
    const wide = Math.max(width, names.length * 92);
    const step = (wide - 110) / Math.max(1, names.length - 1);
    const values = data.columns[metric];
    const scales = scalesOf();
    const ranks = ranked(values, larger);
    const order = data.numbers.map((/** @type {number} */ _, /** @type {number} */ i) => i).sort((/** @type {number} */ a, /** @type {number} */ b) => ranks[a] - ranks[b]);
    const inside = (/** @type {number} */ i) => [...brushes].every(([name, [low, high]]) => {
      const at = scales[names.indexOf(name)].at(data.columns[name][i]);
      return at >= low && at <= high;
    });
    let count = 0;
    const lines = order.map((/** @type {number} */ i) => {
      const passes = inside(i);
      count += passes ? 1 : 0;
      let d = "";
      names.forEach((name, k) => { const at = scales[k].at(data.columns[name][i]); if (Number.isFinite(at)) d += `${d && Number.isFinite(scales[k - 1]?.at(data.columns[names[k - 1]][i])) ? "L" : "M"}${(55 + k * step).toFixed(1)} ${at.toFixed(1)}`; });
      return s("path", { d, fill: "none", stroke: passes ? `rgb(${colour(ranks[i]).join(" ")})` : "var(--line)", "stroke-width": ranks[i] > 0.98 ? 2.4 : 1.3, "stroke-opacity": passes ? 0.35 + 0.6 * ranks[i] : 0.35 }, s("title", {}, `trial ${data.numbers[i]}`));
    });
    const svg = s("svg", { viewBox: `0 0 ${wide} ${HEIGHT}`, width: wide, height: HEIGHT, role: "img", "aria-label": `Parameters and ${metric} of ${data.numbers.length} trials, a line each; bright lines are the better ones.` }, s("g", {}, lines));
    svg.style.width = `${wide}px`;
    names.forEach((name, k) => svg.append(axis(name, scales[k], 55 + k * step, step)));
    host.replaceChildren(svg);
    clear.hidden = !brushes.size;
    said.textContent = brushes.size ? `${count} of ${data.numbers.length} trials pass: ${[...brushes].map(([name, [low, high]]) => words(name, scales[names.indexOf(name)], low, high)).join(", ")}.`
      : `${data.numbers.length}${data.total > data.numbers.length ? ` of ${data.total}` : ""} trials; bright: better. Drag along an axis, or choose ranges, to keep only what passes there.`;
  }

  /** @param {string} name @param {any} scale @param {number} at @param {number} step */
  function axis(name, scale, at, step) {
    const most = Math.max(6, Math.floor(step / 7));
    const made = s("g", {}, s("line", { class: "axis-line", x1: at, x2: at, y1: 44, y2: HEIGHT - 30 }),
      s("text", { class: "mark-label", x: at, y: 22, "text-anchor": "middle" }, name.length > most ? `${name.slice(0, most - 1)}…` : name, s("title", {}, name)));
    for (const { value, text } of scale.ticks) made.append(s("text", { class: "tick halo", x: at - 5, y: scale.at(value) + 4, "text-anchor": "end" }, text.length > 9 ? `${text.slice(0, 8)}…` : text));
    const kept = brushes.get(name);
    const mark = s("rect", { class: "brush", x: at - 7, width: 14, y: kept?.[0] ?? 0, height: kept ? kept[1] - kept[0] : 0 });
    const hit = s("rect", { class: "hit", x: at - 16, width: 32, y: 34, height: HEIGHT - 54 });
    hit.style.cursor = "ns-resize";
    hit.style.touchAction = "none";
    hit.addEventListener("pointerdown", (/** @type {PointerEvent} */ e) => {
      const top = hit.getBoundingClientRect().top - 34;
      const from = e.clientY - top;
      hit.setPointerCapture(e.pointerId);
      const move = (/** @type {PointerEvent} */ to) => {
        const [low, high] = [from, to.clientY - top].sort((a, b) => a - b);
        brushes.set(name, [low, high]);
        mark.setAttribute("y", String(low));
        mark.setAttribute("height", String(high - low));
      };
      hit.addEventListener("pointermove", move);
      hit.addEventListener("pointerup", () => {
        const range = brushes.get(name);
        if (range && range[1] - range[0] < 4) brushes.delete(name);
        ranges();
        paint();
      }, { once: true });
    });
    made.append(mark, hit);
    return made;
  }

  const head = h("div", { class: "row" }, h("h2", {}, "All parameters at once"), h("div", { class: "tools push" }, downloads("All parameters at once",
    () => /** @type {SVGSVGElement} */ (host.querySelector("svg")), () => [["trial", ...names], ...data.numbers.map((/** @type {number} */ n, /** @type {number} */ i) => [n, ...names.map((name) => data.columns[name][i])])])));
  return { element: [head, host, h("div", { class: "row" }, said, clear), chosen], draw: (/** @type {any} */ found) => { data = found; paint(); }, href };
}

/** From 0, the worst, to 1, the best. @param {(number | null)[]} values @param {boolean} larger */
function ranked(values, larger) {
  const order = values.map((_, i) => i).sort((a, b) => (larger ? 1 : -1) * ((values[a] ?? 0) - (values[b] ?? 0)));
  const ranks = Array(values.length).fill(0);
  order.forEach((i, k) => { ranks[i] = values.length > 1 ? k / (values.length - 1) : 1; });
  return ranks;
}

/** @param {string} name @param {any} scale @param {number} low @param {number} high */
function words(name, scale, low, high) {
  return `${name} between ${short(scale.back(high))} and ${short(scale.back(low))}`;
}
