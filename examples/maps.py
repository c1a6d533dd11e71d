"""Makes examples/maps.jpg: what was learned of a road of cobbles, and what an automaton draws of it, laid 2 x 2.

python -m examples.maps [FOLDER]        a CPU minute; a run in FOLDER (runs) is gone on with
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.media.images import enlarged, image_grid, load_image, save_image
from nca_fast.rendering.picture import picture
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training

SIDE, STONES = 96, 62  # pixels of the torus, and how many stones lie on it
MAPS = ("normal", "roughness", "height")
CONFIG = TextureConfig(image_size=48, image_crop=48, iterations=320, video_steps=0, threads=1)
SHOWN, STEPS, ZOOM = 72, 400, 2  # cells on a side of what is drawn


def cobbles() -> dict[str, Tensor]:
    """A torus of round stones in sand: dark ones are wet, and so smooth. By map [1 or 3, h, w] in [0, 1], "" the
    colours."""
    random = np.random.default_rng(5)
    points = random.random((STONES, 2))
    for _ in range(12):  # they make room for each other, by Lloyd's way, over some thousand places
        places = random.random((4000, 2))
        apart = (places[:, None] - points + 0.5) % 1 - 0.5
        nearest = (apart**2).sum(2).argmin(1)
        mean = np.stack([apart[nearest == i, i].mean(0) for i in range(STONES)])
        points = (points + mean) % 1
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
    apart = np.stack([y, x], -1)[:, :, None] - points
    distances = np.hypot(*np.moveaxis((apart + 0.5) % 1 - 0.5, -1, 0)) * SIDE
    stone, two = distances.argmin(2), np.sort(np.partition(distances, 1, 2)[..., :2], 2)
    edge = two[..., 1] - two[..., 0]  # pixels further to the second stone
    inside = np.clip((edge - 1.2) / 1.5, 0, 1)
    tone, grain = random.random(STONES)[stone], random.standard_normal(y.shape)
    height = 0.12 + inside * (0.45 + 0.4 * np.clip(edge / 9, 0, 1) ** 0.5) * (0.8 + 0.2 * tone) + 0.015 * grain
    down, right = ((np.roll(height, -1, axis) - np.roll(height, 1, axis)) / 2 for axis in (0, 1))
    facing = np.stack([-4 * right, 4 * down, np.ones_like(height)])
    grey = np.array([0.74, 0.72, 0.7])[:, None, None] * (1 - 0.75 * tone) + 0.02 * grain
    sand = np.array([0.62, 0.5, 0.34])[:, None, None] + 0.05 * grain
    found = {
        "": sand + inside * (grey - sand),
        "normal": facing / np.linalg.norm(facing, axis=0) / 2 + 0.5,
        "roughness": (0.95 + inside * (0.75 - 0.65 * tone - 0.95))[None],
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
    run_training(Texture, sources, runs / "road", CONFIG, resume=True, progress=False)
    nca = NCA.from_pretrained(runs / "road")
    drawn = picture(Scene(nca, SHOWN, SHOWN, STEPS, seed=1), runs / "road.png")
    learned = [load_image(path)[:, :SHOWN, :SHOWN] for path in files.values()]
    above = image_grid([enlarged(part, 2 * ZOOM) for part in learned], 4, pad=6)
    below = image_grid([enlarged(load_image(path), ZOOM).repeat(1, 2, 2) for path in drawn], 4, pad=6)
    save_image(torch.cat([above, torch.ones(3, 6, above.shape[2]), below], 1), Path(__file__).with_name("maps.jpg"))


if __name__ == "__main__":
    main()
