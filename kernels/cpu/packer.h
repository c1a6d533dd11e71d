// Packs what the firing cells of a step perceive, row by row.
#pragma once

#include <cstring>
#include <limits>
#include <vector>

#include "ahead.h"
#include "bits.h"
#include "narrow.h"
#include "step.h"

namespace nca_fast {

// Copies n floats; of so few that a call of memcpy would cost as much.
inline void copy_floats(float* to, const float* from, int64_t n) {
  for (int64_t i = 0; i < n; i += VL) store_some(to + i, load_some(from + i, n - i), n - i);
}

struct Block {       // up to VL neighbouring cells, of which those in `bits` lie at packed places `from`, from + 1, ...
  int64_t offset;    // of its first cell, as a column of the tile
  uint32_t bits;
  int from;
};
using Blocks = std::vector<Block>;

// Packs the perception of firing cells. It works on copies of the rows of a tile: the channels of a canvas whose side is a
// power of two all fall into the same few cache sets, and a row goes on beside the tile. A tile may reach beyond the
// canvas of a torus, whose rows and columns then come again.
struct Packer {
  // Room for `cells` packed cells, and for rows that `wait` behind those that a cell perceives; with `keeps_old`, written
  // channels are packed too; with `all`, the perception of channels that no unit looks at.
  Packer(const Step& s, int64_t columns, int64_t cells, int64_t wait, bool keeps_old, bool all)
      : s(s), all(all), noise_row(round_up(round_up(s.inputs(), VL), R)), fires_row(noise_row + (s.update_noise > 0 ? s.written() : 0)),
        old_row(fires_row + (s.by_channel ? s.written() : 0)), end_row(old_row + (keeps_old ? s.written() : 0)), row_size(round_up(columns, VL) + 2 * VL), room(cells), S(odd_lines(cells + VL)), depth(2 * s.reach + 1 + wait), rows(depth * s.C * row_size, Buffer::zeros),
        profiles(s.filters.reach == 1 ? SLOTS * row_size : s.filters.uses.size() * row_size), highest(s.window ? row_size : 0), outside(s.window ? row_size : 0),
        y(end_row * S), frames(s.frames ? 2 * S : 0), each(s.by_channel ? s.written() : 0) {
    // A filter of zeros has no terms: its rows stay so. What pads a vector or a register block is computed with, and what a
    // buffer happens to hold may be subnormal, which is slow.
    std::memset(y, 0, noise_row * S * sizeof(float));
    for (const Correlation& filter : s.filters.of)
      for (int i = 0; i < filter.count; ++i) {
        const Correlation::Term& term = filter.terms[i];
        starts.push_back(s.filters.reach == 1 ? term.slot * VL : term.profile * row_size + VL + term.shift);
      }
  }

  // Rows of so many floats, in whole lines of the cache, of an odd number: even ones of many rows would share few cache sets.
  static int64_t odd_lines(int64_t floats) { return ((floats + LINE - 1) / LINE | 1) * LINE; }

  // The tile that is to be packed: columns c0 to c1 of one sample.
  void begin(int64_t sample_number, int64_t c0, int64_t c1) {
    sample = sample_number, left = c0, width = c1 - c0;
    // What lies beyond a canvas that ends in zeros stays so.
    for (int64_t at : {int64_t(0), VL + round_up(width, VL)}) {
      for (size_t p = 0; s.filters.reach > 1 && p < s.filters.profiles.size(); ++p) store(profiles + int64_t(p) * row_size + at, vf{});
      if (s.window) store(highest + at, splat(-std::numeric_limits<float>::infinity()));
    }
    if (!s.window) return;
    const float none = -std::numeric_limits<float>::infinity();
    for (int64_t i = -VL; i < row_size - VL; ++i) outside[VL + i] = s.circular || (c0 + i >= 0 && c0 + i < s.W) ? 0.f : none;
  }

  // The copy of a row, channel 0; valid for columns -reach to width + reach - 1 of the tile; channels are row_size apart.
  float* tile_row(int64_t row) const { return rows + slot(row) * s.C * row_size + VL; }
  int64_t slot(int64_t row) const { return uint32_t(row + (depth << 16)) % uint32_t(depth); }

  void copy_row(const float* canvas, int64_t row) {
    float* to = tile_row(row);
    if (s.beyond(row, s.H)) return clear_row(row);
    const int64_t source = s.source(row, s.H), begin = std::max<int64_t>(left - s.reach, 0), end = std::min(left + width + s.reach, s.W);
    const float* from = canvas + source * s.W;
    for (int64_t c = 0; c < s.C; ++c) copy_floats(to + c * row_size + begin - left, from + c * s.plane() + begin, end - begin);
    RowKey key{};
    if (s.state_noise > 0) key = philox_row_key(s, sample, source), add_noise(to, key, begin - left, end - left);
    for (int64_t i = -s.reach; i < begin - left; ++i) copy_column(from, to, i, key);
    for (int64_t i = end - left; i < width + s.reach; ++i) copy_column(from, to, i, key);
  }

  void clear_row(int64_t row) {
    for (int64_t c = 0; c < s.C; ++c) std::fill_n(tile_row(row) + c * row_size - s.reach, width + 2 * s.reach, 0.f);
  }

  // Adds the noise of the state to columns `begin` to `end` of the copy of a row; draws no more than the slack beside it takes.
  NCA_FAST_APART void add_noise(float* row, RowKey key, int64_t begin, int64_t end) const {
    int64_t column = s.source(left + begin, s.W);
    for (int64_t i = begin; i < end; i += VL, column = column + VL < s.W ? column + VL : column + VL - s.W)
      for (int64_t c = s.frozen; c < s.C; ++c) {
        float* to = row + c * row_size + i;
        add_some(to, noise_of(s, key, sample, column, c, false), end - i);
      }
  }

  // A column beside the canvas, to column i of the copy of a row.
  void copy_column(const float* from, float* to, int64_t i, RowKey key) const {
    const int64_t column = left + i, source = s.source(column, s.W);
    const bool none = s.beyond(column, s.W);
    for (int64_t c = 0; c < s.C; ++c) to[c * row_size + i] = none ? 0.f : from[c * s.plane() + source];
    if (s.state_noise == 0 || none) return;
    for (int64_t c = s.frozen; c < s.C; ++c) to[c * row_size + i] += noise_of_cell(s, key, sample, source, c);
  }

  // Makes a row valid of which columns `begin` to `end` of the tile were written in place: adds the noise of the state, and
  // lets it go on at its sides, where there is nothing or, of a whole row of a torus, its other end.
  void complete_row(int64_t row, int64_t begin, int64_t end) {
    float* to = tile_row(row);
    if (s.state_noise > 0) add_noise(to, philox_row_key(s, sample, s.source(row, s.H)), begin, end);
    const auto beside = [&](int64_t i) {
      const int64_t column = left + i;
      const bool none = s.beyond(column, s.W);
      const float* from = to + s.source(column, s.W) - left;
      for (int64_t c = 0; c < s.C; ++c) to[c * row_size + i] = none ? 0.f : from[c * row_size];
    };
    for (int64_t i = -s.reach; i < begin; ++i) beside(i);
    for (int64_t i = end; i < width + s.reach; ++i) beside(i);
  }

  // Packs what the filters of 3x3 see of channel c: all in registers where they have the terms MASKS, see narrow.h. With
  // USUAL, their weights are those of `usual_weight`, and most need no multiplication.
  template <bool USUAL, uint32_t... MASKS>
  void perceive_known(int64_t c, const Blocks& batch) const {
    constexpr int ALL = (__builtin_popcount(MASKS) + ...);
    NarrowWindow<(MASKS | ...)> window({around + s.reach, c * row_size});
    float* const packed = y + s.row(0, c) * S;
    const int64_t next = s.rows[c].apart * S;
    vf weights[ALL];  // in registers: what is stored might be them, as far as the compiler knows
    for (int i = 0; i < ALL; ++i) weights[i] = splat(s.filters.weights[i]);
    for (const Block& block : batch) {
      vf slots[SLOTS];
      window.fill(block.offset, slots);
      float* to = packed + block.from;
      const uint32_t bits = block.bits;
      const vf* weight = weights;
      ((append(to, weighted<MASKS, USUAL>(slots, weight), bits), to += next, weight += __builtin_popcount(MASKS)), ...);
    }
  }

  // The same for any filters. The profiles wait in slots of whole vectors: a load that takes from two stores at once would
  // wait for both.
  void perceive_narrow(int64_t c, const Blocks& batch) const {
    const Narrow rows(around + s.reach, c * row_size);
    vf* slots = reinterpret_cast<vf*>(static_cast<float*>(profiles));
    const uint32_t used = s.filters.slots_used;
    for (const Block& block : batch) rows.fill<(1u << SLOTS) - 1>(block.offset, slots, used), slots += SLOTS;
    correlate_all(c, batch, [](int64_t, int64_t i) { return i * SLOTS * VL; });
  }

  // The profiles of channel c around the row, for columns from - reach to to + reach - 1 of the tile, of which `from` is a
  // multiple of VL, and `to` as well.
  void profile_columns(int64_t c, int64_t from, int64_t to) const {
    const float* const* near = around + s.reach - s.filters.reach;
    const Span span = seen(from, to, s.filters.reach);
    const auto columns = [&]<int REACH>(std::integral_constant<int, REACH>) {
      int64_t i = span.from;
      for (; VL == 16 && i + VL < span.to; i += 2 * VL) wide_columns<REACH, 2>(near, c * row_size, i);  // weights are loaded for two vectors
      for (; i < span.to; i += VL) wide_columns<REACH, 1>(near, c * row_size, i);
    };
    switch (s.filters.reach) {
      case 2: return columns(std::integral_constant<int, 2>());
      case 3: return columns(std::integral_constant<int, 3>());
      default: return columns(std::integral_constant<int, 4>());
    }
  }

  struct Span { int64_t from, to; };

  // The columns that cells from `from` to `to` see, so many to either side, in whole vectors; of those beyond a canvas that
  // ends in zeros `begin` has written what there is.
  Span seen(int64_t from, int64_t to, int64_t reach) const {
    const auto is_there = [&](int64_t at) { return !s.beyond(left + (at < from ? from - 1 : at), s.W); };
    return {is_there(from - VL) ? from - VL : from, std::min(to, width) + reach > to && is_there(to) ? to + VL : to};
  }

  template <int REACH, int N>
  void wide_columns(const float* const* near, int64_t channel, int64_t at) const {
    vf even[REACH + 1][N], odd[REACH + 1][N];
    for (int n = 0; n < N; ++n) {
      const int64_t i = channel + at + n * VL;
      even[0][n] = load(near[REACH] + i);
      for (int j = 1; j <= REACH; ++j) {
        const vf above = load(near[REACH - j] + i), below = load(near[REACH + j] + i);
        even[j][n] = below + above, odd[j][n] = below - above;
      }
    }
    float* out = profiles + VL + at;
    for (size_t p = 0; p < s.filters.profiles.size(); ++p, out += row_size) {
      const Profile& profile = s.filters.profiles[p];
      for_terms<REACH>(s.filters.terms[p], [&](auto evens, auto odds) NCA_FAST_WITHIN {
        vf total[N] = {};
        for (int j = 0; j < evens; ++j)
          for (int n = 0; n < N; ++n) total[n] += profile.even[j] * even[j][n];
        for (int j = 1; j <= odds; ++j)
          for (int n = 0; n < N; ++n) total[n] += profile.odd[j] * odd[j][n];
        for (int n = 0; n < N; ++n) store(out + n * VL, total[n]);
      });
    }
  }

  // Packs the largest value of channel c in the window around every cell of the blocks; it leaves `highest` by column.
  void maximum(int64_t c, float* packed, const Blocks& batch) const {
    const int half = s.window / 2;
    const int first = s.circular ? -half : int(std::max<int64_t>(-half, -here)), last = s.circular ? half : int(std::min<int64_t>(half, s.H - 1 - here));
    const Span span = seen(batch.front().offset, batch.back().offset + VL, half);
    for (int64_t i = span.from; i < span.to; i += VL) {
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
  void perceive(const Blocks& batch) const {
    const int64_t from = batch.front().offset, to = batch.back().offset + VL;
    for (int64_t c = 0; c < s.C; ++c) {
      if (!all && !s.sees(c)) continue;
      if (s.F) perceive_filters(c, from, to, batch);
      if (s.L) perceive_learned(c, batch);
      if (s.window) maximum(c, y + s.row(s.F + s.L, c) * S, batch);
    }
  }

  // Packs what the learned filters of channel c see, as many of them at once as there are registers for their taps.
  NCA_FAST_APART void perceive_learned(int64_t c, const Blocks& batch) const {
    for_learned(s.L, [&](auto count, int64_t f) {
      constexpr int N = decltype(count)::value;
      const Narrow rows(around + s.reach, c * row_size);
      const float* const taps = s.network(sample).taps + (c * s.L + f) * TAPS;
      float* const packed = y + s.row(s.F + f, c) * S;
      vf weights[N][TAPS];
      for (int n = 0; n < N; ++n)
        for (int k = 0; k < TAPS; ++k) weights[n][k] = splat(taps[n * TAPS + k]);
      for (const Block& block : batch) {
        vf total[N] = {};
        for (int k = 0; k < TAPS; ++k) {
          const vf seen = load(rows.tap(k) + block.offset);
          for (int n = 0; n < N; ++n) total[n] += weights[n][k] * seen;
        }
        for (int n = 0; n < N; ++n) append(packed + n * s.rows[c].apart * S + block.from, total[n], block.bits);
      }
    });
  }

  void perceive_filters(int64_t c, int64_t from, int64_t to, const Blocks& batch) const {
    switch (s.filters.known) {
      case Known::gradient: return perceive_known<false, CELL, DIFFERENCE_X, DIFFERENCE_Y>(c, batch);
      case Known::gradient_and_laplacian:
        if (s.filters.usual) return perceive_known<true, CELL, DIFFERENCE_X, DIFFERENCE_Y, LAPLACIAN>(c, batch);
        return perceive_known<false, CELL, DIFFERENCE_X, DIFFERENCE_Y, LAPLACIAN>(c, batch);
      case Known::no: break;
    }
    if (s.filters.reach == 1) return perceive_narrow(c, batch);
    profile_columns(c, from, to);
    correlate_all(c, batch, [](int64_t offset, int64_t) { return offset; });
  }

  // Packs the filters of channel c as sums of what lies at the `starts` of their terms + place(offset of the block, its number),
  // for some blocks at once: a term's weight and place are looked up once for all of them.
  template <class Place>
  void correlate_all(int64_t c, const Blocks& batch, const Place& place) const {
    constexpr size_t MOST = 4;
    for (size_t first = 0; first < batch.size(); first += MOST) switch (std::min(MOST, batch.size() - first)) {
        case 1: correlate<1>(c, batch.data() + first, int64_t(first), place); break;
        case 2: correlate<2>(c, batch.data() + first, int64_t(first), place); break;
        case 3: correlate<3>(c, batch.data() + first, int64_t(first), place); break;
        default: correlate<MOST>(c, batch.data() + first, int64_t(first), place);
      }
  }

  template <int N, class Place>
  void correlate(int64_t c, const Block* blocks, int64_t number, const Place& place) const {
    const float* at[N];
    for (int n = 0; n < N; ++n) at[n] = profiles + place(blocks[n].offset, number + n);
    const int64_t* start = starts.data();
    const float* weight = s.filters.weights.data();
    float* packed = y + s.row(0, c) * S;
    for (const Correlation& filter : s.filters.of) {
      if (filter.count) {
        vf total[N];
        const auto add = [&](bool is_first) NCA_FAST_WITHIN {
          const vf w = splat(*weight++);
          for (int n = 0; n < N; ++n) {
            const vf term = w * load(at[n] + *start);
            total[n] = is_first ? term : total[n] + term;
          }
          ++start;
        };
        add(true);
        for (const float* last = weight + filter.count - 1; weight < last;) add(false);
        for (int n = 0; n < N; ++n) append(packed + blocks[n].from, total[n], blocks[n].bits);
      }
      packed += s.rows[c].apart * S;
    }
  }

  // Turns and scales what the cells packed from `first` on perceive, by their frames (a, b): first derivatives to
  // (a g_x - b g_y, b g_x + a g_y), laplacians to (a^2 + b^2) l. Leaves their frames in `frames`.
  NCA_FAST_APART void turn(const Blocks& blocks, int first) const {
    for (int64_t i = 0; i < 2; ++i)
      for (const Block& block : blocks) append(frames + i * S + block.from, frame_component(i, block.offset), block.bits);
    const auto answers = [&](int64_t f, int64_t c) { return y + s.row(f, c) * S; };
    for (int p = first; p < count; p += VL) {
      const vf a = load(frames + p), b = load(frames + S + p), square = a * a + b * b;
      for (int64_t c = 0; c < s.C; ++c) {
        if (!all && !s.sees(c)) continue;
        for (const Step::Pair& pair : s.pairs) {
          float *const x = answers(pair.x, c) + p, *const along_y = answers(pair.y, c) + p;
          const vf right = load(x), down = load(along_y);
          store(x, a * right - b * down), store(along_y, b * right + a * down);
        }
        for (const int64_t f : s.laplacians) store(answers(f, c) + p, square * load(answers(f, c) + p));
      }
    }
  }

  // Of the cells of a block of the row, whose columns may go on at the other end of a torus.
  vf frame_component(int64_t i, int64_t offset) const {
    const float* of_row = s.frame_row(sample, i, row);
    const int64_t column = s.source(left + offset, s.W);
    if (column + VL <= s.W) return load(of_row + column);
    vf v{};
    for (int lane = 0; lane < VL; ++lane) v[lane] = of_row[(column + lane) % s.W];
    return v;
  }

  // Turns to a row; the rows that its cells perceive are in place.
  void look(int64_t row_number) {
    row = s.source(row_number, s.H), here = row_number;
    for (int64_t i = 0, at = slot(row_number - s.reach); i <= 2 * s.reach; ++i, at = at + 1 == depth ? 0 : at + 1)
      around[i] = rows + at * s.C * row_size + VL;
    key = philox_row_key(s, sample, row, s.shared);
    noise_key = s.shared & (BATCH | HEIGHT) && s.update_noise > 0 ? philox_row_key(s, sample, row) : key;
  }

  // Packs the firing cells of columns `begin` to `end` of the row behind those that are there, until `enough` are; both but the
  // row's end are multiples of VL. visit(offset, bits, place) for every VL columns. Returns the column that it came to, and
  // leaves the blocks of which a cell fires in `batch`.
  template <class Visit>
  int64_t pack(int64_t begin, int64_t end, int enough, const Visit& visit) {
    batch.clear();
    const int first = count;
    int64_t column = s.source(left + begin, s.W);
    int64_t at = begin;
    for (; at < end && count < enough; at += VL, column = column + VL < s.W ? column + VL : column + VL - s.W) {
      uint32_t bits = any_fire_bits(s, key, sample, row, column, end - at, each.data());
      if (cells) bits &= cells->block(sample, row, column);
      visit(at, bits, count);
      if (!bits) continue;
      batch.push_back({at, bits, count});
      if (end_row > noise_row) pack_extras(at, column, bits);
      count += __builtin_popcount(bits);
    }
    if (!batch.empty()) perceive(batch);
    if (s.frames && !batch.empty()) turn(batch, first);
    return at;
  }

  // Packs what is known of the cells of a block beside what they perceive.
  NCA_FAST_APART void pack_extras(int64_t at, int64_t column, uint32_t bits) const {
    for (int64_t c = 0; c < s.written(); ++c) {
      if (s.update_noise > 0) append(extra(noise_row + c), noise_of(s, noise_key, sample, column, s.frozen + c, true), bits);
      if (s.by_channel) append(extra(fires_row + c), ones(each[c]), bits);
      if (end_row > old_row) append(extra(old_row + c), load(around[s.reach] + (s.frozen + c) * row_size + at), bits);
    }
  }

  float* extra(int64_t row) const { return y + row * S + count; }

  // Forgets the first `cells` of the packed cells that wait, and moves the others to the front where fewer than `more` could follow.
  void drain(int cells, int more) {
    done += cells;
    if (done < count && done + more <= room) return;
    const int64_t used = all ? s.inputs() : s.seen_inputs;
    for (int64_t k = 0; done < count && k < end_row; k = k + 1 == used ? noise_row : k + 1)
      for (int p = 0; p < count - done; p += VL) store(y + k * S + p, load(y + k * S + done + p));
    count -= done, done = 0;
  }

  int waiting() const { return count - done; }

  const Step& s;
  const bool all;
  const int64_t noise_row, fires_row, old_row, end_row;  // of y: what is packed beside the inputs, a row for each written channel
  const int64_t row_size;
  const int64_t room;  // for packed cells
  const int64_t S;  // stride of packed cells; a store may overshoot by a vector
  const int64_t depth;
  Buffer rows;      // those that a cell perceives, in turn: [depth][C][row_size], columns from VL on
  Buffer profiles;  // of one channel and row: of wide filters [profiles][row_size], of 3x3 [blocks][SLOTS][VL]
  std::vector<int64_t> starts;  // in `profiles`, of all filters' terms
  Buffer highest;   // of one channel: by column, over the rows of the window; [row_size]
  Buffer outside;   // 0 on the canvas, -infinity where a cell of another tile or none is; [row_size]
  Buffer y;         // [inputs, then what is packed beside][S]
  Buffer frames;    // of the cells that were packed last, in their places; [2][S]
  std::vector<uint32_t> each;  // who fires in a block, by written channel
  const float* around[2 * FARTHEST + 1];  // the tile rows from row - reach to row + reach, channel 0
  const Bits* cells = nullptr;            // where given, only cells in it are packed
  int64_t sample = 0, left = 0, width = 0;
  int64_t row = 0, here = 0;  // the row at hand: of the canvas, and as it is numbered, beyond a torus too
  RowKey key{}, noise_key{};
  int count = 0;  // of packed cells, of which the first `done` are forgotten
  int done = 0;
  Blocks batch;
};

}  // namespace nca_fast
