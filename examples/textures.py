"""Makes examples/textures.png: on the left what an automaton learned from, on the right what it grew.

python examples/textures.py [FOLDER]        some three minutes on two cores; runs in FOLDER (runs) are gone on with
"""

import sys
from pathlib import Path

import torch

from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.checkpoint import load
from nca_fast.media.images import enlarged, image_grid, save_image
from nca_fast.rendering.render import render
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training

PICTURES = ("brick", "immunohistochemistry")
CONFIG = TextureConfig(image_crop=256, image_size=64, iterations=1200, video_steps=0)
WIDTH, STEPS, ZOOM = 256, 400, 3


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    lines = []
    for name in PICTURES:
        out = runs / name
        run_training(Texture, TextureSources(f"skimage:{name}"), out, CONFIG, resume=True)
        target = load(out / "training.safetensors")[0]["target"]
        nca = NCA.from_pretrained(out)
        grown = nca.to_rgb(render(Scene(nca, CONFIG.image_size, WIDTH, STEPS, seed=1)))[0]
        gap = torch.ones(3, ZOOM * CONFIG.image_size, 8)
        lines.append(torch.cat([enlarged(target, ZOOM), gap, enlarged(grown, ZOOM)], dim=2))
    save_image(image_grid(lines, columns=1, pad=4), Path(__file__).with_name("textures.png"))


if __name__ == "__main__":
    main()
