// Model files of nca_fast: safetensors, whose header is JSON and says what the rule is. Nothing in them is run.

import { Rule } from "./rule.js";

/**
 * @typedef {object} Model
 * @property {string} name
 * @property {import("./rule.js").RuleFields} rule
 * @property {import("./rule.js").Network} network
 * @property {{names: string[], networks: import("./rule.js").Network[], side: number}|null} rules  Of a VAE run: what it has
 *   for some codes, for a canvas of so many cells along a side; the first is `network`.
 * @property {"zeros"|"noise"|"image"|"cell"} start
 * @property {number} rgbChannel
 * @property {Record<string, number[]>} textures  Codes by name; empty where the automaton knows one texture alone.
 * @property {number} steps  After which its picture is there.
 */

const LARGEST_HEADER = 2 ** 24;
const READERS = {
  F32: (view, at) => view.getFloat32(at, true),
  F64: (view, at) => view.getFloat64(at, true),
  F16: (view, at) => halfFloat(view.getUint16(at, true)),
  BF16: (view, at) => {
    const bits = new DataView(new ArrayBuffer(4));
    bits.setUint32(0, view.getUint16(at, true) << 16);
    return bits.getFloat32(0);
  },
};
const SIZES = { F32: 4, F64: 8, F16: 2, BF16: 2 };

function halfFloat(bits) {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/**
 * Reads a model.
 * @param {ArrayBuffer} file
 * @param {string} name
 * @returns {Model}
 * @throws {Error} A sentence: it is no model, or a damaged one.
 */
export function readModel(file, name) {
  const { header, view, start } = opened(file, name);
  const facts = described(header, name);
  const rule = checkedRule(facts.nca.rule, name);
  const tensor = (key, ...shape) => {
    const entry = header[key];
    const count = shape.reduce((a, b) => a * b, 1);
    const size = entry && SIZES[entry.dtype];
    const fits = size && String(entry.shape) === String(shape) && entry.data_offsets[1] - entry.data_offsets[0] === count * size;
    const from = fits ? start + entry.data_offsets[0] : 0;
    if (!fits || from < start || from + count * size > view.byteLength) {
      throw new Error(`${name} must hold the tensor ${key} [${shape.join(", ")}], but does not: the file is damaged.`);
    }
    const values = Float32Array.from({ length: count }, (_, i) => READERS[entry.dtype](view, from + i * size));
    if (!values.every(Number.isFinite)) throw new Error(`The tensor ${key} of ${name} must be finite, but is not.`);
    return values;
  };
  const rules = facts.rules === undefined ? null : checkedRules(facts, name);
  const several = rules ? [rules.names.length] : [];
  const layers = rule.layers.map(({ out, inputs, bias }, i) => ({
    weight: tensor(`layers.${i}.weight`, ...several, out, inputs),
    bias: bias ? tensor(`layers.${i}.bias`, ...several, out) : null,
  }));
  const learned = rule.fields.learned_filters;
  const kernels = learned ? tensor("kernels", learned, rule.fields.channels, 3, 3) : null;
  if (rules) rules.networks = rules.names.map((_, k) => ({ kernels, layers: layers.map((layer) => part(layer, k, several[0])) }));
  const made = facts.provenance || {};
  return {
    name,
    rule: rule.fields,
    network: rules ? rules.networks[0] : { layers, kernels },
    rules,
    start: facts.nca.start,
    rgbChannel: facts.nca.rgb_channel,
    textures: facts.nca.textures || {},
    steps: shownSteps(made),
  };
}

/**
 * After how many steps its picture is there, as nca_fast/rendering/size.py finds it.
 * @param {Record<string, any>} made what the file says of how it was made; anything may be missing, or be nonsense
 */
function shownSteps(made) {
  const config = Object(made.config);
  const named = [made.shown_steps, made.steps, config.picture_steps, config.steps_max];
  return named.find((n) => Number.isInteger(n) && n >= 1 && n <= 65536) || 96;
}

function opened(file, name) {
  const view = new DataView(file);
  const size = view.byteLength >= 8 ? Number(view.getBigUint64(0, true)) : 0;
  const what = `${name} must be a model of nca_fast (model.safetensors), but`;
  if (size < 2 || size > Math.min(LARGEST_HEADER, view.byteLength - 8)) throw new Error(`${what} is something else.`);
  try {
    const header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(file, 8, size)));
    if (typeof header !== "object" || header === null) throw new Error();
    return { header, view, start: 8 + size };
  } catch {
    throw new Error(`${what} is something else.`);
  }
}

function described(header, name) {
  try {
    const facts = JSON.parse(header.__metadata__.nca_fast);
    if (facts.nca) return facts;
  } catch {
    // said below
  }
  throw new Error(`${name} must carry the rule of an automaton, but does not: only models that nca_fast saved can be read (a VAE run as a page that nca-fast web makes of it).`);
}

function checkedRules({ rules, side }, name) {
  const fits = Array.isArray(rules) && rules.length > 1 && rules.every((of) => typeof of === "string") && Number.isInteger(side) && side > 0 && side < 4096;
  if (!fits) throw new Error(`${name} must name its rules and the side of their canvas, but does not: the file is damaged.`);
  return { names: rules, side, networks: [] };
}

/** The k-th of `count` layers that lie in one. @param {import("./rule.js").Layer} layer */
function part({ weight, bias }, k, count) {
  const of = (values) => values && values.slice((k * values.length) / count, ((k + 1) * values.length) / count);
  return { weight: of(weight), bias: of(bias) };
}

function checkedRule(text, name) {
  try {
    const fields = JSON.parse(text);
    const numbers = [fields.channels, ...fields.hidden];
    if (!numbers.every((n) => Number.isInteger(n) && n > 0 && n < 1e5)) throw new Error("its sizes");
    return new Rule(fields);
  } catch (error) {
    throw new Error(`${name} must carry a rule that the page understands, but does not: ${error.message}.`);
  }
}
