"""Makes examples/fill.jpg: a photograph, its mask, and what four textures make of the table in it: moss, learned on the
spot from the 24 x 24 pixels in the middle of the mask, and three automata of the shelf.

python -m examples.fill [FOLDER]        some 60 CPU seconds
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch.nn import functional as F

from bench.zoo import drawings
from nca_fast import cli
from nca_fast.media.images import enlarged, image_grid, load_image, save_image

FINE = 4  # so many times as large is what the mask is drawn on
PLATE = [(77, 210), (95, 140), (135, 95), (180, 70), (430, 120), (472, 180), (480, 240), (462, 300), (400, 358),
         (330, 382), (250, 387), (180, 365), (120, 320), (85, 262)]  # fmt: skip
CUP = [(173, 95), (200, 47), (250, 22), (300, 19), (350, 33), (390, 65), (408, 105), (404, 150), (380, 180), (178, 130)]
SPOON = [(398, 70), (408, 66), (422, 68), (425, 74), (418, 100), (412, 130), (400, 130)]
DARK = [(0, 0), (154, 0), (0, 107)]
FILLS = {  # by name the words of the command after PHOTO and MASK
    "moss": "--texture {swatch} --light 1 --soft 3",
    "water": "--texture zoo:water --light 0.8 --soft 3 --zoom 1.5",
    "weave": "--texture zoo:weave --light 1 --soft 3 --zoom 1.5",
    "scales": "--texture zoo:scales --light 0.7 --soft 3 --blend poisson",
}


def inside(points: list, height: int, width: int) -> np.ndarray:
    """Where the ellipse through some points (x, y), by least squares, is. bool [FINE * height, FINE * width]"""
    x, y = np.array(points, float).T / 100

    def terms(x, y):
        return np.stack([x * x, x * y, y * y, x, y], -1)

    found, *_ = np.linalg.lstsq(terms(x, y), np.ones(len(x)), rcond=None)
    rows, columns = np.mgrid[: FINE * height, : FINE * width] / (100.0 * FINE)
    value = terms(columns, rows) @ found - 1
    return value * (terms(x.mean(), y.mean()) @ found - 1) > 0


def table(height: int, width: int) -> Image.Image:
    """The mask: the table without plate, cup and spoon, and without the dark behind it."""
    mask = Image.fromarray((~(inside(PLATE, height, width) | inside(CUP, height, width))).astype(np.uint8) * 255)
    for corners in (SPOON, DARK):
        ImageDraw.Draw(mask).polygon([(FINE * x, FINE * y) for x, y in corners], fill=0)
    return mask.resize((width, height), Image.Resampling.LANCZOS)


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    runs.mkdir(parents=True, exist_ok=True)
    photo, mask, swatch = load_image("skimage:coffee"), runs / "mask.png", runs / "swatch.png"
    table(*photo.shape[1:]).save(mask)
    small = F.interpolate(drawings.moss()[None], scale_factor=0.5, mode="bicubic", antialias=True)[0].clamp(0, 1)
    save_image(small[:, 40:64, 40:64], swatch)
    shown = load_image(mask)
    shown[:, 152:248, 232:328] = enlarged(load_image(swatch), 4)
    panels = [photo, shown]
    for name, words in FILLS.items():
        out = runs / f"{name}.png"
        asked = words.format(swatch=swatch).split()
        if cli.main(["fill", "skimage:coffee", "--mask", str(mask), *asked, "--out", str(out)]):
            raise SystemExit(f"{name} failed")
        panels.append(load_image(out))
    panels = [F.interpolate(panel[None], (267, 400), mode="area")[0] for panel in panels]
    save_image(image_grid(panels, 3, pad=6), Path(__file__).with_name("fill.jpg"))


if __name__ == "__main__":
    main()
