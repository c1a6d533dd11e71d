"""Counts what a step costs where there are no kernels: operations, and bytes that they read and write.

On a GPU older than Ampere, or on a device without kernels, `nca_fast.convolutions` serves. It must be no slower than
the automaton that everybody writes (nca_fast/profiling/stock.py). No such GPU is at hand, so this counts: every
operation of ATen that makes or changes numbers is a launch, and moves the bytes of its inputs and outputs. That is a
model: a GPU's convolution with a bias is two launches, and what fits into its cache (`cached`) never reaches memory.

With --time it also measures on this CPU, which is no GPU, interleaved:

    OMP_NUM_THREADS=1 python -m bench.fallback_ops --time
"""

import argparse
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.harness import RESULTS, header, write_result
from nca_fast import NCA, Rule, fire_masks
from nca_fast.profiling.stock import StockNCA

SHAPES = ((4, 64, 64), (1, 256, 256))
KINDS = ("stock", "reference", "convolutions")
STEPS = 32, 64, 96  # what training draws; keys of rows are drawn once for all of them
_CACHED = 1 << 20  # bytes of the memory of an operation that counts as cached: a quarter of a T4's second-level cache


class Counted(TorchDispatchMode):
    """Counts the operations under it: `launches` by name, `bytes` in all, and `cached`, those of small operations."""

    def __init__(self):
        super().__init__()
        self.launches, self.bytes, self.cached = Counter(), 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        name = operation._schema.name.removeprefix("aten::")
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        same_memory = {t.untyped_storage().data_ptr() for t in inputs}
        view = not operation._schema.is_mutable and all(t.untyped_storage().data_ptr() in same_memory for t in outputs)
        if view or name.startswith(("empty", "new_empty", "detach", "lift")):
            return out
        if name.startswith(("copy_", "fill_", "zero_")):
            inputs = inputs[1:]
        elif name == "index_select":  # reads as many numbers as it gives
            inputs = [outputs[0], *inputs[1:]]
        elif name == "index_copy_":  # writes as many as it reads
            outputs = [inputs[-1]]
            inputs = inputs[1:]
        if name == "convolution_backward":  # a launch for each gradient, as the products' backward pass has them
            grad, x, weight = inputs
            grad_x, grad_weight, grad_bias = out
            for result, read in ((grad_x, (grad, weight)), (grad_weight, (grad, x)), (grad_bias, (grad,))):
                if result is not None:
                    self._note(name, (*read, result))
        else:
            self._note(name, inputs + outputs)
        return out

    def _note(self, name, tensors):
        sizes = [min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors]
        memory = {t.untyped_storage().data_ptr(): size for t, size in zip(tensors, sizes, strict=True)}
        self.launches[name] += 1
        self.bytes += sum(sizes)
        self.cached += sum(sizes) if sum(memory.values()) <= _CACHED else 0


def rollouts(rule: Rule, shape: tuple[int, int, int], steps: int, kind: str, gradients: bool) -> Callable[[], Tensor]:
    """Makes a rollout of one kind on a state of a shape (B, H, W), forward or with all gradients."""
    torch.manual_seed(0)
    nca = NCA(rule, init_gain=1.0)
    stock = StockNCA(nca)
    B, H, W = shape
    x = torch.randn(B, rule.channels, H, W) * 0.1

    def forward():
        if kind != "stock":
            return nca(x, steps=steps, seed=0, backend=kind)
        y = x
        for _ in range(steps):
            y = stock(y)
        return y

    def run():
        with torch.set_grad_enabled(gradients):
            y = forward()
            if gradients:
                for t in (*nca.parameters(), *stock.parameters()):
                    t.grad = None
                y.sum().backward()
        return y.detach()

    return run


def count(rule: Rule, shape: tuple[int, int, int], kind: str, gradients: bool, steps: int) -> dict:
    """Counts the operations of a rollout, per step."""
    run = rollouts(rule, shape, steps, kind, gradients)
    with Counted() as counted, patch.object(fire_masks, "_at_once", lambda device: fire_masks._CELLS_ON_GPU):
        run()
    cells = steps * shape[0] * shape[1] * shape[2]
    return {
        "launches": round(counted.launches.total() / steps, 2),
        "bytes_per_cell": round(counted.bytes / cells, 1),
        "bytes_per_cell_beyond_a_cache": round((counted.bytes - counted.cached) / cells, 1),
        "by_operation": {name: round(n / steps, 2) for name, n in counted.launches.most_common() if n > steps / 4},
    }


def timed(rule: Rule, shape: tuple[int, int, int], gradients: bool, steps: int, repeats: int) -> dict:
    """Times all kinds on this CPU, interleaved: seconds of a step that this thread computed, which waits for nobody."""
    runs = {kind: rollouts(rule, shape, steps, kind, gradients) for kind in KINDS}
    seconds = {kind: [] for kind in KINDS}
    for _ in range(repeats + 1):
        for kind, run in runs.items():
            begin = time.thread_time()
            run()
            seconds[kind].append((time.thread_time() - begin) / steps)
    return {k: {"median": statistics.median(t[1:]), "min": min(t[1:]), "max": max(t[1:])} for k, t in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true", help="also measure on this CPU")
    options = parser.parse_args()
    rule, rows, times = NCA.preset("texture").rule, [], []
    for shape in SHAPES:
        for gradients in (False, True):
            for kind, steps in itertools.product(KINDS, STEPS[:1] if gradients else STEPS):
                row = {"shape": shape, "steps": steps, "gradients": gradients, "kind": kind}
                rows.append(row | count(rule, shape, kind, gradients, steps))
                print({k: v for k, v in rows[-1].items() if k != "by_operation"}, flush=True)
            if options.time:
                times.append({"shape": shape, "gradients": gradients, "seconds": timed(rule, shape, gradients, 2, 7)})
                print({kind: round(t["median"] * 1e3, 2) for kind, t in times[-1]["seconds"].items()}, "ms", flush=True)
    result = {"header": header(), "rule": rule.to_json(), "cache_bytes": _CACHED, "counts": rows, "cpu_times": times}
    write_result(RESULTS / "fallback_ops.json", result)


if __name__ == "__main__":
    main()
