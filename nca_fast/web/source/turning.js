// How the cells of a canvas are turned and scaled: nca_fast/canvas/turning.py.

/**
 * @typedef {object} Turning
 * @property {number} angle  Degrees, counterclockwise as it is looked at.
 * @property {"cartesian"|"polar"|"dipole"} align  Along the canvas, in rings around its middle, or along the field lines
 *   from a pole in its left half to one in its right.
 * @property {number} scale  How large what is drawn becomes.
 */

export const ALIGNMENTS = ["cartesian", "polar", "dipole"];
export const SCALES = [0.5, 3]; // the least and the most

/** @type {Turning} */
export const STRAIGHT = { angle: 0, align: "cartesian", scale: 1 };

/** @param {Turning} a @param {Turning} b */
export function alike(a, b) {
  return a.angle === b.angle && a.align === b.align && a.scale === b.scale;
}

/** The largest share of a step at which laplacians are multiplied by no more than without scale. @param {Turning} turning */
export function stableShare({ scale }) {
  return Math.min(1, 1 / scale ** 2);
}

/**
 * Makes frames, [2, height, width].
 * @param {Turning} turning
 * @param {number} height
 * @param {number} width
 */
export function frames({ angle, align, scale }, height, width) {
  const cells = height * width;
  const field = new Float32Array(2 * cells);
  const [a, b] = [scale * Math.cos((angle * Math.PI) / 180), scale * Math.sin((angle * Math.PI) / 180)];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const [right, up] = aligned(align, row, column, height, width);
      field[row * width + column] = a * right - b * up;
      field[cells + row * width + column] = a * up + b * right;
    }
  }
  return field;
}

/** The first axis of a cell, of length 1: to the right, and up. */
function aligned(align, row, column, height, width) {
  if (align === "cartesian") return [1, 0];
  const up = 0.5 * height - 0.5 - row;
  const from = (share) => column + 0.5 - share * width;
  if (align === "polar") return unit(from(0.5), up);
  const [right, right2] = [from(0.25), from(0.75)];
  const [near, far] = [right * right + up * up, right2 * right2 + up * up];
  return unit(right * far - right2 * near, up * far - up * near);
}

function unit(right, up) {
  const length = Math.sqrt(right * right + up * up);
  return length === 0 ? [1, 0] : [right / length, up / length];
}
