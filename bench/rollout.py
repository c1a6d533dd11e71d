"""How fast is a rollout, forward and with gradients, against stock PyTorch and torch.compile of it?

    python -m bench.rollout --device cpu            all sizes, peak memory; a result file under bench/results
    python -m bench.rollout --device cpu --quick    half a minute: what `make demo` shows
    python -m bench.rollout --device cuda --precision fp16 --channels 16 --state bf16    on a GPU, some four minutes
    python -m bench.rollout --device cuda --smoke   the same with tiny sizes, without a GPU on the CPU: does it work?

Parity with the float64 reference is checked first: no speed is printed when it fails. On the CPU the FMA peak is
measured before and after each speed, and what a cell costs beside products is the time of the same rule with one
hidden unit.
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import torch
from nca_fast.kernels.cpu import build

from bench.harness import RESULTS, header, write_result
from nca_fast import NCA, Rule
from nca_fast.backends import PRECISIONS
from nca_fast.profiling.bounds import (
    copy_bandwidth,
    fma_peak,
    matrix_rate,
    operations_per_fired_cell,
    training_operations_per_fired_cell,
)
from nca_fast.profiling.memory import peak_device_memory, peak_memory
from nca_fast.profiling.parity import check_parity
from nca_fast.profiling.speed import (
    at_work,
    contestants,
    preset_at_work,
    rates,
    start_state,
    time_forward,
    time_training,
)
from nca_fast.profiling.stock import StockNCA

# (batch, side of the canvas, steps) of one timed rollout
FORWARD = {
    "cpu": [(1, 128, 64), (1, 256, 32), (1, 1024, 8)],
    "cuda": [(4, 128, 64), (1, 256, 64), (1, 1024, 32), (1, 4096, 8)],
}
TRAINING = {"cpu": [(4, 128, 32)], "cuda": [(4, 128, 64), (1, 256, 64), (1, 1024, 32), (1, 4096, 4)]}
SMOKE = [(1, 8, 5)]
RULES = ("style", "growing", "vae-mnist")  # presets of larger rules that are measured too, on the CPU
STATES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def automaton(channels: int = 12, rule: Rule | None = None) -> NCA:
    """The texture preset, or a rule, with a last layer that is not zero and keeps states of order one."""
    torch.manual_seed(0)
    return at_work(NCA(rule or Rule(channels=channels)))


def time_iterations(runs: dict, x: torch.Tensor, steps: int, repeats: int, parameters: dict) -> dict:
    """Median cell-steps per second of whole training iterations: rollout, loss, gradients, a step of Adam.

    Args:
        parameters: Those that each implementation trains.
    """

    def timed(run, trained):
        # A rate of zero, so that all repeats run on the same automaton.
        optimizer = torch.optim.Adam(trained, lr=0.0)

        def call():
            optimizer.zero_grad()
            run(x, steps).float().square().mean().backward()
            optimizer.step()

        return call

    return rates({name: timed(run, parameters[name]) for name, run in runs.items()}, x, steps, repeats)


def show(title: str, rates: dict, note: str = "") -> None:
    """Prints one comparison."""
    eager = rates["eager"]["cell_steps_per_second"] if "eager" in rates else None
    print(f"\n{title}")
    for name, rate in rates.items():
        speed, (low, high) = rate["cell_steps_per_second"], rate["spread"]
        line = f"  {name:<14} {speed / 1e6:8.2f} million cell-steps/s  ({low / 1e6:.2f} to {high / 1e6:.2f})"
        times = f"  {speed / eager:5.1f} x eager" if eager else ""
        print(f"{line}{times}{note if name == 'fused' else ''}")


def measure_cuda(options) -> None:
    """The comparison on a GPU, written after every size, so that a cut-off run leaves what it had."""
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    if not gpu:  # --smoke
        options.precision = options.state = "fp32"
    facts = header() | {"precision": options.precision, "state": options.state, "channels": options.channels}
    facts |= {"gpu": torch.cuda.get_device_name() if gpu else None, "cuda": torch.version.cuda or torch.version.hip}
    print(f"{facts['gpu']}, torch {facts['torch']}, triton {facts['triton']}, commit {facts['commit']}")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.precision != "fp32"
    nca = automaton(options.channels).to(device)
    parity = check_parity(nca, device, options.precision)
    print(f"parity is green: worst error {max(parity['fused']):.1e}, plain PyTorch {max(parity['plain']):.1e}")
    stock = StockNCA(nca).to(device)
    runs = contestants(nca, options.precision, stock)
    trained = {name: list((nca if name == "fused" else stock).parameters()) for name in runs}
    bandwidth, rate = (copy_bandwidth(), matrix_rate()) if gpu else (1.0, 1.0)
    name = f"rollout_{facts['gpu']}_{options.channels}ch_{options.precision}_{options.state}".lower()
    path = options.out or RESULTS / (re.sub(r"[^a-z0-9_]+", "-", name) + ".json")
    result = {"header": facts, "parity": parity, "copy_bytes_per_second": bandwidth, "fp16_flops": rate}
    state = STATES[options.state]
    kinds = (("training", time_training), ("forward", time_forward), ("iteration", time_iterations))
    for kind, time_it in kinds:
        result[kind] = []
        sizes = {"forward": FORWARD, "training": TRAINING, "iteration": {"cuda": TRAINING["cuda"][:1]}}[kind]["cuda"]
        for batch, side, steps in SMOKE if options.smoke else sizes:
            x = (torch.randn(batch, options.channels, side, side, device=device) * 0.3).to(state)
            now = dict(runs)
            if kind != "forward" and side >= 4096:  # what stock PyTorch saves would not fit
                now = {"fused": runs["fused"]}
            more = (trained,) if kind == "iteration" else ()
            rates = time_it(now, x, steps, options.repeats, *more)
            speed = rates["fused"]["cell_steps_per_second"]
            row = {"batch": batch, "side": side, "steps": steps, "rates": rates}
            # Of states read and written, and of the network's products: forward, and with the backward pass's.
            states, products = (2, 1) if kind == "forward" else (5, 3.8)
            row["share_of_copy"] = states * x.element_size() * options.channels * speed / bandwidth
            row["share_of_matrix_rate"] = products * operations_per_fired_cell(nca) * speed / rate
            if kind == "training":
                row["state_bytes"] = x.nbytes
                row["peak_memory_bytes"] = {n: peak_device_memory(run, x, steps) for n, run in now.items() if gpu}
            result[kind].append(row)
            show(f"{kind}, {batch} x {side} x {side}, {steps} steps", rates)
            write_result(path, result)
    print(f"\nwrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="what to measure")
    parser.add_argument("--quick", action="store_true", help="two sizes, no torch.compile, no memory, no result file")
    parser.add_argument("--smoke", action="store_true", help="on a GPU, or in its place: tiny sizes")
    parser.add_argument("--isa", default="native", help="compile the kernel for another -march, such as haswell (AVX2)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="on a GPU (default fp16)")
    parser.add_argument("--state", choices=list(STATES), default="fp32", help="on a GPU (default fp32)")
    parser.add_argument("--channels", type=int, default=12, help="on a GPU (default 12)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of interleaved timings (default 5)")
    parser.add_argument("--out", type=Path, help="result file (default: bench/results/rollout_cpu_MACHINE.json)")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, but got {options.repeats}.")
    if options.device == "cuda":
        if not torch.cuda.is_available() and not options.smoke:
            parser.error("--device cuda needs a GPU that torch sees, but there is none.")
        measure_cuda(options)
    else:
        measure_cpu(options)


def beside_peak(timed, nca: NCA, trains: bool, options) -> tuple[dict, dict]:
    """What `timed` gives, and the share of the FMA peak, measured before and after, that its "fused" reaches."""
    peaks = [fma_peak(options.isa)]
    rates = timed()
    peaks.append(fma_peak(options.isa))
    count = training_operations_per_fired_cell if trains else operations_per_fired_cell
    work = count(nca) * nca.rule.fire_rate * rates["fused"]["cell_steps_per_second"]
    return rates, {"fma_peaks": peaks, "share_of_fma_peak": 2 * work / sum(peaks)}


def measure_rule(name: str, options) -> dict:
    """Shares of the peak of another rule, of which all cells are alive, forward and with gradients; shows them."""
    nca = preset_at_work(name)
    x = start_state(nca, 4, 64)
    runs = {"fused": lambda x, steps: nca(x, steps, seed=0)}
    result = {}
    for kind, time_it in (("forward", time_forward), ("training", time_training)):
        trains = kind == "training"
        rates, share = beside_peak(lambda t=time_it: t(runs, x, 16, options.repeats), nca, trains, options)
        result[kind] = rates | share
        note = f"  ({share['share_of_fma_peak']:.0%} of the FMA peak)"
        show(f"{name}, {kind}, 4 x 64 x 64, 16 steps", rates, note)
    return result


def measure_cpu(options) -> None:
    """The comparison on the CPU."""
    if options.isa != "native":
        load = build.load
        build.load = lambda: load(options.isa)
    nca = automaton()
    facts = header() | {"isa": options.isa}
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, commit {facts['commit']}")
    parity = check_parity(nca)
    print(f"parity is green: worst error {max(parity['fused']):.1e}, plain float32 {max(parity['plain']):.1e}")

    runs = contestants(nca)
    if options.quick:
        del runs["torch.compile"]
    repeats = 3 if options.quick else options.repeats
    result = {"header": facts, "parity": parity, "forward": {}}
    bare = contestants(automaton(rule=replace(nca.rule, hidden=(1,))))["fused"]
    for batch, side, steps in [(1, 256, 16)] if options.quick else FORWARD["cpu"]:
        x = torch.randn(batch, 12, side, side) * 0.3
        rates, share = beside_peak(lambda x=x, steps=steps: time_forward(runs, x, steps, repeats), nca, False, options)
        outside = time_forward({"fused": bare}, x, steps, repeats)["fused"]["cell_steps_per_second"]
        result["forward"][side] = rates | share | {"steps": steps, "nanoseconds_outside_products": 1e9 / outside}
        note = f"  ({share['share_of_fma_peak']:.0%} of the FMA peak; {1e9 / outside:.1f} ns a cell outside products)"
        show(f"forward, {side} x {side}, {steps} steps", rates, note)
    batch, side, steps = (4, 96, 8) if options.quick else TRAINING["cpu"][0]
    x = torch.randn(batch, 12, side, side) * 0.3
    rates, share = beside_peak(lambda: time_training(runs, x, steps, repeats), nca, True, options)
    result["training"] = rates | share | {"batch": batch, "side": side, "steps": steps}
    note = f"  ({share['share_of_fma_peak']:.0%} of the FMA peak)"
    show(f"forward and backward, {batch} x {side} x {side}, {steps} steps", rates, note)
    if options.quick:
        return
    result["rules"] = {name: measure_rule(name, options) for name in RULES}
    state = 4 * 12 * 128 * 128 * 4
    result["peak_memory_bytes"] = {
        name: peak_memory(name, preset="texture", batch=4, size=128, steps=96) for name in ("eager", "fused")
    }
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
