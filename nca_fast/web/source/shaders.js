// The shaders of a rule. A pass draws a group of texels of every cell: channels 4 * (first + i) to 4 * (first + i) + 3.

import hash from "./hash.glsl";
import activations from "./activations.glsl";
import keys from "./keys.glsl";
import { Rule } from "./rule.js";

const NORMAL_UNIT = Math.fround(1 / (65536 * Math.sqrt(16 + 1 / 6)));
export const HASH = `#define NORMAL_UNIT ${float(NORMAL_UNIT)}\n${hash}`;

/** The row keys of some steps. */
export const KEYS_SHADER = HASH + keys;

/**
 * Writes a number of float32 as GLSL.
 * @param {number} value
 */
function float(value) {
  const text = String(Math.fround(value));
  return /[.e]/.test(text) ? text : `${text}.0`;
}

/** @param {number} count @param {(i: number) => string} line */
function lines(count, line, between = "\n") {
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
ivec2 around(ivec2 cell) { return ((cell % size) + size) % size; }
`;
}

/** Which written channels of a cell draw: GLSL with uniforms of the fire mask. @param {Rule} rule */
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

/** Whether a cell of a state is alive. @param {Rule} rule */
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

/** Clamp and the copy of frozen channels: a cell as it is after all. @param {Rule} rule */
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

/**
 * The noise that is added to the state before it is perceived.
 * @param {Rule} rule
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
 * @param {Rule} rule
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
 * @param {Rule} rule
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
  for (int i = 0; i < ${group}; i++) u[i] = vec4(0.0);
  if (fired) {
    perceive(cell);
    ${networks}
  }
  vec4 old, now;
  ${lines(group, value, "\n  ")}
}`;
}

/** What lies around a cell, through all filters: fills y[]. @param {Rule} rule */
function perception(rule, frames) {
  const { quads, reach } = rule;
  const of = rule.fields;
  const side = 2 * reach + 1;
  const window = of.maximum_window;
  const at = (i, j) => (of.padding === "zero" ? `weight[${i}] * weightX[${j}] * ` : "") + `texelFetch(state, ivec3(columns[${j}], rows[${i}], quad), 0)`;
  const place = {
    circular: "((i % n) + n) % n",
    zero: "clamp(i, 0, n - 1)",
    replicate: "clamp(i, 0, n - 1)",
    reflect: "n - 1 - abs(n - 1 - abs(i))",
  }[of.padding];
  // Each texel is fetched once, for all filters that have a tap on it.
  const taps = [];
  const fixed = rule.stencils.length;
  const learnedRow = weightLayout(rule).learned;
  for (let i = 0; i < side; i++) {
    for (let j = 0; j < side; j++) {
      const terms = [];
      rule.stencils.forEach((stencil, f) => {
        const shift = reach - (stencil.length - 1) / 2;
        const tap = (stencil[i - shift] || [])[j - shift] || 0;
        if (tap !== 0) terms.push(tap === 1 ? `y[${f * quads} + quad] += n;` : `y[${f * quads} + quad] += ${float(tap)} * n;`);
      });
      const [di, dj] = [i - reach + 1, j - reach + 1];
      if (of.learned_filters && di >= 0 && di < 3 && dj >= 0 && dj < 3) {
        for (let l = 0; l < of.learned_filters; l++) {
          terms.push(`y[${(fixed + l) * quads} + quad] += w(${(di * 3 + dj) * quads} + quad, ${learnedRow + l}, 0) * n;`);
        }
      }
      if (terms.length) taps.push(`n = ${at(i, j)}; ${terms.join(" ")}`);
    }
  }
  const maximum = window === null ? "" : `
    vec4 most = vec4(-3.4e38);
    for (int i = -${(window - 1) / 2}; i <= ${(window - 1) / 2}; i++) {
      for (int j = -${(window - 1) / 2}; j <= ${(window - 1) / 2}; j++) {
        ivec2 beside = cell + ivec2(j, i);
        ${of.padding === "circular" ? "beside = around(beside);" : "if (!inside(beside)) continue;"}
        most = max(most, texelFetch(state, ivec3(beside, quad), 0));
      }
    }
    y[${(rule.perceptions - 1) * quads} + quad] = most;`;
  const turned = [
    ...rule.derivatives.pairs.map(([x, y]) => `n = y[${x * quads} + quad];
    y[${x * quads} + quad] = frame.x * n - frame.y * y[${y * quads} + quad];
    y[${y * quads} + quad] = frame.y * n + frame.x * y[${y * quads} + quad];`),
    ...rule.derivatives.laplacians.map((f) => `y[${f * quads} + quad] *= dot(frame, frame);`),
  ];
  return `
${frames ? "uniform sampler2DArray frames;" : ""}
uniform sampler2DArray state;   // what is perceived
uniform sampler2DArray before;  // what it was before noise
uniform sampler2DArray weights;
vec4 y[${rule.perceptions * quads}];
vec4 w(int column, int row, int k) { return texelFetch(weights, ivec3(column, row, k), 0); }
int place(int i, int n) { return ${place}; }

void perceive(ivec2 cell) {
  ${frames ? "vec2 frame = texelFetch(frames, ivec3(cell, 0), 0).xy;" : ""}
  int columns[${side}], rows[${side}];
  for (int i = 0; i < ${side}; i++) {
    columns[i] = place(cell.x + i - ${reach}, size.x);
    rows[i] = place(cell.y + i - ${reach}, size.y);
  }
${of.padding === "zero" ? `  float weight[${side}], weightX[${side}];
  for (int i = 0; i < ${side}; i++) {
    weightX[i] = columns[i] == cell.x + i - ${reach} ? 1.0 : 0.0;
    weight[i] = rows[i] == cell.y + i - ${reach} ? 1.0 : 0.0;
  }` : ""}
  for (int i = 0; i < ${rule.perceptions * quads}; i++) y[i] = vec4(0.0);
  for (int quad = 0; quad < ${quads}; quad++) {
    vec4 n;
    ${[...taps, ...(frames ? turned : [])].join("\n    ")}${maximum}
  }
}
`;
}

/**
 * The weights of a rule as a texture: a row for each four outputs of every layer but the last, and behind them in the rows
 * of the last hidden layer, or in rows of their own where there is none, those of the last layer.
 * @param {Rule} rule
 */
export function weightLayout(rule) {
  const last = rule.layers.length - 1;
  const layers = rule.layers.map((layer, l) => ({
    rows: l === last ? rule.quads : Math.ceil(layer.out / 4),
    inputs: l === 0 ? rule.perceptions * rule.quads : Math.ceil(layer.inputs / 4),
  }));
  const hidden = last === 0 ? layers : layers.slice(0, last);
  let row = 0;
  const starts = hidden.map(({ rows }) => (row += rows) - rows);
  const width = Math.max(...hidden.map(({ inputs }) => 1 + 4 * inputs)) + (last > 0 ? 4 * rule.quads : 0);
  // Then a row of the last layer's biases and, for each filter that is learned, one with its nine taps.
  const learned = rule.fields.learned_filters;
  return { layers, starts, biases: row, learned: row + 1, height: row + 1 + learned, width: Math.max(width, 9 * rule.quads), behind: 1 + 4 * layers[Math.max(last - 1, 0)].inputs };
}

/** The layers of a network: adds share * update to u[]. */
function networkText(rule, group) {
  const { layers, starts, biases, behind } = weightLayout(rule);
  const last = layers.length - 1;
  const matrix = (column) => `mat4(${lines(4, (c) => `w(${column(c)}, row, k)`, ", ")})`;
  const product = (inputs, name) => lines(inputs, (q) => `a += ${matrix((c) => 1 + 4 * q + c)} * ${name}[${q}];`, "\n    ");
  const name = (l) => (l > 0 ? `h${l - 1}` : "y");
  const layer = (l, row, then) => `
    int row = ${row};
    vec4 a = w(0, row, k);
    ${product(layers[l].inputs, name(l))}
    ${then}`;
  const loop = (l, then) => `  for (int o = 0; o < ${layers[l].rows}; o++) {${layer(l, `${starts[l]} + o`, then)}\n  }`;
  const inner = Array.from({ length: Math.max(last - 1, 0) }, (_, l) => l);
  let body;
  if (last === 0) body = lines(group, (r) => `  {${layer(0, `first + ${r}`, `v[${r}] = a;`)} }`);
  else {
    // The last hidden layer is never held: four of its units at a time go into all outputs.
    const outputs = lines(group, (r) => `v[${r}] += ${matrix((c) => `${behind + 4 * r + c} + 4 * first`)} * a;`, "\n    ");
    const start = lines(group, (r) => `  v[${r}] = w(first + ${r}, ${biases}, k);`);
    body = `${start}\n${loop(last - 1, `a = ${applied(rule.activations[last - 1], "a")};\n    ${outputs}`)}`;
  }
  return `
vec4 u[${group}];
${inner.map((l) => `vec4 h${l}[${layers[l].rows}];`).join("\n")}
void network(int k, float share) {
  vec4 v[${group}];
${inner.map((l) => loop(l, `h${l}[o] = ${applied(rule.activations[l], "a")};`)).join("\n")}
${body}
  ${lines(group, (r) => `u[${r}] += share * ${applied(rule.activations[last], `v[${r}]`)};`, "\n  ")}
}
`;
}

function applied({ name, parameter, divisor }, value) {
  const call = { tanh: "hyperbolic", leaky_relu: "leaky_relu", hardtanh: "hardtanh" }[name] || name;
  const more = name === "leaky_relu" || name === "hardtanh" ? `, ${float(parameter)}` : "";
  const scale = divisor === 1 ? "" : ` * ${float(1 / divisor)}`;
  return name === "identity" ? `${value}${scale}` : `${call}(${value}${more})${scale}`;
}

/**
 * Lays the weights of a network out as `weightLayout` says: of each four outputs their biases, then matrices of 4 x 4,
 * column by column. What is missing to multiples of four is 0. The last outputs stand where their channels are in a cell,
 * and inputs of the first layer by filter, each filter's channels filled up to whole texels.
 * @param {Rule} rule
 * @param {import("./rule.js").Network} network
 */
export function packed(rule, network) {
  const { layers, starts, biases, learned, height, width, behind } = weightLayout(rule);
  const values = new Float32Array(height * width * 4);
  const { channels, frozen } = rule.fields;
  const padded = rule.quads * 4;
  const last = layers.length - 1;
  rule.layers.forEach(({ out, inputs }, l) => {
    const { weight, bias } = network.layers[l];
    const shift = l === last ? frozen : 0;
    const column = (i) => (l === 0 ? Math.floor(i / channels) * padded + (i % channels) : i);
    for (let o = 0; o < out; o++) {
      const place = o + shift;
      const biased = l === last && l > 0 ? biases * width * 4 + place : (starts[l] + (place >> 2)) * width * 4 + (place & 3);
      if (bias) values[biased] = bias[o];
      for (let i = 0; i < inputs; i++) {
        const at = column(i);
        // Row and column of the texel: of the last layer they go by its input, of the others by their output.
        const row = l === last && l > 0 ? starts[l - 1] + (at >> 2) : starts[l] + (place >> 2);
        const texel = l === last && l > 0 ? behind + (place >> 2) * 4 + (at & 3) : 1 + at;
        values[(row * width + texel) * 4 + (place & 3)] = weight[o * inputs + i];
      }
    }
  });
  for (let l = 0; l < rule.fields.learned_filters; l++) {
    for (let c = 0; c < channels; c++) {
      for (let tap = 0; tap < 9; tap++) values[(learned + l) * width * 4 + tap * padded + c] = network.kernels[(l * channels + c) * 9 + tap];
    }
  }
  return values;
}
