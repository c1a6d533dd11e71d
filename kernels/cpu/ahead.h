// Memory that is needed some time later, asked for a few lines at a time.
//
// A core waits for no more than some two dozen lines at once. Rows of many channels are more, so that they come no sooner if
// all of them are asked for just before they are needed; between the register blocks of products there is time for some.
#pragma once

#include <algorithm>
#include <vector>

#include "simd.h"

namespace nca_fast {

constexpr int64_t LINE = 16;         // floats of a line of the cache
constexpr int64_t AT_ONCE = 8 * LINE;  // floats of a channel that are asked for together

class Ahead {
 public:
  // Forgets what was to be asked for: rows of so many columns will follow.
  void begin(int64_t columns) { width = columns, rows.clear(), channel = column = 0; }

  // Of a row of `channels`, `plane` floats apart. Those that are to be written are fetched as such.
  void add(const float* row, int64_t channels, int64_t plane, bool to_write) {
    if (channels > 0 && width > 0) rows.push_back({row, channels, plane, to_write});
  }

  // Asks for the next few lines, those of the row that was added last first.
  void operator()() {
    if (!rows.empty()) ask();
  }

 private:
  NCA_FAST_APART void ask() {
    const Row& row = rows.back();
    const float *from = row.at + channel * row.plane + column, *const end = from + std::min(AT_ONCE, width - column);
    if (row.to_write)
      for (; from < end; from += LINE) __builtin_prefetch(from, 1, 2);
    else
      for (; from < end; from += LINE) __builtin_prefetch(from, 0, 2);
    if (++channel < row.channels) return;
    channel = 0, column += AT_ONCE;
    if (column >= width) column = 0, rows.pop_back();
  }

  struct Row { const float* at; int64_t channels, plane; bool to_write; };
  std::vector<Row> rows;
  int64_t width = 0, channel = 0, column = 0;
};

}  // namespace nca_fast
