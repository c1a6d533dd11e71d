"""How fast is a rollout, forward and with gradients, against stock PyTorch and torch.compile of it?

    python -m bench.rollout --device cpu            all sizes, peak memory; a result file under bench/results
    python -m bench.rollout --device cpu --quick    half a minute: what `make demo` shows

Parity with the float64 reference is checked first: no speed is printed when it fails.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import torch

from bench.harness import RESULTS, fma_peak, header, interleaved, write_result
from bench.stock import StockNCA
from nca_fast import NCA, rollout
from nca_fast.kernels import rollout_cpu

FORWARD = {128: 64, 256: 32, 1024: 8}  # side of the canvas: steps of one timed rollout
TRAINING = (4, 128, 32)  # batch, side, steps


def automaton() -> NCA:
    """The texture preset with a last layer that is not zero and keeps states of order one."""
    torch.manual_seed(0)
    nca = NCA.preset("texture")
    with torch.no_grad():
        nca.layers[1].weight.normal_(0, 0.005)
    return nca


def operations_per_fired_cell(nca: NCA) -> int:
    """Multiply-adds of the network, two operations each; perception is not counted."""
    return sum(2 * layer.weight.numel() for layer in nca.layers)


def check_parity(nca: NCA) -> dict[str, list[float]]:
    """Errors of fused and plain float32 against the float64 reference: values and every gradient; stops when red."""

    def run(dtype, backend):
        torch.manual_seed(1)
        x = (torch.randn(2, nca.rule.channels, 48, 80) * 0.3).to(dtype).requires_grad_()
        weights = [
            tuple(None if t is None else t.detach().to(dtype, copy=True).requires_grad_() for t in pair)
            for pair in nca.weights
        ]
        y = rollout(x, weights, nca.rule, 6, seed=3, backend=backend)
        y.square().sum().backward()
        return [y.detach(), x.grad] + [t.grad for pair in weights for t in pair if t is not None]

    exact = run(torch.float64, "reference")
    errors = {
        name: [((a.double() - e).norm() / e.norm()).item() for a, e in zip(got, exact, strict=True)]
        for name, got in (
            ("fused", run(torch.float32, "cpu")),
            ("plain float32", run(torch.float32, "reference")),
        )
    }
    for fused, plain in zip(errors["fused"], errors["plain float32"], strict=True):
        if fused > max(2 * plain, 3e-7):
            sys.exit(f"parity is red, no speed is measured: errors {errors}")
    return errors


def contestants(nca: NCA) -> dict:
    """A function (x, steps) -> x for each implementation."""
    stock = StockNCA(nca)
    compiled = torch.compile(stock)

    def repeat(step):
        def run(x, steps):
            for _ in range(steps):
                x = step(x)
            return x

        return run

    return {"eager": repeat(stock), "torch.compile": repeat(compiled), "fused": lambda x, steps: nca(x, steps)}


def time_forward(runs: dict, side: int, steps: int, repeats: int) -> dict:
    """Median cell-steps per second on a side x side canvas."""
    x = torch.randn(1, 12, side, side) * 0.3

    def timed(run):
        def call():
            with torch.no_grad():
                run(x, steps)

        return call

    times = interleaved({name: timed(run) for name, run in runs.items()}, repeats)
    return {name: _rate(t, side * side * steps) for name, t in times.items()}


def time_training(runs: dict, batch: int, side: int, steps: int, repeats: int) -> dict:
    """Median cell-steps per second of a rollout and its gradients in the weights."""
    x = torch.randn(batch, 12, side, side) * 0.3

    def timed(run):
        def call():
            run(x, steps).square().mean().backward()

        return call

    times = interleaved({name: timed(run) for name, run in runs.items()}, repeats)
    return {name: _rate(t, batch * side * side * steps) for name, t in times.items()}


def _rate(times, cell_steps):
    return {
        "cell_steps_per_second": cell_steps / times["median"],
        "spread": [cell_steps / times["max"], cell_steps / times["min"]],
    }


PEAK_MEMORY = """
import re, sys, torch
from bench.rollout import automaton, contestants
nca = automaton()
run = contestants(nca)[sys.argv[1]]
def resident(what):
    return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
x = torch.randn(4, 12, 128, 128) * 0.3
run(x, 1).square().mean().backward()
before = resident("VmRSS") - x.nbytes
open("/proc/self/clear_refs", "w").write("5")
run(x, 96).square().mean().backward()
print(resident("VmHWM") - before)
"""


def peak_memory(name: str) -> int:
    """Bytes that a training rollout of 96 steps, 4 x 128 x 128, takes at most, its input included; Linux only."""
    result = subprocess.run([sys.executable, "-c", PEAK_MEMORY, name], capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1])


def show(title: str, rates: dict, note: str = "") -> None:
    """Prints one comparison."""
    eager = rates["eager"]["cell_steps_per_second"]
    print(f"\n{title}")
    for name, rate in rates.items():
        speed, (low, high) = rate["cell_steps_per_second"], rate["spread"]
        line = f"  {name:<14} {speed / 1e6:8.2f} million cell-steps/s  ({low / 1e6:.2f} to {high / 1e6:.2f})"
        print(f"{line}  {speed / eager:5.1f} x eager{note if name == 'fused' else ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu"], default="cpu", help="what to measure")
    parser.add_argument("--quick", action="store_true", help="two sizes, no torch.compile, no memory, no result file")
    parser.add_argument("--isa", default="native", help="compile the kernel for another -march, such as haswell (AVX2)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of interleaved timings (default 5)")
    parser.add_argument("--out", type=Path, help="result file (default: bench/results/rollout_cpu_MACHINE.json)")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, but got {options.repeats}.")

    if options.isa != "native":
        load = rollout_cpu.load
        rollout_cpu.load = lambda: load(options.isa)
    nca = automaton()
    facts = header() | {"isa": options.isa}
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, commit {facts['commit']}")
    parity = check_parity(nca)
    print(f"parity is green: worst error {max(parity['fused']):.1e}, plain float32 {max(parity['plain float32']):.1e}")

    runs = contestants(nca)
    if options.quick:
        del runs["torch.compile"]
    repeats = 3 if options.quick else options.repeats
    peak = fma_peak()
    work = operations_per_fired_cell(nca) * nca.rule.fire_rate
    result = {"header": facts, "parity": parity, "fma_peak": peak, "forward": {}, "training": {}}
    for side, steps in {256: 16}.items() if options.quick else FORWARD.items():
        rates = time_forward(runs, side, steps, repeats)
        share = rates["fused"]["cell_steps_per_second"] * work / peak
        result["forward"][side] = rates | {"steps": steps, "share_of_fma_peak": share}
        show(f"forward, {side} x {side}, {steps} steps", rates, f"  ({share:.0%} of the FMA peak)")
    batch, side, steps = (4, 96, 8) if options.quick else TRAINING
    rates = time_training(runs, batch, side, steps, repeats)
    result["training"] = rates | {"batch": batch, "side": side, "steps": steps}
    show(f"forward and backward, {batch} x {side} x {side}, {steps} steps", rates)
    if options.quick:
        return
    state = 4 * 12 * 128 * 128 * 4
    result["peak_memory_bytes"] = {name: peak_memory(name) for name in ("eager", "fused")}
    print("\npeak memory of a training rollout, 4 x 128 x 128, 96 steps")
    for name, size in result["peak_memory_bytes"].items():
        print(f"  {name:<14} {size / 2**20:8.0f} MiB = {size / state:.0f} states")
    machine = re.sub(r"[^a-z0-9]+", "-", facts["cpu"].lower()).strip("-")
    suffix = "" if options.isa == "native" else f"_{options.isa}"
    path = options.out or RESULTS / f"rollout_cpu_{machine}{suffix}.json"
    write_result(path, result)
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
