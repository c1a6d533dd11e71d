// Loops on PyTorch's threads, the only ones there are: a second pool would fight for the cores.
#pragma once

#include <cstdint>

#ifdef NCA_FAST_ATEN  // PyTorch before 2.10
#include <ATen/Parallel.h>
#else
#include <atomic>
#include <exception>
#include <stdexcept>
#endif

namespace nca_fast {

#ifdef NCA_FAST_ATEN

inline int64_t thread_count() { return at::get_num_threads(); }

// visit(i) for 0 <= i < n, in parallel.
template <class Visit>
void parallel_for(int64_t n, const Visit& visit) {
  at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(i);
  });
}

#else

// torch_parallel_for and torch_get_num_threads of PyTorch's stable interface in C; Python finds them. Both return 0, or
// what says that they failed.
struct Threads {
  int32_t (*parallel_for)(int64_t begin, int64_t end, int64_t grain, void (*run)(int64_t, int64_t, void*), void* context);
  int32_t (*count)(uint32_t* count);
};
inline Threads threads;

inline int64_t thread_count() {
  uint32_t count = 1;
  threads.count(&count);
  return count;
}

// visit(i) for 0 <= i < n, in parallel. What it throws does not cross PyTorch, but is thrown here, by the caller's thread.
template <class Visit>
void parallel_for(int64_t n, const Visit& visit) {
  struct Context {
    const Visit& visit;
    std::atomic_flag thrown = ATOMIC_FLAG_INIT;
    std::exception_ptr error = nullptr;
  } context{visit};
  const auto run = [](int64_t begin, int64_t end, void* given) {
    Context& context = *static_cast<Context*>(given);
    try {
      for (int64_t i = begin; i < end; ++i) context.visit(i);
    } catch (...) {
      if (!context.thrown.test_and_set()) context.error = std::current_exception();
    }
  };
  if (threads.parallel_for(0, n, 1, run, &context)) throw std::runtime_error("PyTorch's torch_parallel_for failed");
  if (context.error) std::rethrow_exception(context.error);
}

#endif

}  // namespace nca_fast
