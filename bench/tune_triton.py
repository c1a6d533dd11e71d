"""Which sizes of programs are fastest on this GPU, and is the way that the kernels go the right one?

    python -m bench.tune_triton [--out FILE]

Times one forward and one backward step at 128 x 128 x 4 and at 2048 x 2048 over rows per program, and what is decided
without a measurement: one backward launch against two, float32 as three tf32 products, and the forward kernel against
one thread per cell (thread_per_cell.cu, if nvcc is there). Every variant is compared with the default first.
"""

import argparse
import contextlib
import ctypes
import itertools
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import torch

from bench.harness import RESULTS, header, write_result
from bench.rollout import automaton
from nca_fast import ops
from nca_fast.fire_mask import threshold

SIZES = [(4, 128, 128), (1, 2048, 2048)]
ROWS = [2, 4, 8, 16, 32, 64, 128]


class Step:
    """One step of the texture automaton on random states, as the kernels' host side takes it."""

    def __init__(self, kernels, shape, precision, dtype=torch.float32):
        nca = automaton()
        B, H, W = shape
        # automaton() has seeded the generator: all steps of a shape start from the same numbers
        self.kernels, self.cells, self.place = kernels, B * H * W, (7, 0, 0, 0)
        self.about = ops._about(nca.rule.to_json())
        self.fire = threshold(nca.rule.fire_rate, torch.device("cuda"))
        tensors = [t.detach().reshape(-1) for pair in nca.weights for t in pair if t is not None]
        self.weights = kernels.prepare(torch.cat(tensors).cuda(), self.about, precision)
        x = (torch.randn(B, nca.rule.channels, H, W, device="cuda") * 0.3).to(dtype)
        self.x, self.grad = kernels.enter(x), kernels.enter(torch.randn_like(x))
        self.out, self.grad_x = torch.empty_like(self.x), torch.empty_like(self.x)
        self.sums = kernels.gradients(self.weights, self.x)

    def forward(self):
        self.kernels.advance(self.x, self.weights, self.fire, self.about, self.place, 0, self.out[None], 1)
        return [self.out]

    def backward(self):
        self.sums.zero_()
        self.kernels.retreat(
            self.x, self.grad, self.weights, self.fire, self.about, self.place, 0, self.grad_x, self.sums
        )
        return [self.grad_x, self.kernels.total(self.sums, self.weights)]


def timed(run) -> float:
    """Median seconds of a call."""
    from triton.testing import do_bench

    return do_bench(run, warmup=20, rep=60, return_mode="median") / 1e3


def variants(kernels, direction, precision):
    """(description, names to patch in modules of nca_fast.kernels) of everything that is tried."""
    tile = kernels._forward_tile if direction == "forward" else kernels._backward_tile
    yield {}, {}
    for rows in ROWS:
        patched = {tile.__name__: lambda *a, rows=rows: tile(*a)._replace(rows=rows)}
        yield {"rows": rows}, {"rollout_triton": patched}
    if direction == "backward":
        split = (kernels.Pass(True, False, False, True), kernels.Pass(False, True, True, True))
        fused = (kernels.Pass(True, True, True, False),)
        carried = (kernels.Pass(True, True, True, True),)
        for what, passes in (("split", split), ("fused", fused), ("fused, carried", carried)):
            yield {"passes": what}, {"rollout_triton": {"passes": lambda *a, passes=passes: passes}}
    if precision == "fp32":
        for columns in (32, 64):
            products = {"packing_triton": {"product": lambda *a: "tf32x3"}}
            sizes = {"rollout_triton": {"COLUMNS": {"fp32": columns}}}
            yield {"product": "tf32x3", "columns": columns}, products | sizes


def try_out(kernels, direction, precision, shape, change, patches) -> dict:
    """One row: time and error of a variant against the default."""
    with torch.no_grad():
        expected = [t.clone() for t in getattr(Step(kernels, shape, precision), direction)()]
        with contextlib.ExitStack() as stack:
            for module, names in patches.items():
                stack.enter_context(mock.patch.multiple(f"nca_fast.kernels.{module}", **names))
            step = Step(kernels, shape, precision)
            run = getattr(step, direction)
            got = run()
            error = max(((a - e).norm() / e.norm()).item() for a, e in zip(got, expected, strict=True))
            seconds = timed(run)
    rate = step.cells / seconds
    facts = {"direction": direction, "precision": precision, "shape": shape, "change": change}
    return facts | {"seconds": seconds, "cells_per_second": rate, "difference_from_default": error}


def thread_per_cell(kernels, shape) -> dict:
    """The naive kernel's row; its result is compared with the Triton kernel's in float32."""
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
    x = kernels.leave(step.x, nca.rule.channels)
    out, keys = torch.empty_like(x), step.weights.row_keys(step.place, 0, B, H)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, out, w1.detach(), b1.detach(), w2.detach(), keys)]
    below, stream = ctypes.c_ulonglong(int(step.fire)), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

    def run():
        if function(*pointers, below, B, H, W, stream):
            raise RuntimeError("thread_per_cell.cu could not be launched")

    run()
    want = kernels.leave(step.forward()[0], nca.rule.channels)
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
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this needs a GPU that torch sees, but there is none.")
    from nca_fast.kernels import rollout_triton as kernels

    result = {"header": header() | {"gpu": torch.cuda.get_device_name()}, "rows": []}

    def keep(row):
        result["rows"].append(row)
        print(row, flush=True)
        write_result(options.out, result)

    for shape in SIZES:
        if shutil.which("nvcc"):
            keep(thread_per_cell(kernels, shape))
    for precision, direction in itertools.product(("fp16", "bf16", "fp32"), ("forward", "backward")):
        for shape in SIZES:
            for change, patches in variants(kernels, direction, precision):
                try:
                    keep(try_out(kernels, direction, precision, shape, change, patches))
                except Exception as error:  # one that does not compile must not cost the others their numbers
                    keep({"precision": precision, "direction": direction, "change": change, "error": repr(error)[:300]})


if __name__ == "__main__":
    main()
