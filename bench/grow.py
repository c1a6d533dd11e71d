"""Does a growing automaton mend itself? `python -m bench.grow` trains one and wounds what it has grown.

It has the settings of `nca-fast grow examples/ladybird.png`. An interrupted one goes on where its run lies.

Writes bench/results/grow.json: the error of red, green, blue and alpha of the grown picture, of what is left when a
large circle or its right half is erased, and of what has regrown after as many steps again; for the circle
bench/results/grow_regrowth.png shows them.
"""

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import torch

from bench.harness import RESULTS, header, write_result
from nca_fast import checkpoint
from nca_fast.files import atomic_path
from nca_fast.systems.growing import GROWN, Growing, GrowingConfig, GrowingSources, regrowth, wound
from nca_fast.training.session import run_training

IMAGE = Path(__file__).parents[1] / "examples" / "ladybird.png"
RUN = Path(__file__).parents[1] / "runs" / "bench_grow"
SEEDS = 8  # fire masks with which it is grown and wounded
LONG = 1000  # steps after which it should still be what it was


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=GrowingConfig.iterations, help="of the training")
    parser.add_argument("--threads", type=int, help="of the training (default: PyTorch's choice)")
    parser.add_argument("--run", type=Path, default=RUN, help="folder of the training")
    options = parser.parse_args()
    config = GrowingConfig(iterations=options.iterations, threads=options.threads)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    result = run_training(Growing, GrowingSources(str(IMAGE)), options.run, config, resume=True)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    lines = [json.loads(line) for line in (options.run / "log.jsonl").read_text().splitlines()]
    target = checkpoint.load(options.run / "training.safetensors")[0]["target"]
    with atomic_path(RESULTS / "grow_regrowth.png") as temporary:
        shutil.copyfile(options.run / "regrowth.png", temporary)
    height, width = target.shape[1:]
    half = torch.ones(height, width)
    half[:, width // 2 :] = 0
    errors = {}
    for name, left in (("circle", wound(height, width)), ("right half", half)):
        mended = [regrowth(result.model, target, left, seed=seed) for seed in range(SEEDS)]
        errors[name] = {key: [getattr(m, key) for m in mended] for key in ("before", "damaged", "after")}
    late = regrowth(result.model, target, wound(height, width), steps=LONG)
    blocks = [lines[i : i + 25] for i in range(0, len(lines), 25)]
    report = {
        "header": header(),
        "config": asdict(config),
        "iterations": result.iterations,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps": GROWN,
        "mean_squared_error": {name: {k: mean(v) for k, v in kinds.items()} for name, kinds in errors.items()},
        "by_seed": errors,
        "after_1000_steps": late.before,
        "regrown_1000_steps_after_damage_at_1000": late.after,
        "training_error_by_iteration": [
            [block[-1]["iteration"], mean(line["mse"] for line in block) / config.batch_size] for block in blocks
        ],
    }
    write_result(RESULTS / "grow.json", report)
    for name, kinds in report["mean_squared_error"].items():
        print(f"mean squared error, {name} erased: {', '.join(f'{k} {v:.5f}' for k, v in kinds.items())}")
    print(f"after {LONG} steps {late.before:.5f}; {seconds:.0f} s")


if __name__ == "__main__":
    main()
