"""Times of several things that are done in turn."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


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


def synchronizing(device: str) -> Callable[[], object]:
    """What waits until a device has done what it was told."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None
