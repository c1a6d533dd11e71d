"""Measures what a step costs in Python where no CUDA graph is used, without a GPU: its launches go to a fake driver.

    OMP_NUM_THREADS=1 python -m bench.launch_cost        writes bench/results/launch_cost.json; compiles for minutes

Kernels are compiled for sm_90 and launched by Triton, through its front end in every step ("front end"), and as
`kernels.triton.launch` repeats them: "one by one" by Triton's own launcher, and all of a step "from C". But the
function that would hand them to the GPU does nothing. What it does, Triton's Python and C and the CUDA driver, some 2
to 4 us a launch, comes on top of the first two; of the third, the driver alone. A rollout has 64 steps; its first step,
for which launches that an earlier rollout left are looked up, the row keys, and the scales of gradients are among them:
"one more" is what each step costs that is added. "from C, listed anew": where no rollout has left any. `gpu` is what
a step takes on an H200 at the least: the bytes that its kernels must read and write, at 4.8 TB/s.
"""

import ctypes
import statistics
import time
from types import SimpleNamespace
from unittest import mock

import torch

from bench.harness import RESULTS, header, write_result
from nca_fast.backends import Place
from nca_fast.fire_masks import threshold
from nca_fast.presets import PRESETS

BANDWIDTH = 4.8e12  # bytes per second, of an H200
STEPS, REPEATS = 64, 15  # of the front end; of the others ten times as many
# Sizes whose states are just above 64 MiB, the largest that is ever replayed as a graph.
CASES = {
    "texture": ("fp16", 1, 1200, 1200),
    "texture fp32": ("fp32", 1, 1200, 1200),
    "growing": ("fp16", 1, 1056, 1056),
    "style": ("fp16", 1, 944, 944),
    "vae-mnist": ("fp16", 64, 184, 184),
    # Weights that differ from step to step are never replayed: a size that is common.
    "texture by step": ("fp16", 4, 128, 128),
    "growing by step": ("fp16", 8, 72, 72),
}


class Launcher:
    """Stands for Triton's function that launches what was compiled; lists what it is given, if told to.

    Attributes:
        noted: A list, while it is told to.
        of_functions: Those of what was loaded, by the function that `Driver` loaded.
        signature: Types of all arguments.
        passed: Of those that the kernel takes.
    """

    noted, of_functions = None, {}

    def __init__(self, source, metadata):
        self.signature, self.metadata = list(source.signature.values()), metadata
        self.passed = [kind for kind in self.signature if kind != "constexpr"]
        Launcher.of_functions[len(Launcher.of_functions) + 1] = self  # the next function that is loaded

    def __call__(self, x, y, z, stream, function, packed, metadata, enter, leave, *arguments):
        if enter is not None:  # as it is done in C, where it takes no longer
            enter(metadata)
        if leave is not None:
            leave(metadata)
        if Launcher.noted is not None:
            Launcher.noted.append(((x, y, z), stream, function, packed, arguments))


class Driver:
    """Stands for Triton's driver of an H200."""

    launcher_cls = Launcher

    def __init__(self):
        from triton.backends.compiler import GPUTarget

        self.target, self.loaded = GPUTarget("cuda", 90, 32), 0
        limits = {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32, "max_num_regs": 65536}
        self.utils = SimpleNamespace(
            load_binary=self.load, unload_module=lambda module: None, get_device_properties=lambda device: limits
        )

    def load(self, name, binary, shared, device):
        self.loaded += 1
        return self.loaded, self.loaded, 0, 0, 1024

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 7

    def __getattr__(self, name):
        raise AttributeError(f"the fake driver has no {name}")


def use_the_fake_driver() -> None:
    """Lets Triton launch through `Driver` from now on."""
    import triton

    triton.runtime.driver.set_active(Driver())


def rollouts(name: str):
    """Makes functions (steps) that launch a rollout of a case forward and backward, and its rule and state."""
    from nca_fast.kernels.triton import rollout
    from nca_fast.kernels.triton.steps import gradient_buffer

    precision, B, H, W = CASES[name]
    rule = PRESETS[name.split(" ")[0]]["rule"]
    numbers = sum(out * (inputs + bias) for out, inputs, bias in rule.layers)
    lead = [B] if name.startswith("vae") else [STEPS, 1] if name.endswith("by step") else []
    params = torch.zeros(*lead, numbers)
    weights = rollout.pack_weights(params, rule.kernel_rule, precision)
    fire, place = threshold(rule.fire_rate), Place(1, 0, 0, 0, 0, 2**32)
    x, y, states = (torch.empty(*n, B, H, W, -(-rule.channels // 4) * 4) for n in ((), (1,), (2,)))
    buffer = gradient_buffer(weights, x)
    many = states[:1].expand(STEPS, *x.shape)  # memory of one state only: nothing reads it

    def forward(steps):
        rollout.advance(x, weights, fire, rule.kernel_rule, place, y, steps)

    def backward(steps):
        rollout.backward(many[:steps], x, weights, fire, rule.kernel_rule, place, buffer)

    return {"forward": forward, "backward": backward}, weights, x


def launches_of(run) -> int:
    """Counts the launches of a step."""
    counts = []
    for steps in (8, 16):
        Launcher.noted = []
        run(steps)
        counts.append(len(Launcher.noted))
        Launcher.noted = None
    return (counts[1] - counts[0]) / 8


def python_time(runs: dict) -> dict:
    """Measures microseconds of this thread per step, of each run interleaved: the median, the least, and by the least
    of rollouts of all steps and of half of them what one more takes."""
    found = {(name, steps): [] for name in runs for steps in (STEPS, STEPS // 2)}
    for _ in range(REPEATS + 1):
        for (name, steps), times in found.items():
            for _ in range(1 if name == "front end" else 10):
                begin = time.thread_time()
                runs[name](steps)
                times.append((time.thread_time() - begin) * 1e6)
    least = {kind: min(times[1:]) for kind, times in found.items()}
    return {
        name: {
            "median": statistics.median(found[name, STEPS][1:]) / STEPS,
            "least": least[name, STEPS] / STEPS,
            "one more": (least[name, STEPS] - least[name, STEPS // 2]) / (STEPS - STEPS // 2),
        }
        for name in runs
    }


def least_bytes(weights, x: torch.Tensor, direction: str) -> int:
    """Counts the bytes that the kernels of a step must read and write, of the state and of what lies between them."""
    between = [t.nbytes for t in weights.scratch.kept.values()]
    states = {"forward": 2, "backward": 3}[direction] * x.nbytes
    through = direction == "backward" and not hasattr(weights.backward_way, "_launch")
    through = through or direction == "forward" and not hasattr(weights.forward_way, "_launch")
    return states + (2 * sum(between) if through else 0)


def main() -> None:
    use_the_fake_driver()
    from nca_fast.kernels.triton import laid_out, launch, together

    # A function that looks at none of its arguments and returns 0: "rounds to the nearest".
    nothing = ctypes.cast(ctypes.CDLL(None).fegetround, ctypes.c_void_p).value

    class FrontEnd(launch.RepeatedStep):
        def __init__(self, step, *more):
            super().__init__(step)
            self.plain = True

    def by_front_end(run):
        def launched(steps):
            with mock.patch("nca_fast.kernels.triton.rollout.RepeatedStep", FrontEnd):
                run(steps)

        return launched

    def from_c(run, find=laid_out.find):
        def launched(steps):
            with (
                mock.patch.object(together, "driver", lambda: (nothing, str)),
                mock.patch.object(laid_out, "find", find),
            ):
                run(steps)

        return launched

    rows = []
    for name in CASES:
        runs, weights, x = rollouts(name)
        for direction, run in runs.items():
            count = launches_of(run)
            ways = {"front end": by_front_end(run), "one by one": run, "from C": from_c(run)}
            times = python_time(ways | {"from C, listed anew": from_c(run, lambda key: None)})
            row = {"case": name, "state": list(x.shape), "direction": direction, "launches": count}
            row |= {f"{way}, us a step": {k: round(v, 1) for k, v in t.items()} for way, t in times.items()}
            row |= {f"{way}, us a launch": round(t["median"] / count, 2) for way, t in times.items()}
            row["gpu, us a step at least"] = round(least_bytes(weights, x, direction) / BANDWIDTH * 1e6, 1)
            rows.append(row)
            print(row, flush=True)
    write_result(RESULTS / "launch_cost.json", {"header": header(), "steps": STEPS, "repeats": REPEATS, "rows": rows})


if __name__ == "__main__":
    main()
