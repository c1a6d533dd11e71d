// Where hexagons lie: nca_fast/hexagons.py. A place has its x and y in distances of neighbours, from the upper left corner.

#define ROW 0.8660254  // from one row to the next

// The place of a row and a column, which are whole and a half in the middle of a cell.
vec2 placeOf(vec2 rowColumn) { return vec2(rowColumn.y + 0.5 * rowColumn.x - 0.25, ROW * rowColumn.x); }

// Column and row of the hexagon in which a place lies, that of the hexagon beyond its nearest edge, and how far that is.
ivec2 hexagonAt(vec2 place, out ivec2 beyond, out float far) {
  float row = place.y / ROW - 0.5, column = place.x - 0.5 - 0.5 * row;
  // Of three coordinates that add up to 0, the one that rounding changed most follows from the others.
  vec3 at = vec3(column, row, -column - row), whole = round(at), off = abs(whole - at);
  if (off.x > off.y && off.x > off.z) whole.x = -whole.y - whole.z;
  else if (off.y > off.z) whole.y = -whole.x - whole.z;
  whole.z = -whole.x - whole.y;
  // Towards a neighbour one coordinate grows and one shrinks; their difference is 1 at the edge, 2 in its middle.
  at -= whole;
  vec3 across = at - at.yzx, size = abs(across);
  ivec2 step = ivec2(-1, 0);
  float most = across.z;
  if (size.x >= size.y && size.x >= size.z) {
    step = ivec2(1, -1);
    most = across.x;
  } else if (size.y >= size.z) {
    step = ivec2(0, 1);
    most = across.y;
  }
  beyond = ivec2(whole.xy) + (most < 0.0 ? -step : step);
  far = 0.5 * (1.0 - abs(most));
  return ivec2(whole.xy);
}
