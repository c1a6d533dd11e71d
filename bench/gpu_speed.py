"""How fast are rollouts and whole iterations on a GPU against stock PyTorch, and what bounds them?

    python -m bench.gpu_speed [--out FILE]    what matters most first; --seconds 215 ends it by itself
    python -m bench.gpu_speed --smoke         tiny, without a GPU in Triton's interpreter: does the script work?

In one process, round by round: stock eager convolutions, torch.compile of them, the same eager launches as a CUDA
graph, and the fused rollout. Parity with the float64 reference is checked first; a size of a kind whose parity is red
gets no speed. Beside each figure stand its bounds: memory by the bandwidth of a measured copy, products by the rate of
a measured float16 product, instructions by bench/results/triton_table.json and the clock, launches by what a node of a
graph takes; and the least of them, which is called its bound.
"""

import argparse
import json
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bench.harness import RESULTS, Rows, captured, gpu_clocks, parsed_for_gpu
from bench.population import grouped, population
from bench.rollout import STATES, automaton
from nca_fast import NCA, Rule, rollout
from nca_fast.presets import PRESETS
from nca_fast.profiling.bounds import copy_bandwidth, matrix_rate
from nca_fast.profiling.memory import peak_device_memory
from nca_fast.profiling.parity import check_parity
from nca_fast.profiling.stock import StockNCA
from nca_fast.profiling.timing import interleaved

GRAPH_NODE = 1.3e-6  # seconds that a node of a CUDA graph takes at least, study of launches
PREDICTION_MISSED = 0.7  # of the bound: below, the reason is to be found


class Size(NamedTuple):
    """One comparison."""

    kind: str  # forward, training (with gradients) or iteration (and loss, Adam)
    rule: str  # texture, style, population or a preset
    batch: int
    side: int
    steps: int
    channels: int = 12
    state: str = "fp32"
    precision: str = "fp16"
    stock: bool = True  # whether what stock PyTorch keeps fits into 80 GB
    goal: float | None = None  # cell-steps per second on an H200


SIZES = (
    Size("training", "texture", 4, 128, 64, goal=3.6e9),
    Size("forward", "texture", 1, 4096, 8, goal=36e9),
    Size("training", "texture", 1, 4096, 4, stock=False, goal=10e9),
    Size("iteration", "texture", 4, 128, 64),
    Size("forward", "texture", 4, 128, 64),
    Size("forward", "texture", 1, 16384, 2, stock=False, goal=36e9),
    Size("forward", "texture", 1, 1024, 32),
    Size("training", "texture", 1, 1024, 16),
    Size("training", "style", 1, 512, 16),
    Size("training", "population", 64, 64, 32),
    Size("training", "vae-mnist", 64, 28, 32, channels=8, stock=False),
    Size("forward", "style", 1, 512, 32),
    Size("training", "texture", 4, 128, 64, channels=16),
    Size("training", "texture", 4, 128, 64, state="bf16", precision="bf16"),
    Size("forward", "texture", 1, 4096, 8, state="bf16", precision="bf16"),
    Size("forward", "texture", 1, 4096, 8, channels=16, state="bf16", precision="bf16"),
    Size("training", "texture", 4, 128, 64, precision="fp32"),
    Size("training", "texture", 4, 128, 64, precision="tf32"),
)
SMOKE = (
    Size("training", "texture", 1, 5, 2),
    Size("forward", "style", 1, 3, 1, stock=False),
    Size("training", "population", 2, 4, 1),
    Size("iteration", "vae-mnist", 2, 3, 1, channels=8, stock=False),
)


def model(size: Size, device: str) -> NCA:
    """The automaton of a comparison, with a last layer that is not zero and keeps states of order one."""
    if size.rule in ("texture", "population"):
        return automaton(size.channels).to(device)
    torch.manual_seed(0)
    nca = NCA(PRESETS[size.rule]["rule"])
    with torch.no_grad():
        nca.layers[-1].weight.normal_(0, 0.005)
    return nca.to(device)


def implementations(size: Size, device: str, smoke: bool) -> dict:
    """{name: (function (x, steps) -> x, what it trains)}; the fused one first."""
    nca = model(size, device)
    if size.rule in ("population", "vae-mnist"):  # a rule for every sample
        return _per_sample(size, nca.rule, device)
    found = {"fused": (partial(nca, backend="triton", precision=size.precision), list(nca.parameters()))}
    if not size.stock:
        return found
    stock = StockNCA(nca).to(device)
    dtype = STATES[size.state]

    def repeated(step):
        def run(x, steps):
            with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
                for _ in range(steps):
                    x = step(x)
            return x

        return run

    compiled = torch.compile(stock, **({"backend": "eager"} if smoke else {"dynamic": False}))
    for name, step in (("eager", stock), ("torch.compile", compiled), ("eager, captured", stock)):
        found[name] = (repeated(step), list(stock.parameters()))
    return found


def _per_sample(size, rule, device):
    if size.rule == "population":
        weights = population(rule, size.batch)
    else:
        weights = [
            (torch.randn(size.batch, o, i) * 0.1 / i**0.5, torch.zeros(size.batch, o) if bias else None)
            for o, i, bias in rule.layers
        ]
    weights = [tuple(None if t is None else t.to(device).requires_grad_() for t in pair) for pair in weights]
    trained = [t for pair in weights for t in pair if t is not None]

    def fused(x, steps):
        return rollout(x, weights, rule, steps, backend="triton", precision=size.precision)

    found = {"fused": (fused, trained)}
    if size.stock:
        plain = (lambda x, steps: grouped(x, weights, rule, steps), trained)
        found |= {"eager": plain, "eager, captured": plain}
    return found


def calls(size: Size, found: dict, x: torch.Tensor, gpu: bool) -> tuple[dict, dict]:
    """What is timed of each implementation, and why some are not."""
    runs, missing = {}, {}
    for name, (run, trained) in found.items():
        optimizer = torch.optim.Adam(trained, lr=0.0, fused=gpu, capturable=gpu) if size.kind == "iteration" else None

        def call(run=run, trained=trained, optimizer=optimizer):
            if size.kind == "forward":
                with torch.no_grad():
                    return run(x, size.steps)
            for t in trained:
                t.grad = None
            run(x, size.steps).float().square().mean().backward()
            if optimizer is not None:
                optimizer.step()

        try:
            if name.endswith("captured"):
                if not gpu:
                    raise RuntimeError("there is no GPU")
                call = captured(call)
            call()
            runs[name] = call
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}"[:300]
    return runs, missing


def bounds(size: Size, nca_rule: Rule, machine: dict, table: list) -> dict:
    """Cell-steps per second that memory, products, instructions and launches allow; None where it is not known."""
    gpu = machine.get("copy_bytes_per_second")
    training = size.kind != "forward"
    width = {"fp32": 4, "bf16": 2, "fp16": 2}[size.state] * (-(-nca_rule.channels // 4) * 4)
    operations = sum(2 * o * i for o, i, _ in nca_rule.layers) * (3.8 if training else 1)
    cells, found = size.batch * size.side**2, {}
    # States read and written: forward 2; with the backward pass also the saved one, and gradients read and written.
    found["memory"] = gpu and machine["copy_bytes_per_second"] / (width * (5 if training else 2))
    found["products"] = gpu and machine["fp16_flops"] / operations if size.precision in ("fp16", "bf16") else None
    names = [f"{size.rule} {size.precision}"] + ([f"16 channels {size.precision}"] if size.channels == 16 else [])
    rows = [r for r in table if r["variant"] == names[-1] and r["target"] == "sm_90"]
    instructions = sum(r["warp_instructions_per_cell"] for r in rows if training or r["direction"] == "forward")
    if gpu and instructions:  # four a clock on each multiprocessor
        found["instructions"] = 4 * machine["multiprocessors"] * machine["clock_hz"] / instructions
    launches = (3 if training else 1) * (2 if nca_rule.alive_channel is not None else 1)
    found["launches"] = gpu and cells / (launches * GRAPH_NODE)
    return found


def compare(size: Size, machine: dict, table: list, repeats: int, smoke: bool) -> dict:
    """One row of the result."""
    gpu = torch.cuda.is_available()
    device, row = "cuda" if gpu else "cpu", {}
    if size.rule in ("texture", "style") and not smoke:
        row["parity"] = check_parity(model(size, device), device, size.precision)
    torch.manual_seed(0)
    found = implementations(size, device, smoke)
    channels = PRESETS[size.rule]["rule"].channels if size.rule in PRESETS else size.channels
    rule = Rule(channels=size.channels) if size.rule in ("texture", "population") else PRESETS[size.rule]["rule"]
    x = (torch.randn(size.batch, channels, size.side, size.side, device=device) * 0.3).to(STATES[size.state])
    runs, row["missing"] = calls(size, found, x, gpu)
    if "fused" not in runs:
        raise RuntimeError(row["missing"]["fused"])
    times = interleaved(runs, repeats, torch.cuda.synchronize if gpu else lambda: None)
    cell_steps = size.batch * size.side**2 * size.steps
    row["cell_steps_per_second"] = {name: cell_steps / t["median"] for name, t in times.items()}
    row["spread"] = {name: [cell_steps / t["max"], cell_steps / t["min"]] for name, t in times.items()}
    speed = row["cell_steps_per_second"]
    row["times_as_fast_as"] = {name: speed["fused"] / other for name, other in speed.items() if name != "fused"}
    row["bounds"] = {k: v for k, v in bounds(size, rule, machine, table).items() if v}
    if row["bounds"]:
        row["bound"] = min(row["bounds"], key=row["bounds"].get)
        row["share_of_bound"] = speed["fused"] / row["bounds"][row["bound"]]
        row["far_from_its_bound"] = row["share_of_bound"] < PREDICTION_MISSED
    if size.goal:
        row["share_of_goal"] = speed["fused"] / size.goal
    if size.kind == "training" and gpu:
        row["state_bytes"] = x.nbytes
        row["peak_memory_bytes"] = peak_device_memory(found["fused"][0], x, size.steps)
        row["allowed_bytes"] = (size.steps + 1) * x.nbytes + (256 << 20)
    return row | {"clocks": gpu_clocks() if gpu else None}


def table_of(rows: list[dict]) -> str:
    """The figures as a table in Markdown, each with its bound."""
    lines = ["| what | fused, G cell-steps/s | eager | torch.compile | captured | bound | share |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        if "cell_steps_per_second" not in row:
            continue
        speed = row["cell_steps_per_second"]
        others = (row["times_as_fast_as"].get(n) for n in ("eager", "torch.compile", "eager, captured"))
        what = f"{row['kind']}, {row['rule']}, {row['batch']} x {row['side']}^2 x {row['steps']}"
        what += f", C = {row['channels']}, {row['precision']}, state {row['state']}"
        bound = f"{row['bound']} {row['bounds'][row['bound']] / 1e9:.2f}" if row.get("bound") else "not known"
        share = f"{row['share_of_bound']:.0%}" if row.get("bound") else ""
        cells = [what, f"{speed['fused'] / 1e9:.3g}", *(f"{o:.1f} x" if o else "" for o in others), bound, share]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measured_machine(smoke: bool) -> dict:
    """Bandwidth, matrix rate and clock of the GPU; nothing without one."""
    if not torch.cuda.is_available():
        return {}
    machine = {"copy_bytes_per_second": copy_bandwidth(), "fp16_flops": matrix_rate(), "clocks": gpu_clocks()}
    machine["multiprocessors"] = torch.cuda.get_device_properties(0).multi_processor_count
    megahertz = re.match(r"\d+", machine["clocks"].get("clocks.sm", ""))  # right after the products
    machine["clock_hz"] = 1e6 * int(megahertz[0] if megahertz else 1700)
    return machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_speed.json", help="result file")
    parser.add_argument("--seconds", type=float, help="leave out what has not begun by then")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; without a GPU in the interpreter")
    options, gpu = parsed_for_gpu(parser)
    # What stock PyTorch may do at its best: TF32 and the fastest convolution.
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    machine = measured_machine(options.smoke)
    rows = Rows(options.out, options.seconds, machine=machine)
    table = json.loads((RESULTS / "triton_table.json").read_text())["rows"]
    for size in SMOKE if options.smoke else SIZES:
        make = partial(compare, size, machine, table, 1 if options.smoke else options.repeats, options.smoke)
        rows.add(make, **size._asdict())
        rows.result["table"] = table_of(rows.result["rows"])
    rows.keep({"clocks_at_the_end": gpu_clocks() if gpu else None})
    print(rows.result["table"])
    rows.end_run()


if __name__ == "__main__":
    main()
