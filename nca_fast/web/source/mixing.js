// Rules of two codes on one canvas: mixed, or each in its turn.

/**
 * @typedef {object} Mix
 * @property {number} from  Number of a rule.
 * @property {number} to
 * @property {number} share  Of the second, 0 to 1.
 * @property {boolean} turns  Whether they take turns, a step each, in place of being mixed.
 */

/** @type {Mix} */
export const FIRST = { from: 0, to: 1, share: 0, turns: false };

/**
 * The networks that take turns for a mix: one, or two.
 * @param {import("./rule.js").Network[]} networks
 * @param {Mix} mix
 */
export function mixed(networks, { from, to, share, turns }) {
  const [a, b] = [networks[from], networks[to]];
  if (turns) return [a, b];
  const between = (x, y) => x && x.map((value, i) => (1 - share) * value + share * y[i]);
  const layers = a.layers.map(({ weight, bias }, i) => ({ weight: between(weight, b.layers[i].weight), bias: between(bias, b.layers[i].bias) }));
  return [{ layers, kernels: between(a.kernels, b.kernels) }];
}
