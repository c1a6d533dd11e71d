"""Do the five systems train on a GPU, and where does an iteration's time go?

    python -m bench.gpu_systems [--out FILE]    ten iterations of each; runs saved on one device resumed on another
    python -m bench.gpu_systems --profile       seconds of an iteration of each, its losses captured in CUDA graphs and
                                                launched one by one; a profile of one, and its trace for a browser
    python -m bench.gpu_systems --smoke         tiny, without a GPU: texture in Triton's interpreter, the reference else

Nothing is read but what is made here: pictures of random waves, and weights of the systems' own offline features. The
loss of the first iteration is compared with that of the reference on the same device, whose start is the same.
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch

from bench.harness import RESULTS, Rows, parsed_for_gpu

SEED = 3
# Of losses after a rollout of fp16 products, whose units switch elsewhere; a wrong kernel is off by more.
LOSS_DIFFERENCE = 0.02
REAL = {
    "texture": {"batch_size": 4, "picture_steps": 32, "video_steps": 0},
    "style": {"picture_steps": 32, "video_steps": 0, "early_iterations": 0},
    "clip": {"picture_steps": 32, "video_steps": 0},
    "grow": {"video_steps": 0},
    "vae": {"batch_size": 16},
}
# Niklasson et al., as published, on VGG-16 of random weights: 5,000 iterations in 15 s would be 3 ms each.
DISTILL = {"loss": "ot", "features": "vgg16", "batch_size": 4, "pool_size": 256, "reseed_every": 8, "steps_max": 95}
_POOL = {"pool_size": 2, "batch_size": 1, "steps_min": 1, "steps_max": 1}
_STILL = {"picture_steps": 1, "video_steps": 0}
TINY = {
    "texture": _POOL | _STILL | {"image_size": 16},
    "style": _POOL
    | _STILL
    | {"style_size": 16, "content_size": 16, "early_iterations": 0, "picture_size": 16, "backend": "reference"},
    "clip": _POOL | _STILL | {"image_size": 16, "picture_size": 16, "backend": "reference"},
    "grow": _POOL
    | {"image_size": 8, "image_margin": 1, "damage": 0, "video_steps": 4, "early_iterations": 0}
    | {"backend": "reference"},
    "vae": {"batch_size": 2, "backend": "reference"},
}


def shrink_vae() -> None:
    """Puts a tiny architecture in the place of the smallest one, in this process."""
    from nca_fast import Rule
    from nca_fast.systems.vae.architecture import ARCHITECTURES, Architecture

    rule = Rule(channels=4, hidden=(6,), filters=("sobel_x5/8",), padding="zero", maximum_window=3, alive_channel=0)
    encoder = ((4, 3, 1, 1, True), (5, 4, 1, 0, False))
    ARCHITECTURES["vae-mnist"] = Architecture(rule, 8, 3, 2, encoder, (7,), grey=True)


def waves(seed: int, size: int) -> torch.Tensor:
    """A colourful picture [3, size, size] of random waves, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(*[torch.arange(size) / size * 6.2832] * 2, indexing="ij")
    n = torch.randint(1, 9, (3, 2, 1, 1), generator=generator)
    return 0.5 + 0.5 * torch.sin(n[:, 0] * row + n[:, 1] * column)


def sources_of(name: str, folder: Path, smoke: bool) -> dict:
    """What a system learns here."""
    size = 16 if smoke else 256
    if name == "texture":  # no larger than the canvas: a picture that is no file is not shrunk
        return {"image": waves(1, 16 if smoke else 64)}
    if name == "style":
        return {"style": waves(1, size), "content": [waves(2, size), waves(3, size)]}
    if name == "clip":
        return {"prompts": ["red dots", "blue stripes:0.5"]}
    if name == "grow":
        picture = waves(4, 8 if smoke else 32)
        return {"image": torch.cat([picture, torch.ones_like(picture[:1])])}
    return {"dataset": str(pictures(folder / "pictures", 20 if smoke else 64))}


def pictures(folder: Path, count: int) -> Path:
    """A folder of small pictures, which needs no package but the one that reads them."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        Image.fromarray((waves(n, 32) * 255).byte().permute(1, 2, 0).numpy()).save(folder / f"{n:03}.png")
    return folder


def settings_of(name: str, smoke: bool, **others: object) -> dict:
    """The settings of a training here."""
    settings = {"seed": SEED, **(TINY if smoke else REAL)[name]}
    if smoke and name == "texture" and os.environ.get("TRITON_INTERPRET") == "1":
        settings |= {"backend": "triton", "precision": "fp16"}
    return settings | others


def logged(folder: Path) -> list[float]:
    """The loss of each iteration."""
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def trained(name: str, folder: Path, smoke: bool, device: str, iterations: int) -> dict:
    """One row: a whole training of so many iterations."""
    from nca_fast.systems import TASKS
    from nca_fast.training.session import run_training

    system, sources = TASKS[name].system, sources_of(name, folder, smoke)
    row = {"device": device, "iterations": iterations}
    for what, others in (("fused", {}), ("reference", {"backend": "reference", "precision": None})):
        # The first iteration alone is enough to compare with, and the reference is slow.
        count = iterations if what == "fused" else 1
        config = system.Config(**settings_of(name, smoke, device=device, iterations=count, **others))
        out, begin = folder / f"{name}-{what}", time.perf_counter()
        result = run_training(system, system.Sources(**sources), out, config, progress=False)
        row[f"{what}_losses"] = logged(out)
        row[f"{what}_seconds"] = {"whole": time.perf_counter() - begin, "iterations": result.seconds}
    first, of_reference = row["fused_losses"][0], row["reference_losses"][0]
    row["difference"] = abs(first - of_reference) / abs(of_reference)
    row["finite"] = all(abs(loss) < float("inf") for loss in row["fused_losses"])
    return row


def good(row: dict) -> bool:
    """Whether a training went as it should."""
    return row["finite"] and row["difference"] < LOSS_DIFFERENCE


def resumed(name: str, folder: Path, smoke: bool, first: str, then: str) -> dict:
    """One row: a run that begins on one device and goes on on another."""
    from nca_fast.systems import TASKS
    from nca_fast.training.session import run_training

    system, sources = TASKS[name].system, sources_of(name, folder, smoke)
    out, row = folder / f"{name}-{first}-{then}-{len(os.listdir(folder))}", {}
    for device, iterations in ((first, 2), (then, 4)):
        settings = settings_of(name, smoke, device=device, iterations=iterations)
        if not smoke:
            settings |= {"batch_size": 1} | ({"pool_size": 4, "image_size": 64} if name == "texture" else {})
        sources = sources if iterations == 2 else {}
        config = system.Config(**settings)
        result = run_training(system, system.Sources(**sources), out, config, resume=iterations > 2, progress=False)
        row[f"model_after_{iterations}"] = str(next(result.model.parameters()).device)
    losses = logged(out)
    return row | {"losses": losses, "finite": len(losses) == 4 and all(abs(x) < float("inf") for x in losses)}


def vgg_weights(folder: Path) -> Path:
    """A file of random weights for VGG-16, whose numbers stay of one order on their way."""
    from nca_fast.features.torchvision_compat import import_torchvision

    path, generator = folder / "vgg16.pth", torch.Generator().manual_seed(0)
    with torch.device("meta"):
        state = import_torchvision().models.vgg16(weights=None).features.state_dict()
    scales = {name: (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.0 for name, value in state.items()}
    drawn = {name: torch.randn(value.shape, generator=generator) * scales[name] for name, value in state.items()}
    torch.save({f"features.{name}": value for name, value in drawn.items()}, path)
    return path


class Iterations:
    """A training that is ready, an iteration at a time."""

    def __init__(self, name: str, folder: Path, smoke: bool, device: str, **others: object):
        from nca_fast.systems import TASKS
        from nca_fast.training.descent import Descent
        from nca_fast.training.optimizers import make_optimizer

        system = TASKS[name].system
        config = system.Config(**settings_of(name, smoke, device=device, iterations=20, **others)).resolved()
        self.work = system(config, system.Sources(**sources_of(name, folder, smoke)), None, folder / name)
        torch.manual_seed(SEED)
        model = self.work.model().to(config.pick(self.work.model().rule))
        self.work.begin(model, None)
        optimizer = make_optimizer(config.optimizer, model, config.learning_rate)
        self.descent = Descent(model, optimizer, self.work.adjust_gradients, self.work.remedy)
        self.rate, self.done = config.learning_rate, 0
        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def __call__(self) -> int:
        """Does one; returns its steps."""
        self.descent.begin(self.done, self.rate)
        steps = self.work.step(self.done, self.done, self.descent).steps
        self.descent.readings(False)
        self.done += 1
        return steps

    def timed(self, warm: int, count: int) -> dict:
        """Seconds of an iteration until it is launched, and until it is done, after so many that are not timed."""
        for _ in range(warm):
            self()
        self.wait()
        begin = time.perf_counter()
        steps = [self() for _ in range(count)]
        launched = time.perf_counter() - begin
        self.wait()
        whole = time.perf_counter() - begin
        return {"seconds": whole / count, "in_python": launched / count, "steps": sum(steps) / count}


def profiled(name: str, folder: Path, out: Path, smoke: bool, device: str, distill: bool = False) -> dict:
    """One row: where the time of an iteration goes; its trace lies beside the result."""
    from torch.profiler import ProfilerActivity, profile

    from nca_fast.training import capture

    gpu, row = device == "cuda", {"device": device}
    others = DISTILL | {"weights": str(vgg_weights(folder))} if distill else {}
    if distill and smoke:
        others |= {"batch_size": 1, "pool_size": 2, "steps_min": 1, "steps_max": 1}
        others |= {"backend": "reference", "precision": None}  # the interpreter has its share in the next row
    warm, count = (1, 1) if smoke else (8, 10)  # compiles, makes graphs
    most = capture.MOST
    for how, number in (("one_by_one", 0), ("captured", most)):
        capture.MOST = number
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                iterations = Iterations(name, folder, smoke, device, **others)
                row[how] = iterations.timed(warm, count)
            row[how]["warnings"] = [str(warning.message)[:300] for warning in told]
        finally:
            capture.MOST = most
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
    with profile(activities=activities) as profiler:
        steps = iterations()
        iterations.wait()
    events = profiler.key_averages()
    quantity = "self_device_time_total" if gpu else "self_cpu_time_total"
    top = sorted(events, key=lambda event: -getattr(event, quantity, 0))[:20]
    if gpu:
        profiler.export_chrome_trace(str(out.with_name(f"{out.stem}_{name}{'_distill' * distill}.trace.json.gz")))
    return row | {
        "steps_of_the_profiled": steps,
        "busy_seconds_of_the_profiled": sum(getattr(event, quantity, 0) for event in events) / 1e6,
        "top": [{"name": e.key[:100], "calls": e.count, "seconds": getattr(e, quantity, 0) / 1e6} for e in top],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_systems.json", help="result file")
    parser.add_argument("--seconds", type=float, help="leave out what has not begun by then")
    parser.add_argument("--profile", action="store_true", help="one iteration of each under torch.profiler")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; without a GPU on the CPU")
    options, gpu = parsed_for_gpu(parser)
    device, smoke = "cuda" if gpu else "cpu", options.smoke
    if smoke:
        shrink_vae()
    rows = Rows(options.out, options.seconds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.profile:
            make = partial(profiled, "texture", folder, options.out, smoke, device, distill=True)
            rows.add(make, system="texture, the Distill recipe")
        for name in REAL:
            if options.profile:
                rows.add(partial(profiled, name, folder, options.out, smoke, device), system=name)
            else:
                make = partial(trained, name, folder, smoke, device, 2 if smoke else 10)
                rows.add(make, good, system=name)
        if not options.profile:
            for name, (first, then) in (
                ("texture", (device, "cpu")),
                ("texture", ("cpu", device)),
                ("vae", (device, "cpu")),
                ("vae", ("cpu", device)),
            )[: 1 if smoke else None]:
                make = partial(resumed, name, folder, smoke, first, then)
                rows.add(make, lambda row: row["finite"], system=name, begun_on=first, resumed_on=then)
    rows.end_run()


if __name__ == "__main__":
    main()
