// Steps of a neural cellular automaton on the CPU, forward and backward. nca_fast/reference.py is the definition.
//
//     y = filters * x        h = relu(W1 y + b1), ...        u = W2 h + b2        x' = x + m u
//
// Only firing cells (m = 1) enter the network. canvas.h packs what they perceive, and every CHUNK of packed cells runs
// through the layers of network.h as register-blocked matrix products. The backward pass packs the same cells again,
// recomputes their hidden units, and returns the gradient of the perception to the canvas by the transposed filters.
// Weight gradients are one partial sum per share of the rows, added in the order of the shares: same inputs and same
// thread count give the same bits.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "canvas.h"

#ifndef NCA_FAST_NAMESPACE
#define NCA_FAST_NAMESPACE nca_fast_cpu
#endif

namespace nca_fast {
namespace {

constexpr int FOLD = 64;        // chunks whose weight gradients are summed in float32
constexpr int64_t GROUP = 512;  // cells whose perception gradient is gathered before the transposed filters run

// Rows begin .. end of all samples' rows, cut at the samples: f(sample, first row, end row).
template <class Visit>
void for_samples(const Step& s, int64_t begin, int64_t end, const Visit& visit) {
  for (int64_t at = begin; at < end;) {
    const int64_t sample = at / s.H, stop = std::min(end, (sample + 1) * s.H);
    visit(sample, at - sample * s.H, stop - sample * s.H);
    at = stop;
  }
}

// f(share, first row, end row) in parallel. The cut depends on the sizes and the thread count alone.
template <class Visit>
void for_shares(const Step& s, int64_t shares, const Visit& visit) {
  at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(i, i * s.B * s.H / shares, (i + 1) * s.B * s.H / shares);
  });
}

int64_t share_count(const Step& s) {
  const int64_t enough = std::max<int64_t>(1, s.B * s.H * s.W / 512);  // fewer cells are not worth a thread
  return std::min({int64_t(at::get_num_threads()), enough, s.B * s.H});
}

// [out][CHUNK] for every layer; for the last one, whose cells wait to be written back, [out][cells].
std::vector<std::unique_ptr<Buffer>> unit_buffers(const Step& s, int64_t cells) {
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (const auto& layer : s.layers)
    buffers.push_back(std::make_unique<Buffer>(round_up(round_up(layer->out, VL), R) * (layer == s.layers.back() ? cells : CHUNK)));
  return buffers;
}

// --- forward --------------------------------------------------------------------------------------------------------

struct Forward {
  Forward(const Step& s, int64_t columns)
      : s(s), packer(s, columns, CHUNK + columns), units(unit_buffers(s, packer.S)), depth(2 + 4 * CHUNK / columns), row_size(round_up(columns, VL)),
        updated(depth * s.C * row_size) {}

  // Updates the first packed cells.
  void run(int cells) {
    const size_t last = s.layers.size() - 1;
    for (int p = 0; p < cells; p += CHUNK) {
      Cells<const float> in{packer.y + p, packer.S};
      const int n = std::min(CHUNK, cells - p);
      for (size_t i = 0; i < last; in = {*units[i++], CHUNK})
        dense<Then::relu>(s.layers[i]->forward, s.layers[i]->bias, in, nullptr, {*units[i], CHUNK}, n);
      dense<Then::nothing>(s.layers[last]->forward, s.layers[last]->bias, in, nullptr, {*units[last] + p, packer.S}, n);
    }
    const Blocks& done = packer.drain(cells);
    const float* u = *units[last];
    float* to = updated + s.frozen * row_size;
    for (int64_t c = s.frozen; c < s.C; ++c, u += packer.S, to += row_size)
      for (const Block& block : done) add_expanded(to + block.offset, u + block.from, block.bits);
  }

  void rows(const float* x, float* out, int64_t begin, int64_t end) {
    for_samples(s, begin, end, [&](int64_t sample, int64_t r0, int64_t r1) {
      for (int64_t c0 = 0; c0 < s.W; c0 += TILE)
        tile(x + sample * s.C * s.plane(), out + sample * s.C * s.plane(), sample, r0, r1, c0, std::min(s.W, c0 + TILE));
    });
  }

  void tile(const float* x, float* out, int64_t sample, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    packer.begin(x, r0, c0, c1);
    int64_t written = r0;  // rows before it are complete and in `out`
    const auto write_until = [&](int64_t end) {
      for (; written < end; ++written)
        for (int64_t c = 0; c < s.C; ++c)
          std::memcpy(out + c * s.plane() + written * s.W + c0, row_at(written) + c * row_size, (c1 - c0) * sizeof(float));
    };
    for (int64_t row = r0; row < r1; ++row) {
      for (int64_t c = 0; c < s.C; ++c)
        std::memcpy(row_at(row) + c * row_size, packer.tile_row(c, row), (c1 - c0) * sizeof(float));
      packer.pack_row(sample, row, row_at(row) - updated, false);
      if (packer.count >= CHUNK) run(packer.count / CHUNK * CHUNK);
      if (packer.count && row + 1 - written == depth) run(packer.count);  // no room for another row that waits
      write_until(packer.count ? std::max(written, row + 1 - waiting_rows(row)) : row + 1);
    }
    if (packer.count) run(packer.count);
    write_until(r1);
  }

  // Of the rows up to `row`, how many from the first on that has a cell among those left over.
  int64_t waiting_rows(int64_t row) const {
    const int64_t slot = packer.blocks.front().offset / (s.C * row_size);
    return (row % depth - slot + depth) % depth + 1;
  }

  float* row_at(int64_t row) const { return updated + row % depth * s.C * row_size; }

  const Step& s;
  Packer packer;
  const std::vector<std::unique_ptr<Buffer>> units;
  const int64_t depth, row_size;
  Buffer updated;  // rows that wait for their last cells, in turn: [depth][C][row_size]
};

// --- backward -------------------------------------------------------------------------------------------------------

// What one share of the rows leaves behind: weight gradients, and gradients of rows that belong to another share.
struct Partial {
  struct Row { int64_t sample, row; std::unique_ptr<Buffer> grad; };

  explicit Partial(const Step& s) : s(s), total(s.parameters(), 0.0) {
    for (const auto& layer : s.layers) {
      weight.push_back(std::make_unique<Buffer>(weight_size(*layer))), bias.push_back(std::make_unique<Buffer>(layer->out * VL));
      std::fill_n(static_cast<float*>(*weight.back()), weight_size(*layer), 0.f);
      std::fill_n(static_cast<float*>(*bias.back()), layer->out * VL, 0.f);
    }
  }

  static int64_t weight_size(const Layer& layer) { return round_up(layer.out, R) * round_up(layer.in, VL); }

  // Moves the sums into `total`: short float sums and one long double sum, or a large canvas would lose digits.
  void fold() {
    double* at = total.data();
    for (size_t i = 0; i < s.layers.size(); ++i) {
      const Layer& layer = *s.layers[i];
      for (int64_t o = 0; o < layer.out; ++o)
        for (int64_t k = 0; k < layer.in; ++k) *at++ += (*weight[i])[o * round_up(layer.in, VL) + k];
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

  const Step& s;
  std::vector<double> total;                          // as params
  std::vector<std::unique_ptr<Buffer>> weight, bias;  // [out to R][in to VL], [out][VL]: of the last chunks
  int chunks = 0;
  std::vector<Row> outside;
};

struct Backward {
  Backward(const Step& s, Partial& partial, int64_t columns, int64_t group_rows)
      : s(s), partial(partial), group_rows(group_rows), packer(s, columns, group_rows * round_up(columns, VL)),
        units(unit_buffers(s, CHUNK)), grads(unit_buffers(s, packer.S)), row_size(round_up(columns, VL) + 2 * VL),
        dense_y(s.F * row_size), grad_y(round_up(s.inputs(), R) * packer.S), transposed(CHUNK * widest_input()) {
    std::memset(dense_y, 0, s.F * row_size * sizeof(float));
  }

  int64_t widest_input() const {
    int64_t widest = 0;
    for (const auto& layer : s.layers) widest = std::max(widest, round_up(layer->in, VL));
    return widest;
  }

  // Gradients of a chunk of packed cells, from p on: of the weights into `partial`, of the perception into `grad_y`.
  void run(int p, int cells) {
    const int last = int(s.layers.size()) - 1;
    const auto input = [&](int i) {
      return i ? Cells<const float>{*units[i - 1], CHUNK} : Cells<const float>{packer.y + p, packer.S};
    };
    for (int i = 0; i < last; ++i)
      dense<Then::relu>(s.layers[i]->forward, s.layers[i]->bias, input(i), nullptr, {*units[i], CHUNK}, cells);
    for (int i = last; i >= 0; --i) {
      const Layer& layer = *s.layers[i];
      const auto grad = i == last ? Cells<const float>{*grads[i] + p, packer.S} : Cells<const float>{*grads[i], CHUNK};
      const int stride = round_up(layer.in, VL);
      transpose(input(i), layer.in, cells, transposed, stride);
      outer(grad, transposed, cells, layer.out, stride, *partial.weight[i]);
      if (layer.has_bias)
        for (int o = 0; o < layer.out; ++o) add_lanes(*partial.bias[i] + o * VL, grad.at + o * grad.stride, cells);
      if (i) dense<Then::gate>(layer.backward, nullptr, grad, *units[i - 1], {*grads[i - 1], CHUNK}, cells);
      else dense<Then::nothing>(layer.backward, nullptr, grad, nullptr, {grad_y + p, packer.S}, cells);
    }
    if (++partial.chunks == FOLD) partial.fold();
  }

  void rows(const float* x, const float* grad, float* grad_x, int64_t begin, int64_t end) {
    for_samples(s, begin, end, [&](int64_t sample, int64_t r0, int64_t r1) {
      const int64_t first = sample * s.C * s.plane();
      for (int64_t c = 0; c < s.C; ++c) {
        const int64_t at = first + c * s.plane() + r0 * s.W;
        std::memcpy(grad_x + at, grad + at, (r1 - r0) * s.W * sizeof(float));
      }
      for (int64_t c0 = 0; c0 < s.W; c0 += TILE) {
        const int64_t c1 = std::min(s.W, c0 + TILE);
        packer.begin(x + first, r0, c0, c1);
        for (int64_t group = r0; group < r1; group += group_rows) {
          const int64_t group_end = std::min(r1, group + group_rows);
          packer.forget();
          for (int64_t row = group; row < group_end; ++row) pack_row(sample, row, grad + first, c0, c1);
          for (int p = 0; p < packer.count; p += CHUNK) run(p, std::min(CHUNK, packer.count - p));
          for (int64_t row = group; row < group_end; ++row) spread_row(sample, row, row - group, grad_x + first, r0, r1, c0, c1);
        }
      }
    });
  }

  void pack_row(int64_t sample, int64_t row, const float* grad, int64_t c0, int64_t c1) {
    const Blocks& batch = packer.pack_row(sample, row, 0, true);
    const float* g = grad + s.frozen * s.plane() + row * s.W + c0;
    float* packed = *grads.back();
    for (int64_t c = s.frozen; c < s.C; ++c, g += s.plane(), packed += packer.S)
      for (const Block& block : batch)
        append(packed + block.from, load_some(g + block.offset, c1 - c0 - block.offset), block.bits);
  }

  // Gradient of a profile at column q of the tile (and the VL - 1 after it), from that of the filters in dense_y.
  template <class T>
  T profile_grad(int profile, int64_t q) const {
    T total{};
    for (const Step::Use& use : s.uses[profile]) {
      const float* from = dense_y + use.filter * row_size + VL + q - use.shift;
      if constexpr (sizeof(T) == sizeof(float)) total += use.weight * *from;
      else total += use.weight * load(from);
    }
    return total;
  }

  // Adds what the perception of a row owes to the rows above, at and below it: the transposed filters.
  void spread_row(int64_t sample, int64_t row, int64_t in_group, float* grad_x, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    float* target[3];  // of rows row - 1, row, row + 1: channel 0; null when outside of a canvas that is no torus
    int64_t plane[3];
    for (int i = 0; i < 3; ++i) {
      const int64_t to = s.wrap(row + i - 1);
      const bool lost = !s.circular && to != row + i - 1, own = to >= r0 && to < r1;
      target[i] = lost ? nullptr : own ? grad_x + to * s.W : partial.outside_row(sample, to);
      plane[i] = own ? s.plane() : s.W;
    }
    const int64_t before = c0 > 0 ? c0 - 1 : s.circular ? s.W - 1 : -1, after = c1 < s.W ? c1 : s.circular ? 0 : -1;
    const int64_t per_row = (c1 - c0 + VL - 1) / VL, width = c1 - c0;
    const Block *begin = packer.blocks.data() + in_group * per_row, *end = begin + per_row;
    for (int64_t c = 0; c < s.C; ++c) {
      for (int64_t f = 0; f < s.F; ++f) {
        const float* from = grad_y + (f * s.C + c) * packer.S;
        float* to = dense_y + f * row_size + VL;
        for (const Block* block = begin; block < end; ++block) store(to + block->offset, expanded(from + block->from, block->bits));
      }
      for (int64_t q = 0; q < width; q += VL) {  // gradient of the profiles around columns c0 + q ...
        const vf smooth = profile_grad<vf>(0, q), slope = profile_grad<vf>(1, q), cell = profile_grad<vf>(2, q);
        const vf owed[3] = {smooth - slope, 2 * smooth + cell, smooth + slope};
        for (int i = 0; i < 3; ++i)
          if (target[i]) add_some(target[i] + c * plane[i] + c0 + q, owed[i], width - q);
      }
      for (const auto [q, column] : {std::pair{int64_t(-1), before}, std::pair{width, after}}) {
        if (column < 0) continue;
        const float smooth = profile_grad<float>(0, q), slope = profile_grad<float>(1, q), cell = profile_grad<float>(2, q);
        const float owed[3] = {smooth - slope, 2 * smooth + cell, smooth + slope};
        for (int i = 0; i < 3; ++i)
          if (target[i]) target[i][c * plane[i] + column] += owed[i];
      }
    }
  }

  const Step& s;
  Partial& partial;
  const int64_t group_rows;
  Packer packer;
  const std::vector<std::unique_ptr<Buffer>> units, grads;  // of every layer: outputs, and gradients of the outputs
  const int64_t row_size;
  Buffer dense_y;  // gradient of one channel's filters along a row, [F][row_size], columns from VL on, zeros around
  Buffer grad_y;   // gradient of the packed cells' perception, [inputs][packer.S]
  Buffer transposed;
};

// --- the two operators ----------------------------------------------------------------------------------------------

// Asks for large pages before a tensor is first written: fewer page faults, and rows of many channels lie in many pages.
void prefer_large_pages(const at::Tensor& t) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t PAGE = uintptr_t(1) << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.data_ptr()), end = begin + t.nbytes();
  const uintptr_t first = (begin + PAGE - 1) / PAGE * PAGE, last = end / PAGE * PAGE;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: may be refused
#endif
}

// states[j] = x after (j + 1) * every steps.
void advance(const at::Tensor& x, const at::Tensor& params, const at::Tensor& fire, const at::Tensor& stencils, at::IntArrayRef layers,
             int64_t frozen, bool circular, int64_t seed, int64_t origin_row, int64_t origin_column, int64_t first_sample,
             int64_t first_step, at::Tensor states, int64_t every) {
  Step s(x, params, fire, stencils, layers, frozen, circular, seed, origin_row, origin_column, first_sample);
  const int64_t size = x.numel(), steps = states.size(0) * every;
  const at::Tensor scratch = every > 1 ? at::empty_like(x) : at::Tensor();
  prefer_large_pages(states);
  if (scratch.defined()) prefer_large_pages(scratch);
  const float* from = x.data_ptr<float>();
  for (int64_t n = 0; n < steps; ++n) {
    s.step = uint32_t(first_step + n);
    float* state = states.data_ptr<float>() + n / every * size;
    float* to = (every - 1 - n % every) % 2 ? scratch.data_ptr<float>() : state;  // the last of `every` lands in states
    for_shares(s, share_count(s), [&](int64_t, int64_t begin, int64_t end) { Forward(s, std::min(s.W, TILE)).rows(from, to, begin, end); });
    from = to;
  }
}

// grad_x = gradient of x when one step is taken from x and `grad` is that of its result; grad_params is added to.
void retreat(const at::Tensor& x, const at::Tensor& grad, const at::Tensor& params, const at::Tensor& fire, const at::Tensor& stencils,
             at::IntArrayRef layers, int64_t frozen, bool circular, int64_t seed, int64_t origin_row, int64_t origin_column,
             int64_t first_sample, int64_t step, at::Tensor grad_x, at::Tensor grad_params) {
  Step s(x, params, fire, stencils, layers, frozen, circular, seed, origin_row, origin_column, first_sample);
  s.step = uint32_t(step);
  const int64_t shares = share_count(s), columns = std::min(s.W, TILE);
  float* out = grad_x.data_ptr<float>();
  std::vector<std::unique_ptr<Partial>> partials(shares);
  for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) {
    partials[i] = std::make_unique<Partial>(s);
    const int64_t group_rows = std::clamp<int64_t>(GROUP / columns, 1, end - begin);
    Backward(s, *partials[i], columns, group_rows).rows(x.data_ptr<float>(), grad.data_ptr<float>(), out, begin, end);
    partials[i]->fold();
  });
  for (const auto& partial : partials) {
    for (const auto& row : partial->outside)
      for (int64_t c = 0; c < s.C; ++c) {
        float* to = out + (row.sample * s.C + c) * s.plane() + row.row * s.W;
        const float* from = *row.grad + c * s.W;
        for (int64_t i = 0; i < s.W; ++i) to[i] += from[i];
      }
    for (int64_t i = 0; i < s.parameters(); ++i) grad_params.data_ptr<double>()[i] += partial->total[i];
  }
}

}  // namespace
}  // namespace nca_fast

TORCH_LIBRARY(NCA_FAST_NAMESPACE, m) {
  m.def("advance(Tensor x, Tensor params, Tensor fire, Tensor stencils, int[] layers, int frozen, bool circular, int seed, "
        "int origin_row, int origin_column, int first_sample, int first_step, Tensor(a!) states, int every) -> ()", &nca_fast::advance);
  m.def("retreat(Tensor x, Tensor grad, Tensor params, Tensor fire, Tensor stencils, int[] layers, int frozen, bool circular, "
        "int seed, int origin_row, int origin_column, int first_sample, int step, Tensor(a!) grad_x, Tensor(b!) grad_params) -> ()", &nca_fast::retreat);
}
