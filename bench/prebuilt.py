"""What does the prebuilt C++ kernel lose against one that is compiled for this very CPU?

    python -m bench.prebuilt    some minutes; writes bench/results/prebuilt_cpu_MACHINE.json

Each pair has the same work done by both, one after the other, in turns who is first, on one thread; what is compared is
CPU time, which other programs on the machine disturb less than the clock. A library of an instruction set has the same
options as the one in the wheel, and the same bytes.
"""

import argparse
import re
import statistics
import time
from pathlib import Path

import torch
from nca_fast.kernels.cpu import build, compiler

from bench.harness import RESULTS, cpu_name, header, write_result
from bench.rollout import automaton
from nca_fast.profiling.parity import check_parity

# (side of the canvas, steps)
WORK = [(128, 32), (256, 16)]


def paired(compiled: str, prebuilt: str, call, repeats: int) -> dict:
    """Ratios of CPU time, prebuilt to compiled, of `repeats` pairs: median, quartiles, and the median's rough error."""
    load, ratios, seconds = build.load, [], []

    def spent(isa):
        build.load = lambda: load(isa)
        begin = time.process_time()
        call()
        return time.process_time() - begin

    try:
        for isa in (compiled, prebuilt):
            spent(isa)
        for n in range(repeats):
            order = (compiled, prebuilt) if n % 2 else (prebuilt, compiled)
            times = {isa: spent(isa) for isa in order}
            ratios.append(times[prebuilt] / times[compiled])
            seconds.append(times[compiled])
    finally:
        build.load = load
    low, median, high = statistics.quantiles(ratios, n=4)
    error = 1.25 * (high - low) / 1.35 / repeats**0.5  # of a median, from the quartiles, as if they were normal
    return {"ratio": median, "quartiles": [low, high], "error": error, "compiled_seconds": statistics.median(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60, help="pairs of each size (default 60)")
    parser.add_argument("--compiled", default="native", help="-march of the compiled one (default native)")
    parser.add_argument("--prebuilt", default=compiler.best_variant(), help="that of the prebuilt (default: best)")
    parser.add_argument("--out", type=Path, help="result file (default: bench/results/prebuilt_cpu_MACHINE.json)")
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error(f"--repeats must be at least 2, but got {options.repeats}.")
    torch.set_num_threads(1)
    nca = automaton()
    result = {"header": header(), "compiled": options.compiled, "prebuilt": options.prebuilt, "rows": []}
    load = build.load
    build.load = lambda: load(options.prebuilt)
    result["parity"] = check_parity(nca)
    build.load = load
    for kind in ("forward", "forward and backward"):
        for side, steps in WORK:
            x = (torch.randn(1, 12, side, side) * 0.3).requires_grad_(kind != "forward")

            def call(x=x, steps=steps):
                with torch.set_grad_enabled(x.requires_grad):
                    y = nca(x, steps, seed=0, backend="cpu")
                    if x.requires_grad:
                        y.sum().backward()

            row = {"kind": kind, "side": side, "steps": steps, "repeats": options.repeats}
            row |= paired(options.compiled, options.prebuilt, call, options.repeats)
            result["rows"].append(row)
            print(f"{kind}, {side} x {side}: {row['ratio']:.4f} +- {row['error']:.4f} of the compiled one's time")
    machine = re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")
    suffix = "" if options.compiled == "native" else f"_{options.compiled}"
    write_result(options.out or RESULTS / f"prebuilt_cpu_{machine}{suffix}.json", result)


if __name__ == "__main__":
    main()
