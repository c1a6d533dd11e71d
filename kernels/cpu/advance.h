// Steps forward: in what groups the shares of the rows take them, and where the states go.
#pragma once

#include <optional>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "alive.h"
#include "chain.h"

namespace nca_fast {

// Asks for large pages before memory is first written: fewer page faults, and rows of many channels lie in many pages.
inline void prefer_large_pages(const float* memory, int64_t size) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t PAGE = uintptr_t(1) << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory), end = begin + size * sizeof(float);
  const uintptr_t first = (begin + PAGE - 1) / PAGE * PAGE, last = end / PAGE * PAGE;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: may be refused
#endif
}

constexpr int64_t CHAIN = 4;             // the most steps of a chain
constexpr int64_t CHAIN_BYTES = 1 << 19;  // of the rows that its stages keep, so that they stay in L2
constexpr int64_t NARROWEST = 128;        // columns of its tiles, which are a multiple of these

// How many steps the shares take at once, the columns of their tiles, and whether each step's rows lie below those of the
// step before: see chain.h.
struct Plan { int64_t steps, columns; bool leans; };

inline Plan planned(const Step& s, int64_t shares, int64_t steps, bool has_alive_mask) {
  const Plan alone{1, std::min(s.W, s.tile), false};
  if (has_alive_mask || (s.padding != Padding::circular && s.padding != Padding::zero)) return alone;  // a stage would need more than the rows around
  const int64_t rows = s.B * s.H / shares, reach = std::max(s.reach, 1);
  const auto plan = [&](int64_t rows_of_a_step, bool leans) {
    const int64_t most = std::min({CHAIN, steps, 1 + rows / rows_of_a_step});
    const int64_t column_bytes = most * (2 * s.reach + 3) * s.C * int64_t(sizeof(float));
    const int64_t columns = std::max<int64_t>(CHAIN_BYTES / column_bytes / NARROWEST * NARROWEST, NARROWEST);
    return Plan{most, s.W <= columns + columns / 2 ? s.W : columns, leans};
  };
  const bool can_lean = s.circular && (s.B % shares == 0 || shares % s.B == 0);  // shares that are in one sample, or whole ones
  if (const Plan leaning = plan(8 * reach, true); can_lean && leaning.columns == s.W) return leaning.steps > 1 ? leaning : alone;
  const Plan upright = plan(32 * reach, false);  // what is computed twice stays small
  return upright.steps > 1 ? upright : alone;
}

// Steps that follow each other, and where each of their states goes, or null.
struct Group { uint32_t first; const float* from; std::vector<float*> to; };

// Cuts the steps of a call into groups of at most `most`; see `advance`.
inline std::vector<Group> grouped(int64_t first_step, const float* x, float* states, int64_t count, int64_t every, float* scratch, int64_t size, int64_t most) {
  std::vector<Group> groups;
  const float* from = x;
  const auto add = [&](int64_t begin, std::vector<float*> to) {
    groups.push_back({uint32_t(first_step + begin), from, std::move(to)});
    from = groups.back().to.back();
  };
  for (int64_t j = 0; every == 1 && j < count; j += most) {
    std::vector<float*> to;
    for (int64_t i = j; i < std::min(count, j + most); ++i) to.push_back(states + i * size);
    add(j, to);
  }
  for (int64_t j = 0; every > 1 && j < count; ++j) {
    float* const state = states + j * size;
    int64_t parts = (every + most - 1) / most;
    if (from == state) parts += parts % 2;  // the first of them must not write where it reads
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t begin = i * every / parts, end = (i + 1) * every / parts;
      std::vector<float*> to(end - begin);
      to.back() = (parts - 1 - i) % 2 ? scratch : state;
      add(j * every + begin, to);
    }
  }
  return groups;
}

// A share's chain, made when it is first asked for, on the share's own thread.
inline Chain& made(std::unique_ptr<Chain>& chain, const Step& s, Plan plan, const Bits* cells) {
  if (!chain) chain = std::make_unique<Chain>(s, plan.steps, plan.columns, cells);
  return *chain;
}

// Begins the steps of a group on rows r0 to r1 of a sample's torus.
inline void begin_group(Chain& chain, const Step& s, const Group& group, int64_t sample, int64_t r0, int64_t r1) {
  const int64_t at = sample * s.C * s.plane();
  std::vector<float*> to = group.to;
  for (float*& state : to) state = state ? state + at : nullptr;
  chain.begin(group.first, group.from + at, to, sample, r0, r1);
}

// Shares that are each in one sample of a torus take the steps of all groups. They wait for each other once a group: each
// finishes its rows by those that the share below it began with, and begins those of the next group where they end.
inline void advance_leaning(const Step& s, Plan plan, const std::vector<Group>& groups, int64_t shares, std::vector<std::unique_ptr<Chain>>& chains) {
  const int64_t in_sample = shares / s.B;
  int64_t down = 0;  // rows between a share's own and those that its next group begins with
  for (size_t group = 0; group <= groups.size(); ++group) {
    for_shares(s, shares, [&](int64_t i, int64_t first, int64_t end) {
      const int64_t sample = i / in_sample, top = sample * s.H;
      if (group > 0) chains[i]->finish(*chains[sample * in_sample + (i + 1) % in_sample]);
      if (group < groups.size()) begin_group(made(chains[i], s, plan, nullptr), s, groups[group], sample, first - top + down, end - top + down);
    });
    if (group < groups.size()) down = (down + int64_t(groups[group].to.size()) * s.reach) % s.H;
  }
}

// How many steps of a call need no memory for another state.
inline int64_t steps_at_once(const Rule& rule, const Canvas& canvas) {
  const Step s(rule, canvas);
  return planned(s, share_count(s), CHAIN, rule.alive_channel >= 0).steps;
}

// states[j] = x after (j + 1) * every steps, for `count` states; scratch is another one, which may be null where x is not
// states[0] and `every` is at most `steps_at_once`. Where x is states[0], every is even.
inline void advance(const Rule& rule, const Canvas& canvas, int64_t first_step, const float* x, float* states, int64_t count, int64_t every, float* scratch) {
  const Step s(rule, canvas);
  const int64_t size = s.B * s.C * s.plane(), shares = share_count(s);
  prefer_large_pages(states, count * size);
  if (scratch) prefer_large_pages(scratch, size);
  const bool has_mask = rule.alive_channel >= 0;
  const Plan plan = planned(s, shares, count * every, has_mask);
  const std::vector<Group> groups = grouped(first_step, x, states, count, every, scratch, size, plan.steps);
  std::vector<std::unique_ptr<Chain>> chains(shares);
  const auto take = [&](int64_t share, const Bits* cells, const Group& group, int64_t begin, int64_t end) {
    made(chains[share], s, plan, cells).rows(group.first, group.from, group.to, begin, end);
  };
  if (s.B % shares == 0) {  // shares of whole samples need not wait for each other, and a small sample stays in cache
    for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) {
      Step own = s;
      std::optional<Alive> alive;
      if (has_mask) alive.emplace(own);
      for (int64_t sample = begin / s.H; sample < end / s.H; ++sample)
        for (const Group& group : groups) {
          own.step = group.first;
          if (alive) alive->before_step(group.from, sample, false);
          if (plan.leans) {
            Chain& chain = made(chains[i], s, plan, nullptr);
            begin_group(chain, s, group, sample, 0, s.H);
            chain.finish(chain);
            continue;
          }
          take(i, alive ? &alive->compute : nullptr, group, sample * s.H, (sample + 1) * s.H);
          if (!alive) continue;
          alive->after_step(group.to.back(), sample);
          for (int64_t row = 0; row < s.H; ++row) alive->apply_mask(group.to.back(), sample, row);
        }
    });
    return;
  }
  if (plan.leans) return advance_leaning(s, plan, groups, shares, chains);
  Step own = s;
  std::optional<Alive> alive;
  if (has_mask) alive.emplace(own);
  const auto look = [&](const Group& group, int64_t sample) { alive->before_step(group.from, sample, false); };
  own.step = groups.front().first;
  if (alive) for_all_samples(s, [&](int64_t sample) { look(groups.front(), sample); });
  for (size_t n = 0; n < groups.size(); ++n) {
    const Group &group = groups[n], *const next = n + 1 < groups.size() ? &groups[n + 1] : nullptr;
    for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) { take(i, alive ? &alive->compute : nullptr, group, begin, end); });
    if (!alive) continue;
    float* const state = group.to.back();
    const bool apart = s.B < shares;  // too few samples for all threads: then rows are masked by shares of their own
    if (apart) {
      for_all_samples(s, [&](int64_t sample) { alive->after_step(state, sample); });
      for_rows(s, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) alive->apply_mask(state, row / s.H, row % s.H);
      });
    }
    if (next) own.step = next->first;
    // Whatever can be done of a sample by one thread is: to wait for all of them costs as much as some rows.
    if (!apart || next) for_all_samples(s, [&](int64_t sample) {
        if (!apart) alive->after_step(state, sample);
        for (int64_t row = 0; !apart && row < s.H; ++row) alive->apply_mask(state, sample, row);
        if (next) look(*next, sample);
      });
  }
}

}  // namespace nca_fast
