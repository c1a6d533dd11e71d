// The forward pass over a share of the rows.
#pragma once

#include "packer.h"

namespace nca_fast {

// Rows begin .. end of all samples' rows, cut at the samples: f(sample, first row, end row).
template <class Visit>
void for_samples(const Step& s, int64_t begin, int64_t end, const Visit& visit) {
  for (int64_t at = begin; at < end;) {
    const int64_t sample = at / s.H, stop = std::min(end, (sample + 1) * s.H);
    visit(sample, at - sample * s.H, stop - sample * s.H);
    at = stop;
  }
}

// [out][CHUNK] for every layer; for the last one, whose cells wait to be written back, [out][cells].
inline std::vector<std::unique_ptr<Buffer>> unit_buffers(const Step& s, int64_t cells) {
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (const Layer& layer : s.shape())
    buffers.push_back(std::make_unique<Buffer>(round_up(round_up(layer.out, VL), R) * (&layer == &s.shape().back() ? cells : CHUNK)));
  return buffers;
}

// Runs hidden layer i on a chunk of cells; what its activation takes is kept in `input`, unless null.
inline void run_hidden(const Step& s, const Network& network, size_t i, Cells<const float> in, float* units, float* input, int cells) {
  const Layer& layer = network[i];
  if (s.activations[i].is(Function::relu)) return dense<Then::relu>(layer.forward, layer.bias, in, nullptr, {units, CHUNK}, cells);
  dense<Then::nothing>(layer.forward, layer.bias, in, nullptr, {units, CHUNK}, cells);
  apply(s.activations[i], {units, CHUNK}, input, layer.out, cells);
}

struct Forward {
  // `cells`: the only ones to update; null for all.
  Forward(const Step& s, int64_t columns, const Bits* cells)
      : s(s), packer(s, columns, CHUNK + columns), units(unit_buffers(s, packer.S)), depth(2 + 4 * CHUNK / columns), row_size(round_up(columns, VL)),
        updated(depth * s.C * row_size) {
    packer.cells = cells;
  }

  // Updates the first packed cells.
  void run(int cells) {
    const size_t last = network->size() - 1;
    for (int p = 0; p < cells; p += CHUNK) {
      Cells<const float> in{packer.y + p, packer.S};
      const int n = std::min(CHUNK, cells - p);
      for (size_t i = 0; i < last; in = {*units[i++], CHUNK}) run_hidden(s, *network, i, in, *units[i], nullptr, n);
      dense<Then::nothing>((*network)[last].forward, (*network)[last].bias, in, nullptr, {*units[last] + p, packer.S}, n);
      if (!s.activations[last].is(Function::identity)) apply(s.activations[last], {*units[last] + p, packer.S}, nullptr, s.written(), n);
      for (int64_t c = 0; s.update_noise > 0 && c < s.written(); ++c)
        for (int q = p; q < p + n; q += VL) {
          float* u = *units[last] + c * packer.S + q;
          store(u, load(u) + load(packer.y + (packer.noise_row + c) * packer.S + q));
        }
    }
    const bool adds = s.residual && !s.by_channel;
    if (!adds) put_updates(cells);
    const Blocks& done = packer.drain(cells);
    const float* u = *units[last];
    float* to = updated + s.frozen * row_size;
    for (int64_t c = s.frozen; adds && c < s.C; ++c, u += packer.S, to += row_size)
      for (const Block& block : done) add_expanded(to + block.offset, u + block.from, block.bits);
  }

  // Puts the updates of the first packed cells where they live, channels that do not fire apart.
  NCA_FAST_APART void put_updates(int cells) {
    for (const Block& block : packer.blocks) {
      uint32_t bits = 0, rest = block.bits;
      for (int from = block.from; from < cells && rest; ++from, rest &= rest - 1) bits |= rest & -rest;
      if (!bits) continue;
      for (int64_t c = 0; c < s.written(); ++c) {
        float* to = updated + (s.frozen + c) * row_size + block.offset;
        const vf fires = s.by_channel ? expanded(packer.y + (packer.fires_row + c) * packer.S + block.from, bits) : ones(bits);
        const vf old = load(to), u = expanded(*units.back() + c * packer.S + block.from, bits);
        store(to, fires != 0 ? s.residual ? old + u : u : old);
      }
    }
  }

  void rows(const float* x, float* out, int64_t begin, int64_t end) {
    for_samples(s, begin, end, [&](int64_t sample, int64_t r0, int64_t r1) {
      network = &s.network(sample);
      for (int64_t c0 = 0; c0 < s.W; c0 += s.tile)
        tile(x + sample * s.C * s.plane(), out + sample * s.C * s.plane(), sample, r0, r1, c0, std::min(s.W, c0 + s.tile));
    });
  }

  void tile(const float* x, float* out, int64_t sample, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    packer.begin(x, sample, r0, c0, c1);
    int64_t written = r0;  // rows before it are complete and in `out`
    const auto write_until = [&](int64_t end) {
      for (; written < end; ++written)
        for (int64_t c = 0; c < s.C; ++c) {
          const float* from = row_at(written) + c * row_size;
          float* to = out + c * s.plane() + written * s.W + c0;
          if (!s.clamps || c < s.frozen) std::memcpy(to, from, (c1 - c0) * sizeof(float));
          else
            for (int64_t i = 0; i < c1 - c0; i += VL) store_some(to + i, s.clamped(load(from + i)), c1 - c0 - i);
        }
    };
    for (int64_t row = r0; row < r1; ++row) {
      const float* old = packer.tile_row(row);
      for (int64_t c = 0; c < s.C; ++c) std::memcpy(row_at(row) + c * row_size, old + c * packer.row_size, (c1 - c0) * sizeof(float));
      packer.pack_row(row, row_at(row) - updated, false);
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
  const Network* network = nullptr;  // of the sample at hand
  Packer packer;
  const std::vector<std::unique_ptr<Buffer>> units;
  const int64_t depth, row_size;
  Buffer updated;  // rows that wait for their last cells, in turn: [depth][C][row_size]
};

}  // namespace nca_fast
