"""How well one automaton knows eight textures, beside eight automata of one each, which take as long together.

    python -m bench.several_textures FOLDER [--seeds 3]      some eight CPU minutes a seed; a run that is there is kept

One run tells little of one texture: the same recipe again ends a fifth nearer or farther. So all runs of FOLDER are
measured (eight-*, own-NAME-*), as by `nca-fast score`, and medians compared: how many times as far from the original as
another half of it. Writes bench/results/several_textures.json.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.harness import RESULTS, header
from bench.zoo import drawings
from nca_fast import NCA, checkpoint
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.commands.measure import as_learned
from nca_fast.files import MODEL_FILE, atomic_path
from nca_fast.media.images import load_image, save_image
from nca_fast.rendering.render import render
from nca_fast.scoring.score import score
from nca_fast.systems.target import chosen_crop
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training

DRAWN = ("moss", "lava", "water", "giraffe", "coral", "terrazzo")
NAMES = ("brick", "gravel", *DRAWN)
CONFIG = TextureConfig(image_size=40, iterations=1500, video_steps=0, picture_steps=300, threads=1)
ALONE = replace(CONFIG, iterations=1300)  # whose iterations take 1.15 times as long, measured in turns in one process
SIDE, DRAWINGS = 160, 2


def sources_in(folder: Path) -> dict[str, str]:
    """Writes the drawn originals into a folder; gives where each picture comes from, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in DRAWN:
        save_image(getattr(drawings, name)(), folder / f"{name}.png")
    return {name: str(folder / f"{name}.png") if name in DRAWN else f"skimage:{name}" for name in NAMES}


def train(sources: Sequence[str], out: Path, config: TextureConfig) -> None:
    """Trains one automaton on some textures, or goes on where it stopped; leaves alone what is trained."""
    if not (out / "texture.png").exists():  # drawn at the end
        first, *more = sources
        run_training(Texture, TextureSources(first, tuple(more)), out, config, resume=True, progress=False)


def measured(source: str, run: Path, texture: str | None) -> dict[str, Any]:
    """Draws what a run knows, and measures it; see the module."""
    whole = load_image(source)
    crop, nca = chosen_crop(whole, CONFIG.image_size), NCA.from_pretrained(run)
    config = CanvasConfig(texture=texture)
    scenes = [Scene(nca, SIDE, SIDE, CONFIG.picture_steps, seed=seed, config=config) for seed in range(DRAWINGS)]
    pictures = [nca.to_rgb(render(scene)).nan_to_num()[0] for scene in scenes]
    made, found = checkpoint.facts_of(run / MODEL_FILE), score(pictures, as_learned(whole, CONFIG.image_size, crop))
    return {
        "seed": made["config"]["seed"],
        "iterations": made["iterations"],
        "times": found.total.times,
        "measures": {name: measure.times for name, measure in found.measures.items()},
    }


def _ratio(several: Sequence[float], alone: Sequence[float]) -> float:
    """How many times as far one of several is as one alone, by medians."""
    return statistics.median(several) / statistics.median(alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="train so many of each; 0: measure what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources, folder = sources_in(options.folder), options.folder
    for seed in range(options.seeds):
        train([*sources.values()], folder / f"eight-{seed}", replace(CONFIG, seed=seed))
        for name, source in sources.items():
            train([source], folder / f"own-{name}-{seed}", replace(ALONE, seed=seed))
    found = {}
    for name, source in sources.items():
        several = [measured(source, run, name) for run in sorted(folder.glob("eight-*"))]
        alone = [measured(source, run, None) for run in sorted(folder.glob(f"own-{name}-*"))]
        ratio = _ratio([run["times"] for run in several], [run["times"] for run in alone])
        parts = {
            key: [[run["measures"][key] for run in runs] for runs in (several, alone)] for key in several[0]["measures"]
        }
        ratios = {key: _ratio(*times) for key, times in parts.items()}
        found[name] = {"one of eight": several, "its own": alone, "ratio of medians": ratio, "by measure": ratios}
        print(f"{name}: {ratio:.2f}", *(f"{key} {value:.2f}" for key, value in ratios.items()), sep="  ", flush=True)
    mean = math.exp(statistics.fmean(math.log(one["ratio of medians"]) for one in found.values()))
    result = {"header": header(), "textures": found, "geometric mean of ratios": mean}
    with atomic_path(RESULTS / "several_textures.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
