// A canvas with the models that live on it: how it begins, what was done to it, and when.

import { brush, putCodes } from "./brush.js";
import { ROW, gridOf, movedTo } from "./hexagons.js";
import { shares } from "./mosaic.js";
import { FIRST, mixed } from "./mixing.js";
import { Twister } from "./noise.js";
import { SCALES, STRAIGHT, alike, frames, stableShare } from "./turning.js";
import { World } from "./world.js";

/** Cells of a canvas that nobody gave a size, by the kind of start. */
export const CELLS = { zeros: 70000, noise: 70000, image: 50000, cell: 6000 };

/**
 * @typedef {object} Material  What a brush can paint.
 * @property {string} name
 * @property {number} model  Number of the model in its family.
 *
 * @typedef {object} Settings
 * @property {number} height
 * @property {number} width
 * @property {bigint} seed
 * @property {import("./rule.js").RuleFields["padding"]} [padding]  Another than the model's.
 * @property {import("./hexagons.js").GridName} [grid]  Another than the model's.
 * @property {import("./turning.js").Turning} [turning]
 * @property {import("./mixing.js").Mix} [mix]
 *
 * @typedef {{tool: "turn"} & import("./turning.js").Turning} Turn  From here on cells are turned and scaled so.
 * @typedef {{tool: "mix"} & import("./mixing.js").Mix} Mixing  How the rules of a VAE run are mixed, from the first step on.
 * @typedef {(import("./brush.js").Stroke | Turn | Mixing) & {step: number}} Event  What was done, and before which step.
 */

/** Models that can live on one canvas, and what of them can be painted. */
export class Family {
  /** @param {import("./model.js").Model} model */
  constructor(model) {
    this.models = [model];
  }

  /** Whether a model can live beside those that are here. @param {import("./model.js").Model} model */
  takes(model) {
    const first = this.models[0];
    const alone = [first, model].some((of) => of.rules || of.rule.alive_channel !== null || of.start === "image" || of.rule.learned_filters > 0 || Object.keys(of.textures).length > 0);
    const same = (of) => JSON.stringify([of.rule, of.rgbChannel, of.start]);
    return !alone && same(first) === same(model);
  }

  /** @returns {Material[]} */
  get materials() {
    const { rules } = this.models[0];
    if (rules) return rules.names.map((name) => ({ name, model: 0 }));
    const textures = Object.keys(this.models[0].textures);
    if (textures.length) return textures.map((name) => ({ name, model: 0 }));
    return this.models.map(({ name }, model) => ({ name, model }));
  }
}

/** @param {import("./model.js").Model[]} models */
export function families(models) {
  /** @type {Family[]} */
  const found = [];
  for (const model of models) {
    const home = found.find((family) => family.takes(model));
    if (home) home.models.push(model);
    else found.push(new Family(model));
  }
  return found;
}

let begins = 0;

/** A canvas that runs. */
export class Scene {
  /**
   * @param {import("./gl.js").Device} device
   * @param {Family} family
   * @param {Settings} settings
   */
  constructor(device, family, settings) {
    this.device = device;
    this.family = family;
    this.settings = { turning: STRAIGHT, mix: FIRST, ...settings };
    this.model = family.models[0]; // they are alike in what the view asks for
    const fields = settings.grid ? movedTo(this.model.rule, settings.grid) : this.model.rule;
    if (fields === null) throw new Error(`${this.model.name} has no stencils for cells of another shape.`);
    const rule = settings.padding ? { ...fields, padding: settings.padding } : fields;
    const codes = Object.values(this.model.textures);
    this.world = new World(device, rule, family.models.map((model) => model.network), settings.height, settings.width, codes);
    this.grid = gridOf(rule);
    this.world.hexagons = this.grid === "hex" && this.model.start !== "image"; // a picture is one of squares
    /** @type {ImageData|null} The picture that is redrawn, of the canvas's size. */
    this.picture = null;
    this.setFrames();
    this.begin();
  }

  /** Whether the canvas is a torus, so that it may be shown as going on beyond its edges. */
  get repeats() {
    return this.world.rule.fields.padding === "circular" && this.model.start !== "image" && this.model.start !== "cell";
  }

  /** Breadth and height of the canvas: in breadths of a square, or from a hexagon to the next. */
  get extent() {
    const { height, width, hexagons } = this.world;
    return [width, hexagons ? height * ROW : height];
  }

  /** Whether cells may have the other shape. */
  get movable() {
    return this.model.start !== "image" && movedTo(this.model.rule, this.grid === "hex" ? "square" : "hex") !== null;
  }

  /** Row and column of a place, x and y from the upper left corner. @param {number[]} place @returns {[number, number]} */
  rowColumn([x, y]) {
    if (!this.world.hexagons) return [y, x];
    return [y / ROW, x - 0.5 * (y / ROW) + 0.25];
  }

  /** Begins again with what is painted. */
  restart() {
    const done = this.events;
    this.begin();
    for (const event of done) if (event.tool === "paint") this.apply({ ...event, step: 0 });
  }

  /** Puts the first state in place, and `layout` in that of what is painted; null: the last one. */
  begin(layout = null) {
    const { world, settings } = this;
    world.where.seed = settings.seed;
    world.step = 0;
    this.begun = begins++; // tells one beginning from another
    /** @type {Event[]} */
    this.events = alike(settings.turning, STRAIGHT) ? [] : [{ tool: "turn", step: 0, ...settings.turning }];
    if (this.model.rules) {
      this.events.push({ tool: "mix", step: 0, ...settings.mix });
      world.setTurns(mixed(this.model.rules.networks, settings.mix));
    }
    /** @type {Exclude<Event, Mixing>[]} Of a replay, those that are still to come. */
    this.due = [];
    this.layout = layout ?? this.layout ?? "mosaic";
    world.setRates(null);
    world.write(this.firstState());
    if (world.shares) world.shares.write(shares(this.layout, this.family.materials.length, settings.height, settings.width, world.hexagons));
    putCodes(world);
  }

  firstState() {
    const { height, width } = this.settings;
    const { channels, frozen, alive_channel: alive } = this.world.rule.fields;
    const cells = height * width;
    const state = new Float32Array(channels * cells);
    const { start, rgbChannel } = this.model;
    if (start === "cell") {
      const middle = Math.floor(height / 2) * width + Math.floor(width / 2);
      for (let c = alive; c < channels; c++) state[c * cells + middle] = 1;
    } else if (start === "noise") {
      state.set(new Twister(this.settings.seed).normals(state.length));
    } else if (start === "image") {
      const draw = new Twister(this.settings.seed);
      for (let i = 0; i < state.length; i++) state[i] = draw.uniform() - 0.5;
    }
    if (start === "image" && this.picture) {
      for (let i = 0; i < cells; i++) {
        for (let c = 0; c < 3; c++) {
          const value = Math.fround(this.picture.data[4 * i + c] / 255) - 0.5;
          if (c < frozen) state[c * cells + i] = value;
          state[(rgbChannel + c) * cells + i] = value;
        }
      }
    }
    if (start === "noise") spread(state, channels, cells);
    return state;
  }

  /** Applies a stroke, and keeps it for a replay. @param {import("./brush.js").Stroke} stroke */
  stroke(stroke) {
    this.due = [];
    this.apply({ ...stroke, from: rounded(stroke.from), to: rounded(stroke.to), step: this.world.step });
  }

  /** Turns and scales cells from here on, and keeps that for a replay. @param {import("./turning.js").Turning} turning */
  turn(turning) {
    this.due = [];
    const last = this.events[this.events.length - 1];
    if (last && last.tool === "turn" && last.step === this.world.step) this.events.pop(); // nothing ran by it
    this.apply({ tool: "turn", step: this.world.step, ...turning });
  }

  /** @param {Exclude<Event, Mixing>} event */
  apply(event) {
    this.events.push(event);
    if (event.tool !== "turn") return brush(this.world, event);
    const { angle, align, scale } = event;
    this.settings.turning = { angle, align, scale };
    this.setFrames();
  }

  /** Begins again with rules that are mixed otherwise. @param {Partial<import("./mixing.js").Mix>} change */
  mix(change) {
    const before = this.settings.mix;
    const mix = { ...before, ...change };
    if (mix.from === mix.to) mix.to = before.from === mix.from ? (mix.from + 1) % this.family.materials.length : before.from;
    this.settings.mix = mix;
    this.begin();
  }

  setFrames() {
    const { height, width, turning } = this.settings;
    if (alike(turning, STRAIGHT)) this.world.setFrames(null);
    else this.world.setFrames(frames(turning, height, width), stableShare(turning));
  }

  /** The largest scale: with more than 1 a step does a part of itself, and some rules have no parts. */
  get largestScale() {
    return this.world.rule.fields.residual ? SCALES[1] : 1;
  }

  /** @param {Event[]} events @throws {Error} A sentence: this automaton does not do all of them, or not on that grid. */
  check(events, grid = this.grid) {
    if (movedTo(this.model.rule, grid) === null) throw new Error("The replay has cells of a shape for which this automaton has no stencils.");
    const { turns } = this.world.rule;
    if (events.some((event) => event.tool === "turn" && (!turns || event.scale > this.largestScale))) {
      throw new Error("The replay turns or scales an automaton that cannot be turned or scaled so.");
    }
    const { rules } = this.model;
    if (events.some((event) => event.tool === "mix" && !(rules && Math.max(event.from, event.to) < rules.networks.length))) {
      throw new Error("The replay mixes rules that this page does not have.");
    }
  }

  /** Does again what was done, from the beginning. @param {Event[]} events  In the order of their steps. */
  replay(events, layout) {
    this.settings.turning = STRAIGHT;
    this.setFrames();
    const mixes = events.filter((event) => event.tool === "mix");
    for (const { from, to, share, turns } of mixes) this.settings.mix = { from, to, share, turns };
    this.begin(layout);
    this.due = events.filter((event) => event.tool !== "mix");
  }

  /** Takes steps, with the strokes of a replay where they were. @param {number} count */
  advance(count) {
    for (let i = 0; i < count; i++) {
      this.applyDue();
      this.world.advance(1);
    }
    this.applyDue();
  }

  applyDue() {
    while (this.due.length && this.due[0].step <= this.world.step) this.apply(this.due.shift());
  }

  /** Lets one texture have the whole canvas. @param {number} number */
  fill(number) {
    const { height, width } = this.settings;
    const radius = height + width;
    this.stroke({ tool: "paint", from: [height / 2, width / 2], to: [height / 2, width / 2], radius, soft: 0, value: number });
  }

  remove() {
    this.world.remove();
  }
}

/** Places are kept in sixteenths of a cell, so that a link says them exactly. @param {[number, number]} place @returns {[number, number]} */
function rounded([row, column]) {
  return [Math.round(row * 16) / 16, Math.round(column * 16) / 16];
}

/** Scales noise to [0, 1] over the channels of each cell. */
function spread(state, channels, cells) {
  for (let i = 0; i < cells; i++) {
    let [low, high] = [Infinity, -Infinity];
    for (let c = 0; c < channels; c++) {
      low = Math.min(low, state[c * cells + i]);
      high = Math.max(high, state[c * cells + i]);
    }
    for (let c = 0; c < channels; c++) state[c * cells + i] = (state[c * cells + i] - low) / (high - low || 1);
  }
}
