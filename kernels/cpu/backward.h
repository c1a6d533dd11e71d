// The backward pass over a share of the rows.
#pragma once

#include "alive.h"
#include "forward.h"

namespace nca_fast {

constexpr int FOLD = 16;        // chunks whose weight gradients are summed in float32
constexpr int64_t GROUP = 512;  // cells whose perception gradient is gathered before the transposed filters run
constexpr int64_t L2_BYTES = 1 << 20;

// Fewer cells than GROUP where their perception and its gradient would not stay in L2: then half of it.
inline int64_t group_cells(int64_t inputs) {
  const int64_t bytes = 2 * inputs * int64_t(sizeof(float));
  return GROUP * bytes <= L2_BYTES ? GROUP : std::max<int64_t>(CHUNK, L2_BYTES / 2 / bytes);
}

// What one share of the rows, begin to end of all samples' rows, leaves behind: weight gradients of all steps, and of one
// gradients of rows that belong to another share.
struct Partial {
  struct Row { int64_t sample, row; std::unique_ptr<Buffer> grad; };
  struct Total { int64_t network; std::vector<double> sums; };

  Partial(const Step& s, int64_t begin, int64_t end, double* grad_params) : s(s), begin(begin), end(end), grad_params(grad_params), taps(taps_size()) {
    for (const Layer& layer : s.shape()) {
      weight.push_back(std::make_unique<Buffer>(weight_size(layer))), bias.push_back(std::make_unique<Buffer>(layer.out * VL));
      std::fill_n(static_cast<float*>(*weight.back()), weight_size(layer), 0.f);
      std::fill_n(static_cast<float*>(*bias.back()), layer.out * VL, 0.f);
    }
    std::fill_n(static_cast<float*>(taps), taps_size(), 0.f);
    for (int64_t f = 0; f < s.maps(); ++f)
      for (int64_t c = 0; c < s.C; ++c) columns.push_back(s.row(f, c));
  }

  int64_t taps_size() const { return s.L * s.C * TAPS * VL; }

  static int64_t weight_size(const Layer& layer) { return round_up(layer.out, R) * round_up(layer.in, VL); }

  // Where the gradient of a rule is summed, as params: in place when no other share has rows of that rule.
  double* sums_of(int64_t rule) {
    const int64_t rows = s.rules > 1 ? s.H : s.B * s.H, first = rule * rows, network = s.first_network() + rule;
    if (begin <= first && first + rows <= end) return grad_params + network * s.parameters;
    for (Total& total : totals)
      if (total.network == network) return total.sums.data();
    totals.push_back({network, std::vector<double>(s.parameters, 0.0)});
    return totals.back().sums.data();
  }

  // Moves the sums of a sample's rule on: short float sums and one long double sum, or a large canvas would lose digits.
  void fold(int64_t sample) {
    double* at = sums_of(s.rules > 1 ? sample : 0);
    for (int64_t f = 0; f < s.L; ++f)
      for (int64_t c = 0; c < s.C; ++c)
        for (int k = 0; k < TAPS; ++k) *at++ += sum_lanes(taps + ((c * s.L + f) * TAPS + k) * VL);
    std::fill_n(static_cast<float*>(taps), taps_size(), 0.f);
    for (size_t i = 0; i < s.shape().size(); ++i) {
      const Layer& layer = s.shape()[i];
      const bool in_order = i || s.seen_inputs == layer.in;
      for (int64_t o = 0; o < layer.out; ++o)
        for (int64_t k = 0; k < layer.in; ++k) *at++ += (*weight[i])[o * round_up(layer.in, VL) + (in_order ? k : columns[k])];
      for (int64_t o = 0; layer.has_bias && o < layer.out; ++o) *at++ += sum_lanes(*bias[i] + o * VL);
      std::fill_n(static_cast<float*>(*weight[i]), weight_size(layer), 0.f);
      std::fill_n(static_cast<float*>(*bias[i]), layer.out * VL, 0.f);
    }
    chunks = 0;
  }

  float* outside_row(int64_t sample, int64_t row) {  // [C][W]
    for (const Row& r : outside)
      if (r.sample == sample && r.row == row) return *r.grad;
    outside.push_back({sample, row, std::make_unique<Buffer>(s.C * s.W)});
    std::fill_n(static_cast<float*>(*outside.back().grad), s.C * s.W, 0.f);
    return *outside.back().grad;
  }

  // Adds what other shares are owed to the gradient of the old state.
  void add_outside(float* grad_x) {
    for (const Row& row : outside)
      for (int64_t c = 0; c < s.C; ++c) {
        float* to = grad_x + (row.sample * s.C + c) * s.plane() + row.row * s.W;
        const float* from = *row.grad + c * s.W;
        for (int64_t i = 0; i < s.W; ++i) to[i] += from[i];
      }
    outside.clear();
  }

  void add_totals() const {
    for (const Total& total : totals)
      for (int64_t i = 0; i < s.parameters; ++i) grad_params[total.network * s.parameters + i] += total.sums[i];
  }

  const Step& s;
  const int64_t begin, end;
  double* const grad_params;
  std::vector<Total> totals;
  std::vector<std::unique_ptr<Buffer>> weight, bias;  // [out to R][in to VL], [out][VL]: of the last chunks
  std::vector<int64_t> columns;                       // of the first layer's weight, by map and channel
  Buffer taps;                                        // [C][L][TAPS][VL], likewise
  int chunks = 0;
  std::vector<Row> outside;
};

// [out][CHUNK] for every layer; for the last one, of whose gradients all cells are gathered first, [out][cells].
inline std::vector<std::unique_ptr<Buffer>> unit_buffers(const Step& s, int64_t cells) {
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (const Layer& layer : s.shape())
    buffers.push_back(std::make_unique<Buffer>(round_up(round_up(layer.out, VL), R) * (&layer == &s.shape().back() ? cells : CHUNK), Buffer::zeros));
  return buffers;
}

struct Backward {
  // `alive`: the mask of the step, or null.
  // `grad_frames`: added to, see `turn_back`, [B][2][H][W]; null where there are no frames.
  Backward(const Step& s, Partial& partial, int64_t columns, int64_t group_rows, const Alive* alive, float* grad_frames)
      : s(s), grad_frames(grad_frames), partial(partial), group_rows(group_rows), alive(alive), packer(s, columns, group_rows * round_up(columns, VL), s.L ? group_rows - 1 : 0, s.clamps, true),
        turned(s.frames ? 2 * packer.S : 0), units(unit_buffers(s, CHUNK)), inputs(s.shape().size()), grads(unit_buffers(s, packer.S)), kept(gates() ? s.written() * packer.S : 0), row_size(round_up(columns, VL) + 3 * MARGIN),
        dense_y(2 * (s.F + s.L + 1) * row_size), grad_y(round_up(s.inputs(), R) * packer.S), transposed(CHUNK * widest_input()),
        winner(s.window ? group_rows * s.C * row_size : 0) {
    packer.cells = alive ? &alive->mask : nullptr;
    for (size_t i = 0; i + 1 < inputs.size(); ++i)
      if (s.activations[i].slope_of_input()) inputs[i] = std::make_unique<Buffer>(round_up(round_up(s.shape()[i].out, VL), R) * CHUNK);
  }

  // Whether the gradient of a cell's state is another one where it fires.
  bool gates() const { return s.clamps || !s.residual; }
  bool has_update_activation() const { return !s.activations.back().is(Function::identity); }

  int64_t widest_input() const {
    int64_t widest = 0;
    for (const Layer& layer : s.shape()) widest = std::max(widest, round_up(layer.in, WIDE));
    return widest;
  }

  // Gradients of a chunk of packed cells, from p on: of the weights into `partial`, of the perception into `grad_y`.
  void run(int64_t sample, int p, int cells) {
    const Network& network = s.network(sample);
    const int last = int(network.size()) - 1;
    const auto input = [&](int i) {
      return i ? Cells<const float>{*units[i - 1], CHUNK} : Cells<const float>{packer.y + p, packer.S};
    };
    for (int i = 0; i < last; ++i) run_hidden(s, network, i, input(i), *units[i], inputs[i] ? static_cast<float*>(*inputs[i]) : nullptr, cells, ahead);
    if (s.clamps || has_update_activation()) dense<Then::nothing>(network[last].forward, network[last].bias, input(last), nullptr, {*units[last], CHUNK}, cells, ahead);
    if (gates() || s.by_channel || has_update_activation()) open_updates(p, cells);
    for (int i = last; i >= 0; --i) {
      const Layer& layer = network[i];
      const auto grad = i == last ? Cells<const float>{*grads[i] + p, packer.S} : Cells<const float>{*grads[i], CHUNK};
      const int stride = round_up(layer.in, VL);
      transpose(input(i), layer.in, cells, transposed);
      outer(grad, transposed, cells, layer.out, stride, *partial.weight[i]);
      if (layer.has_bias)
        for (int o = 0; o < layer.out; ++o) add_lanes(*partial.bias[i] + o * VL, grad.at + o * grad.stride, cells);
      if (i && s.activations[i - 1].is(Function::relu)) dense<Then::gate>(layer.backward, nullptr, grad, *units[i - 1], {*grads[i - 1], CHUNK}, cells, ahead);
      else if (i) {
        dense<Then::nothing>(layer.backward, nullptr, grad, nullptr, {*grads[i - 1], CHUNK}, cells, ahead);
        apply_slope(s.activations[i - 1], {*grads[i - 1], CHUNK}, inputs[i - 1] ? *inputs[i - 1] : *units[i - 1], layer.in, cells);
      } else dense<Then::nothing>(layer.backward, nullptr, grad, nullptr, {grad_y + p, packer.S}, cells, ahead);
    }
    if (s.frames) turn_back(p, cells);
    if (++partial.chunks == FOLD) partial.fold(sample);
  }

  // Of the packed cells from p on, takes the gradient of what they perceive to that of what their filters answer, and
  // leaves those of the logarithm of their scale and of their angle in `turned`: the answers y are the turned ones, and
  //     d (y_x, y_y) / d log scale = (y_x, y_y),   d l / d log scale = 2 l,   d (y_x, y_y) / d angle = (-y_y, y_x)
  NCA_FAST_APART void turn_back(int p, int cells) const {
    const auto place = [&](int64_t f, int64_t c) { return s.row(f, c) * packer.S; };
    for (int q = p; q < p + cells; q += VL) {
      const vf a = load(packer.frames + q), b = load(packer.frames + packer.S + q), square = a * a + b * b;
      const float* const y = packer.y + q;
      float* const grad = grad_y + q;
      vf of_scale{}, of_angle{};
      for (int64_t c = 0; c < s.C; ++c) {
        if (!s.sees(c)) continue;  // no gradient of its perception
        for (const Step::Pair& pair : s.pairs) {
          const int64_t x = place(pair.x, c), along_y = place(pair.y, c);
          const vf right = load(grad + x), down = load(grad + along_y), y_x = load(y + x), y_y = load(y + along_y);
          of_scale += right * y_x + down * y_y, of_angle += down * y_x - right * y_y;
          store(grad + x, a * right + b * down), store(grad + along_y, a * down - b * right);
        }
        for (const int64_t f : s.laplacians) {
          const vf g = load(grad + place(f, c));
          of_scale += 2.f * g * load(y + place(f, c));
          store(grad + place(f, c), square * g);
        }
      }
      store(turned + q, of_scale), store(turned + packer.S + q, of_angle);
    }
  }

  // Adds what `turn_back` left of a row's cells.
  NCA_FAST_APART void add_frames(int64_t sample, int64_t row, int64_t in_group, int64_t c0, int64_t c1) const {
    const int64_t per_row = (c1 - c0 + VL - 1) / VL;
    const Block *begin = blocks.data() + in_group * per_row, *end = begin + per_row;
    for (int64_t i = 0; i < 2; ++i) {
      float* to = grad_frames + ((sample * 2 + i) * s.H + row) * s.W + c0;
      for (const Block* block = begin; block < end; ++block)
        if (block->bits) add_some(to + block->offset, expanded(turned + i * packer.S + block->from, block->bits), c1 - c0 - block->offset);
    }
  }

  // Of the packed cells from p on, takes the gradient of the new state to that of the last layer's numbers, and keeps what
  // the old state gets without the network: x' = clamp(s + u where m, else s), u = phi(z) + noise.
  NCA_FAST_APART void open_updates(int p, int cells) {
    const Applied& phi = s.activations.back();
    const vf zero{};
    for (int64_t c = 0; c < s.written(); ++c)
      for (int q = 0; q < cells; q += VL) {
        const auto packed = [&](int64_t row) { return load(packer.y + (row + c) * packer.S + p + q); };
        float* at = *grads.back() + c * packer.S + p + q;
        vf g = load(at);
        const vf z = load(*units.back() + c * CHUNK + q), fires = s.by_channel ? packed(packer.fires_row) : splat(1.f);
        if (s.clamps) {
          vf u = phi.of(z);
          if (s.update_noise > 0) u += packed(packer.noise_row);
          const vf old = packed(packer.old_row), v = fires != 0 ? s.residual ? old + u : u : old;
          g = v >= s.low ? v <= s.high ? g : zero : zero;
        }
        if (gates()) store(kept + c * packer.S + p + q, s.residual ? g : fires != 0 ? zero : g);
        if (s.by_channel) g = fires != 0 ? g : zero;
        if (has_update_activation()) g *= phi.slope(phi.slope_of_input() ? z : phi.of(z));
        store(at, g);
      }
  }

  // What a row's gradient begins with where `gates`: that of cells that do not fire; the others' is added by `add_kept`.
  NCA_FAST_APART void begin_row(const float* x, const float* grad, float* grad_x, int64_t sample, int64_t row) const {
    const RowKey key = philox_row_key(s, sample, row, s.shared), noise_key = philox_row_key(s, sample, row);
    for (int64_t column = 0; column < s.W; column += VL) {
      const int64_t left = s.W - column;
      uint32_t bits = any_fire_bits(s, key, sample, row, column, left);
      if (packer.cells) bits &= packer.cells->block(sample, row, column);
      const vf fires = ones(bits);
      for (int64_t c = s.frozen; c < s.C; ++c) {
        const int64_t at = c * s.plane() + row * s.W + column;
        vf g = load_some(grad + at, left);
        if (s.clamps) {
          vf v = load_some(x + at, left);
          if (s.state_noise > 0) v += noise_of(s, noise_key, sample, column, c, false);
          g = v >= s.low ? v <= s.high ? g : vf{} : vf{};
        }
        store_some(grad_x + at, fires != 0 ? vf{} : g, left);
      }
    }
  }

  NCA_FAST_APART void add_kept(int64_t row, int64_t in_group, float* grad_x, int64_t c0, int64_t c1) const {
    const int64_t per_row = (c1 - c0 + VL - 1) / VL;
    const Block *begin = blocks.data() + in_group * per_row, *end = begin + per_row;
    for (int64_t c = 0; c < s.written(); ++c) {
      float* to = grad_x + (s.frozen + c) * s.plane() + row * s.W + c0;
      for (const Block* block = begin; block < end; ++block)
        if (block->bits) add_some(to + block->offset, expanded(kept + c * packer.S + block->from, block->bits), c1 - c0 - block->offset);
    }
  }

  void rows(const float* x, const float* grad, float* grad_x, int64_t begin, int64_t end) {
    for_samples(s, begin, end, [&](int64_t sample, int64_t r0, int64_t r1) {
      const int64_t first = sample * s.C * s.plane();
      // Each row begins as the gradient of the new state, not long before cells around it add to it, where that can be.
      const int64_t reach = s.reach;
      const bool at_once = gates() || alive || s.W > s.tile || r1 - r0 <= 2 * reach;
      const auto begin_rows = [&](int64_t begin, int64_t end) {
        for (int64_t c = 0; c < (gates() ? s.frozen : s.C); ++c) {
          const int64_t at = first + c * s.plane() + begin * s.W;
          std::memcpy(grad_x + at, grad + at, (end - begin) * s.W * sizeof(float));
        }
      };
      if (at_once) begin_rows(r0, r1);
      else begin_rows(r0, r0 + reach), begin_rows(r1 - reach, r1);
      for (int64_t row = r0; gates() && row < r1; ++row) begin_row(x + first, grad + first, grad_x + first, sample, row);
      for (int64_t row = r0; alive && row < r1; ++row) alive->apply_mask(grad_x, sample, row);
      for (int64_t c0 = 0; c0 < s.W; c0 += s.tile) {
        const int64_t c1 = std::min(s.W, c0 + s.tile);
        packer.begin(sample, c0, c1);
        for (int64_t row = r0 - s.reach; row < r0 + s.reach; ++row) packer.copy_row(x + first, row);
        std::memset(dense_y, 0, 2 * (s.F + s.L + 1) * row_size * sizeof(float));  // what lies beside the tile stays so
        if (s.window) std::fill_n(static_cast<float*>(winner), group_rows * s.C * row_size, -1.f);
        for (int64_t group = r0; group < r1; group += group_rows) {
          const int64_t group_end = std::min(r1, group + group_rows);
          packer.count = 0, blocks.clear();
          for (int64_t row = group; row < group_end; ++row) pack_row(row, row - group, x + first, grad + first, c0, c1);
          ask_ahead(x + first, grad + first, grad_x + first, group, r0, r1, c0, c1);
          for (int p = 0; p < packer.count; p += CHUNK) run(sample, p, std::min(CHUNK, packer.count - p));
          if (s.L) add_taps(group, group_end, c1 - c0);
          for (int64_t row = group; s.frames && row < group_end; ++row) add_frames(sample, row, row - group, c0, c1);
          for (int64_t row = group; gates() && row < group_end; ++row) add_kept(row, row - group, grad_x + first, c0, c1);
          if (!at_once) begin_rows(std::min(group + reach, r1 - reach), std::min(group_end + reach, r1 - reach));
          if (spreads_in_registers()) spread_group(sample, group, group_end, grad_x + first, r0, r1);
          else
            for (int64_t row = group; row < group_end; ++row) spread_row(sample, row, row - group, grad_x + first, r0, r1, c0, c1);
        }
      }
      if (s.rules > 1) partial.fold(sample);
    });
    if (s.rules == 1) partial.fold(0);
  }

  // While the cells of a group are computed: for what the next one reads, and for the gradient of the rows that come into sight.
  void ask_ahead(const float* x, const float* grad, float* grad_x, int64_t group, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    ahead.begin(c1 - c0);
    const auto add = [&](const float* state, int64_t row, bool to_write) {
      if (!s.beyond(row, s.H)) ahead.add(state + s.source(row, s.H) * s.W + c0, s.C, s.plane(), to_write);
    };
    for (int64_t row = std::min(r1, group + 2 * group_rows) - 1; row >= group + group_rows; --row) {
      add(x, row + s.reach, false);
      if (row + s.reach < r1) add(grad, row + s.reach, false);
    }
    for (int64_t row = std::min(r1 - s.reach, group + group_rows) - 1; row >= group; --row) add(grad_x, row + s.reach, true);
  }

  void pack_row(int64_t row, int64_t in_group, const float* x, const float* grad, int64_t c0, int64_t c1) {
    packer.copy_row(x, row + s.reach);
    packer.look(row);
    packer.pack(0, c1 - c0, std::numeric_limits<int>::max(), [&](int64_t at, uint32_t bits, int place) { blocks.push_back({at, bits, place}); });
    const Blocks& batch = packer.batch;
    const float* g = grad + s.frozen * s.plane() + row * s.W + c0;
    float* packed = *grads.back();
    for (int64_t c = s.frozen; c < s.C; ++c, g += s.plane(), packed += packer.S)
      for (const Block& block : batch)
        append(packed + block.from, load_some(g + block.offset, c1 - c0 - block.offset), block.bits);
    if (s.window && !batch.empty()) find_winners(row, in_group, batch);
  }

  // Which neighbour holds the local maximum of the cells of a row, numbered row by row; the first of equals. (Beside NaN,
  // whose gradient is NaN anyway, it may be another one than in PyTorch.)
  void find_winners(int64_t row, int64_t in_group, const Blocks& batch) {
    const int half = s.window / 2;
    for (int64_t c = 0; c < s.C; ++c)
      for (const Block& block : batch) {
        vf most = splat(-std::numeric_limits<float>::infinity()), who{};
        for (int i = 0; i < s.window; ++i) {
          if (!s.circular && (row + i < half || row + i - half >= s.H)) continue;
          const float* from = packer.around[s.reach + i - half] + c * packer.row_size + block.offset - half;
          for (int j = 0; j < s.window; ++j) {
            const vf value = load(from + j) + load(packer.outside + VL + block.offset - half + j);
            const vi more = value > most;
            most = more ? value : most;
            who = more ? splat(float(i * s.window + j)) : who;
          }
        }
        store_some(winner_row(in_group, c) + block.offset, who, packer.width - block.offset);
      }
    for (int64_t c = 0; whole_row() && c < s.C; ++c) continue_row(winner_row(in_group, c), half);
  }

  // Whether the tile is all of a torus's row: then a cell is owed by all that see it at once, however often they do.
  bool whole_row() const { return s.circular && packer.width == s.W; }

  // Columns beside a row of a torus, from those at its other end; of a narrow one, round and round.
  void continue_row(float* row, int reach) const {
    for (int i = 1; i <= reach; ++i) row[-i] = row[s.W - i];
    for (int i = 0; i < reach; ++i) row[s.W + i] = row[i];
  }

  float* winner_row(int64_t in_group, int64_t c) const { return winner + (in_group * s.C + c) * row_size + MARGIN; }

  // Gradient of a profile at columns q to q + VL - 1 of the tile, from that of the filters of channel c.
  vf profile_grad(int64_t c, size_t profile, int64_t q) const {
    vf total{};
    for (const Filters::Use& use : s.filters.uses[profile]) total += use.weight * load(placed(c, use.filter) + q - use.shift);
    return total;
  }

  // What N * VL columns from q on of the rows from row - REACH to row + REACH are owed by the filters of a row's cells.
  template <int REACH, int N>
  void owed_to_filtered(int64_t c, int64_t q, vf (*owed)[N]) const {
    vf even[REACH + 1][N] = {}, odd[REACH + 1][N] = {};
    for (size_t p = 0; p < s.filters.profiles.size(); ++p) {
      const Profile& profile = s.filters.profiles[p];
      vf grad[N] = {};
      for (const Filters::Use& use : s.filters.uses[p]) {
        const float* const from = placed(c, use.filter) + q - use.shift;
        for (int n = 0; n < N; ++n) grad[n] += use.weight * load(from + n * VL);
      }
      for_terms<REACH>(s.filters.terms[p], [&](auto evens, auto odds) NCA_FAST_WITHIN {
        for (int j = 0; j < evens; ++j)
          for (int n = 0; n < N; ++n) even[j][n] += profile.even[j] * grad[n];
        for (int j = 1; j <= odds; ++j)
          for (int n = 0; n < N; ++n) odd[j][n] += profile.odd[j] * grad[n];
      });
    }
    for (int j = 0; j <= REACH; ++j)
      for (int n = 0; n < N; ++n) owed[REACH - j][n] = even[j][n] - odd[j][n], owed[REACH + j][n] = even[j][n] + odd[j][n];
  }

  // Gradients of the taps, by the packed cells of a group of rows, whose states around are still there: that of tap (i, j) is
  // the sum of the filter's times the state of the cell that it sees.
  NCA_FAST_APART void add_taps(int64_t begin, int64_t end, int64_t width) {
    const int64_t per_row = (width + VL - 1) / VL;
    for (int64_t c = 0; c < s.C; ++c)
      if (s.sees(c)) for_learned(s.L, [&](auto count, int64_t f) {
        constexpr int N = decltype(count)::value;
        const float* const from = grad_y + s.row(s.F + f, c) * packer.S;
        const Block* block = blocks.data();
        vf sums[N][TAPS] = {};
        for (int64_t row = begin; row < end; ++row) {
          const float* const near[3] = {packer.tile_row(row - 1), packer.tile_row(row), packer.tile_row(row + 1)};
          const Narrow rows(near + 1, c * packer.row_size);
          for (const Block* const last = block + per_row; block < last; ++block) {
            if (!block->bits) continue;
            vf grad[N];
            for (int n = 0; n < N; ++n) grad[n] = expanded(from + n * s.rows[c].apart * packer.S + block->from, block->bits);
            for (int k = 0; k < TAPS; ++k) {
              const vf seen = load_some(rows.tap(k) + block->offset, width - block->offset);  // beside the tile there may be anything
              for (int n = 0; n < N; ++n) sums[n][k] += grad[n] * seen;
            }
          }
        }
        float* to = partial.taps + (c * s.L + f) * TAPS * VL;
        for (int n = 0; n < N; ++n)
          for (int k = 0; k < TAPS; ++k, to += VL) store(to, load(to) + sums[n][k]);
      });
  }

  // The same for the local maximum, whose gradient lies in dense_y behind those of the filters.
  void owed_to_winners(int64_t c, const float* who, int64_t q, vf* owed) const {
    const int half = s.window / 2;
    const float* grad = placed(c, s.F + s.L);
    for (int i = 0; i < s.window; ++i) {
      owed[i] = vf{};
      for (int j = 0; j < s.window; ++j) {
        const int64_t at = q + half - j;
        owed[i] += load(who + at) == float(i * s.window + j) ? load(grad + at) : vf{};
      }
    }
  }

  struct Target { float* row; int64_t plane; };  // a row of gradients, channel 0, and the distance of channels; null: none

  // Adds to the rows around a row, `reach` to either side, what `owed(q, rows)` says, for channel c of a tile: of MOST * VL
  // columns from q on, and at the end of VL. Rows that are one, on a torus of few rows, are owed one sum: terms that cancel
  // would round what is there.
  template <int MOST, class Owed>
  void spread(int64_t c, int reach, const Target* around, int64_t c0, int64_t c1, const Owed& owed) {
    const int64_t width = c1 - c0;
    const int near = 2 * reach + 1, others = s.circular ? int(std::min<int64_t>(near, s.H)) : near;
    const Target* rows = around + s.reach - reach;
    int64_t q = 0;
    const auto add = [&]<int N>(std::integral_constant<int, N>) NCA_FAST_WITHIN {
      for (; q + (N - 1) * VL < width; q += N * VL) {
        vf owes[2 * FARTHEST + 1][N];
        owed(q, owes);
        for (int n = 0; n < N; ++n)
          for (int i = near - 1; i >= others; --i) owes[i - others][n] += owes[i][n];
        for (int i = 0; i < others; ++i)
          for (int n = 0; n < N && rows[i].row; ++n) add_some(rows[i].row + c * rows[i].plane + c0 + q + n * VL, owes[i][n], width - q - n * VL);
      }
    };
    if (MOST > 1) add(std::integral_constant<int, MOST>());
    add(std::integral_constant<int, 1>());
    if (whole_row()) return;
    vf owes[2 * FARTHEST + 1][1];
    for (const int64_t q : {-int64_t(reach), width}) {  // columns beside the tile
      if (s.padding == Padding::zero && (q < 0 ? c0 == 0 : c1 == s.W)) continue;
      owed(q, owes);
      for (int i = 0; i < near; ++i)
        for (int lane = 0; rows[i].row && lane < reach; ++lane) {
          const int64_t column = c0 + q + lane;
          if (!s.beyond(column, s.W)) rows[i].row[c * rows[i].plane + s.source(column, s.W)] += owes[i][0][lane];
        }
    }
  }

  // The rows that a row sees, where they are gathered.
  struct Around { Target rows[2 * FARTHEST + 1]; };
  Around around_row(int64_t sample, int64_t row, float* grad_x, int64_t r0, int64_t r1) {
    Around around;
    for (int i = 0; i <= 2 * s.reach; ++i) {
      const int64_t at = row + i - s.reach, to = s.source(at, s.H);
      const bool lost = s.beyond(at, s.H), own = to >= r0 && to < r1;
      around.rows[i] = {lost ? nullptr : own ? grad_x + to * s.W : partial.outside_row(sample, to), own ? s.plane() : s.W};
    }
    return around;
  }

  // Whether the filters of a tile are usual ones that see nothing beyond whole vectors of its rows, so that what is spread need not be put
  // in place first.
  bool spreads_in_registers() const {
#if defined(__AVX512F__)
    if (s.filters.known == Known::no || s.L || s.window || packer.width < s.W) return false;
    return s.circular ? s.W % VL == 0 && s.H >= 3 : s.padding == Padding::zero;
#else
    return false;
#endif
  }

  // Adds what the perception of a group of rows owes to the rows that they see, where it `spreads_in_registers`: channel by
  // channel, so that these rows are in L1.
  void spread_group(int64_t sample, int64_t begin, int64_t end, float* grad_x, int64_t r0, int64_t r1) {
#if defined(__AVX512F__)
    std::vector<Around> around;
    for (int64_t row = begin; row < end; ++row) around.push_back(around_row(sample, row, grad_x, r0, r1));
    const auto known = [&]<uint32_t... MASKS>() {
      for (int64_t c = 0; c < s.C; ++c)
        for (int64_t row = begin; s.sees(c) && row < end; ++row) spread_expanded<MASKS...>(c, row - begin, around[row - begin].rows);
    };
    if (s.filters.known == Known::gradient) known.template operator()<CELL, DIFFERENCE_X, DIFFERENCE_Y>();
    else known.template operator()<CELL, DIFFERENCE_X, DIFFERENCE_Y, LAPLACIAN>();
#endif
  }

#if defined(__AVX512F__)
  // The transposed filters of a channel and row. What their cells are owed is taken to its columns in registers, those before, at
  // and after the ones at hand.
  template <uint32_t... MASKS>
  void spread_expanded(int64_t c, int64_t in_group, const Target* rows) const {
    constexpr int FILTERS = sizeof...(MASKS);
    const int64_t count = (s.W + VL - 1) / VL;
    const Block *const begin = blocks.data() + in_group * count, *const end = begin + count;
    const float* const from = grad_y + s.row(0, c) * packer.S;
    const int64_t apart = s.rows[c].apart * packer.S;
    vf near[FILTERS][3];
    const auto take = [&](const Block* block) NCA_FAST_WITHIN {
      for (int f = 0; f < FILTERS; ++f) near[f][0] = near[f][1], near[f][1] = near[f][2], near[f][2] = block ? expanded(from + f * apart + block->from, block->bits) : vf{};
    };
    take(s.circular ? end - 1 : nullptr), take(begin);
    for (const Block* block = begin; block < end; ++block) {
      take(block + 1 < end ? block + 1 : s.circular ? begin : nullptr);
      vf profiles[PROFILES] = {}, owed[3];
      int f = 0;
      ((add_profiles<MASKS>(near[f], s.filters.of[f].weights, profiles), ++f), ...);
      owed_to_profiles(profiles, owed);
      for (int i = 0; i < 3; ++i)
        if (rows[i].row) add_some(rows[i].row + c * rows[i].plane + block->offset, owed[i], s.W - block->offset);
    }
  }
#endif

  // Adds what the perception of a row owes to the rows that it sees: the transposed filters.
  void spread_row(int64_t sample, int64_t row, int64_t in_group, float* grad_x, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    const Around near = around_row(sample, row, grad_x, r0, r1);
    const Target* const around = near.rows;
    const int64_t per_row = (c1 - c0 + VL - 1) / VL;
    const Block *begin = blocks.data() + in_group * per_row, *end = begin + per_row;
    if (std::none_of(begin, end, [](const Block& block) { return block.bits; })) return;
    // What lies in packed cells is put in place one channel ahead: its loads would wait for stores that are under way.
    for (int64_t c = 0; c <= s.C; ++c) {
      if (c < s.C && s.sees(c)) place_channel(c, begin, end);
      if (c > 0 && s.sees(c - 1)) spread_channel(sample, c - 1, in_group, around, c0, c1);
    }
  }

  // Puts the gradients of a channel's filters and maximum where their cells are.
  void place_channel(int64_t c, const Block* begin, const Block* end) const {
    for (int64_t f = 0; f < s.maps(); ++f) {
      const float* from = grad_y + s.row(f, c) * packer.S;
      float* to = placed(c, f);
      for (const Block* block = begin; block < end; ++block) store(to + block->offset, expanded(from + block->from, block->bits));
      if (whole_row()) continue_row(to, s.reach);
    }
  }

  float* placed(int64_t c, int64_t f) const { return dense_y + (c % 2 * (s.F + s.L + 1) + f) * row_size + MARGIN; }

  void spread_channel(int64_t sample, int64_t c, int64_t in_group, const Target* around, int64_t c0, int64_t c1) {
    const auto filtered = [&]<int REACH>(std::integral_constant<int, REACH>) {
      spread<VL == 16 ? 2 : 1>(c, REACH, around, c0, c1, [&](int64_t q, auto* owed) { owed_to_filtered<REACH>(c, q, owed); });
    };
    switch (s.F ? s.filters.reach : 0) {
      case 0: break;
      case 1: spread_narrow(c, around, c0, c1); break;
      case 2: filtered(std::integral_constant<int, 2>()); break;
      case 3: filtered(std::integral_constant<int, 3>()); break;
      default: filtered(std::integral_constant<int, 4>());
    }
    if (s.L) spread_learned(s.network(sample).taps + c * s.L * TAPS, c, around, c0, c1);
    if (s.window) spread<1>(c, s.window / 2, around, c0, c1, [&](int64_t q, vf (*owed)[1]) { owed_to_winners(c, winner_row(in_group, c), q, *owed); });
  }

  // Of the learned filters of channel c, whose taps these are.
  NCA_FAST_APART void spread_learned(const float* taps, int64_t c, const Target* around, int64_t c0, int64_t c1) {
    spread<1>(c, 1, around, c0, c1, [&](int64_t q, vf (*rows)[1]) {
      vf* const owed = *rows;
      owed[0] = owed[1] = owed[2] = vf{};
      for (int64_t f = 0; f < s.L; ++f)
        for (int j = 0; j < 3; ++j) {
          const vf grad = load(placed(c, s.F + f) + q + 1 - j);
          for (int i = 0; i < 3; ++i) owed[i] += taps[f * TAPS + 3 * i + j] * grad;
        }
    });
  }

  void spread_narrow(int64_t c, const Target* around, int64_t c0, int64_t c1) {
    const auto known = [&]<uint32_t... MASKS>() {
      spread<1>(c, 1, around, c0, c1, [&](int64_t q, vf (*owed)[1]) {
        vf profiles[PROFILES] = {};
        int64_t f = 0;
        ((add_profiles<MASKS>(placed(c, f) + q, s.filters.of[f].weights, profiles), ++f), ...);
        owed_to_profiles(profiles, *owed);
      });
    };
    switch (s.filters.known) {
      case Known::gradient: return known.template operator()<CELL, DIFFERENCE_X, DIFFERENCE_Y>();
      case Known::gradient_and_laplacian: return known.template operator()<CELL, DIFFERENCE_X, DIFFERENCE_Y, LAPLACIAN>();
      case Known::no: break;
    }
    spread<1>(c, 1, around, c0, c1, [&](int64_t q, vf (*owed)[1]) {
      vf profiles[PROFILES];
      for (int i = 0; i < PROFILES; ++i) profiles[i] = profile_grad(c, i, q);
      owed_to_profiles(profiles, *owed);
    });
  }

  static constexpr int64_t MARGIN = 16;  // columns beside a row of gradients: a shift of a filter beyond the columns it sees
  const Step& s;
  float* const grad_frames;
  Partial& partial;
  const int64_t group_rows;
  const Alive* const alive;
  Packer packer;
  Buffer turned;  // of packed cells: gradients of the logarithm of their scale and of their angle, [2][packer.S]
  Ahead ahead;
  const std::vector<std::unique_ptr<Buffer>> units;  // of every layer: outputs
  std::vector<std::unique_ptr<Buffer>> inputs;       // of hidden layers whose activation needs it: what that took
  const std::vector<std::unique_ptr<Buffer>> grads;  // of every layer: gradients of the outputs
  Buffer kept;                                       // of packed cells, see `open_updates`: [written][packer.S]
  Blocks blocks;  // of the rows of a group, all of them
  const int64_t row_size;
  Buffer dense_y;  // gradients of two channels' filters along a row, [2][F + L + 1][row_size], columns from MARGIN on, zeros around
  Buffer grad_y;   // gradient of the packed cells' perception, [inputs][packer.S]
  Buffer transposed;
  Buffer winner;  // by row of the group and channel: the number of the neighbour that holds the maximum, -1 around
};

}  // namespace nca_fast
