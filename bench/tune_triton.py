"""Which sizes of programs are fastest on this GPU, and is the way that the kernels go the right one?

    python -m bench.tune_triton [--out FILE]
    python -m bench.tune_triton --smoke     tiny, without a GPU in Triton's interpreter: does the script work?

    python -m bench.tune_triton --ncu       what Nsight Compute says of both kernels, if it is there

Times the kernels of one forward and one backward step at 4 x 128 x 128 and at 4096 x 4096, by replays of a CUDA graph,
over rows per program (so that there are 1 to 3 times as many programs as fit on the multiprocessors at once), columns
and warps; and what is decided without a measurement: one backward launch against two, programs without spills against
those of fewer instructions, float32 as three tf32 products, whole rollouts as CUDA graphs against single launches, and
the forward kernel against one thread per cell (thread_per_cell.cu, if nvcc is there). Every variant is compared with
the default first, and float32 products with the float64 reference.
"""

import argparse
import contextlib
import csv
import ctypes
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from bench.harness import RESULTS, Rows, gpu_clocks, parsed_for_gpu, replay_seconds
from bench.rollout import automaton
from nca_fast import Rule, rollout
from nca_fast.backends import Place
from nca_fast.fire_masks import threshold
from nca_fast.presets import PRESETS

SIZES = [(4, 128, 128), (1, 4096, 4096)]
GRAPH_SIZES = [
    (1, 64, 64),
    (1, 128, 128),
    (4, 128, 128),
    (1, 512, 512),
    (1, 640, 640),
    (1, 1024, 1024),
    (1, 1440, 1440),
]
THREAD_SIZES = [(4, 128, 128), (1, 256, 256), (1, 1024, 1024), (1, 4096, 4096)]
FIXED_ROWS = (4, 8, 16, 32, 64)
RESIDENT = (1, 2, 3, 4)  # programs that a multiprocessor may hold at once
STEPS = 64  # of the rollouts


class Step:
    """One step of the texture automaton, or of a rule, on random states, launched as the rollout launches it."""

    def __init__(self, kernels, shape, precision, rule=None, dtype=torch.float32):
        from nca_fast.kernels.triton import steps
        from nca_fast.kernels.triton.fire import RowKeys
        from nca_fast.kernels.triton.fire import Step as StepOf

        nca = automaton(rule=rule)
        B, H, W = shape
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # automaton() has seeded the generator: all steps of a shape start from the same numbers
        self.kernels, self.steps, self.cells, self.place = kernels, steps, B * H * W, Place(7, 0, 0, 0, 0, 2**32)
        self.fire = threshold(nca.rule.fire_rate, torch.device(device))
        tensors = [t.detach().reshape(-1) for pair in nca.weights for t in pair if t is not None]
        self.weights = kernels.pack_weights(torch.cat(tensors).to(device), nca.rule.kernel_rule, precision)
        x = torch.randn(B, nca.rule.channels, H, W, device=device) * 0.3
        self.x = kernels.to_layout(x.to(dtype))
        self.out, self.grad = torch.empty_like(self.x), torch.randn_like(self.x)
        self.buffer = kernels.gradient_buffer(self.weights, self.x)
        keys = RowKeys(1, self.x, nca.rule.kernel_rule)
        keys.put(self.place)
        keys.make(1)
        self.step = StepOf(keys.table[0], self.fire, 0)
        if self.weights.scaled:
            self.weights.choose_scale(self.grad)

    def forward(self):
        """Launches the kernel of a step."""
        self.steps.forward_step(self.x, self.out, self.weights, self.step)

    def backward(self):
        """Launches the kernels of a step back."""
        self.steps.backward_step(self.x, self.grad, self.out, self.buffer, self.weights, self.weights.scale, self.step)

    def results(self, direction):
        """What a step gives, forward or backward."""
        self.buffer.sums.zero_()
        getattr(self, direction)()
        gradients = [self.kernels.reduce_gradients(self.buffer, self.weights)[0]] if direction == "backward" else []
        return [self.out.clone(), *gradients]


def rows_to_try(shape, columns) -> list[int]:
    """Rows per program so that the programs fill the GPU once, twice or three times; and powers of two."""
    B, H, W = shape
    strips = B * -(-W // columns)
    # Programs of a strip are as many as rows of programs: rounded so that all of them fit into a wave.
    found = set(FIXED_ROWS)
    for resident in RESIDENT:
        for waves in (1, 2, 3):
            down = max(1, _multiprocessors() * resident * waves // strips)
            found.add(-(-H // down))
    return sorted(rows for rows in found if 1 <= rows <= max(H, 4))


def _multiprocessors():
    return torch.cuda.get_device_properties(0).multi_processor_count if torch.cuda.is_available() else 1


def _bands_of(rows):
    """Makes every program one band of so many rows, in place of `plan.deal`."""
    from nca_fast.kernels.triton.single_pass.plan import Bands

    return lambda rules, strips, H, *rest: Bands(rows, 1, strips * -(-H // rows), False)


def variants(plan, products, direction, precision, shape, smoke):
    """(description, {module of kernels.triton: names to patch}) of what is tried, what matters most first."""
    forward, columns = direction == "forward", plan.COLUMNS[precision]
    written, tile, passes_of = columns - 2 * (not forward), plan.forward_tile, plan.passes
    yield {}, {}
    for count in rows_to_try(shape, written)[: 1 if smoke else None]:
        if forward:
            yield {"rows": count}, {plan: {"forward_tile": lambda *a, count=count: tile(*a)._replace(rows=count)}}
        else:
            yield {"rows": count}, {plan: {"deal": _bands_of(count)}}
    if smoke:
        return
    if not forward:
        for resident in RESIDENT:  # programs of several bands
            count = resident * _multiprocessors()
            yield {"programs": count}, {plan: {"places": lambda *a, count=count: count}}
        yield {"ring": "none of twice the columns"}, {plan: {"_WIDE_RING": {}}}
    for columns, warps in ((32, 4), (64, 2), (64, 8), (128, 4), (128, 8)):
        for count in rows_to_try(shape, columns - 2 * (not forward))[::3]:
            patched = {"forward_tile": lambda *a, sizes=(columns, count, warps): plan.Tile(*sizes)}
            if not forward:
                sizes = {"columns": columns, "warps": warps, "RING": False}
                patched = {
                    "passes": lambda *a, sizes=sizes: tuple(p._replace(**sizes) for p in passes_of(*a)),
                    "deal": _bands_of(count),
                }
            yield {"columns": columns, "warps": warps, "rows": count}, {plan: patched}
    if not forward:
        columns = plan.COLUMNS[precision]
        split = (plan.Pass(True, False, False, True), plan.Pass(False, True, True, True))
        fused = (plan.Pass(True, True, True, False),)
        carried = (plan.Pass(True, True, True, True),)
        # Without a spill on Ampere and later, for those of one launch.
        tight = (plan.Pass(True, False, False, False, chunk=32), plan.Pass(False, True, True, True, columns=32))
        narrow = (plan.Pass(True, True, True, True, NARROW=True),)
        named = {"split": split, "split, nothing spilled": tight, "fused": fused, "fused, carried": carried}
        named["fused, carried, narrow"] = narrow
        if shape[2] == 2 * columns:  # which spills on all but Hopper
            named["fused, ring"] = (plan.Pass(True, True, True, False, columns=2 * columns, RING=True),)
        for what, passes in named.items():
            passes = tuple(p._replace(columns=p.columns or columns) for p in passes)
            yield {"passes": what}, {plan: {"passes": lambda *a, passes=passes: passes}}
    if precision == "fp32":
        for columns in (16, 32, 64):
            patches = {products: {"product": lambda *a: "tf32x3"}, plan: {"COLUMNS": {"fp32": columns}}}
            yield {"product": "tf32x3", "columns": columns}, patches


def spilling(plan, smoke):
    """(rule's name, direction, description, patches) of programs that spill, but are of fewer instructions."""
    tile, passes_of, columns = plan.forward_tile, plan.passes, plan.COLUMNS["fp16"]

    def whole(*arguments):
        sizes = {"columns": columns, "warps": plan.WARPS, "RING": False, "chunk": 64}
        return tuple(p._replace(**sizes) for p in passes_of(*arguments))

    for name in ("style", "style-two-filters"):
        yield name, "forward", {}, {}
        if smoke:
            return
        for carried, warps in ((True, 4), (False, 4), (True, 2), (False, 2)):
            sizes = {"columns": 16 * warps, "warps": warps, "CARRIED": carried}
            patched = {"forward_tile": lambda *a, sizes=sizes: tile(*a)._replace(**sizes)}
            yield name, "forward", sizes, {plan: patched}
    for name in ("clip", "growing", "16 channels"):
        yield name, "backward", {}, {}
        yield name, "backward", {"programs": "of 64 columns"}, {plan: {"passes": whole}}


def exactly(step, rule) -> torch.Tensor:
    """The state after a step in float64, by the reference."""
    nca = automaton(rule=rule)
    x = step.kernels.from_layout(step.x, nca.rule.channels).double()
    weights = [(w.to(x.device), None if b is None else b.to(x.device)) for w, b in nca.weights]
    return rollout(x, weights, nca.rule, 1, seed=step.place.seed, backend="reference")


def try_out(kernels, direction, precision, shape, patches, rule=None) -> dict:
    """One row: time and error of a variant against the default."""
    from nca_fast.kernels.triton import laid_out

    with torch.no_grad():
        expected = Step(kernels, shape, precision, rule).results(direction)
        with contextlib.ExitStack() as stack:
            for module, names in patches.items():
                stack.enter_context(mock.patch.multiple(module, **names))
            laid_out.forget()  # launches that were cut otherwise, here and afterwards
            stack.callback(laid_out.forget)
            step = Step(kernels, shape, precision, rule)
            got = step.results(direction)
            error = max(((a - e).norm() / e.norm()).item() for a, e in zip(got, expected, strict=True))
            row = replay_seconds(getattr(step, direction))
        row |= {"cells_per_second": step.cells / row["seconds"], "difference_from_default": error}
        if direction == "forward" and step.cells <= 1 << 17:
            exact = exactly(step, rule)
            y = kernels.from_layout(got[0], exact.shape[1])
            row["error_against_float64"] = ((y - exact).norm() / exact.norm()).item()
    return row


def timed(run) -> float:
    """Median seconds of a call, launches from Python included."""
    if not torch.cuda.is_available():
        return replay_seconds(run)["seconds"]
    from triton.testing import do_bench

    return do_bench(run, warmup=20, rep=60, return_mode="median") / 1e3


def graphs_against_launches(shape, precision, steps=STEPS) -> dict:
    """One row: seconds of a whole rollout, and of one with its gradients, replayed and launched step by step.

    It decides `graphs.LARGEST_STATE` and `LARGEST_FREE_STATE`, below which rollouts are replayed.
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
        with mock.patch.multiple(graphs, LARGEST_STATE=largest, LARGEST_FREE_STATE=largest, _frames=OrderedDict()):
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
    out, keys = torch.empty_like(x), RowKeys(1, step.x, nca.rule.kernel_rule)
    keys.put(step.place)
    keys.make(1)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, out, w1.detach(), b1.detach(), w2.detach(), keys.table)]
    below, stream = ctypes.c_ulonglong(int(step.fire)), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

    def run():
        if function(*pointers, below, B, H, W, stream):
            raise RuntimeError("thread_per_cell.cu could not be launched")

    run()
    want = kernels.from_layout(step.results("forward")[0], nca.rule.channels)
    error = ((out - want).norm() / want.norm()).item()
    seconds = timed(run)  # a stream of its own cannot be given to it, so it is not captured
    return {"seconds": seconds, "cells_per_second": step.cells / seconds, "difference_from_default": error}


NCU_METRICS = (
    "gpu__time_duration.sum",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "smsp__inst_executed.sum",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    "smsp__average_warp_latency_issue_stalled_long_scoreboard.ratio",
    "smsp__average_warp_latency_issue_stalled_math_pipe_throttle.ratio",
    "launch__registers_per_thread",
    "launch__occupancy_limit_registers",
    "launch__waves_per_multiprocessor",
)


def seen_by_ncu(shape, seconds) -> dict:
    """One row: what Nsight Compute says of a forward and a backward step."""
    if not shutil.which("ncu"):
        return {"skipped": "ncu is not on this machine"}
    command = ["ncu", "--clock-control", "none", "--csv", "--metrics", ",".join(NCU_METRICS)]
    command += ["-k", "regex:step_(fwd|bwd)", "-c", "4", sys.executable, "-m", "bench.tune_triton"]
    command += ["--launch", *map(str, shape)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    lines = [line for line in result.stdout.splitlines() if line.startswith('"')]
    if len(lines) < 2:
        return {"skipped": "ncu may not read the counters", "output": (result.stdout + result.stderr)[-1000:]}
    return {"metrics": list(csv.DictReader(lines))}


def launch(kernels, shape) -> None:
    """Launches a forward and a backward step twice, for a profiler."""
    with torch.no_grad():
        step = Step(kernels, shape, "fp16")
        for _ in range(2):
            step.forward()
            step.backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "tune_triton.json", help="result file")
    parser.add_argument("--seconds", type=float, help="leave out what has not begun by then")
    parser.add_argument("--ncu", action="store_true", help="what Nsight Compute says of both kernels")
    parser.add_argument("--launch", type=int, nargs=3, metavar=("B", "H", "W"), help="two steps, for a profiler")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; without a GPU in the interpreter")
    options, gpu = parsed_for_gpu(parser)
    from nca_fast.kernels.triton import products
    from nca_fast.kernels.triton import rollout as kernels
    from nca_fast.kernels.triton.single_pass import plan

    if options.launch:
        return launch(kernels, options.launch)
    rows = Rows(options.out, options.seconds, clocks=gpu_clocks() if gpu else None)
    sizes, graph_sizes = ([(1, 3, 5)], [(1, 3, 5)]) if options.smoke else (SIZES, GRAPH_SIZES)
    if options.ncu:
        for shape in sizes:
            rows.add(partial(seen_by_ncu, shape, options.seconds or 120), tool="ncu", shape=shape)
        rows.end_run()

    def variants_of(precisions):
        for precision, shape, direction in itertools.product(precisions, sizes, ("forward", "backward")):
            for change, patches in variants(plan, products, direction, precision, shape, options.smoke):
                make = partial(try_out, kernels, direction, precision, shape, patches)
                facts = {"direction": direction, "precision": precision, "shape": shape, "change": change}
                # One that does not compile, or does not fit, is a finding and no failure.
                rows.add(make, lambda row: row["difference_from_default"] < 0.01, finding=True, **facts)

    variants_of(("fp16",))
    for name, direction, change, patches in spilling(plan, options.smoke):
        rule = PRESETS[name]["rule"] if name in PRESETS else Rule(channels=16)
        shape = sizes[0] if options.smoke else (1, 1024, 1024)
        make = partial(try_out, kernels, direction, "fp16", shape, patches, rule)
        facts = {"rule": name, "direction": direction, "precision": "fp16", "shape": shape, "change": change}
        rows.add(make, lambda row: row["difference_from_default"] < 0.01, finding=True, **facts)
    for shape in graph_sizes:
        make = partial(graphs_against_launches, shape, "fp16", 2 if options.smoke else STEPS)
        rows.add(make, lambda row: row["same_bits"])
    variants_of(("fp32",) if options.smoke else ("bf16", "fp32", "tf32"))
    for shape in THREAD_SIZES:
        if shutil.which("nvcc") and gpu:
            facts = {"direction": "forward", "precision": "fp32", "shape": shape}
            rows.add(partial(thread_per_cell, kernels, shape), change={"kernel": "one thread per cell"}, **facts)
    rows.end_run()


if __name__ == "__main__":
    main()
