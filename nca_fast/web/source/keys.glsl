// Row keys of some steps, one texel each: column = step, row = row of the canvas.
uniform uvec2 seed;
uniform uint firstStep;
uniform uint sampleNumber;
uniform uint firstRow;
uniform uint canvasHeight;  // rows of the whole canvas, where they wrap; 0: modulo 2**32
uniform bool rowsShared;
out uvec4 key;

void main() {
  uint row = firstRow + uint(gl_FragCoord.y);
  if (canvasHeight > 0u) row %= canvasHeight;
  uint number = firstStep + uint(gl_FragCoord.x);
  key = philox(uvec4(rowsShared ? 0u : row, sampleNumber, number, 0u), seed);
}
