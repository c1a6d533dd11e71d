"""What does each part of the C++ kernel take, and what could it take at least? One thread, by doing a part twice.

    python -m bench.kernel_parts                        rollouts forward and with gradients of three rules
    python -m bench.kernel_parts --only texture         those of one rule; --kind training: one kind; ten seconds each
    python -m bench.kernel_parts --quick                few rounds, no file

Cases that were measured replace those of the result file, bench/results/kernel_parts_MACHINE.json, and the others stay.

The kernel is compiled once more, from a copy of its sources in which a loop stands before each part: it does the part
once, or twice where that part's turn has come. What a part costs is how much longer the call then takes. The second
time finds its memory in the caches, so that a part may cost more than that; what the parts leave of the whole is said.
The least is counted, see bench/kernel_least.py, for CPUs with AVX-512 whose 512-bit instructions take two passes.
"""

import argparse
import ctypes
import importlib
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from nca_fast.kernels.cpu import compiler
from torch import Tensor

from bench.harness import RESULTS, header, write_result
from bench.kernel_least import LANES, bound, least
from nca_fast import ops
from nca_fast.profiling.bounds import fma_peak, operations_per_fired_cell, training_operations_per_fired_cell
from nca_fast.profiling.speed import preset_at_work, start_state

# By name: where its statements begin, as (file of kernels/cpu, first words); with third words, those are said before.
DRAW = "bits = any_fire_bits(s, key, sample, row, column, end - at, each.data());"
PARTS = {
    "products: hidden units": [("forward.h", "run_hidden(s, *network, i"), ("backward.h", "run_hidden(s, network, i")],
    "products: updates": [("forward.h", "dense<Then::nothing>((*network)[last]")],
    "products: gradients of weights": [("backward.h", "outer(grad, transposed")],
    "products: gradients of hidden units": [("backward.h", "dense<Then::gate>(layer.backward")],
    "products: gradients of the perception": [
        ("backward.h", "dense<Then::nothing>(layer.backward, nullptr, grad, nullptr, {gr")
    ],
    "perception": [("packer.h", "perceive(batch);\n    if (s.frames")],
    "who fires": [("packer.h", "if (cells) bits &=", DRAW)],
    "packed cells moved": [("packer.h", "for (int p = 0; p < count - done; p += VL) store(y + k * S + p")],
    "rows copied": [("packer.h", "for (int64_t c = 0; c < s.C; ++c) copy_floats(to + c * row_size")],
    "rows written": [("forward.h", "write_row<true>("), ("forward.h", "write_row<false>(to, next")],
    "states saved": [("forward.h", "for (int64_t c = 0; c < s.C; ++c)\n        std::memcpy(state")],
    "who is alive": [
        ("alive.h", "dilate(before, live.data(), was"),
        ("alive.h", "keep_still(sample, live"),
        ("alive.h", "dilate(before, still.data(), certain"),
        ("alive.h", "dilate(before, undecided.data(), compute"),
        ("alive.h", "dilate(before, live.data(), mask"),
        ("alive.h", "above(x, sample, live"),
        ("alive.h", "above(updated, sample, live"),
    ],
    "gradients packed": [("backward.h", "for (const Block& block : batch)\n        append(packed")],
    "inputs transposed": [("backward.h", "transpose(input(i), layer.in")],
    "gradients of biases": [("backward.h", "for (int o = 0; o < layer.out; ++o) add_lanes(*partial.bias")],
    "sums of weights folded": [("backward.h", "partial.fold(sample);\n  }")],
    "gradients put in place": [("backward.h", "place_channel(c, begin")],
    "transposed filters": [
        ("backward.h", "spread_channel(sample, c - 1"),
        ("backward.h", "spread_group(sample, group, "),
    ],
    "gradients begun": [("backward.h", "std::memcpy(grad_x + at, grad + at")],
    "winners of maxima": [("backward.h", "find_winners(row, in_group, batch);")],
}
MOVED = "packed cells moved"  # to the front: none would be if chunks were always full, so that its least is 0
CASES = {"texture": (1, 128, 16), "growing": (4, 64, 16), "vae-mnist": (4, 64, 16)}  # preset: batch, side, steps
KINDS = ["forward", "training"]


def instrumented(folder: Path):
    """Compiles the copy; gives its `rollout` module, and the array of how often each part is done."""
    package = folder / "repeated"
    shutil.copytree(compiler.FOLDER.parent, package)
    names = list(PARTS)
    for name, places in PARTS.items():
        for file, words, *said in places:
            source = package / "cpu" / file
            text = source.read_text(encoding="utf-8")
            if text.count(words) != 1:
                raise ValueError(f"{file} must hold {words!r} once: bring the parts up to date.")
            again = "" if not said else f'{{ asm volatile("" ::: "memory"); {said[0]} }} '
            loop = f"for (int again = {1 if said else 0}; again < nca_fast_again[{names.index(name)}]; ++again) {again}"
            source.write_text(text.replace(words, loop + words), encoding="utf-8")
    simd, rollout = package / "cpu" / "simd.h", package / "cpu" / "rollout.cpp"
    array = f"int nca_fast_again[{len(names)}]"
    declared = f'extern "C" {{ extern __attribute__((visibility("default"))) {array}; }}'
    simd.write_text(simd.read_text().replace("#pragma once", f"#pragma once\n{declared}", 1))
    rollout.write_text(rollout.read_text() + f"\n{array} = {{{', '.join('1' for _ in names)}}};\n")
    sys.path.insert(0, str(folder))
    module = importlib.import_module("repeated.cpu.rollout")
    library = module.build.load("native")
    return module, (ctypes.c_int * len(names)).in_dll(ctypes.CDLL(str(library.path)), "nca_fast_again")


def calls(kernel, preset: str, batch: int, side: int, steps: int) -> dict:
    """Functions without arguments: a rollout forward, and one whose states are saved and its way back."""
    nca = preset_at_work(preset)
    x, rule = start_state(nca, batch, side), nca.rule.kernel_rule
    weights = [(weight.detach(), None if bias is None else bias.detach()) for weight, bias in nca.weights]
    params, _, fire, _, place = ops._kernel_inputs(
        x, weights, nca.rule, None, 1.0, seed=0, first_step=0, origin=(0, 0), canvas_height=None
    )
    packed = kernel.pack_weights(params, rule, "fp32")
    last, states, grad = torch.empty_like(x[None]), torch.empty(steps, *x.shape), torch.randn_like(x)

    def forward() -> Tensor:
        kernel.advance(x, packed, fire, rule, place, last, steps)
        return last

    def training() -> Tensor:
        kernel.advance(x, packed, fire, rule, place, states, 1)
        return kernel.backward(states, grad.clone(), packed, fire, rule, place, kernel.gradient_buffer(packed, x))

    return {"forward": forward, "training": training}


def seconds(call) -> float:
    """CPU time of this thread."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def costs(call, again, rounds: int, names: list[str]) -> tuple[float, dict[str, float]]:
    """Median seconds of a call, and those that doing each of these parts again adds."""
    whole, more = [], {name: [] for name in names}
    for number in range(-1, rounds):
        for k, name in enumerate(names):
            if k % 2 == 0:  # the pace of a machine changes within a second
                once = seconds(call)
            i = list(PARTS).index(name)
            again[i] = 2
            twice = seconds(call)
            again[i] = 1
            if number >= 0:
                whole.append(once), more[name].append(twice - once)
    medians = {name: statistics.median(found) for name, found in more.items()}
    return statistics.median(whole), medians


def measured(kernel, again, preset: str, kind: str, size: tuple[int, int, int], rounds: int) -> dict:
    """One case: the whole, its parts, and what they could take at least; shows them.

    Args:
        kernel, again: As `instrumented` gives them.
        preset: Of the rule.
        kind: "forward" or "training".
        size: Batch, side, steps.
        rounds: Of each part.
    """
    nca, (batch, side, steps) = preset_at_work(preset), size
    counted = least(nca, kind)
    call, per_cell = calls(kernel, preset, *size)[kind], 1e9 / (batch * side * side * steps)
    peak = fma_peak()
    whole, found = costs(call, again, rounds, [name for name in PARTS if name in counted or name == MOVED])
    clock = (peak + fma_peak()) / 2 / (2 * LANES) / 1e9  # in GHz: a multiply-add of 16 numbers a cycle
    operations = operations_per_fired_cell if kind == "forward" else training_operations_per_fired_cell
    whole, products = whole * per_cell, operations(nca) * nca.rule.fire_rate / (2 * LANES) / clock
    print(
        f"{preset}, {kind}: {whole:.1f} ns a cell-step, {products / whole:.0%} of the peak, {clock:.2f} GHz", flush=True
    )
    parts = {}
    for name, took in found.items():
        cycles, unit = bound(counted[name]) if name in counted else (0.0, "nothing")
        parts[name] = {"nanoseconds": took * per_cell, "least_cycles": cycles, "bound": unit}
        print(
            f"    {name:<38} {took * per_cell:6.1f} ns {took * per_cell * clock:6.1f} cycles, {cycles:5.1f} by {unit}"
        )
    rest = whole - sum(part["nanoseconds"] for part in parts.values())
    print(f"    {'all else, and memory that is waited for':<38} {rest:6.1f} ns {rest * clock:6.1f} cycles", flush=True)
    facts = {name: header()[name] for name in ("commit", "changed_files", "date")}
    return facts | {
        "rounds": rounds,
        "gigahertz": clock,
        "nanoseconds": whole,
        "products_at_the_peak": products,
        "parts": parts,
    }


def main() -> None:
    """Measures, and brings bench/results/kernel_parts_MACHINE.json up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds, no file")
    parser.add_argument(
        "--rounds", type=int, default=9, help="of each part, and three times as many forward (default 9)"
    )
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES), help="presets")
    parser.add_argument("--kind", nargs="*", choices=KINDS, default=KINDS, help="forward, training, or both")
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = header()
    path = RESULTS / f"kernel_parts_{re.sub(r'[^a-z0-9]+', '-', facts['cpu'].lower()).strip('-')}.json"
    rules = json.loads(path.read_text())["rules"] if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        kernel, again = instrumented(Path(folder))
        for preset in options.only:
            for kind in options.kind:
                rounds = 3 if options.quick else options.rounds * (3 if kind == "forward" else 1)
                rules[f"{preset}, {kind}"] = measured(kernel, again, preset, kind, CASES[preset], rounds)
    if not options.quick:
        write_result(path, {"header": facts, "rules": rules})


if __name__ == "__main__":
    main()
