// What a brush does to the cells of a world: a pass over the canvas for each stretch of a stroke.

import hexagon from "./hexagon.glsl" with { type: "text" };
import { Grid } from "./gl.js";
import { HASH, frame, written } from "./glsl.js";

/**
 * @typedef {"erase"|"noise"|"plant"|"paint"|"speed"} Tool
 * @typedef {object} Stroke  A straight stretch, in cells; places may lie outside of the canvas.
 * @property {Tool} tool
 * @property {[number, number]} from  Row and column.
 * @property {[number, number]} to
 * @property {number} radius
 * @property {number} soft  Share of the radius over which the stroke fades, 0 to 1.
 * @property {number} [value]  Of "paint": the number of the texture; of "speed": the factor on the fire rate.
 */

const NUMBERS = { erase: 0, noise: 1, plant: 2, paint: 3, speed: 4 };

/** @param {import("./rule.js").Rule} rule @param {number} group */
function strokeShader(rule, group) {
  return `${HASH}${hexagon}${frame(group)}${written(rule)}
uniform sampler2DArray state;
uniform usampler2D keys;
uniform int keyColumn;
uniform uint firstColumn;
uniform int tool;
uniform vec2 from;  // row, column
uniform vec2 to;
uniform float radius;
uniform float soft;
uniform float value;
uniform bool torus;
uniform bool hexagons;

vec2 placed(vec2 rowColumn) { return hexagons ? placeOf(rowColumn) : rowColumn.yx; }

// How far a cell is from the stretch, the shorter way round on a torus.
float distanceTo(ivec2 cell) {
  vec2 there = vec2(cell.yx) + 0.5, middle = 0.5 * (from + to);
  if (torus) there.x += float(size.y) * round((middle.x - there.x) / float(size.y));
  vec2 place = placed(there), begin = placed(from), along = placed(to) - begin;
  if (torus) place.x += float(size.x) * round((placed(middle).x - place.x) / float(size.x));
  float t = clamp(dot(place - begin, along) / max(dot(along, along), 1e-12), 0.0, 1.0);
  return distance(place, begin + t * along);
}

ivec2 touched() {
  ivec2 beyond;
  float far;
  return hexagons ? hexagonAt(placeOf(to), beyond, far) : ivec2(floor(to.yx));
}

vec4 brushed(ivec2 cell, int quad, float w) {
  vec4 x = texelFetch(state, ivec3(cell, quad), 0);
  ivec4 channel = ivec4(quad * 4) + ivec4(0, 1, 2, 3);
  if (w <= 0.0) return x;
  if (tool == ${NUMBERS.erase}) return written(x, x * (1.0 - w), quad);
  if (tool == ${NUMBERS.noise}) {
    vec4 e;
    uvec2 key = texelFetch(keys, ivec2(keyColumn, cell.y), 0).zw;
    for (int i = 0; i < 4; i++) e[i] = 0.5 * normal(firstColumn + uint(cell.x), 3 * channel[i], key);
    bvec4 real = lessThan(channel, ivec4(${rule.fields.channels}));
    return mix(x, written(x, mix(x, e, w), quad), real);
  }
  if (tool == ${NUMBERS.plant}) {
    bvec4 lives = greaterThanEqual(channel, ivec4(${rule.fields.alive_channel || 0}));
    bvec4 real = lessThan(channel, ivec4(${rule.fields.channels}));
    bool here = cell == around(touched());
    return mix(x, vec4(1.0), bvec4(vec4(lives) * vec4(real) * float(here)));
  }
  if (tool == ${NUMBERS.paint}) {
    // The texture gets at least w, so that a soft border stays soft where a stroke goes over it again; the others share
    // what is left as they did.
    int quadOf = int(value) >> 2;
    float own = texelFetch(state, ivec3(cell, quadOf), 0)[int(value) & 3], mine = max(own, w);
    vec4 rest = own < 1.0 ? x * ((1.0 - mine) / (1.0 - own)) : x;
    return mix(rest, vec4(mine), equal(channel, ivec4(int(value))));
  }
  return mix(x, vec4(value), w);
}

void main() {
  ivec2 cell = ivec2(gl_FragCoord.xy);
  float far = distanceTo(cell);
  float w = tool == ${NUMBERS.plant} ? 1.0 : soft > 0.0 ? clamp((radius - far) / (soft * radius), 0.0, 1.0) : float(far < radius);
  ${Array.from({ length: group }, (_, i) => `out${i} = brushed(cell, first + ${i}, w);`).join("\n  ")}
}`;
}

/** Writes the codes of what is painted into the frozen channels. */
function codesShader(rule, group, count) {
  return `${frame(group)}${written(rule)}
uniform sampler2DArray state;
uniform sampler2DArray shares;
uniform sampler2DArray codes;  // a row for each texture

vec4 coded(ivec2 cell, int quad) {
  vec4 code = vec4(0.0);
  for (int k = 0; k < ${count}; k++) {
    code += texelFetch(shares, ivec3(cell, k >> 2), 0)[k & 3] * texelFetch(codes, ivec3(quad, k, 0), 0);
  }
  return written(code, texelFetch(state, ivec3(cell, quad), 0), quad);
}

void main() {
  ivec2 cell = ivec2(gl_FragCoord.xy);
  ${Array.from({ length: group }, (_, i) => `out${i} = coded(cell, first + ${i});`).join("\n  ")}
}`;
}

/**
 * Brushes.
 * @param {import("./world.js").World} world
 * @param {Stroke} stroke
 */
export function brush(world, stroke) {
  const of = { paint: "shares", speed: "rates" }[stroke.tool] || "state";
  if (of === "rates" && world.rates === null) world.setRates(new Float32Array(world.height * world.width).fill(1), world.rule.fields.fire_rate);
  /** @type {Grid} */
  const grid = world[of];
  if (grid === null) return;
  const spare = of === "state" ? world.spare : new Grid(world.device, grid.quads, world.height, world.width);
  const values = {
    size: [world.width, world.height],
    frozen: of === "state" ? world.rule.fields.frozen : 0,
    state: grid.texture,
    keys: world.keys.texture,
    keyColumn: stroke.tool === "noise" ? world.keyColumn() : 0,
    firstColumn: world.where.column,
    tool: NUMBERS[stroke.tool],
    from: stroke.from,
    to: stroke.to,
    radius: stroke.radius,
    soft: stroke.soft,
    value: stroke.value || 0,
    torus: world.rule.fields.padding === "circular" || world.hexagons, // rows of hexagons go on at the other side
    hexagons: world.hexagons,
  };
  world.pass(world.program(`stroke ${grid.group}`, () => strokeShader(world.rule, grid.group)), values, spare);
  world[of] = spare;
  if (of === "state") world.spare = grid;
  else grid.remove();
  if (of === "shares") putCodes(world);
}

/** Writes the codes of what is painted into the state, where textures are told by codes. @param {import("./world.js").World} world */
export function putCodes(world) {
  if (world.codes === null) return;
  const { state, spare, shares } = world;
  const program = world.program("codes", () => codesShader(world.rule, state.group, world.codes.height));
  const values = { size: [world.width, world.height], frozen: world.rule.fields.frozen, state: state.texture, shares: shares.texture, codes: world.codes };
  world.pass(program, values, spare);
  [world.state, world.spare] = [spare, state];
}
