// What was done on a canvas, as text: enough to do it again, to the bit where the GPU is the same.

import { checksum } from "./checksum.js";
import { ALIGNMENTS, SCALES } from "./turning.js";

/**
 * @typedef {object} Replay  README: docs/page.md
 * @property {1} nca_fast  Version of this format.
 * @property {string[]} models  Names of those on the canvas.
 * @property {string[]} weights  Checksums of theirs.
 * @property {number} height
 * @property {number} width
 * @property {string} seed  Decimal digits, because it has 64 bits.
 * @property {import("./hexagons.js").GridName} [grid]  Shape of cells; without it that of the models.
 * @property {"circular"|"zero"|"reflect"|"replicate"} padding
 * @property {"mosaic"|number} layout  What grew where before the first stroke.
 * @property {number} steps  So many were taken.
 * @property {(string|number|boolean)[][]} strokes  [tool, step, row, column, row, column, radius, soft, value],
 *   ["turn", step, angle, align, scale], or of a VAE run first of all ["mix", 0, from, to, share, turns]
 */

/** @param {import("./scene.js").Scene} scene @returns {Replay} */
export function replayOf(scene) {
  const { settings, world } = scene;
  return {
    nca_fast: 1,
    models: scene.family.models.map((model) => model.name),
    weights: scene.family.models.map((model) => checksum(model)),
    height: settings.height,
    width: settings.width,
    seed: String(settings.seed),
    grid: scene.grid,
    padding: world.rule.fields.padding,
    layout: scene.layout,
    steps: world.step,
    strokes: scene.events.map(rowOf),
  };
}

/** @param {import("./scene.js").Event} of */
function rowOf(of) {
  if (of.tool === "mix") return [of.tool, of.step, of.from, of.to, of.share, of.turns];
  if (of.tool === "turn") return [of.tool, of.step, of.angle, of.align, of.scale];
  return [of.tool, of.step, ...of.from, ...of.to, of.radius, of.soft, of.value === undefined ? 0 : of.value];
}

/**
 * Reads a replay.
 * @param {string} text
 * @returns {Replay & {events: import("./scene.js").Event[]}}
 * @throws {Error} A sentence.
 */
export function readReplay(text) {
  const wrong = (what) => new Error(`A replay must ${what}: this one cannot be used.`);
  let page;
  try {
    page = JSON.parse(text);
  } catch {
    throw wrong("be JSON");
  }
  if (!page || page.nca_fast !== 1) throw wrong("say nca_fast: 1");
  const whole = (value, low, high) => Number.isInteger(value) && value >= low && value <= high;
  if (!whole(page.height, 1, 65536) || !whole(page.width, 1, 65536) || !whole(page.steps, 0, 2 ** 32 - 1)) {
    throw wrong("have a height, a width and a number of steps");
  }
  if (!/^\d{1,20}$/.test(page.seed) || BigInt(page.seed) >= 2n ** 64n) throw wrong("have a seed below 2 to the 64");
  if (!["circular", "zero", "reflect", "replicate"].includes(page.padding)) throw wrong("name a padding");
  if (page.grid !== undefined && !["square", "hex"].includes(page.grid)) throw wrong("name a grid");
  if (![page.models, page.weights, page.strokes].every(Array.isArray)) throw wrong("have models, their weights and strokes");
  if (page.layout !== "mosaic" && !whole(page.layout, 0, 1000)) throw wrong("have a layout");
  let last = 0;
  const events = page.strokes.map((stroke) => {
    const [tool, step, ...numbers] = Array.isArray(stroke) ? stroke : [];
    if (!whole(step, last, page.steps)) throw wrong("have strokes in their order");
    last = step;
    if (tool === "turn") {
      const [angle, align, scale] = numbers;
      const near = (value, low, high) => Number.isFinite(value) && value >= low && value <= high;
      if (numbers.length !== 3 || !near(angle, 0, 360) || !ALIGNMENTS.includes(align) || !near(scale, ...SCALES)) throw wrong("turn by degrees, alignments and scales that there are");
      return { tool, step, angle, align, scale };
    }
    if (tool === "mix") {
      const [from, to, share, turns] = numbers;
      const fits = step === 0 && whole(from, 0, 1000) && whole(to, 0, 1000) && Number.isFinite(share) && share >= 0 && share <= 1;
      if (numbers.length !== 4 || !fits || typeof turns !== "boolean") throw wrong("mix rules by their numbers and a share");
      return { tool, step, from, to, share, turns };
    }
    const known = ["erase", "noise", "plant", "paint", "speed"].includes(tool);
    if (!known || numbers.length !== 7 || !numbers.every(Number.isFinite)) throw wrong("have strokes of known tools and seven numbers");
    const [fromRow, fromColumn, toRow, toColumn, radius, soft, value] = numbers;
    return { tool, step, from: [fromRow, fromColumn], to: [toRow, toColumn], radius, soft, value };
  });
  return { ...page, events };
}

/** @param {string} text @returns {Promise<string>} For the fragment of a URL. */
export async function packedText(text) {
  const bytes = await through(new CompressionStream("deflate-raw"), new TextEncoder().encode(text));
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** @param {string} packed @returns {Promise<string>} */
export async function unpackedText(packed) {
  try {
    const binary = atob(packed.replace(/-/g, "+").replace(/_/g, "/"));
    const bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
    return new TextDecoder().decode(await through(new DecompressionStream("deflate-raw"), bytes));
  } catch {
    throw new Error("The link is not whole: copy it again.");
  }
}

async function through(stream, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}
