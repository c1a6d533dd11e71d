// How the rows of all samples are shared out among threads.
#pragma once

#include <algorithm>

#include "step.h"
#include "threads.h"

namespace nca_fast {

// f(share, first row, end row) in parallel. The cut depends on the sizes and the thread count alone.
template <class Visit>
inline void for_shares(const Step& s, int64_t shares, const Visit& visit) {
  parallel_for(shares, [&](int64_t i) { visit(i, i * s.B * s.H / shares, (i + 1) * s.B * s.H / shares); });
}

inline int64_t share_count(const Step& s) {
  const int64_t enough = std::max<int64_t>(1, s.B * s.H * s.W / 512);  // fewer cells are not worth a thread
  return std::min({thread_count(), enough, s.B * s.H});
}

// f(first row, end row) in parallel, for all rows of all samples.
template <class Visit>
inline void for_rows(const Step& s, const Visit& visit) {
  for_shares(s, share_count(s), [&](int64_t, int64_t begin, int64_t end) { visit(begin, end); });
}

// f(sample) for all samples, in parallel.
template <class Visit>
inline void for_all_samples(const Step& s, const Visit& visit) {
  parallel_for(s.B, visit);
}

// Rows begin .. end of all samples' rows, cut at the samples: f(sample, first row, end row).
template <class Visit>
void for_samples(const Step& s, int64_t begin, int64_t end, const Visit& visit) {
  for (int64_t at = begin; at < end;) {
    const int64_t sample = at / s.H, stop = std::min(end, (sample + 1) * s.H);
    visit(sample, at - sample * s.H, stop - sample * s.H);
    at = stop;
  }
}

}  // namespace nca_fast
