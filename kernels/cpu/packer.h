// Packs what the firing cells of a step perceive, row by row.
#pragma once

#include <cstring>
#include <limits>
#include <vector>

#include "bits.h"
#include "step.h"

namespace nca_fast {

struct Block {       // up to VL neighbouring cells, of which those in `bits` lie at packed places `from`, from + 1, ...
  int64_t offset;    // of its first cell, wherever the result goes
  uint32_t bits;
  int from;
};
using Blocks = std::vector<Block>;

// Packs the perception of firing cells, and remembers where each packed cell lives. It works on copies of the rows of a
// tile: the channels of a canvas whose side is a power of two all fall into the same few cache sets.
struct Packer {
  // Room for `cells` packed cells; with `keeps_old`, their written channels are packed too.
  Packer(const Step& s, int64_t columns, int64_t cells, bool keeps_old = false)
      : s(s), noise_row(round_up(round_up(s.inputs(), VL), R)), fires_row(noise_row + (s.update_noise > 0 ? s.written() : 0)),
        old_row(fires_row + (s.by_channel ? s.written() : 0)), end_row(old_row + (keeps_old ? s.written() : 0)), row_size(round_up(columns, VL) + 2 * VL), S(round_up(cells, VL) + VL), depth(2 * s.reach + 1), rows(depth * s.C * row_size),
        profiles(s.filters.uses.size() * row_size), highest(s.window ? row_size : 0), outside(s.window ? row_size : 0),
        y(end_row * S), each(s.by_channel ? s.written() : 0) {
    std::memset(y, 0, s.inputs() * S * sizeof(float));  // a filter of zeros has no terms: its rows stay so
  }

  // The tile whose rows, from `row` on, are to be packed: columns c0 to c1 of one sample.
  void begin(const float* x, int64_t sample_number, int64_t row, int64_t c0, int64_t c1) {
    canvas = x, sample = sample_number, left = c0, width = c1 - c0;
    for (int64_t r = row - s.reach; r < row + s.reach; ++r) copy_row(r);
    if (!s.window) return;
    const float none = -std::numeric_limits<float>::infinity();
    for (int64_t i = -VL; i < row_size - VL; ++i) outside[VL + i] = s.circular || (c0 + i >= 0 && c0 + i < s.W) ? 0.f : none;
  }

  // The copy of a row, channel 0; valid for columns -reach to width + reach - 1 of the tile; channels are row_size apart.
  float* tile_row(int64_t row) const { return rows + (row + depth) % depth * s.C * row_size + VL; }

  void copy_row(int64_t row) {
    float* to = tile_row(row);
    const int64_t source = s.source(row, s.H);
    const float* from = canvas + source * s.W;
    if (s.beyond(row, s.H)) {
      for (int64_t c = 0; c < s.C; ++c) std::fill_n(to + c * row_size - s.reach, width + 2 * s.reach, 0.f);
      return;
    }
    for (int64_t c = 0; c < s.C; ++c, to += row_size, from += s.plane()) std::memcpy(to, from + left, width * sizeof(float));
    RowKey key{};
    if (s.state_noise > 0) key = philox_row_key(s, sample, source), add_noise(tile_row(row), key);
    for (int64_t i = 1; i <= s.reach; ++i) copy_column(row, left - i, -i, key), copy_column(row, left + width + i - 1, width + i - 1, key);
  }

  // Adds the noise of the state to the copy of a row.
  NCA_FAST_APART void add_noise(float* row, RowKey key) const {
    for (int64_t c = s.frozen; c < s.C; ++c)
      for (int64_t i = 0; i < width; i += VL) {
        float* to = row + c * row_size + i;
        store(to, load(to) + noise_of(s, key, sample, left + i, c, false));
      }
  }

  // A column beside the tile, to column `at` of the copy of a row.
  void copy_column(int64_t row, int64_t column, int64_t at, RowKey key) {
    const bool none = s.beyond(column, s.W);
    float* to = tile_row(row) + at;
    const int64_t source = s.source(column, s.W);
    const float* from = canvas + s.source(row, s.H) * s.W + source;
    for (int64_t c = 0; c < s.C; ++c) to[c * row_size] = none ? 0.f : from[c * s.plane()];
    if (s.state_noise == 0 || none) return;
    for (int64_t c = s.frozen; c < s.C; ++c) to[c * row_size] += noise_of_cell(s, key, sample, source, c);
  }

  // The profiles of channel c around the row, for columns from - VL to to + VL - 1 of the tile.
  void profile_columns(int64_t c, int64_t from, int64_t to) const {
    const float* const* near = around + s.reach - s.filters.reach;
    switch (s.filters.reach) {
      case 1: return narrow_columns(near, c * row_size, from, to);
      case 2: return wide_columns<2>(near, c * row_size, from, to);
      case 3: return wide_columns<3>(near, c * row_size, from, to);
      default: return wide_columns<4>(near, c * row_size, from, to);
    }
  }

  void narrow_columns(const float* const* near, int64_t channel, int64_t from, int64_t to) const {
    const float *above = near[0] + channel, *here = near[1] + channel, *below = near[2] + channel;
    float *smooth = profiles + VL, *slope = smooth + row_size, *cell = slope + row_size;
    for (int64_t i = from - VL; i <= to; i += VL) {
      const vf a = load(above + i), b = load(here + i), c = load(below + i);
      store(smooth + i, (a + c) + 2 * b);
      store(slope + i, c - a);
      store(cell + i, b);
    }
  }

  template <int REACH>
  void wide_columns(const float* const* near, int64_t channel, int64_t from, int64_t to) const {
    for (int64_t i = from - VL; i <= to; i += VL) {
      vf even[REACH + 1], odd[REACH + 1];
      even[0] = load(near[REACH] + channel + i);
      for (int j = 1; j <= REACH; ++j) {
        const vf above = load(near[REACH - j] + channel + i), below = load(near[REACH + j] + channel + i);
        even[j] = below + above, odd[j] = below - above;
      }
      float* out = profiles + VL + i;
      for (const Profile& profile : s.filters.profiles) {
        vf total{};
        if (profile.is_even)
          for (int j = 0; j <= REACH; ++j) total += profile.even[j] * even[j];
        if (profile.is_odd)
          for (int j = 1; j <= REACH; ++j) total += profile.odd[j] * odd[j];
        store(out, total);
        out += row_size;
      }
    }
  }

  // Packs the largest value of channel c in the window around every cell of the blocks; it leaves `highest` by column.
  void maximum(int64_t row, int64_t c, float* packed, const Blocks& batch) const {
    const int half = s.window / 2;
    const int first = s.circular ? -half : int(std::max<int64_t>(-half, -row)), last = s.circular ? half : int(std::min<int64_t>(half, s.H - 1 - row));
    for (int64_t i = batch.front().offset - VL; i <= batch.back().offset + VL; i += VL) {
      vf most = load(around[s.reach + first] + c * row_size + i);
      for (int j = first + 1; j <= last; ++j) most = larger(most, load(around[s.reach + j] + c * row_size + i));
      store(highest + VL + i, most + load(outside + VL + i));
    }
    for (const Block& block : batch) {
      vf most = load(highest + VL + block.offset - half);
      for (int j = 1 - half; j <= half; ++j) most = larger(most, load(highest + VL + block.offset + j));
      append(packed + block.from, most, block.bits);
    }
  }

  // Packs what the cells of the given blocks of a row perceive.
  void perceive(int64_t row, const Blocks& batch) const {
    const int64_t from = batch.front().offset, to = batch.back().offset + VL;
    for (int64_t c = 0; c < s.C; ++c) {
      if (s.F) profile_columns(c, from, to);
      for (int64_t f = 0; f < s.F; ++f) {
        const Correlation& filter = s.filters.of[f];
        float* packed = y + (f * s.C + c) * S;
        switch (filter.count) {
          case 0: break;
          case 1: correlate<1>(filter, packed, batch); break;
          case 2: correlate<2>(filter, packed, batch); break;
          case 3: correlate<3>(filter, packed, batch); break;
          case 4: correlate<4>(filter, packed, batch); break;
          case 5: correlate<5>(filter, packed, batch); break;
          case 6: correlate<6>(filter, packed, batch); break;
          case 7: correlate<7>(filter, packed, batch); break;
          case 8: correlate<8>(filter, packed, batch); break;
          default: correlate<9>(filter, packed, batch);
        }
      }
      if (s.window) maximum(row, c, y + (s.F * s.C + c) * S, batch);
    }
  }

  template <int N>
  void correlate(const Correlation& filter, float* packed, const Blocks& batch) const {
    vf weight[N];
    const float* from[N];
    for (int i = 0; i < N; ++i) {
      weight[i] = splat(filter.terms[i].weight);
      from[i] = profiles + filter.terms[i].profile * row_size + VL + filter.terms[i].shift;
    }
    for (const Block &block : batch) {
      vf total = weight[0] * load(from[0] + block.offset);
      for (int i = 1; i < N; ++i) total += weight[i] * load(from[i] + block.offset);
      append(packed + block.from, total, block.bits);
    }
  }

  // Packs the firing cells of a row behind those that are left over. `offset` is that of the row's first cell; with
  // `all`, blocks in which no cell fires are kept too, so that every block of the row has its place.
  const Blocks& pack_row(int64_t row, int64_t offset, bool all) {
    copy_row(row + s.reach);
    for (int64_t i = 0; i < depth; ++i) around[i] = tile_row(row - s.reach + i);
    const RowKey key = philox_row_key(s, sample, row, s.shared);
    const RowKey noise_key = s.shared & (BATCH | HEIGHT) && s.update_noise > 0 ? philox_row_key(s, sample, row) : key;
    batch.clear();
    for (int64_t at = 0; at < width; at += VL) {
      uint32_t bits = any_fire_bits(s, key, sample, row, left + at, width - at, each.data());
      if (cells) bits &= cells->block(sample, row, left + at);
      if (bits || all) blocks.push_back({offset + at, bits, count});
      if (bits) batch.push_back({at, bits, count});
      if (bits && end_row > noise_row) pack_extras(row, at, bits, noise_key);
      count += __builtin_popcount(bits);
    }
    if (!batch.empty()) perceive(row, batch);
    return batch;
  }

  // Packs what is known of the cells of a block beside what they perceive.
  NCA_FAST_APART void pack_extras(int64_t row, int64_t at, uint32_t bits, RowKey key) const {
    for (int64_t c = 0; c < s.written(); ++c) {
      if (s.update_noise > 0) append(extra(noise_row + c), noise_of(s, key, sample, left + at, s.frozen + c, true), bits);
      if (s.by_channel) append(extra(fires_row + c), ones(each[c]), bits);
      if (end_row > old_row) append(extra(old_row + c), load(tile_row(row) + (s.frozen + c) * row_size + at), bits);
    }
  }

  float* extra(int64_t row) const { return y + row * S + count; }

  void forget() { count = 0, blocks.clear(); }

  // The blocks of the first `cells` packed cells; forgets those cells and moves the others to the front.
  const Blocks& drain(int cells) {
    done.clear();
    size_t kept = 0;
    for (const Block& block : blocks) {
      uint32_t now = block.bits;
      if (block.from + __builtin_popcount(now) > cells) {
        now = 0;
        for (uint32_t n = block.from, rest = block.bits; int(n) < cells; ++n, rest &= rest - 1) now |= rest & -rest;
        blocks[kept++] = {block.offset, block.bits ^ now, std::max(block.from - cells, 0)};
      }
      if (now) done.push_back({block.offset, now, block.from});
    }
    blocks.resize(kept);
    count -= cells;
    for (int64_t k = 0; k < end_row; k = k + 1 == s.inputs() ? noise_row : k + 1)
      for (int p = 0; p < count; p += VL) store(y + k * S + p, load(y + k * S + cells + p));
    return done;
  }

  const Step& s;
  const int64_t noise_row, fires_row, old_row, end_row;  // of y: what is packed beside the inputs, a row for each written channel
  const int64_t row_size;
  const int64_t S;  // stride of packed cells; a store may overshoot by a vector
  const int64_t depth;
  Buffer rows;      // those that a cell perceives, in turn: [depth][C][row_size], columns from VL on
  Buffer profiles;  // of one channel and row: [profiles][row_size]
  Buffer highest;   // of one channel: by column, over the rows of the window; [row_size]
  Buffer outside;   // 0 on the canvas, -infinity where a cell of another tile or none is; [row_size]
  Buffer y;         // [inputs, then what is packed beside][S]
  std::vector<uint32_t> each;  // who fires in a block, by written channel
  const float* around[2 * FARTHEST + 1];  // the tile rows from row - reach to row + reach, channel 0
  const Bits* cells = nullptr;            // where given, only cells in it are packed
  const float* canvas = nullptr;
  int64_t sample = 0, left = 0, width = 0;
  int count = 0;
  Blocks blocks, batch, done;  // where the packed cells live; scratch
};

}  // namespace nca_fast
