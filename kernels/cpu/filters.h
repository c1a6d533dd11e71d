// The stencils of a rule as sums of vertical profiles of a column, each shifted along the row.
//
// Any filter is such a sum, and the usual ones need few profiles: those of 3x3 share three (smooth, slope, the cell
// itself). For larger filters the columns that are multiples of each other share one, so that a separable filter is one
// profile and a sum along the row, and a Sobel filter of 7x7 has three or four in place of seven columns.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "interface.h"
#include "narrow.h"

namespace nca_fast {

constexpr int FARTHEST = 4;  // rows to either side that a filter of 9x9 sees

// A filter over the profiles of a rule.
struct Correlation {
  struct Term { int profile, shift, slot; };  // slot: of 3x3, where the shifted profile is kept
  int count = 0;
  Term terms[2 * FARTHEST + 1];
  float weights[2 * FARTHEST + 1];
};

// A vertical profile of a wide rule, over sums and differences of the rows above and below:
//     even[0] x[0] + sum over j of even[j] (x[j] + x[-j]) + odd[j] (x[j] - x[-j])
struct Profile {
  enum class Terms { cell, near_even, even, near_odd, odd, all };  // those that are not 0: of the row itself, of its neighbours too, or more

  Terms terms() const {
    const auto any = [](const float* weights, int from, int to) { return std::any_of(weights + from, weights + to, [](float w) { return w != 0; }); };
    const bool is_even = any(even, 0, FARTHEST + 1), is_odd = any(odd, 0, FARTHEST + 1);
    if (is_even && is_odd) return Terms::all;
    if (is_odd) return any(odd, 2, FARTHEST + 1) ? Terms::odd : Terms::near_odd;
    return any(even, 2, FARTHEST + 1) ? Terms::even : any(even, 1, 2) ? Terms::near_even : Terms::cell;
  }

  float even[FARTHEST + 1] = {}, odd[FARTHEST + 1] = {};
};

// visit(integral constants: how many even terms a profile of so many rows to either side has, and how many odd ones, from 1 on).
template <int REACH, class Visit>
NCA_FAST_WITHIN inline void for_terms(Profile::Terms terms, const Visit& visit) {
  constexpr auto n = []<int N>() { return std::integral_constant<int, N>(); };
  switch (terms) {
    case Profile::Terms::cell: return visit(n.template operator()<1>(), n.template operator()<0>());
    case Profile::Terms::near_even: return visit(n.template operator()<2>(), n.template operator()<0>());
    case Profile::Terms::even: return visit(n.template operator()<REACH + 1>(), n.template operator()<0>());
    case Profile::Terms::near_odd: return visit(n.template operator()<0>(), n.template operator()<1>());
    case Profile::Terms::odd: return visit(n.template operator()<0>(), n.template operator()<REACH>());
    case Profile::Terms::all: return visit(n.template operator()<REACH + 1>(), n.template operator()<REACH>());
  }
}

struct Filters {
  explicit Filters(const Rule& rule) : reach(int(rule.size / 2)) {
    for (int64_t f = 0; f < rule.filters; ++f) {
      const float* taps = rule.stencils + f * rule.size * rule.size;
      of.emplace_back();
      if (reach > 1) wide(taps);
      else narrow(taps);
    }
    if (masks == std::vector<uint32_t>{CELL, DIFFERENCE_X, DIFFERENCE_Y}) known = Known::gradient;
    if (masks == std::vector<uint32_t>{CELL, DIFFERENCE_X, DIFFERENCE_Y, LAPLACIAN}) known = Known::gradient_and_laplacian;
    for (const Correlation& filter : of) weights.insert(weights.end(), filter.weights, filter.weights + filter.count);
    for (size_t f = 0; f < masks.size(); ++f)
      for (int i = 0; i < of[f].count; ++i) usual = usual && of[f].weights[i] == usual_weight(masks[f], of[f].terms[i].slot);
    uses.resize(reach > 1 ? profiles.size() : PROFILES);
    for (size_t f = 0; f < of.size(); ++f)
      for (int i = 0; i < of[f].count; ++i) uses[of[f].terms[i].profile].push_back({int64_t(f), of[f].terms[i].shift, of[f].weights[i]});
  }

  // 3x3 over the profiles of narrow.h: a column (a, b, c) of taps as one of them where it is one, else by the first three.
  void narrow(const float* taps) {
    Correlation& filter = of.back();
    uint32_t mask = 0;
    for (int j = 0; j < 3; ++j) {
      const float a = taps[j], b = taps[3 + j], c = taps[6 + j];
      const bool is_above = b == 0 && c == 0, is_below = a == 0 && b == 0;
      float weights[PROFILES] = {(a + c) / 2, (c - a) / 2, b - a - c, 0.f, 0.f};
      if (is_above || is_below) weights[0] = weights[1] = weights[2] = 0, weights[is_above ? 3 : 4] = a + c;
      for (int profile = 0; profile < PROFILES; ++profile)
        if (weights[profile] != 0) {
          const int slot = PROFILES * j + profile;
          add(filter, {profile, j - 1, slot}, weights[profile]);
          mask |= 1u << slot;
        }
    }
    masks.push_back(mask);
    slots_used |= mask;
  }

  void wide(const float* taps) {
    const int size = 2 * reach + 1;
    for (int j = 0; j < size; ++j) {
      float column[2 * FARTHEST + 1];
      for (int i = 0; i < size; ++i) column[i] = taps[i * size + j];
      if (std::any_of(column, column + size, [](float tap) { return tap != 0; })) add_column(column, j - reach);
    }
  }

  static void add(Correlation& filter, Correlation::Term term, float weight) {
    filter.terms[filter.count] = term, filter.weights[filter.count++] = weight;
  }

  // Adds a column as a multiple of a profile that is there, but for roundings, or of a new one.
  void add_column(const float* column, int shift) {
    const int size = 2 * reach + 1;
    for (size_t p = 0; p < columns.size(); ++p) {
      const std::vector<float>& known = columns[p];
      const auto largest = std::max_element(known.begin(), known.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
      const float weight = column[largest - known.begin()] / *largest, limit = std::abs(weight * *largest) * 0x1p-22f;
      bool same = weight != 0;
      for (int i = 0; i < size; ++i) same = same && std::abs(column[i] - weight * known[i]) <= limit;
      if (same) return add(of.back(), {int(p), shift, 0}, weight);
    }
    columns.emplace_back(column, column + size);
    Profile& profile = profiles.emplace_back();
    profile.even[0] = column[reach];
    for (int j = 1; j <= reach; ++j) {
      profile.even[j] = (column[reach + j] + column[reach - j]) / 2;
      profile.odd[j] = (column[reach + j] - column[reach - j]) / 2;
    }
    terms.push_back(profile.terms());
    add(of.back(), {int(profiles.size()) - 1, shift, 0}, 1.f);
  }

  int reach;                      // 1 for 3x3
  Known known = Known::no;
  std::vector<uint32_t> masks;    // of 3x3, by filter: see narrow.h
  bool usual = true;              // whether their weights are usual
  uint32_t slots_used = 0;        // all of them
  std::vector<Correlation> of;    // by filter
  std::vector<float> weights;     // of all filters' terms
  std::vector<Profile> profiles;  // of wide filters
  std::vector<Profile::Terms> terms;  // of those
  std::vector<std::vector<float>> columns;  // the profiles as columns of taps
  struct Use { int64_t filter; int shift; float weight; };
  std::vector<std::vector<Use>> uses;  // the terms of all filters, by profile
};

}  // namespace nca_fast
