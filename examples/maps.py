"""Makes examples/maps.jpg: what was learned of a wall of glazed bricks, and what an automaton draws of it, laid 2 x 2.

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

ROWS, COLUMNS, HIGH, WIDE = 8, 4, 12, 24  # of bricks, and of one in pixels
MAPS = ("normal", "roughness", "height")
CONFIG = TextureConfig(image_size=48, image_crop=48, iterations=400, video_steps=0, threads=1)
SIDE, STEPS, ZOOM = 72, 400, 2


def bricks() -> dict[str, Tensor]:
    """A torus of ROWS x COLUMNS bricks: dark ones are glazed, and so smooth; mortar is rough and lies deep. By map
    [1 or 3, h, w] in [0, 1], "" the colours."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[: ROWS * HIGH, : COLUMNS * WIDE].astype(float) + 0.5
    row = (y // HIGH).astype(int)
    along = (x + row % 2 * WIDE / 2) % (COLUMNS * WIDE)
    edge = np.minimum.reduce([y % HIGH, HIGH - y % HIGH, along % WIDE, WIDE - along % WIDE])
    brick = np.clip((edge - 0.7) / 1.6, 0, 1)
    tone = random.random((ROWS, COLUMNS))[row, (along // WIDE).astype(int)]
    grain = random.standard_normal(y.shape)
    grain = sum(np.roll(grain, shift, axis) for shift in (-1, 0, 1) for axis in (0, 1)) / 6
    height = 0.15 + brick * (0.6 + 0.15 * tone) + 0.04 * grain
    down, right = ((np.roll(height, -1, axis) - np.roll(height, 1, axis)) / 2 for axis in (0, 1))
    facing = np.stack([-4 * right, 4 * down, np.ones_like(height)])
    clay = np.array([0.72, 0.34, 0.2])[:, None, None] * (1 - 0.72 * tone) + 0.03 * grain
    mortar = 0.66 + 0.08 * grain
    found = {
        "": mortar + brick * (clay - mortar),
        "normal": facing / np.linalg.norm(facing, axis=0) / 2 + 0.5,
        "roughness": (0.95 + brick * (0.75 - 0.65 * tone - 0.95))[None],
        "height": height[None],
    }
    return {name: torch.from_numpy(values).float().clamp(0, 1) for name, values in found.items()}


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    runs.mkdir(parents=True, exist_ok=True)
    files = {name: runs / f"bricks{name and '_' + name}.png" for name in ("", *MAPS)}
    for name, pixels in bricks().items():
        save_image(pixels.expand(3, -1, -1), files[name])
    sources = TextureSources(str(files[""]), maps=tuple(f"{name}={files[name]}" for name in MAPS))
    run_training(Texture, sources, runs / "wall", CONFIG, resume=True, progress=False)
    nca = NCA.from_pretrained(runs / "wall")
    drawn = picture(Scene(nca, SIDE, SIDE, STEPS, seed=1), runs / "wall.png")
    learned = [load_image(path)[:, :SIDE, :SIDE] for path in files.values()]
    above = image_grid([enlarged(part, 2 * ZOOM) for part in learned], 4, pad=6)
    below = image_grid([enlarged(load_image(path), ZOOM).repeat(1, 2, 2) for path in drawn], 4, pad=6)
    save_image(torch.cat([above, torch.ones(3, 6, above.shape[2]), below], 1), Path(__file__).with_name("maps.jpg"))


if __name__ == "__main__":
    main()
