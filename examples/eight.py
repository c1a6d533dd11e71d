"""Makes examples/eight.jpg: eight textures of one automaton, each a tile that is laid 2 x 2.

python -m examples.eight [FOLDER]        some four CPU minutes; the run in FOLDER (runs) goes on
"""

import sys
from dataclasses import replace
from pathlib import Path

from bench.several_textures import CONFIG, NAMES, sources_in, train
from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.media.images import image_grid, save_image
from nca_fast.rendering.render import render

SIDE, STEPS = 80, 300


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    train([*sources_in(runs).values()], runs / "eight-1", replace(CONFIG, seed=1))
    nca = NCA.from_pretrained(runs / "eight-1")
    tiles = []
    for name in NAMES:
        scene = Scene(nca, SIDE, SIDE, STEPS, seed=1, config=CanvasConfig(texture=name))
        tiles.append(nca.to_rgb(render(scene))[0].repeat(1, 2, 2))
    save_image(image_grid(tiles, 4, pad=6), Path(__file__).with_name("eight.jpg"))


if __name__ == "__main__":
    main()
