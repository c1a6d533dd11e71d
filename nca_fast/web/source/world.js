// A canvas of cells and the automata that run on it.

import { Grid, Target, Texture } from "./gl.js";
import { packed, weightLayout } from "./network.js";
import { Rule, refusal } from "./rule.js";
import { KEYS_SHADER, finishShader, noiseShader, stepShader } from "./shaders.js";

/** Steps whose row keys are drawn at once. */
const BLOCK = 32;

/** One or several automata of the same rule on one canvas. */
export class World {
  /**
   * @param {import("./gl.js").Device} device
   * @param {Partial<import("./rule.js").RuleFields>} fields  The rule.
   * @param {import("./rule.js").Network[]} networks
   * @param {number} height
   * @param {number} width
   * @param {number[][]} codes  Of the textures that a single automaton knows: numbers for its frozen channels.
   */
  constructor(device, fields, networks, height, width, codes = []) {
    const rule = new Rule(fields);
    const reason = refusal(rule) || tooLarge(device, rule, networks.length, height, width);
    if (reason) throw new Error(reason);
    if (networks.length > 1 && rule.alive) throw new Error("automata with an alive mask must have a canvas of their own.");
    this.device = device;
    this.rule = rule;
    this.height = height;
    this.width = width;
    this.networks = networks.length;
    /** Where the canvas lies in that of Python's formulas. */
    this.where = { seed: 0n, sample: 0, row: 0, column: 0, canvasHeight: 0 };
    /** Whether cells are hexagons where they are brushed and looked at. */
    this.hexagons = false;
    /** Number of the next step. */
    this.step = 0;
    this.state = new Grid(device, rule.quads, height, width);
    this.spare = new Grid(device, rule.quads, height, width);
    this.middle = rule.finishes || rule.fields.state_noise > 0 ? new Grid(device, rule.quads, height, width) : null;
    const materials = Math.max(networks.length, codes.length);
    /** @type {Grid|null} Share of each automaton, or of each texture of the only one, in every cell. */
    this.shares = materials > 1 ? new Grid(device, Math.ceil(materials / 4), height, width) : null;
    this.codes = codes.length > 1 ? codeTexture(device, rule, codes) : null;
    /** @type {Grid|null} Fire rate of every cell, to be multiplied by `rateFactor`. */
    this.rates = null;
    this.rateFactor = 1;
    /** @type {Grid|null} Frames: how the derivatives that a cell perceives are turned and scaled. */
    this.frames = null;
    /** What part of its step a step does, where there are frames. */
    this.stepShare = 1;
    const gl = device.gl;
    const layout = weightLayout(rule);
    this.weights = new Texture(device, gl.RGBA32F, layout.width, layout.height * networks.length);
    /** @type {Float32Array[]} Weights that take turns, a step each. */
    this.turns = [];
    networks.forEach((network, k) => this.setNetwork(k, network));
    this.keys = new Target(new Texture(device, gl.RGBA32UI, BLOCK, height));
    /** @type {{mark: string, from: number}|null} What the table of keys holds. */
    this.drawn = null;
    /** @type {Map<string, import("./gl.js").Program>} */
    this.programs = new Map();
    if (gl.getError() === gl.OUT_OF_MEMORY) {
      this.remove();
      throw new Error(`This GPU has not enough memory for ${width} x ${height} cells of ${rule.fields.channels} channels.`);
    }
  }

  /** @param {string} name @param {() => string} text */
  program(name, text) {
    if (!this.programs.has(name)) this.programs.set(name, this.device.program(text()));
    return this.programs.get(name);
  }

  /** Replaces the weights of an automaton. @param {number} k @param {import("./rule.js").Network} network */
  setNetwork(k, network) {
    this.weights.write(packed(this.rule, network), 0, k * weightLayout(this.rule).height);
  }

  /** Lets automata take turns on the canvas, a step each, in place of the only one. @param {import("./rule.js").Network[]} networks */
  setTurns(networks) {
    this.turns = networks.map((network) => packed(this.rule, network));
    this.weights.write(this.turns[0]);
  }

  /** Takes steps. @param {number} count */
  advance(count) {
    for (let i = 0; i < count; i++) this.advanceOnce();
  }

  advanceOnce() {
    const { rule, where } = this;
    if (this.turns.length > 1) this.weights.write(this.turns[this.step % this.turns.length]);
    const group = this.state.group;
    const shared = this.networks > 1;
    const rates = this.rates !== null;
    const frames = this.frames !== null;
    const limit = Math.ceil(rule.fields.fire_rate * 2 ** 32);
    const values = {
      size: [this.width, this.height],
      frozen: rule.fields.frozen,
      keys: this.keys.texture,
      keyColumn: this.keyColumn(),
      firstColumn: where.column,
      ever: limit > 0,
      limit: Math.max(limit - 1, 0),
      rates: rates ? this.rates.texture : null,
      rateFactor: this.rateFactor,
      frames: frames ? this.frames.texture : null,
      stepShare: this.stepShare,
      shares: shared ? this.shares.texture : null,
      weights: this.weights,
      before: this.state.texture,
      state: this.state.texture,
    };
    let from = this.state;
    if (rule.fields.state_noise > 0) {
      const noise = this.program("noise", () => noiseShader(rule, group));
      this.pass(noise, values, this.middle);
      from = this.middle;
    }
    const name = `step${shared ? " shared" : ""}${rates ? " rates" : ""}${frames ? " frames" : ""}`;
    const step = this.program(name, () => stepShader(rule, { group, networks: this.networks, shared, rates, frames }));
    values.state = from.texture;
    // Noise and finish both need the middle: with both, the raw step goes where the state will be and is finished back.
    const raw = rule.finishes && from === this.state ? this.middle : this.spare;
    this.pass(step, values, raw);
    let result = raw;
    if (rule.finishes) {
      const finish = this.program("finish", () => finishShader(rule, group));
      result = raw === this.middle ? this.spare : this.middle;
      values.state = raw.texture;
      this.pass(finish, values, result);
    }
    const old = this.state;
    this.state = result;
    if (result === this.middle) this.middle = old;
    else this.spare = old;
    this.step++;
  }

  /** @param {import("./gl.js").Program} program @param {Record<string, any>} values @param {Grid} into */
  pass(program, values, into) {
    for (const target of into.targets) program.draw({ ...values, first: target.first }, target);
  }

  /** Sees to it that the keys of the next step are drawn. Returns their column. */
  keyColumn() {
    const { seed, sample, row, column, canvasHeight } = this.where;
    const shared = this.rule.fields.fire_shared;
    const mark = `${seed} ${sample} ${row} ${column} ${canvasHeight}`;
    if (this.drawn === null || this.drawn.mark !== mark || this.step < this.drawn.from || this.step >= this.drawn.from + BLOCK) {
      this.program("keys", () => KEYS_SHADER).draw(
        {
          seed: [Number(seed & 0xffffffffn), Number(seed >> 32n)],
          firstStep: this.step,
          sampleNumber: shared.includes("batch") ? 0 : sample,
          firstRow: row,
          canvasHeight,
          rowsShared: shared.includes("height"),
        },
        this.keys,
      );
      this.drawn = { mark, from: this.step };
    }
    return this.step - this.drawn.from;
  }

  /** The state, [channels, height, width]. */
  read() {
    return this.state.read(this.rule.fields.channels);
  }

  /** Replaces the state. @param {Float32Array} values  [channels, height, width] */
  write(values) {
    this.state.write(values);
  }

  /** A map of the fire rate, [height, width], or null; multiplied by `factor`. */
  setRates(values, factor = 1) {
    if (this.rates) this.rates.remove();
    this.rates = null;
    this.rateFactor = factor;
    if (values === null) return;
    this.rates = new Grid(this.device, 1, this.height, this.width);
    this.rates.write(values);
  }

  /** Frames of all cells, [2, height, width], or null; each step does a share of itself. @param {Float32Array|null} values */
  setFrames(values, stepShare = 1) {
    if (this.frames) this.frames.remove();
    this.stepShare = stepShare;
    this.frames = values && new Grid(this.device, 1, this.height, this.width);
    if (values) this.frames.write(values);
  }

  remove() {
    this.setFrames(null);
    for (const grid of [this.state, this.spare, this.middle, this.shares]) if (grid) grid.remove();
    this.setRates(null);
    if (this.codes) this.codes.remove();
    this.weights.remove();
    this.keys.texture.remove();
    this.keys.remove();
  }
}

/** A texture with a row for each texture's code. */
function codeTexture(device, rule, codes) {
  const texture = new Texture(device, device.gl.RGBA32F, rule.quads, codes.length, 1);
  const values = new Float32Array(rule.quads * 4 * codes.length);
  codes.forEach((code, k) => values.set(code, k * rule.quads * 4));
  texture.write(values);
  return texture;
}

/** Why a GPU cannot hold a canvas, or null. */
function tooLarge(device, rule, networks, height, width) {
  if (Math.max(height, width) > device.largest) {
    return `The canvas may have at most ${device.largest} cells along a side on this GPU, but has ${width} x ${height}.`;
  }
  if (rule.quads > device.layers) {
    return `The rule may have at most ${4 * device.layers} channels on this GPU, but channels is ${rule.fields.channels}.`;
  }
  const layout = weightLayout(rule);
  const [columns, rows] = [layout.width, layout.height * networks];
  if (Math.max(columns, rows) > device.largest) {
    const what = networks > 1 ? `The ${networks} automata are` : "The rule is";
    return `${what} too large for this GPU: the weights take ${columns} x ${rows} texels, of at most ${device.largest}.`;
  }
  return null;
}
