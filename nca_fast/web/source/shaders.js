// The shaders of a rule. A pass draws a group of texels of every cell: channels 4 * (first + i) to 4 * (first + i) + 3.

import activations from "./activations.glsl" with { type: "text" };
import keys from "./keys.glsl" with { type: "text" };
import { HASH, float, frame, lines, written } from "./glsl.js";
import { networkText } from "./network.js";
import { perception } from "./perception.js";

/** The row keys of some steps. */
export const KEYS_SHADER = HASH + keys;

/** Which written channels of a cell draw: GLSL with uniforms of the fire mask. @param {import("./rule.js").Rule} rule */
function firing(rule, rates) {
  const column = rule.fields.fire_shared.includes("width") ? "0u" : "firstColumn + uint(cell.x)";
  const below = rates
    ? `float rate = texelFetch(rates, ivec3(cell, 0), 0).x * rateFactor;
  return rate > 0.0 && (rate >= 1.0 || bits < uint(ceil(rate * 4294967296.0)));`
    : "return ever && bits <= limit;";
  return `
uniform usampler2D keys;
uniform int keyColumn;
uniform uint firstColumn;
${rates ? "uniform sampler2DArray rates;\nuniform float rateFactor;" : "uniform bool ever;\nuniform uint limit;  // cells fire whose bits are at most so much, if any do"}
uvec4 rowKey(ivec2 cell) { return texelFetch(keys, ivec2(keyColumn, cell.y), 0); }
bool below(uint bits, ivec2 cell) {
  ${below}
}
bool fires(ivec2 cell, int channel) { return below(cellBits(${column} + lane(channel), rowKey(cell).xy), cell); }
`;
}

/** Whether a cell of a state is alive. @param {import("./rule.js").Rule} rule */
function living(rule) {
  if (!rule.alive) return "";
  const channel = rule.fields.alive_channel;
  const beside = rule.aliveCircular ? "beside = around(beside);" : "if (!inside(beside)) continue;";
  return `
bool alive(sampler2DArray x, ivec2 cell) {
  for (int row = -1; row <= 1; row++) {
    for (int column = -1; column <= 1; column++) {
      ivec2 beside = cell + ivec2(column, row);
      ${beside}
      if (texelFetch(x, ivec3(beside, ${channel >> 2}), 0)[${channel & 3}] > ${float(rule.fields.alive_threshold)}) return true;
    }
  }
  return false;
}
`;
}

/**
 * The noise that is added to the state before it is perceived.
 * @param {import("./rule.js").Rule} rule
 * @param {number} group
 */
export function noiseShader(rule, group) {
  return `${HASH}${frame(group)}${written(rule)}
uniform sampler2DArray state;
uniform usampler2D keys;
uniform int keyColumn;
uniform uint firstColumn;

vec4 noisy(ivec2 cell, int quad) {
  uvec2 key = texelFetch(keys, ivec2(keyColumn, cell.y), 0).zw;
  vec4 old = texelFetch(state, ivec3(cell, quad), 0), e = vec4(0.0);
  for (int i = 0; i < 4; i++) e[i] = normal(firstColumn + uint(cell.x), 3 * (quad * 4 + i), key);
  bvec4 real = lessThan(ivec4(quad * 4) + ivec4(0, 1, 2, 3), ivec4(${rule.fields.channels}));
  return mix(old, written(old, old + ${float(rule.fields.state_noise)} * e, quad), real);
}

void main() {
  ivec2 cell = ivec2(gl_FragCoord.xy);
  ${lines(group, (i) => `out${i} = noisy(cell, first + ${i});`, "\n  ")}
}`;
}

/**
 * The end of a step where cells must be alive after it: a pass of its own, because who is alive hangs on the neighbours.
 * @param {import("./rule.js").Rule} rule
 * @param {number} group
 */
export function finishShader(rule, group) {
  const was = rule.fields.alive_mask === "both" ? " && alive(before, cell)" : "";
  return `${frame(group)}${written(rule)}
uniform sampler2DArray before;
uniform sampler2DArray state;
${living(rule)}
void main() {
  ivec2 cell = ivec2(gl_FragCoord.xy);
  bool lives = alive(state, cell)${was};
  ${lines(group, (i) => `vec4 x${i} = texelFetch(state, ivec3(cell, first + ${i}), 0);
  out${i} = written(x${i}, lives ? cut(x${i}) : vec4(0.0), first + ${i});`, "\n  ")}
}`;
}

/**
 * A step: perception, network, fire mask and update.
 * @param {import("./rule.js").Rule} rule
 * @param {{group: number, networks: number, shared: boolean, rates: boolean, frames: boolean}} how
 *   group: texels that a pass draws; networks: of how many automata of this rule; shared: whether a map has the share
 *   of each in every cell; rates: whether a map has the fire rate; frames: whether
 *   every cell has a frame (a, b) that turns and scales its derivatives.
 */
export function stepShader(rule, how) {
  const { group } = how;
  const of = rule.fields;
  const parts = [HASH, activations, frame(group), firing(rule, how.rates), living(rule), written(rule)];
  parts.push(perception(rule, how.frames), networkText(rule, group));
  if (how.shared) parts.push("uniform sampler2DArray shares;");
  if (how.frames) parts.push("uniform float stepShare;");
  const part = (share) => (how.frames ? `${share} * stepShare` : share);
  const networks = how.shared
    ? `for (int k = 0; k < ${how.networks}; k++) {
      float share = texelFetch(shares, ivec3(cell, k >> 2), 0)[k & 3];
      if (share > 0.0) network(k, ${part("share")});
    }`
    : `network(0, ${part("1.0")});`;
  const alive = rule.alive ? of.alive_mask : null;
  const fired = [rule.perChannel ? "true" : "fires(cell, 0)", alive === "update" ? "alive(before, cell)" : "true"];
  const noise = of.update_noise > 0;
  const value = (i) => {
    const u = `u[${i}]${noise ? ` + ${float(of.update_noise)} * updateNoise(cell, first + ${i})` : ""}`;
    const all = of.residual ? `old + (${u})` : u;
    const now = rule.perChannel ? `mix(old, ${all}, firing(cell, first + ${i}))` : all;
    // Where who lives is known after the step alone, the pass that follows cuts.
    const cut = rule.finishes ? "now" : "lives ? cut(now) : vec4(0.0)";
    return `old = texelFetch(state, ivec3(cell, first + ${i}), 0);
  now = fired ? ${now} : old;
  out${i} = written(old, ${cut}, first + ${i});`;
  };
  if (rule.perChannel) {
    parts.push(`bvec4 firing(ivec2 cell, int quad) {
  return bvec4(${lines(4, (i) => `fires(cell, quad * 4 + ${i})`, ", ")});
}`);
  }
  if (noise) {
    parts.push(`vec4 updateNoise(ivec2 cell, int quad) {
  vec4 e = vec4(0.0);
  for (int i = 0; i < 4; i++) e[i] = normal(firstColumn + uint(cell.x), 3 * (${of.channels} + quad * 4 + i), rowKey(cell).zw);
  return e;
}`);
  }
  return `${parts.join("\n")}
void main() {
  ivec2 cell = ivec2(gl_FragCoord.xy);
  bool fired = ${fired.join(" && ")};
  bool lives = ${alive === "before" ? "alive(before, cell)" : "true"};
  ${lines(group, (i) => `u[${i}] = vec4(0.0);`, " ")}
  if (fired) {
    perceive(cell);
    ${networks}
  }
  vec4 old, now;
  ${lines(group, value, "\n  ")}
}`;
}
