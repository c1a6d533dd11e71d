"""The five systems by their authors' recipes and by ours, in the same CPU time. `python -m bench.authors`

The published recipes are for a GPU, and three of them for networks of many megabytes. Here both sides have the same
smaller canvas, one thread, and the features that come with nca_fast; `System.authors` is what is left of a recipe:
automaton, losses, weights, batch, pool, rollouts, optimizer, and learning rates at the published shares of the run.
Each training is a process of its own, for its memory, with --seconds of CPU time and with LONG times as many. What is
measured is what `bench.held_set` measures, of things by which no default was chosen. How long a recipe would take as
published is measured by TRIED iterations of its own size. The same command goes on where it was interrupted. Writes
bench/results/authors.json and authors.jpg.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from bench.harness import RESULTS, header, write_result
from nca_fast.files import atomic_path

ROOT = Path(__file__).parents[1]
LONG = 4
WAYS = (("authors", 1), ("ours", 1), ("ours", LONG), ("authors", LONG))  # in this order, the last where there is time
PLAN = 1_000_000  # iterations that a budget is planned as, so that milestones are millionths of it
TRIED = 2  # iterations of the published size
SIDE = 256  # pixels of a picture on the sheet


@dataclass(frozen=True)
class System:
    """How a system is compared.

    Args:
        kind, name: What is learned, of `bench.held_set`.
        authors: Settings of the published recipe.
        both: Settings of either side: its reduced size.
        published: Those of the published size, and the iterations of the published run.
        measures: Columns of its row that say how good it is, and what they are.
    """

    kind: str
    name: str
    authors: Mapping[str, Any]
    both: Mapping[str, Any]
    published: Mapping[str, Any]
    measures: Mapping[str, str]


SYSTEMS = {
    # Niklasson et al.'s notebook (2021). Published: VGG-16, 128 x 128 cells.
    "texture": System(
        "textures",
        "weave",
        {"loss": "ot", "learning_rate": 1e-3, "lr_milestones": (200_000, 400_000), "lr_cooldown": 0.0}
        | {"batch_size": 4, "pool_size": 256}
        | {"reseed_every": 8, "disturb": 0.0, "steps_max": 95, "canvas_size": 64, "state_limit": 1e30},
        {"image_size": 64},
        {"iterations": 5000, "image_size": 128, "canvas_size": 128},
        {"score": "score, 0 another part of the original, 1 its spectrum only"},
    ),
    # Petersen's notebook (2022), on whose automaton Hinno's is built. Published: VGG-19, 224 x 224 cells.
    "style": System(
        "styles",
        "glass",
        {"preset": "image-manipulation", "init_gain": 0.15, "loss": "gram", "guide_weight": 0.0}
        | {"content_loss": "gram", "content_layers": (3,), "content_weight": 0.3, "color_loss": "histogram"}
        | {"learning_rate": 1e-3, "lr_milestones": (250_000, 500_000), "batch_size": 4, "pool_size": 400}
        | {"reseed_every": 5, "disturb": 0.0, "early_iterations": 0, "steps_max": 95, "state_limit": 1e30},
        {"content_size": 64},
        {"iterations": 4000, "content_size": 224, "content_zoom": 1.0},
        {"times": "distance from the style, 1 that of its other half", "content_kept": "content kept, 1 all of it"},
    ),
    # Deb's notebook (2022). Published: CLIP ViT-B/32, 128 x 128 cells.
    "clip": System(
        "sentences",
        "thick orange horizontal stripes",
        {"distance": "dot", "cutouts": 0, "clip_input": "raw", "clip_scale": "mean", "range_weight": 0.0}
        | {"contrast_weight": 0.0, "fringe_weight": 0.0, "lr_milestones": (300_000, 500_000, 850_000), "lr_gamma": 0.4}
        | {"pool_size": 256, "batch_size": 4, "reseed_every": 8, "steps_min": 64, "steps_max": 95}
        | {"state_limit": 1e30},
        {"image_size": 64},
        {"iterations": 1000, "image_size": 128},
        {"parts_kept": "parts of the sentence that are seen, of 4"},
    ),
    # Mordvintsev et al.'s notebook (2020). Published: 40 pixels, 72 x 72 cells.
    "grow": System(
        "sprites",
        "mushroom",
        {"optimizer": "adam", "learning_rate": 2e-3, "lr_milestones": (250_000,), "lr_gamma": 0.1, "batch_size": 8}
        | {"pool_size": 1024, "damage": 3, "early_iterations": 0, "state_limit": 1e30},
        {"image_size": 24},
        {"iterations": 8000, "image_size": 40, "image_margin": 16},
        {"grown": "squared error grown", "regrown": "regrown after damage"},
    ),
    # Chen and Wang's MNIST code (2020), whole.
    "vae": System(
        "pictures",
        "digits",
        {"deterministic": True, "loss": "bce", "learning_rate": 1e-4, "lr_gamma": 1.0, "warm_up": 0, "batch_size": 64},
        {},
        {"iterations": 20_000},
        {"of_the_mean_picture": "error of test digits, 1 that of the mean picture"},
    ),
}


def do_job(system: str, whose: str, seconds: float, folder: Path) -> None:
    """Trains and measures in this process, and writes `folder`/row.json."""
    from bench.held_set import jobs

    case, jobs.ENDLESS = SYSTEMS[system], PLAN
    seeds = 4 if system == "grow" else 1  # rollouts of large canvases take as long as a training
    asked = jobs.Asked(seconds, seeds, {**case.both, **(case.authors if whose == "authors" else {})}, pairs=1)
    row = jobs.do(case.kind, case.name, folder, asked)
    if "parts" in row:
        row["parts_kept"] = sum(row["parts"].values())
    row |= {"system": system, "whose": whose, "peak_bytes": peak_bytes(), "settings": dict(asked.settings)}
    _write_json(folder / "row.json", row | {"commit": header()["commit"]})


def try_published(system: str, folder: Path) -> None:
    """Measures what an iteration of a recipe takes as published, and writes `folder`/row.json."""
    from bench.held_set import jobs
    from nca_fast.training.session import run_training

    case, sources = SYSTEMS[system], _sources(system, folder)
    settings = {**case.authors, **case.published, "threads": 1, "iterations": TRIED, "lr_milestones": None}
    quick = {"video_steps": 0} | ({} if system in ("grow", "vae") else {"picture_steps": 1})
    with jobs.cpu_clock():
        folder.mkdir(parents=True, exist_ok=True)
        kind = jobs.SYSTEMS[case.kind]
        run_training(kind, sources, folder / "run", kind.Config(**settings | quick), progress=False)
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    each, whole = lines[-1]["seconds"] / TRIED, case.published["iterations"]
    row = {"system": system, "whose": "published", "seconds_an_iteration": each, "iterations": whole}
    _write_json(folder / "row.json", row | {"hours": each * whole / 3600, "peak_bytes": peak_bytes()})


def _sources(system: str, folder: Path) -> Any:
    from bench.held_set import jobs, sprites, textures
    from nca_fast.media.images import save_image

    case, file = SYSTEMS[system], folder / "original.png"
    if system in ("clip", "vae"):
        return jobs.ClipSources((case.name,)) if system == "clip" else jobs.VAESources(case.name)
    if system == "grow":
        sprites.sprite(case.name).save(file)
        return jobs.GrowingSources(str(file))
    save_image((textures.TEXTURES | textures.STYLES)[case.name](), file)
    return jobs.TextureSources(str(file)) if system == "texture" else jobs.StyleSources(str(file), textures.CONTENT)


def peak_bytes() -> int:
    """Memory that this process has taken at most, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(options: argparse.Namespace, system: str, whose: str, times: int) -> dict | None:
    """Does a job in a process of its own, unless its row is there; returns the row, None where it failed."""
    folder = options.runs / f"{system}-{whose}-{times}"
    path = folder / "row.json"
    if not path.exists():
        for file in sorted((folder / "run").glob("*")):  # what an interrupted job left
            file.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        seconds = str(options.seconds * times)
        command = [sys.executable, "-m", "bench.authors", "--job", system, whose, seconds, str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=ROOT, env=environment)
    return json.loads(path.read_text()) | {"budgets": times} if path.exists() else None


def sheet(rows: list[dict], options: argparse.Namespace) -> Image.Image:
    """A row of pictures for each system, in the order of `WAYS`."""
    found: dict[tuple, dict] = {(row["system"], row["whose"], row["budgets"]): row for row in rows}
    ways = sorted({(whose, times) for _, whose, times in found})  # the authors' first
    page = Image.new("RGB", (len(ways) * (2 * SIDE + 8), 18 + len(SYSTEMS) * (SIDE + 22)), "white")
    draw = ImageDraw.Draw(page)
    draw.text((4, 2), f"{options.seconds:g} CPU seconds, and {LONG} times as many", fill="black")
    for down, (system, case) in enumerate(SYSTEMS.items()):
        for across, (whose, times) in enumerate(ways):
            if (system, whose, times) not in found:
                continue
            row, left, top = found[system, whose, times], across * (2 * SIDE + 8), 18 + down * (SIDE + 22)
            picture = Image.open(options.runs / f"{system}-{whose}-{times}" / "picture.png").convert("RGB")
            picture.thumbnail((2 * SIDE, SIDE), Image.Resampling.LANCZOS)
            page.paste(picture, (left, top + 18))
            said = ", ".join(f"{name} {row[name]:.3g}" for name in case.measures if row[name] is not None)
            draw.text((left + 2, top + 2), f"{system}, {whose} x{times}: {said}", fill="black")
    return page


def write(rows: list[dict], options: argparse.Namespace) -> None:
    """Writes what there is: the result and the sheet."""
    names = {name: dict(case.measures) for name, case in SYSTEMS.items()}
    result = {"header": header(), "seconds": options.seconds, "long": LONG, "measures": names, "rows": rows}
    write_result(options.results / "authors.json", result)
    with atomic_path(options.results / "authors.jpg") as temporary:
        sheet([row for row in rows if row["whose"] != "published"], options).save(temporary, "JPEG", quality=88)


def _write_json(path: Path, value: dict) -> None:
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(value), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15, help="of CPU time for a short training (default 15)")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=tuple(SYSTEMS), help="systems")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "authors", help="where runs and rows are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the result and the sheet go")
    parser.add_argument("--job", nargs=4, metavar=("SYSTEM", "WHOSE", "SECONDS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        torch.set_num_threads(1)
        system, whose, seconds, folder = options.job
        if whose == "published":
            try_published(system, Path(folder))
        else:
            do_job(system, whose, float(seconds), Path(folder))
        return
    rows: list[dict] = []
    for whose, times in (*WAYS[:-1], ("published", 1), WAYS[-1]):
        for system in options.only:
            row = run(options, system, whose, times)
            if row is None:
                sys.exit(f"{system}, {whose}: the training failed; what it said is above.")
            rows.append(row)
            print(json.dumps({key: value for key, value in row.items() if not isinstance(value, dict)}), flush=True)
            write(rows, options)


if __name__ == "__main__":
    main()
