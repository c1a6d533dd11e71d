// Words that the texts of shaders are made of.

import hash from "./hash.glsl" with { type: "text" };

const NORMAL_UNIT = Math.fround(1 / (65536 * Math.sqrt(16 + 1 / 6)));
export const HASH = `#define NORMAL_UNIT ${float(NORMAL_UNIT)}\n${hash}`;

/**
 * Writes a number of float32 as GLSL.
 * @param {number} value
 */
export function float(value) {
  const text = String(Math.fround(value));
  return /[.e]/.test(text) ? text : `${text}.0`;
}

/** @param {number} count @param {(i: number) => string} line */
export function lines(count, line, between = "\n") {
  return Array.from({ length: count }, (_, i) => line(i)).join(between);
}

/**
 * What all passes of a rule have: its outputs, where a cell is, and what lies beside it.
 * @param {number} group  Texels that the pass draws.
 */
export function frame(group) {
  return `
uniform int first;  // texel that is drawn first
uniform ivec2 size;  // columns, rows
${lines(group, (i) => `layout(location = ${i}) out vec4 out${i};`)}

bool inside(ivec2 cell) { return all(greaterThanEqual(cell, ivec2(0))) && all(lessThan(cell, size)); }
// On a torus. GLSL leaves open what % gives for negative numbers, and GPUs differ.
int wrapped(int i, int n) { return i >= 0 ? i % n : n - 1 - (-1 - i) % n; }
ivec2 around(ivec2 cell) { return ivec2(wrapped(cell.x, size.x), wrapped(cell.y, size.y)); }
`;
}

/** Clamp and the copy of frozen channels: a cell as it is after all. @param {import("./rule.js").Rule} rule */
export function written(rule) {
  const [low, high] = rule.fields.clamp || [null, null];
  const cut = `${low === null ? "" : `t = max(t, ${float(low)});`} ${high === null ? "" : `t = min(t, ${float(high)});`}`;
  return `
uniform int frozen;
vec4 cut(vec4 t) { ${cut.trim()} return t; }
vec4 written(vec4 old, vec4 now, int quad) {
  ivec4 channel = ivec4(quad * 4) + ivec4(0, 1, 2, 3);
  return mix(now, old, lessThan(channel, ivec4(frozen)));
}
`;
}
