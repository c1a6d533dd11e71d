// Which derivative of a state a filter takes, so that frames turn and scale its answer: nca_fast/derivatives.py.

const EXACT = 1e-6; // of a filter's largest tap: a sum below that is zero
// Hexagonal filters lie in skewed coordinates, and are known by their taps.
export const HEX_X = [[0, -1, 1], [-2, 0, 2], [-1, 1, 0]];
export const HEX_Y = [[0, -2, -2], [0, 0, 0], [2, 2, 0]];
export const HEX_LAPLACIAN = [[0, 2, 2], [2, -12, 2], [2, 2, 0]];

/**
 * Tells filters apart, by number: pairs of first derivatives along x and y, laplacians, and what is neither, nor a value.
 * @param {import("./rule.js").RuleFields["filters"]} filters
 * @returns {{pairs: [number, number][], laplacians: number[], others: number[]}}
 */
export function derivatives(filters) {
  const [pairs, laplacians, others] = [[], [], []];
  const taken = new Set();
  filters.forEach(({ taps, scale }, x) => {
    if (taken.has(x) || isValue(taps)) return;
    if (isLaplacian(taps)) {
      laplacians.push(x);
      return;
    }
    const along = alongY(taps);
    const y = along ? filters.findIndex((other, n) => !taken.has(n) && same(scaled(other.taps, other.scale), scaled(along, scale))) : -1;
    if (y < 0) others.push(x);
    else {
      taken.add(x).add(y);
      pairs.push([x, y]);
    }
  });
  return { pairs, laplacians, others: others.filter((number) => !taken.has(number)) };
}

const same = (a, b) => a.length === b.length && a.every((row, i) => row.every((tap, j) => tap === b[i][j]));
const scaled = (taps, by) => taps.map((row) => row.map((tap) => tap * by));
const mirrored = (taps) => taps.map((row) => [...row].reverse());
const upsideDown = (taps) => [...taps].reverse();
const transposed = (taps) => taps.map((_, i) => taps.map((row) => row[i]));

function isValue(taps) {
  const middle = (taps.length - 1) / 2;
  return taps.every((row, i) => row.every((tap, j) => tap === 0 || (i === middle && j === middle)));
}

function isLaplacian(taps) {
  if (same(taps, HEX_LAPLACIAN)) return true;
  const even = [mirrored, upsideDown, transposed].every((changed) => same(taps, changed(taps)));
  return even && !sees(taps, 0) && sees(taps, 2);
}

/** Whether the answer to x to a power is not 0. */
function sees(taps, power) {
  const middle = (taps.length - 1) / 2;
  const moment = taps.flatMap((row) => row.map((tap, j) => tap * (j - middle) ** power)).reduce((a, b) => a + b, 0);
  return Math.abs(moment) > EXACT * Math.max(...taps.flat().map(Math.abs));
}

/** Taps of the same derivative along y of one along x; null where they are none along x. */
function alongY(taps) {
  if (same(taps, HEX_X)) return HEX_Y;
  const first = same(mirrored(taps), scaled(taps, -1)) && same(upsideDown(taps), taps) && sees(taps, 1);
  return first ? transposed(taps) : null;
}
