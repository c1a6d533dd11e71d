// What a state looks like, on the part of the screen that is drawn.
uniform sampler2DArray state;
uniform ivec2 size;        // columns, rows
uniform vec2 extent;       // of the canvas, in x and y
uniform bool hexagons;
uniform vec2 screen;       // pixels
uniform vec2 middle;       // x and y in the middle of the screen
uniform float zoom;        // pixels along the side of a cell, or from one hexagon to the next
uniform int rgb;           // first channel of the colours
uniform int alpha;         // channel of a cell that lives, or -1: colours are around zero
uniform int channels;
uniform bool everyChannel; // as a table of pictures
uniform bool repeated;     // a torus goes on beyond its edges
uniform bool smoothed;
uniform vec3 ground;       // beyond the edges
out vec4 color;

float at(ivec2 cell, int channel) { return texelFetch(state, ivec3(cell, channel >> 2), 0)[channel & 3]; }

vec3 look(ivec2 cell) {
  vec3 seen = vec3(at(cell, rgb), at(cell, rgb + 1), at(cell, rgb + 2));
  if (alpha < 0) return clamp(seen + 0.5, 0.0, 1.0);
  float living = at(cell, alpha);
  if (alpha < rgb + 3) return vec3(clamp(living, 0.0, 1.0));
  return clamp(1.0 - clamp(living, 0.0, 1.0) + seen, 0.0, 1.0);
}

// Blue below zero, orange above.
vec3 look(ivec2 cell, int channel) {
  float value = at(cell, channel) / (1.0 + abs(at(cell, channel)));
  vec3 end = value < 0.0 ? vec3(0.09, 0.30, 0.55) : vec3(0.80, 0.36, 0.08);
  return mix(vec3(0.96, 0.95, 0.92), end, min(1.0, 1.5 * abs(value)));
}

// GLSL leaves open what % gives for negative numbers, and GPUs differ.
int wrapped(int i, int n) { return i >= 0 ? i % n : n - 1 - (-1 - i) % n; }

ivec2 held(ivec2 cell) {
  if (hexagons || repeated) return ivec2(wrapped(cell.x, size.x), wrapped(cell.y, size.y));
  return clamp(cell, ivec2(0), size - 1);
}

ivec2 cellAt(vec2 place) {
  ivec2 beyond;
  float far;
  return hexagons ? hexagonAt(place, beyond, far) : ivec2(floor(place));
}

// Linear light, in which colours are mixed: nca_fast/media/linear_light.py.
vec3 linear(vec3 t) { return mix(pow((t + 0.055) / 1.055, vec3(2.4)), t / 12.92, lessThanEqual(t, vec3(0.04045))); }
vec3 srgb(vec3 t) {
  return mix(1.055 * pow(max(t, 1e-9), vec3(1.0 / 2.4)) - 0.055, t * 12.92, lessThanEqual(t, vec3(0.0031308)));
}

// A hexagon's colour, with an edge as soft as a pixel.
vec3 hexagon(vec2 place) {
  ivec2 beyond;
  float far;
  vec3 own = look(held(hexagonAt(place, beyond, far)));
  float share = 0.5 - far * zoom;
  return share <= 0.0 ? own : srgb(mix(linear(own), linear(look(held(beyond))), share));
}

void main() {
  vec2 place = middle + vec2(gl_FragCoord.x - 0.5 * screen.x, 0.5 * screen.y - gl_FragCoord.y) / zoom;
  if (everyChannel) {
    // Pictures side by side over the place of the canvas, a cell's breadth of which a gap takes.
    int across = int(ceil(sqrt(float(channels)))), down = (channels + across - 1) / across;
    vec2 part = place / extent * vec2(across, down);
    ivec2 tile = ivec2(floor(part));
    vec2 inner = (fract(part) - 0.02) / 0.96;
    int channel = tile.y * across + tile.x;
    bool there = all(greaterThanEqual(tile, ivec2(0))) && tile.x < across && channel < channels;
    there = there && all(greaterThanEqual(inner, vec2(0.0))) && all(lessThan(inner, vec2(1.0)));
    color = vec4(there ? look(held(cellAt(inner * extent)), channel) : ground, 1.0);
    return;
  }
  if (!repeated && (any(lessThan(place, vec2(0.0))) || any(greaterThanEqual(place, extent)))) {
    color = vec4(ground, 1.0);
    return;
  }
  if (hexagons) {
    color = vec4(hexagon(place), 1.0);
    return;
  }
  if (!smoothed) {
    color = vec4(look(held(ivec2(floor(place)))), 1.0);
    return;
  }
  vec2 corner = floor(place - 0.5), share = place - 0.5 - corner;
  share = clamp((share - 0.5) * max(1.0, 0.35 * zoom) + 0.5, 0.0, 1.0);  // cells stay cells, with soft edges
  ivec2 c = ivec2(corner);
  vec3 upper = mix(look(held(c)), look(held(c + ivec2(1, 0))), share.x);
  vec3 lower = mix(look(held(c + ivec2(0, 1))), look(held(c + ivec2(1, 1))), share.x);
  color = vec4(mix(upper, lower, share.y), 1.0);
}
