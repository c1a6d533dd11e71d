"""Which sizes of programs are fastest on this GPU, and is the way that the kernels go the right one?

    python -m bench.tune_triton [--out FILE]
    python -m bench.tune_triton --smoke     tiny, without a GPU in Triton's interpreter: does the script work?

Times one forward and one backward step at 128 x 128 x 4 and at 2048 x 2048 over rows per program, and what is decided
without a measurement: one backward launch against two, float32 as three tf32 products, whole rollouts as CUDA graphs
against single launches, and the forward kernel against one thread per cell (thread_per_cell.cu, if nvcc is there).
Every variant is compared with the default first, and float32 products with the float64 reference.
"""

import argparse
import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from bench.harness import RESULTS, header, write_result
from bench.rollout import automaton
from nca_fast import rollout
from nca_fast.backends import Place
from nca_fast.fire_mask import threshold

SIZES = [(4, 128, 128), (1, 2048, 2048)]
GRAPH_SIZES = [(1, 64, 64), (1, 128, 128), (4, 128, 128), (1, 512, 512), (1, 640, 640), (1, 1024, 1024)]
THREAD_SIZES = [(4, 128, 128), (1, 256, 256), (1, 1024, 1024), (1, 4096, 4096)]
ROWS = [2, 4, 8, 16, 32, 64, 128]
STEPS = 64  # of the rollouts


class Step:
    """One step of the texture automaton on random states, as the kernels' host side takes it."""

    def __init__(self, kernels, shape, precision, dtype=torch.float32):
        nca = automaton()
        B, H, W = shape
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # automaton() has seeded the generator: all steps of a shape start from the same numbers
        self.kernels, self.cells, self.place = kernels, B * H * W, Place(7, 0, 0, 0, 0, 2**32)
        self.rule = nca.rule.kernel_rule
        self.fire = threshold(nca.rule.fire_rate, torch.device(device))
        tensors = [t.detach().reshape(-1) for pair in nca.weights for t in pair if t is not None]
        self.weights = kernels.pack_weights(torch.cat(tensors).to(device), self.rule, precision)
        x = (torch.randn(B, nca.rule.channels, H, W) * 0.3).to(device, dtype)
        self.x, self.grad = kernels.to_layout(x), kernels.to_layout(torch.randn_like(x))
        self.out = torch.empty_like(self.x)
        self.buffer = kernels.gradient_buffer(self.weights, self.x)

    def forward(self):
        self.kernels.advance(self.x, self.weights, self.fire, self.rule, self.place, self.out[None], 1)
        return [self.out]

    def backward(self):
        self.buffer.zero_()
        grad = self.grad.clone()
        grad = self.kernels.backward(self.x[None], grad, self.weights, self.fire, self.rule, self.place, self.buffer)
        return [grad, self.kernels.reduce_gradients(self.buffer, self.weights)]


def timed(run) -> float:
    """Median seconds of a call; without a GPU those of one call, to see that it works."""
    if not torch.cuda.is_available():
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    from triton.testing import do_bench

    return do_bench(run, warmup=20, rep=60, return_mode="median") / 1e3


def variants(single_pass, products, direction, precision, rows):
    """(description, {module of kernels.triton: names to patch}) of everything that is tried."""
    tile = single_pass._forward_tile if direction == "forward" else single_pass._backward_tile
    yield {}, {}
    for count in rows:
        patched = {tile.__name__: lambda *a, count=count: tile(*a)._replace(rows=count)}
        yield {"rows": count}, {single_pass: patched}
    if direction == "backward":
        split = (single_pass.Pass(True, False, False, True), single_pass.Pass(False, True, True, True))
        fused = (single_pass.Pass(True, True, True, False),)
        carried = (single_pass.Pass(True, True, True, True),)
        for what, passes in (("split", split), ("fused", fused), ("fused, carried", carried)):
            yield {"passes": what}, {single_pass: {"passes": lambda *a, passes=passes: passes}}
    if precision == "fp32":
        for columns in (16, 32, 64):
            patches = {products: {"product": lambda *a: "tf32x3"}, single_pass: {"COLUMNS": {"fp32": columns}}}
            yield {"product": "tf32x3", "columns": columns}, patches


def exactly(step) -> torch.Tensor:
    """The state after a step in float64, by the reference."""
    nca = automaton()
    x = step.kernels.from_layout(step.x, nca.rule.channels).double()
    weights = [(w.to(x.device), None if b is None else b.to(x.device)) for w, b in nca.weights]
    return rollout(x, weights, nca.rule, 1, seed=step.place.seed, backend="reference")


def try_out(kernels, direction, precision, shape, change, patches) -> dict:
    """One row: time and error of a variant against the default."""
    with torch.no_grad():
        default = Step(kernels, shape, precision)
        expected = [t.clone() for t in getattr(default, direction)()]
        with contextlib.ExitStack() as stack:
            for module, names in patches.items():
                stack.enter_context(mock.patch.multiple(module, **names))
            step = Step(kernels, shape, precision)
            run = getattr(step, direction)
            got = run()
            error = max(((a - e).norm() / e.norm()).item() for a, e in zip(got, expected, strict=True))
            seconds = timed(run)
        row = {"direction": direction, "precision": precision, "shape": shape, "change": change}
        row |= {"seconds": seconds, "cells_per_second": step.cells / seconds, "difference_from_default": error}
        if direction == "forward" and step.cells <= 1 << 17:
            exact = exactly(step)
            y = kernels.from_layout(got[0], exact.shape[1])
            row["error_against_float64"] = ((y - exact).norm() / exact.norm()).item()
    return row


def graphs_against_launches(shape, precision, steps=STEPS) -> dict:
    """One row: seconds of a whole rollout, and of one with its gradients, replayed and launched step by step.

    It decides `graphs.LARGEST_STATE`, below which rollouts are replayed.
    """
    from nca_fast.kernels.triton import graphs

    nca = automaton()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    nca, x = nca.to(device), (torch.randn(shape[0], nca.rule.channels, *shape[1:]) * 0.3).to(device)

    def forward():
        with torch.no_grad():
            return nca(x, steps, seed=0, backend="triton", precision=precision)

    def training():
        nca(x, steps, seed=0, backend="triton", precision=precision).square().mean().backward()

    row = {"graphs": shape, "precision": precision, "steps": steps, "state_bytes": x.nbytes}
    for what, largest in (("replayed", 1 << 62), ("launched", 0)):
        with mock.patch.multiple(graphs, LARGEST_STATE=largest, _frames=OrderedDict()):
            for name, run in (("forward", forward), ("training", training)):
                for _ in range(3):  # the first is launched, the second makes a frame
                    run()
                row[f"{name}_{what}"] = timed(run)
            row[f"y_{what}"] = forward()
    row["same_bits"] = torch.equal(row.pop("y_replayed"), row.pop("y_launched"))
    return row


def thread_per_cell(kernels, shape) -> dict:
    """The naive kernel's row; its result is compared with the Triton kernel's in float32."""
    from nca_fast.kernels.triton.fire import RowKeys

    source = Path(__file__).with_name("thread_per_cell.cu")
    step, nca = Step(kernels, shape, "fp32"), automaton().cuda()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "thread_per_cell.so"
        major, minor = torch.cuda.get_device_capability()
        command = ["nvcc", "-O3", f"-arch=sm_{major}{minor}", "-shared", "-Xcompiler", "-fPIC", "-o", str(library)]
        subprocess.run([*command, str(source)], check=True)
        function = ctypes.CDLL(str(library)).run
    (w1, b1), (w2, _) = nca.weights
    B, H, W = shape
    x = kernels.from_layout(step.x, nca.rule.channels)
    out, keys = torch.empty_like(x), RowKeys(1, step.x)
    keys.put(step.place)
    keys.make(1)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, out, w1.detach(), b1.detach(), w2.detach(), keys.table)]
    below, stream = ctypes.c_ulonglong(int(step.fire)), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

    def run():
        if function(*pointers, below, B, H, W, stream):
            raise RuntimeError("thread_per_cell.cu could not be launched")

    run()
    want = kernels.from_layout(step.forward()[0], nca.rule.channels)
    error = ((out - want).norm() / want.norm()).item()
    seconds = timed(run)
    facts = {"direction": "forward", "precision": "fp32", "shape": shape, "change": {"kernel": "one thread per cell"}}
    return facts | {
        "seconds": seconds,
        "cells_per_second": step.cells / seconds,
        "difference_from_default": error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "tune_triton.json", help="result file")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; without a GPU in the interpreter")
    options = parser.parse_args()
    sizes, graph_sizes, rows, precisions = SIZES, GRAPH_SIZES, ROWS, ("fp16", "fp32", "bf16")
    if options.smoke:
        sizes, graph_sizes, rows, precisions = [(1, 3, 5)], [(1, 3, 5)], [2], ("fp16", "fp32")
        if not torch.cuda.is_available():
            os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        parser.error("this needs a GPU that torch sees, but there is none.")
    from nca_fast.kernels.triton import products
    from nca_fast.kernels.triton import rollout as kernels
    from nca_fast.kernels.triton.single_pass import steps as single_pass

    facts = header() | {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}
    result = {"header": facts, "rows": []}

    def keep(make, **facts):
        try:
            row = make()
        except Exception as error:  # one that does not compile must not cost the others their numbers
            if options.smoke:
                raise
            row = facts | {"error": repr(error)[:300]}
        result["rows"].append(row)
        print(row, flush=True)
        write_result(options.out, result)

    for shape in THREAD_SIZES:
        if shutil.which("nvcc") and torch.cuda.is_available():
            keep(partial(thread_per_cell, kernels, shape), shape=shape, change={"kernel": "one thread per cell"})
    for shape in graph_sizes:
        steps = 2 if options.smoke else STEPS
        keep(partial(graphs_against_launches, shape, "fp16", steps), precision="fp16", graphs=shape)
    for precision, direction in itertools.product(precisions, ("forward", "backward")):
        for shape in sizes:
            for change, patches in variants(single_pass, products, direction, precision, rows):
                make = partial(try_out, kernels, direction, precision, shape, change, patches)
                keep(make, precision=precision, direction=direction, change=change)


if __name__ == "__main__":
    main()
