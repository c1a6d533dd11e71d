// The shaders of a rule. A pass draws a group of texels of every cell: channels 4 * (first + i) to 4 * (first + i) + 3.

import hash from "./hash.glsl";
import activations from "./activations.glsl";
import keys from "./keys.glsl";
import { Rule } from "./rule.js";

/** Texels in a row of a texture of weights. */
export const ROW = 1024;

const NORMAL_UNIT = Math.fround(1 / (65536 * Math.sqrt(16 + 1 / 6)));
export const HASH = `#define NORMAL_UNIT ${float(NORMAL_UNIT)}\n${hash}`;

/** The row keys of some steps. */
export const KEYS = HASH + keys;

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
 * @param {{group: number, networks: number, shared: boolean, rates: boolean}} how
 *   group: texels that a pass draws; networks: of how many automata of this rule; shared: whether a map has the share
 *   of each in every cell; rates: whether a map has the fire rate.
 */
export function stepShader(rule, how) {
  const { group } = how;
  const of = rule.fields;
  const parts = [HASH, activations, frame(group), firing(rule, how.rates), living(rule), written(rule)];
  parts.push(perception(rule), networkText(rule, group));
  if (how.shared) parts.push("uniform sampler2DArray shares;");
  const update = [];
  if (how.shared) {
    update.push(`for (int k = 0; k < ${how.networks}; k++) {
    float share = texelFetch(shares, ivec3(cell, k >> 2), 0)[k & 3];
    if (share > 0.0) network(k, share);
  }`);
  } else update.push("network(0, 1.0);");
  const updateAlive = rule.alive && of.alive_mask === "update" ? " && alive(before, cell)" : "";
  const anyone = rule.perChannel
    ? "true"
    : `fires(cell, 0)${updateAlive}`;
  const skip = rule.finishes || !rule.alive || of.alive_mask === "update" ? "" : "lives = alive(before, cell);";
  const noise = of.update_noise > 0;
  const value = (i) => {
    const u = `u[${i}]${noise ? ` + ${float(of.update_noise)} * updateNoise(cell, first + ${i})` : ""}`;
    const now = of.residual ? `old + (${u})` : u;
    const masked = rule.perChannel ? `mix(old, ${now}, firing(cell, first + ${i}))` : `fired ? ${now} : old`;
    // Where cells die after the step the pass that follows cuts.
    const kept = rule.finishes ? masked : `${skip ? "lives ? " : ""}cut(${masked})${skip ? " : vec4(0.0)" : ""}`;
    return `{ vec4 old = texelFetch(state, ivec3(cell, first + ${i}), 0); out${i} = written(old, ${kept}, first + ${i}); }`;
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
  bool fired = ${anyone}, lives = true;
  ${skip}
  for (int i = 0; i < ${group}; i++) u[i] = vec4(0.0);
  if (fired${rule.perChannel && updateAlive ? updateAlive : ""}) {
    perceive(cell);
    ${update.join("\n    ")}
  }${rule.perChannel && updateAlive ? " else fired = false;" : ""}
  ${lines(group, value, "\n  ")}
}`;
}

/** What lies around a cell, through all filters: fills y[]. @param {Rule} rule */
function perception(rule) {
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
          terms.push(`y[${(fixed + l) * quads} + quad] += learned(${l * 9 + di * 3 + dj}, quad) * n;`);
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
  return `
uniform sampler2DArray state;   // what is perceived
uniform sampler2DArray before;  // what it was before noise
uniform sampler2DArray weights;
vec4 y[${rule.perceptions * quads}];
vec4 w(int i, int k) { return texelFetch(weights, ivec3(i & ${ROW - 1}, i >> ${Math.log2(ROW)}, k), 0); }
vec4 learned(int tap, int quad) { return w(tap * ${quads} + quad, 0); }
int place(int i, int n) { return ${place}; }

void perceive(ivec2 cell) {
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
    ${taps.join("\n    ")}${maximum}
  }
}
`;
}

/** The layers of a network: adds share * update to u[]. The order of the weights is that of `packed`. */
function networkText(rule, group) {
  const quads = rule.layers.map((layer, i) => ({
    out: i === rule.layers.length - 1 ? rule.quads : Math.ceil(layer.out / 4),
    inputs: i === 0 ? rule.perceptions * rule.quads : Math.ceil(layer.inputs / 4),
  }));
  const last = quads.length - 1;
  const product = (inputs, name) => lines(inputs, (q) => `a += mat4(w(i + ${1 + 4 * q}, k), w(i + ${2 + 4 * q}, k), w(i + ${3 + 4 * q}, k), w(i + ${4 + 4 * q}, k)) * ${name}[${q}];`, "\n    ");
  let text = "";
  let start = rule.fields.learned_filters * 9 * rule.quads;
  for (let l = 0; l < last - 1; l++) {
    const name = l ? `h${l - 1}` : "y";
    const stride = 1 + 4 * quads[l].inputs;
    text += `  for (int o = 0; o < ${quads[l].out}; o++) {
    int i = ${start} + o * ${stride};
    vec4 a = w(i, k);
    ${product(quads[l].inputs, name)}
    h${l}[o] = ${applied(rule.activations[l], "a")};
  }\n`;
    start += quads[l].out * stride;
  }
  const head = Array.from({ length: Math.max(last - 1, 0) }, (_, l) => `vec4 h${l}[${quads[l].out}];`).join("\n");
  const outputs = start + (last > 0 ? quads[last - 1].out * (1 + 4 * quads[last - 1].inputs) : 0);
  let begin, middle;
  if (last === 0) {
    // One layer alone: a texel of outputs at a time, as all others have it.
    const stride = 1 + 4 * quads[0].inputs;
    begin = "";
    middle = lines(group, (r) => `  { int i = ${start} + (first + ${r}) * ${stride}; vec4 a = w(i, k);
    ${product(quads[0].inputs, "y")} v[${r}] = a; }`);
  } else {
    // The last hidden layer is never held: four of its units at a time go into all outputs.
    const name = last > 1 ? `h${last - 2}` : "y";
    const stride = 1 + 4 * quads[last - 1].inputs;
    begin = lines(group, (r) => `  v[${r}] = w(${outputs} + first + ${r}, k);`);
    middle = `  for (int o = 0; o < ${quads[last - 1].out}; o++) {
    int i = ${start} + o * ${stride};
    vec4 a = w(i, k);
    ${product(quads[last - 1].inputs, name)}
    a = ${applied(rule.activations[last - 1], "a")};
    i = ${outputs + rule.quads} + (o * ${rule.quads} + first) * 4;
    ${lines(group, (r) => `v[${r}] += mat4(w(i + ${4 * r}, k), w(i + ${4 * r + 1}, k), w(i + ${4 * r + 2}, k), w(i + ${4 * r + 3}, k)) * a;`, "\n    ")}
  }`;
  }
  return `
vec4 u[${group}];
${head}
void network(int k, float share) {
  vec4 v[${group}];
${text}${begin}
${middle}
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
 * Lays the weights of a network out as the shader of its rule reads them.
 *
 * Learned kernels, tap by tap; then of every layer but the last, for each four outputs their biases and matrices of 4 x 4,
 * column by column; then of the last layer, if it is not the only one, all biases and, for each four inputs, a matrix
 * for each texel of a cell. What is missing to multiples of four is 0. Outputs stand where their channels are in a cell.
 * @param {Rule} rule
 * @param {import("./rule.js").Network} network
 * @returns {Float32Array} Whole rows of a texture.
 */
export function packed(rule, network) {
  /** @type {number[]} */
  const values = [];
  const { channels, frozen, learned_filters: learned } = rule.fields;
  for (let l = 0; l < learned; l++) {
    for (let tap = 0; tap < 9; tap++) {
      for (let c = 0; c < rule.quads * 4; c++) values.push(c < channels ? network.kernels[(l * channels + c) * 9 + tap] : 0);
    }
  }
  const shapes = rule.layers;
  const last = shapes.length - 1;
  network.layers.forEach(({ weight, bias }, l) => {
    const { out, inputs } = shapes[l];
    const shift = l === last ? frozen : 0;
    const rows = l === last ? rule.quads * 4 : Math.ceil(out / 4) * 4;
    // Perception is filter-major with each filter's channels filled up to whole texels.
    const padded = l === 0 ? rule.perceptions * rule.quads * 4 : Math.ceil(inputs / 4) * 4;
    const column = (i) => {
      if (l > 0) return i < inputs ? i : -1;
      const [filter, c] = [Math.floor(i / (rule.quads * 4)), i % (rule.quads * 4)];
      return c < channels ? filter * channels + c : -1;
    };
    const entry = (o, i) => {
      const [row, at] = [o - shift, column(i)];
      return row >= 0 && row < out && at >= 0 ? weight[row * inputs + at] : 0;
    };
    const biased = (o) => (bias && o >= shift && o - shift < out ? bias[o - shift] : 0);
    const matrix = (o, i) => {
      for (let a = 0; a < 4; a++) for (let b = 0; b < 4; b++) values.push(entry(o + b, i + a));
    };
    if (l === last && l > 0) {
      for (let o = 0; o < rows; o++) values.push(biased(o));
      for (let i = 0; i < padded; i += 4) for (let o = 0; o < rows; o += 4) matrix(o, i);
    } else {
      for (let o = 0; o < rows; o += 4) {
        for (let b = 0; b < 4; b++) values.push(biased(o + b));
        for (let i = 0; i < padded; i += 4) matrix(o, i);
      }
    }
  });
  const whole = new Float32Array(Math.ceil(values.length / (ROW * 4)) * ROW * 4);
  whole.set(values);
  return whole;
}
