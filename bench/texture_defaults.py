"""Which loss, features and recipe give the best texture in the same CPU time? `python -m bench.texture_defaults`

Every run is a single-threaded training of as many iterations as fit into the budget, measured in CPU seconds so
that other work on the machine does not matter; two run at a time. Writes bench/results/texture_defaults.png, in which
every automaton has grown a canvas of 4 x 4 times the area it was trained on, and bench/results/texture_defaults.json.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from bench.harness import RESULTS, header, write_result
from nca_fast.canvas.scene import Scene
from nca_fast.features.random_vgg import RandomVGG
from nca_fast.losses.style import GaussianW2, SlicedOT
from nca_fast.media.images import load_image, to_uint8
from nca_fast.nca import NCA
from nca_fast.rendering.render import render
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training

CROP, SIZE = 256, 64  # the scale at which 64 cells see several bricks, at the price of a quarter of 128 cells
TEXTURES = ("brick", "gravel", "grass", "immunohistochemistry")
QUIET = {"video_steps": 0, "picture_steps": 1, "preview_every": 10**9, "checkpoint_seconds": 1e9, "threads": 1}
SHORT = TextureConfig(image_crop=CROP, image_size=SIZE, **QUIET)
LOSSES = {
    f"{loss}, {features}": {"loss": loss, "features": features}
    for features, losses in (("dictionary", ("w2", "ot")), ("random", ("w2", "ot", "gram")), ("patches", ("w2", "ot")))
    for loss in losses
}
RECIPES = {
    "the notebook's": {
        "learning_rate": 1e-3,
        "batch_size": 4,
        "steps_max": 96,
        "pool_size": 256,
        "reseed_every": 8,
        "loss": "ot",
    },
    "batch 4": {"batch_size": 4},
    "rate 1e-3": {"learning_rate": 1e-3},
    "rate 6e-3": {"learning_rate": 6e-3},
    "undisturbed": {"disturb": 0.0},
    "undisturbed, rate 2e-3": {"disturb": 0.0, "learning_rate": 2e-3},
    "96 cells": {"image_size": 96},
}
PROBE_ITERATIONS = 16  # their CPU time says how many fit into the budget
GROWN, LONG = 256, 1000  # steps of the picture, and of the check that nothing drifts
STARTS = 32  # fresh starts, with one fire mask each, of which none should run away


@dataclass(frozen=True)
class Outcome:
    """One run: what it did, and how far from the target what it grows is (0: the same statistics; None: not finite)."""

    row: str
    column: str
    image: str
    iterations: int
    diverged: bool
    cpu_seconds: float
    w2: float | None
    ot: float | None
    w2_after_1000_steps: float | None
    runaways: int
    settings: dict
    picture: Image.Image


def train(row: str, column: str, image: str, change: dict, budget: float) -> Outcome:
    """Trains for `budget` CPU seconds and grows what was learned."""
    torch.set_num_threads(1)
    config = replace(SHORT, **change)
    with tempfile.TemporaryDirectory() as folder:

        def timed(iterations: int) -> tuple[float, bool]:
            begin = time.process_time()
            try:
                length = replace(config, iterations=iterations)
                run_training(Texture, TextureSources(image), f"{folder}/{iterations}", length, progress=False)
            except FloatingPointError:
                return time.process_time() - begin, True
            return time.process_time() - begin, False

        timed(1)  # warms up
        iterations = round(budget / timed(PROBE_ITERATIONS)[0] * PROBE_ITERATIONS)
        seconds, diverged = timed(iterations)
        nca = NCA.from_pretrained(f"{folder}/{iterations}")  # untrained, when the training diverged
    distances = held_out_distances(target(image, config.image_size))
    with torch.no_grad():
        small = nca.to_rgb(render(Scene(nca, config.image_size, config.image_size, 96, seed=1)))
        large = render(Scene(nca, 4 * SIZE, 4 * SIZE, GROWN, seed=2))
        late = render(Scene(nca, 4 * SIZE, 4 * SIZE, LONG, seed=2))
        states = nca(nca.initial_state(STARTS, SIZE, SIZE), steps=GROWN, seed=3)
    runaways = STARTS - int((states.abs().amax(dim=(1, 2, 3)) <= config.state_limit).sum())
    w2, ot = distances(small)
    w2_late, _ = distances(nca.to_rgb(late))
    picture = Image.fromarray(to_uint8(nca.to_rgb(large)[0].nan_to_num()))
    return Outcome(row, column, image, iterations, diverged, seconds, w2, ot, w2_late, runaways, change, picture)


def target(image: str, size: int) -> Tensor:
    """The middle of a picture, as the training sees it up to the filter."""
    whole = load_image(image)
    top, left = (side // 2 - CROP // 2 for side in whole.shape[1:])
    middle = whole[None, :, top : top + CROP, left : left + CROP]
    return torch.nn.functional.interpolate(middle, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)


def held_out_distances(wanted: Tensor) -> Callable[[Tensor], tuple[float | None, float | None]]:
    """rgb -> (Gaussian W2, sliced OT) per pixel, on random features that no training here looks at."""
    features = RandomVGG((32, 64, 128, 128), seed=77)
    losses = [GaussianW2(features(wanted[None])), SlicedOT(features(wanted[None]), projections=128)]

    def distances(rgb: Tensor) -> tuple[float | None, float | None]:
        if not torch.isfinite(rgb).all():
            return None, None
        maps = features(rgb)
        generator = torch.Generator().manual_seed(0)
        return tuple(float(loss(maps, generator=generator)) / rgb[0, 0].numel() for loss in losses)

    return distances


def contact_sheet(rows: dict[str, list[tuple[str, Image.Image]]]) -> Image.Image:
    """Rows of labelled pictures; the target comes first, as large as the pictures, in tiles of the training's size."""
    side, label, gap = 4 * SIZE, 16, 4
    columns = max(len(cells) for cells in rows.values())
    sheet = Image.new("RGB", (columns * (side + gap), len(rows) * (side + label + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, cells in enumerate(rows.values()):
        for x, (text, picture) in enumerate(cells):
            corner = x * (side + gap), y * (side + label + gap)
            draw.text((corner[0] + 2, corner[1] + 2), text, fill="black")
            sheet.paste(picture, (corner[0], corner[1] + label))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="CPU seconds of every run")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, each on one thread")
    arguments = parser.parse_args()
    jobs = [(name, column, f"skimage:{name}", change) for name in TEXTURES for column, change in LOSSES.items()]
    jobs += [("brick, changed", column, "skimage:brick", change) for column, change in RECIPES.items()]
    begin = time.perf_counter()
    with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(train, *job, arguments.seconds) for job in jobs]
        outcomes = [run.result() for run in tqdm(running, unit="run")]

    rows = {}
    for outcome in outcomes:
        if outcome.row not in rows:
            shown = Image.fromarray(to_uint8(target(outcome.image, SIZE).repeat(1, 4, 4)))
            rows[outcome.row] = [(f"{outcome.row}: the target, tiled", shown)]
        text = f"{outcome.column}, {outcome.iterations} it."
        if outcome.diverged or outcome.runaways:
            text += " DIVERGED" if outcome.diverged else f", {outcome.runaways}/{STARTS} run away"
        rows[outcome.row].append((text, outcome.picture))
    RESULTS.mkdir(exist_ok=True)
    contact_sheet(rows).save(RESULTS / "texture_defaults.png", optimize=True)
    results = [{k: v for k, v in vars(outcome).items() if k != "picture"} for outcome in outcomes]
    record = {"header": header(), "budget_cpu_seconds": arguments.seconds}
    record |= {"wall_seconds": round(time.perf_counter() - begin), "defaults": asdict(SHORT), "runs": results}
    write_result(RESULTS / "texture_defaults.json", record)
    for result in results:
        print(
            "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in result.items() if k != "settings")
        )


if __name__ == "__main__":
    main()
