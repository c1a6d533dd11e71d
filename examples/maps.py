"""Makes examples/maps.jpg: what was learned of wet cobbles, and what an automaton draws of them, laid 2 x 2.

python -m examples.maps [FOLDER]        five CPU minutes; a run in FOLDER (runs) is gone on with
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.held_set.textures import SIDE as DRAWN
from bench.held_set.textures import cells, noise
from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.media.images import enlarged, image_grid, load_image, save_image
from nca_fast.rendering.picture import picture
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training

ROWS = 10  # of stones, and as many in each
MAPS = ("normal", "roughness", "height")
CONFIG = TextureConfig(image_size=48, image_crop=102, iterations=1200, video_steps=0, threads=1)
SIDE, STEPS, ZOOM = 72, 400, 2


def cobbles() -> dict[str, Tensor]:
    """A torus of wet cobbles in sand: round stones of three greys, some polished; sand is rough and lies deep. By map
    [1 or 3, h, w] in [0, 1], "" the colours."""
    random = np.random.default_rng(3)
    row, column = np.mgrid[:ROWS, :ROWS]
    places = np.stack([row, column + row % 2 / 2], 2) + random.uniform(-0.3, 0.3, (ROWS, ROWS, 2))
    stone, gap = cells((places * DRAWN / ROWS).reshape(-1, 2))
    grain = noise(random, 4)
    dome = np.sqrt(np.clip(1 - (1 - np.clip((gap - 1.5) / 12, 0, 1)) ** 2, 0, 1))
    edge = np.clip((gap - 1.5) / 3, 0, 1)
    polish = random.random(ROWS**2)[stone]
    height = 0.1 + 0.02 * grain + dome * (0.6 + 0.2 * polish)
    down, right = ((np.roll(height, -1, axis) - np.roll(height, 1, axis)) / 2 for axis in (0, 1))
    facing = np.stack([-8 * right, 8 * down, np.ones_like(height)])
    shades = np.array([(0.45, 0.41, 0.38), (0.6, 0.54, 0.47), (0.74, 0.68, 0.6)])
    colour = shades[random.integers(0, 3, ROWS**2)][stone] * (0.5 + 0.55 * dome[..., None]) + 0.02 * grain[..., None]
    sand = np.array([0.2, 0.16, 0.12]) + 0.02 * grain[..., None]
    found = {
        "": (sand + edge[..., None] * (colour - sand)).transpose(2, 0, 1),
        "normal": facing / np.linalg.norm(facing, axis=0) / 2 + 0.5,
        "roughness": (0.95 + edge * (0.65 - 0.5 * polish - 0.95))[None],
        "height": height[None],
    }
    return {name: torch.from_numpy(values).float().clamp(0, 1) for name, values in found.items()}


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    runs.mkdir(parents=True, exist_ok=True)
    files = {name: runs / f"cobbles{name and '_' + name}.png" for name in ("", *MAPS)}
    for name, pixels in cobbles().items():
        save_image(pixels.expand(3, -1, -1), files[name])
    sources = TextureSources(str(files[""]), maps=tuple(f"{name}={files[name]}" for name in MAPS))
    run_training(Texture, sources, runs / "cobbles", CONFIG, resume=True, progress=False)
    nca = NCA.from_pretrained(runs / "cobbles")
    drawn = picture(Scene(nca, SIDE, SIDE, STEPS, seed=1), runs / "cobbles_drawn.png")
    learned = [load_image(path)[:, : 2 * SIDE, : 2 * SIDE] for path in files.values()]
    above = image_grid([enlarged(part, ZOOM) for part in learned], 4, pad=6)
    below = image_grid([enlarged(load_image(path), ZOOM).repeat(1, 2, 2) for path in drawn], 4, pad=6)
    save_image(torch.cat([above, torch.ones(3, 6, above.shape[2]), below], 1), Path(__file__).with_name("maps.jpg"))


if __name__ == "__main__":
    main()
