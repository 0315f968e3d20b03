// @ts-check
/** Taking a picture away: as PNG, as SVG, or its numbers as CSV. @module */
import { csv, download, h, s } from "./dom.js";

const STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "font-size", "font-family", "opacity"];

/** @param {string} title @param {() => SVGSVGElement} picture @param {() => any[][]} rows with the head first */
export function downloads(title, picture, rows) {
  const kinds = /** @type {const} */ ([
    ["PNG", () => asPng(picture(), (png) => download(`${title}.png`, png))],
    ["SVG", () => download(`${title}.svg`, asSvg(picture()).blob)],
    ["CSV", () => download(`${title}.csv`, new Blob([csv(rows())], { type: "text/csv" }))],
  ]);
  const menu = h("details", {}, h("summary", { "aria-label": `${title}: download` }, "Download"),
    h("div", {}, kinds.map(([name, act]) => h("button", { type: "button", on: { click: () => { act(); menu.open = false; } } }, name))));
  menu.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => { if (e.key === "Escape") menu.open = false; });
  menu.addEventListener("focusout", (/** @type {FocusEvent} */ e) => { if (e.relatedTarget && !menu.contains(e.relatedTarget)) menu.open = false; });
  return menu;
}

/** A file of its own, with its styles in it. @param {SVGSVGElement} own */
function asSvg(own) {
  const copy = /** @type {SVGSVGElement} */ (own.cloneNode(true));
  const to = [copy, ...copy.querySelectorAll("*")];
  [own, ...own.querySelectorAll("*")].forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const name of STYLES) to[i].setAttribute(name, style.getPropertyValue(name));
    to[i].removeAttribute("class");
  });
  const { width, height } = own.getBoundingClientRect();
  copy.setAttribute("width", String(width));
  copy.setAttribute("height", String(height));
  copy.prepend(s("rect", { width, height, fill: getComputedStyle(own.closest(".card") ?? document.body).backgroundColor }));
  const text = new XMLSerializer().serializeToString(copy);
  return { blob: new Blob([text], { type: "image/svg+xml" }), width, height };
}

/** At twice the size. @param {SVGSVGElement} own @param {(png: Blob) => void} then */
function asPng(own, then) {
  const { blob, width, height } = asSvg(own);
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.onload = () => {
    const canvas = h("canvas", { width: width * 2, height: height * 2 });
    canvas.getContext("2d").drawImage(image, 0, 0, width * 2, height * 2);
    URL.revokeObjectURL(url);
    canvas.toBlob(then, "image/png");
  };
  image.src = url;
}
