"""What a device could do at best: its multiply-adds, its memory, and what a step of an automaton asks of them."""

import atexit
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from nca_fast.nca import NCA
from nca_fast.profiling.timing import interleaved, synchronizing

FMA_SOURCE = r"""
#include <chrono>
#include <cstdio>
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float vector __attribute__((vector_size(LANES * 4)));
int main() {
  constexpr int CHAINS = 12;
  constexpr long ROUNDS = 10000000;
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    float sink = 0;
    int threads = 0;
    #pragma omp parallel reduction(+ : sink, threads)
    {
      vector a[CHAINS];
      for (int i = 0; i < CHAINS; ++i) a[i] = vector{} + float(i);
      for (long n = 0; n < ROUNDS; ++n)
        for (int i = 0; i < CHAINS; ++i) a[i] = a[i] * 1.0001f + 0.5f;
      for (int i = 0; i < CHAINS; ++i) sink += a[i][0];
      threads += 1;
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const double rate = 2.0 * threads * ROUNDS * CHAINS * LANES / seconds + 0 * sink;
    if (rate > best) best = rate;
  }
  std::printf("%g\n", best);
}
"""

TRIES = 3  # of a fifth of a second


@cache
def _fma_program(isa):
    """Compiles the measurement of the FMA peak, once; the folder goes with the process."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    source, program = Path(folder.name) / "fma.cpp", Path(folder.name) / "fma"
    source.write_text(FMA_SOURCE, encoding="ascii")
    flags = ["-O3", f"-march={isa}", "-ffast-math", "-fopenmp", "-std=c++17"]
    subprocess.run([os.environ.get("CXX", "c++"), *flags, str(source), "-o", str(program)], check=True)
    return program


def fma_peak(isa: str = "native") -> float:
    """Measured float32 multiply-adds of all threads in registers, counted as two operations each, per second.

    It takes some 0.6 s, and is measured beside every speed: a virtual machine's clock follows its neighbours. The best
    of three tries: whatever else a core does for a moment halves one.

    Args:
        isa: The -march that the program is compiled for, which decides on the vectors.
    """
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    program = str(_fma_program(isa))
    env = os.environ | threads
    tries = [subprocess.run([program], capture_output=True, text=True, check=True, env=env) for _ in range(TRIES)]
    return max(float(done.stdout) for done in tries)


def copy_bandwidth(device: str = "cuda") -> float:
    """Bytes per second that a device reads and writes in a large copy."""
    a = torch.ones(1 << (30 if device == "cuda" else 28), dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    t = interleaved({"copy": lambda: b.copy_(a)}, 10, synchronizing(device))["copy"]
    return 2 * a.nbytes / t["median"]


def matrix_rate() -> float:
    """Operations per second of a GPU in a large float16 matrix product of random numbers."""
    a, b = (torch.randn(8192, 8192, dtype=torch.float16, device="cuda") for _ in "ab")
    t = interleaved({"product": lambda: a @ b}, 10, synchronizing("cuda"))["product"]
    return 2 * 8192**3 / t["median"]


def operations_per_fired_cell(nca: NCA) -> int:
    """Multiply-adds of the network, two operations each; perception is not counted."""
    return sum(2 * layer.weight.numel() for layer in nca.layers)


def training_operations_per_fired_cell(nca: NCA) -> int:
    """Those of a step forward and back: two products more for each layer, and the hidden units once more."""
    return 3 * operations_per_fired_cell(nca) + sum(2 * layer.weight.numel() for layer in nca.layers[:-1])
