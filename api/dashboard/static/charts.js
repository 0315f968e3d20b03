// @ts-check
/**
 * Pictures with two axes, as SVG: readable in light and dark, by keyboard and as a table, and to take away.
 *
 * A picture has layers, drawn in order. The points of a layer that has `tip` can be pointed at, reached with the arrow
 * keys, and opened where they have `href`.
 * @module
 */
import { h, s, table } from "./dom.js";
import { downloads } from "./downloads.js";
import { choice, extent, numeric } from "./scales.js";

/**
 * @typedef {object} Axis
 * @property {string} label
 * @property {boolean} [log]
 * @property {boolean} [whole]
 * @property {any[]} [choices] in place of numbers
 * @property {[number, number]} [domain] otherwise that of the layers
 *
 * @typedef {object} Layer
 * @property {"dots" | "line" | "band" | "error" | "rule" | "cells"} kind
 * @property {any[]} [x]
 * @property {any[]} [y]
 * @property {any[]} [low] of bands and errors
 * @property {any[]} [high]
 * @property {boolean} [across] errors along x
 * @property {boolean} [step] a line that moves in steps
 * @property {string} [look] a class
 * @property {(i: number) => string} [look_of] of single dots
 * @property {number} [size]
 * @property {(i: number) => number} [opacity]
 * @property {number} [value] of a rule, at y, or with `across` at x
 * @property {(i: number) => [number, number, number] | null} [fill] of cells: red, green, blue; null: none
 * @property {[number, number][][]} [paths] of lines made of pieces, in values
 * @property {string} [name] in the legend
 * @property {boolean} [outside] whether what is outside counts for the axes
 * @property {(i: number) => string} [tip]
 * @property {(i: number) => string} [href]
 *
 * @typedef {object} Picture
 * @property {Axis} x
 * @property {Axis} y
 * @property {Layer[]} layers
 * @property {number} [height]
 * @property {string} [note]
 * @property {string} described what it shows, in words
 * @property {{head: string[], rows: any[][]}} data
 */

const MOST_ROWS = 200;

/** A frame that is drawn into again and again. */
export class Figure {
  /** @param {string} title @param {{level?: string, small?: boolean}} [how] */
  constructor(title, how = {}) {
    this.title = title;
    this.small = how.small ?? false;
    this.note = h("span", { class: "note" });
    this.plot = h("div", { class: "plot" });
    this.legend = h("ul", { class: "legend" });
    this.tip = h("div", { class: "tip", role: "status", hidden: true });
    this.listed = h("div", { hidden: true });
    /** @type {Picture | null} */
    this.picture = null;
    /** @type {{x: number, y: number, tip: string, href?: string}[]} */
    this.points = [];
    this.current = -1;
    this.tools = h("div", { class: "tools" }, this.#asTable(), downloads(title, () => /** @type {SVGSVGElement} */ (this.plot.querySelector("svg")), () => (this.picture ? [this.picture.data.head, ...this.picture.data.rows] : [])));
    this.element = h("figure", {}, h("figcaption", {}, h(how.level ?? "h2", {}, title), this.note, this.tools), this.plot, this.legend, this.listed);
    this.width = 0;
    new ResizeObserver(() => {
      const width = Math.round(this.plot.clientWidth);
      if (width && width !== this.width) { this.width = width; this.#paint(); }
    }).observe(this.plot);
  }

  /** @param {Picture} picture */
  draw(picture) {
    this.picture = picture;
    this.#paint();
    if (!this.listed.hidden) this.#list();
  }

  /** Words in place of a picture. @param {string} text */
  say(text) {
    this.picture = null;
    this.plot.replaceChildren(h("p", { class: "quiet small" }, text));
    this.legend.replaceChildren();
    this.note.textContent = "";
    this.tools.hidden = true;
  }

  #asTable() {
    const button = h("button", { type: "button", "aria-expanded": "false", on: { click: () => {
      this.listed.hidden = !this.listed.hidden;
      button.setAttribute("aria-expanded", String(!this.listed.hidden));
      button.textContent = this.listed.hidden ? "Table" : "Picture only";
      if (!this.listed.hidden) this.#list();
    } } }, "Table");
    button.setAttribute("aria-label", `${this.title}: as a table`);
    return button;
  }

  #list() {
    if (!this.picture) return;
    const { head, rows } = this.picture.data;
    const caption = rows.length > MOST_ROWS ? `${this.title}: ${MOST_ROWS} of ${rows.length} rows; the CSV has all` : this.title;
    this.listed.replaceChildren(table(caption, head, rows.slice(0, MOST_ROWS).map((row) => row.map((cell) => (cell === null || cell === undefined ? "" : String(cell))))));
  }

  // --- drawing ---

  #paint() {
    const picture = this.picture;
    if (!picture || !this.width) return;
    this.tools.hidden = false;
    const width = this.width;
    const height = picture.height ?? (this.small ? 180 : width < 480 ? 260 : 320);
    const { left, bottom, x, y } = axes(picture, width, height, this.small);
    const frame = { left, right: width - 12, top: 10, bottom };
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: 0, "aria-label": `${this.title}. ${picture.described}` });
    svg.append(grid(picture, frame, x, y, height));
    const had = this.plot.contains(document.activeElement);
    const marked = this.points?.[this.current]?.tip;  // by keyboard or pointer: it stays so when results come in
    this.points = [];
    for (const layer of picture.layers) {
      svg.append(drawn(layer, x, y, frame));
      if (layer.tip) this.#collect(layer, x, y);
    }
    this.points.sort((a, b) => a.x - b.x || a.y - b.y);
    this.current = -1;
    this.lit = s("circle", { class: "lit", r: 7, visibility: "hidden" });
    svg.append(this.lit);
    this.#listen(svg);
    this.plot.replaceChildren(svg, this.tip);
    this.tip.hidden = true;
    if (had) svg.focus({ preventScroll: true });
    if (had && marked !== undefined) this.#show(this.points.findIndex((p) => p.tip === marked));
    this.note.textContent = picture.note ?? "";
    const named = picture.layers.filter((layer) => layer.name);
    this.legend.replaceChildren(...named.map((layer) => h("li", {}, key(layer), layer.name ?? "")));
  }

  /** @param {Layer} layer @param {any} x @param {any} y */
  #collect(layer, x, y) {
    const ys = layer.y ?? layer.high ?? [];
    (layer.x ?? []).forEach((value, i) => {
      const [px, py] = [x.at(value), y.at(ys[i])];
      if (Number.isFinite(px) && Number.isFinite(py)) this.points.push({ x: px, y: py, tip: layer.tip?.(i) ?? "", href: layer.href?.(i) });
    });
  }

  /** @param {any} svg */
  #listen(svg) {
    svg.addEventListener("pointermove", (/** @type {PointerEvent} */ e) => {
      const box = svg.getBoundingClientRect();
      const [px, py] = [e.clientX - box.left, e.clientY - box.top];
      let best = -1;
      let distance = 24 ** 2;
      this.points.forEach((p, i) => { const d = (p.x - px) ** 2 + (p.y - py) ** 2; if (d < distance) { distance = d; best = i; } });
      this.#show(best);
      svg.style.cursor = best >= 0 && this.points[best].href ? "pointer" : "default";
    });
    svg.addEventListener("pointerleave", () => this.#show(-1));
    svg.addEventListener("blur", () => this.#show(-1));
    const open = () => { const href = this.points[this.current]?.href; if (href) location.href = href; };
    svg.addEventListener("click", open);
    svg.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
      const to = { ArrowRight: this.current + 1, ArrowLeft: this.current - 1, Home: 0, End: this.points.length - 1 }[e.key];
      if (e.key === "Enter") open();
      else if (e.key === "Escape") this.#show(-1);
      else if (to !== undefined && this.points.length) { e.preventDefault(); this.#show(Math.min(this.points.length - 1, Math.max(0, to))); }
    });
  }

  /** @param {number} i */
  #show(i) {
    this.current = i;
    this.tip.hidden = i < 0;
    this.lit?.setAttribute("visibility", i < 0 ? "hidden" : "visible");
    if (i < 0) return;
    const p = this.points[i];
    this.lit?.setAttribute("cx", String(p.x));
    this.lit?.setAttribute("cy", String(p.y));
    this.tip.textContent = p.tip;
    const left = p.x > this.width / 2;
    this.tip.style.left = left ? "" : `${p.x + 12}px`;
    this.tip.style.right = left ? `${this.width - p.x + 12}px` : "";
    this.tip.style.top = `${Math.max(0, p.y - 14)}px`;
  }
}

/** The scales and the margins that their labels need. @param {Picture} picture @param {number} width @param {number} height @param {boolean} small */
function axes(picture, width, height, small) {
  const bottom = height - 40;
  const y = scale(picture.y, picture.layers, "y", [bottom, 10], small ? 4 : 6);
  const longest = Math.max(2, ...y.ticks.map((t) => t.text.length));
  const left = Math.min(24 + longest * 6.6 + 8, width * 0.38);
  const x = scale(picture.x, picture.layers, "x", [left, width - 12], Math.max(3, Math.min(10, Math.floor(width / 90))));
  return { left, bottom, x, y };
}

/** @param {Axis} axis @param {Layer[]} layers @param {"x" | "y"} side @param {[number, number]} range @param {number} count */
function scale(axis, layers, side, range, count) {
  if (axis.choices) return choice(axis.choices, range);
  const values = function* () {
    for (const layer of layers) {
      if (layer.outside) continue;
      if (layer.kind === "rule") { if (layer.across === (side === "x")) yield layer.value; continue; }
      yield* layer[side] ?? [];
      if ((side === "y") !== Boolean(layer.across)) { yield* layer.low ?? []; yield* layer.high ?? []; }
    }
  };
  const domain = axis.domain ?? extent(values()) ?? [0, 1];
  return numeric(domain, range, { log: axis.log, whole: axis.whole, count, pad: axis.domain ? 0 : side === "y" ? 0.05 : 0.015 });
}

/** @param {Picture} picture @param {any} frame @param {any} x @param {any} y @param {number} height */
function grid(picture, frame, x, y, height) {
  const cut = (/** @type {string} */ text, /** @type {number} */ most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const made = s("g", { "aria-hidden": "true" });
  for (const { value, text } of y.ticks) {
    const at = y.at(value);
    made.append(s("line", { class: "grid-line", x1: frame.left, x2: frame.right, y1: at, y2: at }),
      s("text", { class: "tick", x: frame.left - 7, y: at + 4, "text-anchor": "end" }, cut(text, 18)));
  }
  const most = Math.max(4, Math.floor((x.step ?? (frame.right - frame.left) / Math.max(x.ticks.length, 1)) / 6.4));
  for (const { value, text } of x.ticks) made.append(s("text", { class: "tick", x: x.at(value), y: frame.bottom + 17, "text-anchor": "middle" }, cut(text, most)));
  made.append(s("line", { class: "axis-line", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }),
    s("text", { class: "axis-label", x: (frame.left + frame.right) / 2, y: height - 5, "text-anchor": "middle" }, cut(picture.x.label, 60)),
    s("text", { class: "axis-label", transform: `translate(12 ${(frame.top + frame.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, cut(picture.y.label, Math.floor(height / 8))));
  return made;
}

/** @param {Layer} layer @param {any} x @param {any} y @param {any} frame */
function drawn(layer, x, y, frame) {
  const made = s("g");
  const xs = (layer.x ?? []).map(x.at);
  const clamp = (/** @type {number} */ at) => Math.min(frame.bottom, Math.max(frame.top, at));
  const within = (/** @type {number} */ at) => Math.min(frame.right, Math.max(frame.left, at));
  const f = (/** @type {number} */ n) => n.toFixed(1);
  switch (layer.kind) {
    case "dots": {
      const ys = (layer.y ?? []).map(y.at);
      xs.forEach((px, i) => {
        if (!Number.isFinite(px) || !Number.isFinite(ys[i])) return;
        made.append(s("circle", { class: `dot ${layer.look_of?.(i) ?? layer.look ?? ""}`, cx: f(px), cy: f(clamp(ys[i])), r: layer.size ?? 3.5, opacity: layer.opacity?.(i) }));
      });
      break;
    }
    case "line":
      made.append(s("path", { class: `line ${layer.look ?? ""}`, d: layer.paths ? layer.paths.map((p) => path(p.map(([a]) => x.at(a)), p.map(([, b]) => y.at(b)), false)).join("") : path(xs, (layer.y ?? []).map((v) => clamp(y.at(v))), layer.step ?? false) }));
      break;
    case "band":
      made.append(s("path", { class: `band ${layer.look ?? ""}`, d: band(xs, (layer.low ?? []).map((v) => clamp(y.at(v))), (layer.high ?? []).map((v) => clamp(y.at(v)))) }));
      break;
    case "error": {
      const others = (layer.y ?? []).map(y.at);
      const d = (layer.low ?? []).map((low, i) => {
        const high = (layer.high ?? [])[i];
        if (layer.across) return Number.isFinite(others[i]) ? `M${f(within(x.at(low)))} ${f(others[i])}H${f(within(x.at(high)))}` : "";
        const [a, b] = [clamp(y.at(low)), clamp(y.at(high))];
        return Number.isFinite(a) && Number.isFinite(xs[i]) ? `M${f(xs[i])} ${f(a)}V${f(b)}` : "";
      });
      made.append(s("path", { class: `error ${layer.look ?? ""}`, d: d.join("") }));
      break;
    }
    case "rule": {
      const at = layer.across ? x.at(layer.value) : y.at(layer.value);
      const ends = layer.across ? { x1: at, x2: at, y1: frame.top, y2: frame.bottom } : { x1: frame.left, x2: frame.right, y1: at, y2: at };
      if (Number.isFinite(at)) made.append(s("line", { class: `line dash ${layer.look ?? ""}`, ...ends }));
      break;
    }
    case "cells":
      made.append(...cells(layer, x, y, frame));
  }
  return made;
}

/** @param {number[]} xs @param {number[]} ys @param {boolean} step */
function path(xs, ys, step) {
  let d = "";
  let open = false;
  xs.forEach((px, i) => {
    const py = ys[i];
    if (!Number.isFinite(px) || !Number.isFinite(py)) { open = false; return; }
    d += !open ? `M${px.toFixed(1)} ${py.toFixed(1)}` : step ? `H${px.toFixed(1)}V${py.toFixed(1)}` : `L${px.toFixed(1)} ${py.toFixed(1)}`;
    open = true;
  });
  return d;
}

/** @param {number[]} xs @param {number[]} low @param {number[]} high */
function band(xs, low, high) {
  const known = xs.map((_, i) => i).filter((i) => [xs[i], low[i], high[i]].every(Number.isFinite));
  if (!known.length) return "";
  const there = known.map((i) => `${xs[i].toFixed(1)} ${high[i].toFixed(1)}`);
  const back = [...known].reverse().map((i) => `${xs[i].toFixed(1)} ${low[i].toFixed(1)}`);
  return `M${[...there, ...back].join("L")}Z`;
}

/**
 * Cells around the values of both axes, row after row of y. Where values lie evenly, one picture that the browser smooths.
 * @param {Layer} layer @param {any} x @param {any} y @param {any} frame
 */
function cells(layer, x, y, frame) {
  const [across, up] = [(layer.x ?? []).map(x.at), (layer.y ?? []).map(y.at)];
  const [wide, high] = [even(across), even(up)];
  const [columns, rows] = [across.length, up.length];
  const fill = layer.fill ?? (() => null);
  if (wide && high && !x.step && !y.step) return [smooth(columns, rows, fill, Math.min(...across), Math.min(...up), wide, high)];
  const within = (/** @type {number[][]} */ cells, /** @type {number} */ from, /** @type {number} */ to) => cells.map((ends) => ends.map((end) => Math.min(to, Math.max(from, end))));
  const [w, t] = [within(bounds(across, x.step), frame.left, frame.right), within(bounds(up, y.step), frame.top, frame.bottom)];
  const edge = 0.4; // so that no seams are seen
  return t.flatMap(([y0, y1], j) => w.map(([x0, x1], i) => {
    const rgb = fill(j * columns + i);
    return rgb && s("rect", { x: (x0 - edge).toFixed(1), y: (y0 - edge).toFixed(1), width: (x1 - x0 + 2 * edge).toFixed(1), height: (y1 - y0 + 2 * edge).toFixed(1), fill: `rgb(${rgb.join(" ")})` });
  })).filter(Boolean);
}

/** The distance between neighbours, if it is the same everywhere. @param {number[]} at */
function even(at) {
  const step = (at[at.length - 1] - at[0]) / (at.length - 1);
  return at.length > 1 && at.every((p, i) => Math.abs(p - at[0] - i * step) < 0.6) ? Math.abs(step) : 0;
}

/** Half-way to the neighbours. @param {number[]} at @param {number} [step] */
function bounds(at, step) {
  return at.map((p, i) => {
    const [before, after] = [at[i - 1] ?? 2 * p - (at[i + 1] ?? p + (step ?? 20)), at[i + 1] ?? 2 * p - (at[i - 1] ?? p - (step ?? 20))];
    return [(p + before) / 2, (p + after) / 2].sort((a, b) => a - b);
  });
}

/** @param {number} columns @param {number} rows @param {(i: number) => [number, number, number] | null} fill @param {number} left @param {number} top @param {number} wide @param {number} high */
function smooth(columns, rows, fill, left, top, wide, high) {
  const canvas = h("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (let i = 0; i < columns * rows; i++) {
    const rgb = fill(i);
    const at = ((rows - 1 - Math.floor(i / columns)) * columns + (i % columns)) * 4;
    if (rgb) image.data.set([...rgb, 255], at);
  }
  context.putImageData(image, 0, 0);
  const [width, height] = [(columns - 1) * wide, (rows - 1) * high];
  return s("svg", { x: left, y: top, width, height, overflow: "hidden" },
    s("image", { href: canvas.toDataURL(), x: -wide / 2, y: -high / 2, width: width + wide, height: height + high, preserveAspectRatio: "none" }));
}

/** A small picture of a layer for the legend. @param {Layer} layer */
function key(layer) {
  const look = layer.look ?? "";
  const inside = layer.kind === "dots" ? s("circle", { class: `dot ${look}`, cx: 10, cy: 6, r: Math.min(5.5, Math.max(2, layer.size ?? 4)) })
    : layer.kind === "band" ? s("rect", { class: `band ${look}`, width: 20, height: 12 })
    : s("line", { class: `${layer.kind === "error" ? "error" : layer.kind === "rule" ? "line dash" : "line"} ${look}`, x1: 0, x2: 20, y1: 6, y2: 6 });
  return s("svg", { viewBox: "0 0 20 12", "aria-hidden": "true" }, inside);
}

/** Best so far, very small. @param {number[]} values @param {string} label */
export function spark(values, label) {
  const range = extent(values) ?? [0, 1];
  const [x, y] = [numeric([0, Math.max(values.length - 1, 1)], [2, 118]), numeric(range, [26, 3])];
  return s("svg", { class: "spark", viewBox: "0 0 120 29", role: "img", "aria-label": label }, s("path", { d: path(values.map((_, i) => x.at(i)), values.map((v) => y.at(v)), true) }));
}

/**
 * Rows of bars, one or two per name, between 0 and the longest.
 * @param {{name: string, values: number[], text: string}[]} rows @param {string[]} looks
 */
export function bars(rows, looks) {
  const most = Math.max(1e-12, ...rows.flatMap((row) => row.values));
  const thick = looks.length > 1 ? 9 : 16;
  return h("div", { class: "steps" }, rows.map((row) => h("div", { class: "chance" }, h("span", {}, row.name),
    s("svg", { width: "100%", height: looks.length * (thick + 2), "aria-hidden": "true" }, row.values.map((value, i) =>
      s("rect", { class: `rect ${looks[i]}`, y: i * (thick + 2), rx: 2, height: thick, width: `${((100 * Math.max(0, value)) / most).toFixed(2)}%` }))),
    h("span", { class: "share" }, row.text))));
}
