// @ts-check
/** Lines of equal height through a grid of numbers. @module */

/**
 * The pieces of the line where the numbers pass a level (marching squares), in fractions of the grid's steps.
 * @param {(number | null)[]} values row after row @param {number} columns @param {number} level
 * @returns {[[number, number], [number, number]][]}
 */
export function isoline(values, columns, level) {
  const rows = values.length / columns;
  const found = /** @type {[[number, number], [number, number]][]} */ ([]);
  for (let j = 0; j + 1 < rows; j++) {
    for (let i = 0; i + 1 < columns; i++) {
      const corners = [values[j * columns + i], values[j * columns + i + 1], values[(j + 1) * columns + i + 1], values[(j + 1) * columns + i]];
      if (corners.some((c) => c === null)) continue;
      const [a, b, c, d] = /** @type {number[]} */ (corners);
      const crossings = /** @type {[number, number][]} */ ([]);
      if (a < level !== b < level) crossings.push([i + (level - a) / (b - a), j]);
      if (b < level !== c < level) crossings.push([i + 1, j + (level - b) / (c - b)]);
      if (d < level !== c < level) crossings.push([i + (level - d) / (c - d), j + 1]);
      if (a < level !== d < level) crossings.push([i, j + (level - a) / (d - a)]);
      for (let k = 0; k + 1 < crossings.length; k += 2) found.push([crossings[k], crossings[k + 1]]);
    }
  }
  return found;
}

/** Between two neighbours of a grid, on its own scale. @param {number[]} values @param {number} place @param {boolean} log */
export function between(values, place, log) {
  const k = Math.min(values.length - 2, Math.max(0, Math.floor(place)));
  const share = place - k;
  if (values.length < 2) return values[0];
  return log ? values[k] * (values[k + 1] / values[k]) ** share : values[k] + share * (values[k + 1] - values[k]);
}
