// What one step of an automaton is, as the shaders want it: nca_fast/rule.py.

import { derivatives } from "./derivatives.js";

/**
 * @typedef {object} RuleFields  A rule as model files hold it: the fields of nca_fast.Rule, all of them.
 * @property {number} channels
 * @property {number[]} hidden
 * @property {{name: string, taps: number[][], scale: number}[]} filters
 * @property {number} fire_rate
 * @property {"circular"|"zero"|"reflect"|"replicate"} padding
 * @property {number} frozen
 * @property {boolean} hidden_bias
 * @property {boolean} output_bias
 * @property {number|null} maximum_window
 * @property {number|null} alive_channel
 * @property {number} alive_threshold
 * @property {"both"|"before"|"after"|"update"} alive_mask
 * @property {"zero"|null} alive_padding
 * @property {string[]} fire_shared
 * @property {string|string[]} activation
 * @property {string} update_activation
 * @property {boolean} residual
 * @property {[number|null, number|null]|null} clamp
 * @property {number} state_noise
 * @property {number} update_noise
 * @property {number} learned_filters
 *
 * @typedef {{weight: Float32Array, bias: Float32Array|null}} Layer  weight [outputs, inputs], bias [outputs]
 * @typedef {{layers: Layer[], kernels: Float32Array|null}} Network  kernels [learned, channels, 3, 3]
 */

export const LIMITS = { perceived: 1536, width: 1024 };

/**
 * Fields that files of earlier versions lack, with what they meant there.
 * @type {Omit<RuleFields, "filters">}
 */
const DEFAULTS = {
  channels: 12,
  hidden: [96],
  fire_rate: 0.5,
  padding: "circular",
  frozen: 0,
  hidden_bias: true,
  output_bias: false,
  maximum_window: null,
  alive_channel: null,
  alive_threshold: 0.1,
  alive_mask: "both",
  alive_padding: null,
  fire_shared: ["channel"],
  activation: "relu",
  update_activation: "identity",
  residual: true,
  clamp: null,
  state_noise: 0,
  update_noise: 0,
  learned_filters: 0,
};

/** A rule with what follows from it. */
export class Rule {
  /** @param {Partial<RuleFields>} fields */
  constructor(fields) {
    const of = /** @type {RuleFields} */ ({ ...DEFAULTS, ...fields });
    this.fields = of;
    this.quads = Math.ceil(of.channels / 4); // texels of a cell, four channels each
    this.stencils = of.filters.map((f) => f.taps.map((row) => row.map((tap) => Math.fround(f.scale * tap))));
    this.derivatives = derivatives(of.filters); // what frames turn and scale
    this.perceptions = of.filters.length + of.learned_filters + (of.maximum_window === null ? 0 : 1);
    const names = typeof of.activation === "string" ? of.hidden.map(() => of.activation) : of.activation;
    this.activations = [...names, of.update_activation].map(String).map(parseActivation);
    this.widths = [of.channels * this.perceptions, ...of.hidden, of.channels - of.frozen];
    this.alive = of.alive_channel !== null;
    this.finishes = this.alive && (of.alive_mask === "both" || of.alive_mask === "after");
    this.aliveCircular = (of.alive_padding || of.padding) === "circular";
    this.perChannel = !of.fire_shared.includes("channel");
    const sizes = [1, ...of.filters.map((f) => f.taps.length), of.learned_filters ? 3 : 1, this.alive ? 3 : 1];
    this.reach = (Math.max(...sizes) - 1) / 2; // without that of the local maximum, which has a loop of its own
  }

  /** Whether frames can turn what it perceives. */
  get turns() {
    const { pairs, laplacians, others } = this.derivatives;
    return !this.fields.learned_filters && !others.length && pairs.length + laplacians.length > 0;
  }

  /** Shapes of the weight of every layer: [outputs, inputs]. */
  get layers() {
    return this.widths.slice(1).map((out, i) => ({ out, inputs: this.widths[i], bias: this.hasBias(i) }));
  }

  /** @param {number} layer */
  hasBias(layer) {
    return layer === this.widths.length - 2 ? this.fields.output_bias : this.fields.hidden_bias;
  }
}

/**
 * Says why the engine cannot run a rule.
 * @param {Rule} rule
 * @returns {string|null} A sentence that names the field, or null.
 */
export function refusal(rule) {
  if (rule.widths[0] > LIMITS.perceived) {
    return `channels times filters must be at most ${LIMITS.perceived} for the page, but this rule perceives ${rule.widths[0]} numbers.`;
  }
  const wide = rule.fields.hidden.find((width) => width > LIMITS.width);
  if (wide !== undefined) {
    return `hidden layers must have at most ${LIMITS.width} units for the page, but hidden has ${wide}.`;
  }
  return null;
}

const PARAMETERS = { leaky_relu: 0.01, hardtanh: 1 };

/**
 * Reads "relu", "leaky_relu(0.2)", "tanh/10".
 * @param {string} text
 * @returns {{name: string, parameter: number, divisor: number}}
 */
function parseActivation(text) {
  const match = /^([a-z_]+)(?:\(([^()]*)\))?(?:\/(.*))?$/.exec(text);
  if (!match) throw new Error(`activation must be a name such as tanh/10, but got ${text}.`);
  const parameter = match[2] === undefined ? PARAMETERS[match[1]] || 0 : Number(match[2]);
  return { name: match[1], parameter, divisor: match[3] === undefined ? 1 : Number(match[3]) };
}
