// Random bits as a pure function of (seed, step, sample, row, column): nca_fast/fire_masks.py and normals.py, to the bit.

// High and low word of a product, which GLSL ES 3.00 has no function for.
uvec2 product(uint a, uint b) {
  uint al = a & 0xFFFFu, ah = a >> 16, bl = b & 0xFFFFu, bh = b >> 16;
  uint low = al * bl, left = ah * bl, right = al * bh;
  uint middle = (low >> 16) + (left & 0xFFFFu) + (right & 0xFFFFu);
  return uvec2(ah * bh + (left >> 16) + (right >> 16) + (middle >> 16), a * b);
}

// Philox4x32-10 of Random123.
uvec4 philox(uvec4 counter, uvec2 key) {
  for (int i = 0; i < 10; i++) {
    uvec2 a = product(0xD2511F53u, counter.x), b = product(0xCD9E8D57u, counter.z);
    counter = uvec4(b.x ^ counter.y ^ key.x, b.y, a.x ^ counter.w ^ key.y, a.y);
    key += uvec2(0x9E3779B9u, 0xBB67AE85u);
  }
  return counter;
}

// 32 bits for a cell, from its column and two words of its row's Philox.
uint cellBits(uint column, uvec2 key) {
  uint z = column * 0x9E3779B9u + key.x;
  z ^= z >> 16;
  z *= 0x21F0AAADu;
  z ^= z >> 15;
  z *= 0x735A2D97u;
  z ^= z >> 15;
  return z ^ key.y;
}

// What a lane adds to the column: channels that draw each for itself are lanes.
uint lane(int number) { return uint(number) * 0x9E3779B9u; }

int ones(uint v) {
  v = v - ((v >> 1) & 0x55555555u);
  v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
  return int((((v + (v >> 4)) & 0x0F0F0F0Fu) * 0x01010101u) >> 24);
}

// A normal number: three lanes from `first` on.
float normal(uint column, int first, uvec2 key) {
  uint a = cellBits(column + lane(first), key), b = cellBits(column + lane(first + 1), key);
  uint c = cellBits(column + lane(first + 2), key);
  int whole = (ones(a) + ones(b) - 32) * 65536 + int(c & 0xFFFFu) - int(c >> 16);
  return float(whole) * NORMAL_UNIT;
}
