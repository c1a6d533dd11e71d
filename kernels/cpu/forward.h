// A forward step over some rows, one after the other: packs the cells that fire, runs them through the network, and writes the
// rows of the new state, or passes them on to the stage that takes the next step, see chain.h.
#pragma once

#include "ahead.h"
#include "packer.h"

namespace nca_fast {

// [out][CHUNK] for every layer but the last.
struct Units {
  explicit Units(const Step& s) {
    for (size_t i = 0; i + 1 < s.shape().size(); ++i) of.push_back(std::make_unique<Buffer>(round_up(s.shape()[i].out, R) * CHUNK));
  }
  float* operator[](size_t layer) const { return *of[layer]; }
  std::vector<std::unique_ptr<Buffer>> of;
};

// Runs hidden layer i on a chunk of cells; what its activation takes is kept in `input`, unless null.
inline void run_hidden(const Step& s, const Network& network, size_t i, Cells<const float> in, float* units, float* input, int cells, Ahead& ahead) {
  const Layer& layer = network[i];
  if (s.activations[i].is(Function::relu)) return dense<Then::relu>(layer.forward, layer.bias, in, nullptr, {units, CHUNK}, cells, ahead);
  dense<Then::nothing>(layer.forward, layer.bias, in, nullptr, {units, CHUNK}, cells, ahead);
  apply(s.activations[i], {units, CHUNK}, input, layer.out, cells);
}

constexpr int ENOUGH = 2 * CHUNK;      // packed cells that run through the network at once: few enough to stay in L1
constexpr int ROOM = 3 * CHUNK + VL;   // for these, and for some that ran before: to be moved to the front costs time, too

// One step, row by row.
struct Stage {
  // For tiles of at most `columns`. `cells`: the only ones to update; null for all.
  Stage(const Step& step, int64_t columns, const Bits* cells, const Units& units)
      : s(step), wait(2 + 4 * CHUNK / columns), packer(s, columns, ROOM, wait, false, false), units(units),
        capacity(round_up((wait + 1) * columns + CHUNK, VL) + V * VL + VL), u(round_up(s.written() * (s.by_channel ? 2 : 1), R) * capacity + V * VL),
        blocks_of_row(round_up(columns, VL) / VL), blocks(wait * blocks_of_row), ends(wait) {
    packer.cells = cells;
  }

  // A tile is about to come: rows r0 to r1, columns c0 to c1. What is written goes to the next stage, or else to `state`; with
  // both, `state` gets the rows and columns of `own`. `from`: the sample that its rows come from, or null for another stage.
  struct Area { int64_t r0, r1, c0, c1; };
  void begin(int64_t sample, Area tile, Area own_area, const float* from, Stage* next_or_null, float* sample_of_state) {
    network = &s.network(sample), area = tile, own = own_area, canvas = from, next = next_or_null, state = sample_of_state;
    packer.begin(sample, tile.c0, tile.c1);
    packer.count = packer.done = 0, computed = first = 0;
    written = row = tile.r0;
    for (int64_t r = row - s.reach; r < row + s.reach; ++r)
      if (s.beyond(r, s.H)) packer.clear_row(r);
  }

  void turn_to(uint32_t step) { s.step = step; }

  // Keeps the first rows that are passed on, as many as a cell sees beside its own, where `repeat` finds them.
  void keep_first(Buffer& rows) { kept = rows; }

  bool has_written(int64_t rows) const { return written >= area.r0 + rows; }

  // Passes on rows that another stage kept, as those that follow the last one.
  void repeat(const float* rows) {
    for (int64_t r = area.r1; r < area.r1 + 2 * s.reach; ++r, rows += s.C * next->packer.row_size) {
      std::memcpy(next->packer.tile_row(r) - VL, rows, s.C * next->packer.row_size * sizeof(float));
      next->arrive(r);
    }
  }

  // Row `at` of the old state is in place, after those before it.
  void arrive(int64_t at) {
    while (row < area.r1 && (row + s.reach <= at || (s.beyond(row + s.reach, s.H) && at == s.H - 1))) {
      for (int64_t r = row + s.reach; r > at; --r) packer.clear_row(r);
      process();
    }
  }

  void finish() {
    if (packer.waiting()) run(packer.waiting());
    flush();
  }

  // Computes the cells of a row, or leaves some for the next one.
  void process() {
    packer.look(row);
    ask_ahead();
    int64_t block = slot(row) * blocks_of_row;
    for (int64_t at = 0; at < packer.width;) {
      at = packer.pack(at, packer.width, packer.done + ENOUGH, [&](int64_t, uint32_t bits, int place) { blocks[block++] = {bits, computed + place - packer.done}; });
      if (packer.waiting() >= CHUNK) run(packer.waiting() / CHUNK * CHUNK);
    }
    ends[slot(row)] = computed + packer.waiting();
    ++row;
    if (packer.waiting() && row - written == wait) run(packer.waiting());  // no room for another row that waits
    flush();
  }

  // While the cells of a row are computed: for the next row to be copied, and where this one will be written.
  void ask_ahead() {
    const int64_t from = std::max<int64_t>(area.c0, 0), to = std::min(area.c1, s.W), next_row = row + s.reach + 1;
    ahead.begin(to - from);
    if (canvas && row + 1 < area.r1 && !s.beyond(next_row, s.H)) ahead.add(canvas + s.source(next_row, s.H) * s.W + from, s.C, s.plane(), false);
    if (state && row >= own.r0 && row < own.r1) ahead.add(state + s.source(row, s.H) * s.W + from, s.C, s.plane(), true);
  }

  // Updates the first packed cells.
  void run(int cells) {
    if (computed - first + round_up(cells, VL) + V * VL > capacity) keep_waiting();
    const size_t last = network->size() - 1;
    for (int p = 0; p < cells; p += CHUNK) {
      Cells<const float> in{packer.y + packer.done + p, packer.S};
      const Cells<float> out{u + (computed - first + p), capacity};
      const int n = std::min(CHUNK, cells - p);
      for (size_t i = 0; i < last; in = {units[i++], CHUNK}) run_hidden(s, *network, i, in, units[i], nullptr, n, ahead);
      dense<Then::nothing>((*network)[last].forward, (*network)[last].bias, in, nullptr, out, n, ahead);
      if (!s.activations[last].is(Function::identity)) apply(s.activations[last], out, nullptr, s.written(), n);
      if (packer.end_row > packer.noise_row) add_extras(out, p, n);
    }
    computed += cells;
    packer.drain(cells, ENOUGH + VL);
  }

  NCA_FAST_APART void add_extras(Cells<float> out, int p, int n) const {
    for (int64_t c = 0; c < s.written(); ++c)
      for (int q = 0; q < n; q += VL) {
        const auto packed = [&](int64_t kind) { return load(packer.y + (kind + c) * packer.S + packer.done + p + q); };
        float* to = out.at + c * out.stride + q;
        if (s.update_noise > 0) store(to, load(to) + packed(packer.noise_row));
        if (s.by_channel) store(to + s.written() * out.stride, packed(packer.fires_row));
      }
  }

  // Moves the updates that wait for their row to the front.
  NCA_FAST_APART void keep_waiting() {
    const int64_t from = blocks[slot(written) * blocks_of_row].from;
    for (int64_t c = 0; c < s.written() * (s.by_channel ? 2 : 1); ++c)
      std::memmove(u + c * capacity, u + c * capacity + (from - first), (computed - from) * sizeof(float));
    first = from;
  }

  int64_t slot(int64_t r) const { return uint32_t(r + (wait << 16)) % uint32_t(wait); }

  // Writes the rows of which all cells are computed.
  void flush() {
    for (; written < row && ends[slot(written)] <= computed; ++written) {
      if (!next) write_row<true>(state + s.source(written, s.H) * s.W + area.c0, s.plane());
      else pass_on();
    }
  }

  // Writes a row to the next stage, and to `state` what is its own.
  void pass_on() {
    const int64_t from = area.c0 - next->area.c0;
    float* to = next->packer.tile_row(written) + from;
    write_row<false>(to, next->packer.row_size);
    if (state && written >= own.r0 && written < own.r1)
      for (int64_t c = 0; c < s.C; ++c)
        std::memcpy(state + c * s.plane() + s.source(written, s.H) * s.W + own.c0, to + c * next->packer.row_size + (own.c0 - area.c0), (own.c1 - own.c0) * sizeof(float));
    next->packer.complete_row(written, from, from + packer.width);
    const int64_t size = s.C * next->packer.row_size;
    if (kept && !has_written(2 * s.reach)) std::memcpy(kept + (written - area.r0) * size, to - VL, size * sizeof(float));
    next->arrive(written);
  }

  // Writes a complete row, of which EXACT says that nothing may be written behind it.
  template <bool EXACT>
  void write_row(float* to, int64_t plane) const {
    const float* old = packer.tile_row(written);
    const Waiting* const begin = blocks.data() + slot(written) * blocks_of_row;
    const int64_t width = packer.width;
    const auto put = [&](int64_t i, vf v, float* at) { EXACT ? store_some(at + i, v, width - i) : store(at + i, v); };
    for (int64_t c = 0; c < s.C; ++c, old += packer.row_size, to += plane) {
      const float* const update = u + (c - s.frozen) * capacity - first;
      if (c < s.frozen || ends[slot(written)] == begin->from) copy(old, to, width, c >= s.frozen && s.clamps, put);
      else if (s.residual && !s.by_channel && !s.clamps)
        for (int64_t i = 0; i < width; i += VL) put(i, with_expanded(load(old + i), update + begin[i / VL].from, begin[i / VL].bits), to);
      else
        for (int64_t i = 0; i < width; i += VL) put(i, new_state(load(old + i), update + begin[i / VL].from, begin[i / VL].bits), to);
    }
  }

  template <class Put>
  void copy(const float* old, float* to, int64_t width, bool clamps, const Put& put) const {
    for (int64_t i = 0; i < width; i += VL) put(i, clamps ? s.clamped(load(old + i)) : load(old + i), to);
  }

  // What few rules ask for: a state that its update replaces, channels that do not fire, a clamp.
  NCA_FAST_APART vf new_state(vf old, const float* update, uint32_t bits) const {
    const vf fires = s.by_channel ? expanded(update + s.written() * capacity, bits) : ones(bits);
    const vf u = expanded(update, bits), v = fires != 0 ? s.residual ? old + u : u : old;
    return s.clamps ? s.clamped(v) : v;
  }

  Step s;
  const int64_t wait;  // rows that may wait for their last cells
  Packer packer;
  const Units& units;
  const int64_t capacity;
  Buffer u;  // updates of the cells of rows that wait, [written][capacity], and where `by_channel` which of them fire
  const int64_t blocks_of_row;
  struct Waiting { uint32_t bits; int64_t from; };  // of VL columns: those that fire, and the number of the first of them
  std::vector<Waiting> blocks;                      // [wait][blocks_of_row]
  std::vector<int64_t> ends;                        // [wait]: the number behind a row's last cell
  const Network* network = nullptr;                 // of the sample at hand
  Area area{}, own{};
  const float* canvas = nullptr;
  Stage* next = nullptr;
  float* state = nullptr;
  float* kept = nullptr;
  Ahead ahead;
  int64_t row = 0, written = 0;       // the next one to compute, and to write
  int64_t computed = 0, first = 0;    // numbers of cells, in the order of packing: the next one to compute, and the first in `u`
};

}  // namespace nca_fast
