"""Makes examples/several.png: four textures of one automaton, blends of them, and a canvas that a map paints.

python -m examples.several [FOLDER]        some 80 CPU seconds; a run in FOLDER (runs) is gone on with
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from bench.zoo import drawings
from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.checkpoint import load
from nca_fast.media.images import enlarged, image_grid, save_image
from nca_fast.rendering.render import render
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training

NAMES = ("brick", "moss", "lava", "water")
CONFIG = TextureConfig(image_size=32, iterations=600, video_steps=0, threads=1)
LEGEND = "red=brick,green=moss,yellow=lava,blue=water"
SIDE, STEPS, ZOOM, SOFT, GAP = 165, 400, 3, 6, 4


def map_of_colours(side: int = 210) -> Tensor:
    """A wall of bricks around a meadow, through which water flows, and lava in the middle. [3, side, side]"""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    picture = torch.tensor([0.0, 128 / 255, 0.0])[:, None, None].repeat(1, side, side)
    picture[:, (y - 0.45 - 0.2 * torch.sin(4 * x)).abs() < 0.25] = torch.tensor([0.0, 0.0, 1.0])[:, None]
    picture[:, x.square() + (y + 0.3).square() < 0.16] = torch.tensor([1.0, 1.0, 0.0])[:, None]
    picture[:, torch.maximum(x.abs(), y.abs()) > 0.8] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    return picture


def drawn(nca: NCA, height: int, width: int, **settings) -> Tensor:
    """What the automaton draws, each cell as ZOOM x ZOOM pixels."""
    scene = Scene(nca, height, width, STEPS, seed=1, config=CanvasConfig(**settings))
    return enlarged(nca.to_rgb(render(scene))[0], ZOOM)


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    runs.mkdir(parents=True, exist_ok=True)
    sources = ["skimage:brick", *(str(runs / f"{name}.png") for name in NAMES[1:])]
    for name, path in zip(NAMES[1:], sources[1:], strict=True):
        save_image(getattr(drawings, name)(), path)
    save_image(map_of_colours(), runs / "map.png")
    run_training(Texture, TextureSources(sources[0], tuple(sources[1:])), runs / "several", CONFIG, resume=True)
    nca, tensors = NCA.from_pretrained(runs / "several"), load(runs / "several" / "training.safetensors")[0]
    lines, gap = [], torch.ones(3, ZOOM * 32, GAP)
    for number, name in enumerate(NAMES):
        target = enlarged(tensors[f"target{number or ''}"], ZOOM)
        lines.append(torch.cat([target, gap, drawn(nca, 32, 96, texture=name)], 2))
    blends = [drawn(nca, 32, 32, texture=f"moss:{1 - share},lava:{share}") for share in (0.2, 0.4, 0.6, 0.8)]
    lines.append(torch.cat([tile for blend in blends for tile in (blend, gap)][:-1], 2)[:, :, : lines[0].shape[2]])
    width = lines[0].shape[2]
    lines = [torch.nn.functional.pad(line, (0, width - line.shape[2]), value=1.0) for line in lines]
    left = image_grid(lines, columns=1, pad=GAP)
    right = drawn(nca, SIDE, SIDE, paint=str(runs / "map.png"), legend=LEGEND, soft=SOFT)
    height = max(left.shape[1], right.shape[1])
    left, right = (
        torch.nn.functional.pad(part, (0, 0, 0, height - part.shape[1]), value=1.0) for part in (left, right)
    )
    page = torch.cat([left, torch.ones(3, height, 2 * GAP), right], 2)
    save_image(page, Path(__file__).with_name("several.png"))


if __name__ == "__main__":
    main()
