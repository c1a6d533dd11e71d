"""Where does the time of a training iteration go, and how long does one take beside other programs?

    python -m bench.iteration            its parts, CPU milliseconds of one thread, at 48 x 48 and 64 x 64 cells
    python -m bench.iteration --busy 3   whole iterations beside so many busy loops, by how threads wait for each other

It trains the texture of `nca-fast demo` (skimage:brick). Parts are CPU time, which other programs hardly change; whole
iterations are wall time, in processes of their own, because how threads wait is read when PyTorch is loaded; each ends
after some seconds, so that --busy takes five minutes or less. Writes
bench/results/iteration_MACHINE.json, or iteration_busy_MACHINE.json.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from unittest import mock

SIDES, ITERATIONS, WARM = (48, 64), 65, 3
# Of --busy: rounds, of which none begins after so many seconds; iterations of a process, the seconds after which it
# ends, and the iterations that it does in any case.
ROUNDS, ENOUGH, WHOLE, SECONDS, LEAST = 3, 240, 25, 15.0, 3
# How threads wait: libgomp's own default on a machine that is not oversubscribed, never spinning, what nca_fast sets.
WAITING = {
    "OpenMP's default": ({"GOMP_SPINCOUNT": "300000"}, 2),
    "passive": ({"OMP_WAIT_POLICY": "passive"}, 2),
    "as nca_fast sets it": ({}, 2),
    "one thread": ({}, 1),
}


class Enough(Exception):
    """The time is over."""


class Parts:
    """CPU and wall time between marks, by name, of each iteration.

    Args:
        seconds: After so many, counted from the first iteration, the next one raises `Enough`.
    """

    def __init__(self, seconds: float):
        self.iterations: list[dict[str, float]] = []
        self._seconds, self._first = seconds, 0.0
        self._seen = time.process_time()
        self._began = time.perf_counter()

    def begin(self) -> None:
        """A new iteration begins; what passed since the last mark was the loop's."""
        self.mark("all else")
        now = time.perf_counter()
        if self.iterations:
            self.iterations[-1]["wall"] += now - self._began
        if len(self.iterations) > WARM + LEAST and now - self._first > self._seconds:
            raise Enough
        self._began, self._first = now, self._first or now
        self.iterations.append(defaultdict(float))

    def mark(self, name: str) -> None:
        """What passed since the last mark was `name`."""
        now = time.process_time()
        if self.iterations:
            self.iterations[-1][name] += now - self._seen
        self._seen = now


def trained(side: int, threads: int, iterations: int, seconds: float = float("inf")) -> Parts:
    """Trains as the demo does, with marks around the rollout and the losses, forward and backward."""
    from nca_fast import NCA  # before torch, for it says how threads wait

    import torch  # isort: skip
    from nca_fast.systems.texture import Texture
    from nca_fast.systems.texture_settings import TextureConfig, TextureSources
    from nca_fast.training.pool import PoolStep
    from nca_fast.training.session import run_training

    parts, forward, backward, step = Parts(seconds), NCA.forward, torch.Tensor.backward, PoolStep.__call__

    def marked_forward(self, *args, **kwargs):
        if not torch.is_grad_enabled():
            return forward(self, *args, **kwargs)
        parts.mark("all else")
        states = forward(self, *args, **kwargs)
        parts.mark("rollout forward")
        states.register_hook(lambda grad: parts.mark("losses backward"))
        return states

    def marked_backward(self, *args, **kwargs):
        parts.mark("all else")
        backward(self, *args, **kwargs)
        parts.mark("rollout backward")

    def marked_step(self, *args):
        objective = self.objective

        def marked_objective(*args):
            parts.mark("all else")
            terms = objective(*args)
            parts.mark("losses forward")
            return terms

        parts.begin()
        with mock.patch.object(self, "objective", marked_objective):
            return step(self, *args)

    config = TextureConfig(
        image_crop=256,
        image_size=64,
        canvas_size=side,
        iterations=iterations,
        preview_every=iterations,
        threads=threads,
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(NCA, "forward", marked_forward),
        mock.patch.object(torch.Tensor, "backward", marked_backward),
        mock.patch.object(PoolStep, "__call__", marked_step),
        mock.patch.multiple(Texture, draw=lambda *_: None, endured=lambda *_: None, figures=lambda _: {}),
        contextlib.suppress(Enough),
    ):
        run_training(Texture, TextureSources("skimage:brick"), Path(folder) / "run", config, progress=False)
    return parts


def parts_of_an_iteration() -> dict:
    """Mean CPU milliseconds of each part, one thread, by side of the canvas; and the share outside the rollout."""
    found = {}
    for side in SIDES:
        counted = trained(side, 1, ITERATIONS).iterations[WARM:-1]
        names = sorted({name for one in counted for name in one} - {"wall"})
        means = {name: 1000 * statistics.fmean(one[name] for one in counted) for name in names}
        total = sum(means.values())
        outside = 1 - sum(ms for name, ms in means.items() if name.startswith("rollout")) / total
        found[f"{side} x {side}"] = {"ms": means, "total_ms": total, "share_outside_the_rollout": outside}
        print(f"{side} x {side} cells: {total:.1f} CPU ms an iteration, {outside:.1%} outside the rollout")
        for name in names:
            print(f"    {name:<18} {means[name]:6.1f} ms  {means[name] / total:5.1%}")
    return found


def beside_busy_loops(count: int) -> dict:
    """Median wall seconds of an iteration in each round, by how threads wait. Rounds take turns, for loads change."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    seconds = {name: [] for name in WAITING}
    try:
        began = time.perf_counter()
        for number in range(ROUNDS):
            if time.perf_counter() - began > ENOUGH:
                break
            for name, (settings, threads) in WAITING.items():
                own = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
                command = [sys.executable, "-m", "bench.iteration", "--walls", str(threads)]
                done = subprocess.run(command, env=own | settings, check=True, capture_output=True, text=True)
                seconds[name].append(statistics.median(json.loads(done.stdout.splitlines()[-1])))
                print(f"round {number + 1}: {name:<20} {seconds[name][-1]:.3f} s an iteration", flush=True)
    finally:
        for loop in loops:
            loop.kill()
    for name, medians in seconds.items():
        print(f"{name:<20} {min(medians):.3f} s an iteration ({', '.join(f'{m:.3f}' for m in medians)})")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, help="measure whole iterations beside so many busy loops")
    parser.add_argument("--walls", type=int, help=argparse.SUPPRESS)  # threads: what a process of --busy is asked for
    options = parser.parse_args()
    if options.walls is not None:
        parts = trained(64, options.walls, WHOLE, SECONDS)
        print(json.dumps([one["wall"] for one in parts.iterations[WARM:-1]]))
        return

    from bench.harness import RESULTS, header, write_result

    load = os.getloadavg()[0]
    result = parts_of_an_iteration() if options.busy is None else beside_busy_loops(options.busy)
    facts = header() | {"load_before": load}
    machine = re.sub(r"[^a-z0-9]+", "-", facts["cpu"].lower()).strip("-")
    kind = "" if options.busy is None else "busy_"
    write_result(RESULTS / f"iteration_{kind}{machine}.json", {"header": facts, "busy": options.busy, "result": result})


if __name__ == "__main__":
    main()
