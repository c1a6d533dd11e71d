// Which texture grows where before anything is painted.

import { ROW } from "./hexagons.js";

const SOFT = 6; // half of a border between textures of a mosaic, in cells

/**
 * The share of each texture in every cell, [count, height, width], before anything is painted.
 *
 * "mosaic": patches around points of the R2 sequence on the torus, two for each texture, with soft borders. A number: that
 * texture alone.
 * @param {"mosaic"|number} layout
 */
export function shares(layout, count, height, width, hexagons = false) {
  const cells = height * width;
  const values = new Float32Array(count * cells);
  if (layout !== "mosaic") return values.fill(1, layout * cells, (layout + 1) * cells);
  const points = Array.from({ length: 2 * count }, (_, i) => [((0.31 + i * 0.5698402909980532) % 1) * height, ((0.23 + i * 0.7548776662466927) % 1) * width]);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      let [best, next, mine, other] = [Infinity, Infinity, 0, 0];
      points.forEach(([y, x], i) => {
        const far = apart(row + 0.5 - y, column + 0.5 - x, height, width, hexagons);
        if (far < best) [best, mine, next, other] = [far, i % count, best, mine];
        else if (far < next) [next, other] = [far, i % count];
      });
      const share = Math.min(1, 0.5 + (next - best) / (4 * SOFT));
      const cell = row * width + column;
      values[mine * cells + cell] += share;
      values[other * cells + cell] += 1 - share;
    }
  }
  return values;
}

/** How far two places on a torus are from each other. */
function apart(rows, columns, height, width, hexagons) {
  if (hexagons) {
    const dy = rows - height * Math.round(rows / height);
    const dx = columns + 0.5 * dy;
    return Math.hypot(ROW * dy, dx - width * Math.round(dx / width));
  }
  const [dy, dx] = [Math.abs(rows), Math.abs(columns)];
  return Math.hypot(Math.min(dy, height - dy), Math.min(dx, width - dx));
}
