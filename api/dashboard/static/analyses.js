// @ts-check
/** Ax's analyses, drawn by Plotly, which is loaded for this page alone. @module */
import { get, place, studyPath } from "./api.js";
import { failure, h, page, short, table } from "./dom.js";

const [, name] = place();
const host = h("div", { class: "stack", "aria-live": "polite" }, h("p", { class: "quiet" }, "Ax is at work: this takes seconds to minutes."));
page(`Analyses of ${name}`,
  h("p", { class: "crumbs" }, h("a", { href: "/" }, "Studies"), " / ", h("a", { href: `/studies/${encodeURIComponent(name)}` }, name)),
  h("h1", {}, "Ax's analyses"), h("p", { class: "quiet small" }, "From a model of Ax's own, fitted to the same results: a second opinion."), host);

/** Plotly, once. @returns {Promise<any>} */
function plotly() {
  return new Promise((resolve, reject) => {
    const script = h("script", { src: new URL("./plotly.min.js", import.meta.url).href });
    script.onload = () => resolve(/** @type {any} */ (window).Plotly);
    script.onerror = () => reject(new Error("Plotly is not installed beside the service: the tables have the numbers."));
    document.head.append(script);
  });
}

/** @param {any} figure */
function themed(figure) {
  const ink = getComputedStyle(document.body).color;
  return { ...figure.layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { ...figure.layout?.font, color: ink }, autosize: true };
}

async function draw() {
  let found;
  for (;;) {
    try { found = await get(`${studyPath(name)}/analyses`); break; } catch (problem) {
      if (/** @type {any} */ (problem).status === 503) continue; // the work goes on; ask again
      host.replaceChildren(failure(/** @type {any} */ (problem).message));
      return;
    }
  }
  const cards = found.cards.map((/** @type {any} */ card) => {
    const plot = h("div", { class: "plot" });
    const columns = Object.keys(card.table[0] ?? {});
    const rows = card.table.slice(0, 100).map((/** @type {any} */ row) => columns.map((column) => short(row[column])));
    return { card, plot, element: h("section", { class: "card" }, h("h2", {}, card.title), h("p", { class: "verdict" }, card.subtitle), plot,
      columns.length ? h("details", {}, h("summary", {}, "As a table"), table(card.title, columns, rows)) : null) };
  });
  host.replaceChildren(...cards.map((/** @type {any} */ one) => one.element));
  if (!cards.some((/** @type {any} */ one) => one.card.plotly)) return;
  try {
    const Plotly = await plotly();
    for (const { card, plot } of cards) if (card.plotly) await Plotly.newPlot(plot, card.plotly.data, themed(card.plotly), { responsive: true, displaylogo: false });
  } catch (error) {
    host.prepend(failure(/** @type {Error} */ (error).message));
  }
}
await draw();
