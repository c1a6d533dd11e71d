// Several forward steps at once over a share of the rows, each some rows behind the one before.
//
// A stage takes one step. As soon as a row of the new state is complete, it is written into the rows of the next stage,
// which goes on while it is in cache; only what the last stage makes, and what is asked for, goes to memory. On a torus whose
// rows are not cut into tiles, a stage's rows lie below those of the stage before by as many as a cell sees: the rows that
// it lacks at its end are the first ones of the share below, which keeps them. Elsewhere a stage computes what the later
// ones see beyond a share or tile, once more.
#pragma once

#include "forward.h"
#include "shares.h"

namespace nca_fast {

// Steps that follow each other down the rows.
struct Chain {
  // For up to `most` steps and tiles of `columns`.
  Chain(const Step& s, int64_t most, int64_t columns, const Bits* cells) : reach(s.reach), columns(columns), units(s) {
    const int64_t beside = columns < s.W ? (most - 1) * s.reach : 0;
    for (int64_t i = 0; i < most; ++i) stages.push_back(std::make_unique<Stage>(s, std::min(s.W, columns) + 2 * beside, cells, units));
    const int64_t size = 2 * reach * s.C * stages.front()->packer.row_size;
    for (int64_t i = 0; s.circular && columns >= s.W && i < 2 * (most - 1); ++i) kept.push_back(std::make_unique<Buffer>(size));
  }

  // Takes as many steps of a sample as there are `states` on rows of a torus that is not cut into tiles: states[i], of the
  // sample or null, gets rows r0 + i * reach to r1 + i * reach after step i, but for the last ones, which `finish` computes.
  void begin(uint32_t first_step, const float* x, const std::vector<float*>& states, int64_t sample, int64_t r0, int64_t r1) {
    const Step& s = stages.front()->s;
    steps = int64_t(states.size()), turn = 1 - turn;
    for (int64_t i = steps - 1; i >= 0; --i) {
      const Stage::Area area{r0 + i * reach, r1 + i * reach, 0, s.W};
      stages[i]->turn_to(first_step + uint32_t(i));
      stages[i]->begin(sample, area, area, i ? nullptr : x, i + 1 < steps ? &*stages[i + 1] : nullptr, states[i]);
      if (i + 1 < steps) stages[i]->keep_first(*kept[2 * i + turn]);
    }
    first(x);
    // The share above is in want of the first rows of each stage, as many as a cell sees beside its own; of the last one, they are
    // the end of what its next steps see. A stage makes that many less than the one before.
    for (int64_t i = 0; i < steps; ++i)
      if (!stages[i]->has_written(i ? (steps - i) * 2 * reach : r1 - r0)) stages[i]->finish();
  }

  // Computes the last rows from the first ones of the share below, which may have begun its next steps already.
  void finish(const Chain& below) {
    for (int64_t i = 0; i + 1 < steps; ++i) stages[i]->finish(), stages[i]->repeat(*below.kept[2 * i + turn]);
    stages[steps - 1]->finish();
  }

  // Takes as many steps as there are `states`, from first_step on: states[i], of all samples or null, gets rows begin to end
  // of all samples' rows after step i.
  void rows(uint32_t first_step, const float* x, const std::vector<float*>& states, int64_t begin, int64_t end) {
    const Step& s = stages.front()->s;
    const int64_t steps = int64_t(states.size());
    for (int64_t i = 0; i < steps; ++i) stages[i]->turn_to(first_step + uint32_t(i));
    for_samples(s, begin, end, [&](int64_t sample, int64_t r0, int64_t r1) {
      const int64_t at = sample * s.C * s.plane();
      for (int64_t c0 = 0; c0 < s.W; c0 += columns) {
        const Stage::Area own{r0, r1, c0, std::min(s.W, c0 + columns)};
        for (int64_t i = steps - 1; i >= 0; --i) {
          float* const state = states[i] ? states[i] + at : nullptr;
          stages[i]->begin(sample, around(s, own, (steps - 1 - i) * reach), own, i ? nullptr : x + at, i + 1 < steps ? &*stages[i + 1] : nullptr, state);
        }
        first(x + at);
        for (int64_t i = 0; i < steps; ++i) stages[i]->finish();
      }
    });
  }

  // The area and what is seen from it, so far as it is not a whole row or beyond a canvas that ends.
  static Stage::Area around(const Step& s, Stage::Area own, int64_t reach) {
    Stage::Area area{own.r0 - reach, own.r1 + reach, own.c0, own.c1};
    if (own.c1 - own.c0 < s.W) area.c0 -= reach, area.c1 += reach;
    if (s.padding != Padding::zero) return area;
    return {std::max<int64_t>(area.r0, 0), std::min(area.r1, s.H), std::max<int64_t>(area.c0, 0), std::min(area.c1, s.W)};
  }

  // The first stage takes its rows from the canvas.
  void first(const float* x) {
    Stage& stage = *stages.front();
    for (int64_t r = stage.row - reach; r < stage.row + reach; ++r) stage.packer.copy_row(x, r);
    while (stage.row < stage.area.r1) {
      stage.packer.copy_row(x, stage.row + reach);
      stage.process();
    }
  }

  const int64_t reach, columns;
  int64_t steps = 0;  // that were begun
  int turn = 0;       // which of its two `kept` buffers a stage writes to: another share may still read what was kept before
  std::vector<std::unique_ptr<Buffer>> kept;  // of every stage but the last, twice: [2 * reach][C][row_size]
  const Units units;
  std::vector<std::unique_ptr<Stage>> stages;
};

}  // namespace nca_fast
