// Makes all launches of a step in one call; together.py calls it by the addresses of what it has laid out.
#include <cstdint>

namespace {

// The signature of cuLaunchKernel: function, blocks, threads of a block, shared memory, stream, arguments, extra.
using Launcher = int(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);

struct Launch {
  void* function;
  int32_t first, count;  // its arguments among the values
  uint32_t blocks[3], threads, shared;
};

struct Change {
  int32_t value, address;  // a value that is one of the step's addresses
};

struct Step {
  Launcher* launcher;
  void* stream;
  const Launch* launches;
  const Change* changes;
  uint64_t* values;  // arguments, each in eight bytes, of which little-endian machines read the first
  int32_t launch_count, change_count;
  int32_t failed;  // number of the launch that failed
};

}  // namespace

// Launches a step on other addresses: 0, or what the first launch that failed returned; none is made after it.
extern "C" int nca_fast_launch(Step* step, const uint64_t* addresses) {
  for (int32_t i = 0; i < step->change_count; ++i)
    step->values[step->changes[i].value] = addresses[step->changes[i].address];
  for (int32_t n = 0; n < step->launch_count; ++n) {
    const Launch& l = step->launches[n];
    void* arguments[64];
    for (int32_t i = 0; i < l.count; ++i) arguments[i] = step->values + l.first + i;
    const int status = step->launcher(l.function, l.blocks[0], l.blocks[1], l.blocks[2], l.threads, 1, 1, l.shared,
                                      step->stream, arguments, nullptr);
    if (status != 0) {
      step->failed = n;
      return status;
    }
  }
  return 0;
}
