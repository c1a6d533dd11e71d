// The hexagonal grid: nca_fast/hexagons.py.
//
// A state of it is as any other. The middle of the cell in row r and column c lies at x = c + r / 2 + 1 / 2 and
// y = (r + 1 / 2) * ROW, in distances of neighbours. Rows repeat after all columns, and fill a rectangle.

import { HEX_LAPLACIAN, HEX_X, HEX_Y } from "./derivatives.js";

export const ROW = Math.sqrt(3) / 2; // from one row to the next

/** Of each filter that there is on both grids: its taps on squares, then on hexagons. */
const TWINS = {
  identity: [[[0, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0], [0, 0, 0]]],
  sobel_x: [[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], HEX_X],
  sobel_y: [[[-1, -2, -1], [0, 0, 0], [1, 2, 1]], HEX_Y],
  laplacian: [[[1, 2, 1], [2, -12, 2], [1, 2, 1]], HEX_LAPLACIAN],
};

/** @typedef {"square"|"hex"} GridName */

/** The grid on which an automaton lives, by its stencils. @param {import("./rule.js").RuleFields} fields @returns {GridName} */
export function gridOf(fields) {
  return fields.filters.some(({ name }) => name.startsWith("hex_")) ? "hex" : "square";
}

/**
 * Moves a rule to another grid: the same weights see their neighbourhood through the stencils there.
 * @param {import("./rule.js").RuleFields} fields
 * @param {GridName} grid
 * @returns {import("./rule.js").RuleFields|null} null: it has a filter, or something else, that is not there.
 */
export function movedTo(fields, grid) {
  if (grid === gridOf(fields)) return fields;
  if (fields.learned_filters || typeof fields.alive_channel === "number" || fields.maximum_window) return null;
  const hex = grid === "hex";
  const names = fields.filters.map(({ name }) => (hex ? name : name.replace(/^hex_/, "")));
  // Of other names none is there; on hexagons the identity alone has that of squares.
  if (!names.every((name, i) => Object.hasOwn(TWINS, name) && (hex || name === "identity" || fields.filters[i].name !== name))) return null;
  const filters = names.map((name, i) => ({ name: hex && name !== "identity" ? `hex_${name}` : name, taps: TWINS[name][hex ? 1 : 0], scale: fields.filters[i].scale }));
  return { ...fields, filters };
}
