// The network of a rule: how its weights lie in a texture, and its layers as GLSL.

import { float, lines } from "./glsl.js";

/**
 * The weights of a rule as a texture: a row for each four outputs of every layer but the last, and behind them in the rows
 * of the last hidden layer, or in rows of their own where there is none, those of the last layer.
 * @param {import("./rule.js").Rule} rule
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
export function networkText(rule, group) {
  const { layers, starts, biases, behind, height } = weightLayout(rule);
  const last = layers.length - 1;
  const matrix = (column) => `mat4(${lines(4, (c) => `w(${column(c)}, row)`, ", ")})`;
  const product = (inputs, name) => lines(inputs, (q) => `a += ${matrix((c) => 1 + 4 * q + c)} * ${name}[${q}];`, "\n    ");
  const name = (l) => (l > 0 ? `h${l - 1}` : "y");
  const layer = (l, row, then) => `
    int row = below + ${row};
    vec4 a = w(0, row);
    ${product(layers[l].inputs, name(l))}
    ${then}`;
  const loop = (l, then) => `  for (int o = 0; o < ${layers[l].rows}; o++) {${layer(l, `${starts[l]} + o`, then)}\n  }`;
  const inner = Array.from({ length: Math.max(last - 1, 0) }, (_, l) => l);
  let body;
  if (last === 0) body = lines(group, (r) => `  {${layer(0, `first + ${r}`, `v[${r}] = a;`)} }`);
  else {
    // The last hidden layer is never held: four of its units at a time go into all outputs.
    const outputs = lines(group, (r) => `v[${r}] += ${matrix((c) => `${behind + 4 * r + c} + 4 * first`)} * a;`, "\n    ");
    const start = lines(group, (r) => `  v[${r}] = w(first + ${r}, below + ${biases});`);
    body = `${start}\n${loop(last - 1, `a = ${applied(rule.activations[last - 1], "a")};\n    ${outputs}`)}`;
  }
  return `
vec4 u[${group}];
${inner.map((l) => `vec4 h${l}[${layers[l].rows}];`).join("\n")}
void network(int k, float share) {
  int below = k * ${height};  // rows of the networks before it
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
 * @param {import("./rule.js").Rule} rule
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
