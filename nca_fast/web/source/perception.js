// What a cell perceives, as GLSL.

import { float, lines } from "./glsl.js";
import { weightLayout } from "./network.js";

/** So many texels are perceived by statements of their own, whose places in y[] are constants: arrays that are indexed by
 * variables stay out of registers. More take a loop. */
const WRITTEN_OUT = 64;

/** What lies around a cell, through all filters: fills y[]. @param {import("./rule.js").Rule} rule */
export function perception(rule, frames) {
  const { quads, reach } = rule;
  const of = rule.fields;
  const side = 2 * reach + 1;
  const window = of.maximum_window;
  const at = (i, j) => (of.padding === "zero" ? `weight[${i}] * weightX[${j}] * ` : "") + `texelFetch(state, ivec3(columns[${j}], rows[${i}], quad), 0)`;
  const place = {
    circular: "wrapped(i, n)",
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
          terms.push(`y[${(fixed + l) * quads} + quad] += w(${(di * 3 + dj) * quads} + quad, ${learnedRow + l}) * n;`);
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
  const body = `    vec4 n;
${lines(rule.perceptions, (f) => `    y[${f * quads} + quad] = vec4(0.0);`)}
    ${[...taps, ...(frames ? turned : [])].join("\n    ")}${maximum}`;
  const eachQuad = rule.perceptions * quads > WRITTEN_OUT
    ? `  for (int quad = 0; quad < ${quads}; quad++) {\n${body}\n  }`
    : lines(quads, (quad) => `  {\n    const int quad = ${quad};\n${body}\n  }`);
  return `
${frames ? "uniform sampler2DArray frames;" : ""}
uniform sampler2DArray state;   // what is perceived
uniform sampler2DArray before;  // what it was before noise
uniform sampler2D weights;
vec4 y[${rule.perceptions * quads}];
vec4 w(int column, int row) { return texelFetch(weights, ivec2(column, row), 0); }
int place(int i, int n) { return ${place}; }

void perceive(ivec2 cell) {
  ${frames ? "vec2 frame = texelFetch(frames, ivec3(cell, 0), 0).xy;" : ""}
  int columns[${side}], rows[${side}];
${lines(side, (i) => `  columns[${i}] = place(cell.x + ${i - reach}, size.x);\n  rows[${i}] = place(cell.y + ${i - reach}, size.y);`)}
${of.padding === "zero" ? `  float weight[${side}], weightX[${side}];
${lines(side, (i) => `  weightX[${i}] = float(columns[${i}] == cell.x + ${i - reach});\n  weight[${i}] = float(rows[${i}] == cell.y + ${i - reach});`)}` : ""}
${eachQuad}
}
`;
}
