"""What all measurements share: interleaved timings, the machine's header, the FMA peak, and result files."""

import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from nca_fast.files import atomic_path

RESULTS = Path(__file__).parent / "results"


def header() -> dict:
    """Machine, software and commit that a number belongs to."""
    root = Path(__file__).parents[1]

    def git(*arguments):
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        return result.stdout.strip() if result.returncode == 0 else None

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "triton": _version("triton"),
        "commit": git("rev-parse", "--short", "HEAD"),
        "changed_files": len((git("status", "--porcelain", "--untracked-files=no") or "").splitlines()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """The CPU as the system names it, with family and model, because a virtual machine may hide the rest."""
    try:
        lines = dict(
            (part.strip() for part in line.split(":", 1))
            for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
            if ":" in line
        )
        return f"{lines['model name']} (family {lines['cpu family']}, model {lines['model']})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int, synchronize: Callable[[], object] = lambda: None
) -> dict[str, dict]:
    """Times every run once per round, so that what disturbs the machine disturbs all of them.

    Args:
        runs: What to time, by name; each is run once before, for compilation and caches.
        repeats: Rounds.
        synchronize: Waits until a device has done what it was told.

    Returns:
        For each name: median, least and greatest seconds.
    """
    for run in runs.values():
        run()
        synchronize()
    seconds = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            synchronize()
            seconds[name].append(time.perf_counter() - begin)
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in seconds.items()
    }


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
  constexpr long ROUNDS = 30000000;
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


def fma_peak() -> float:
    """Measured float32 multiply-adds of all threads in registers, counted as two operations each, per second."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "fma.cpp", Path(folder) / "fma"
        source.write_text(FMA_SOURCE)
        flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-std=c++17"]
        subprocess.run([os.environ.get("CXX", "c++"), *flags, str(source), "-o", str(program)], check=True)
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        result = subprocess.run([str(program)], capture_output=True, text=True, check=True, env=os.environ | threads)
    return float(result.stdout)


def copy_bandwidth() -> float:
    """Bytes per second that a GPU reads and writes in a large copy."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    t = interleaved({"copy": lambda: b.copy_(a)}, 10, torch.cuda.synchronize)["copy"]
    return 2 * a.nbytes / t["median"]


def matrix_rate() -> float:
    """Operations per second of a GPU in a large float16 matrix product of random numbers."""
    a, b = (torch.randn(8192, 8192, dtype=torch.float16, device="cuda") for _ in "ab")
    t = interleaved({"product": lambda: a @ b}, 10, torch.cuda.synchronize)["product"]
    return 2 * 8192**3 / t["median"]


def write_result(path: Path, result: dict) -> None:
    """Writes a result as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
