"""Makes examples/hexagons.png: two automata of the shelf, trained on squares, on squares and on hexagons; and one that
was trained on hexagons.

python -m examples.hexagons [FOLDER]        some 50 CPU seconds; a run in FOLDER (runs) is gone on with
"""

import sys
from pathlib import Path

import torch

from bench.zoo import drawings
from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.hexagons import draws_hexagons, on_grid
from nca_fast.media.images import enlarged, image_grid, save_image
from nca_fast.rendering.hexagons import Hexagons
from nca_fast.rendering.render import render
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training

CONFIG = TextureConfig(image_size=40, iterations=350, video_steps=0, grid="hex", threads=1)
SIDE, STEPS, ZOOM = 44, 300, 7


def drawn(nca: NCA) -> torch.Tensor:
    """What an automaton grows, ZOOM pixels for a cell; on hexagons so many rows that the picture is as high."""
    hexagons = Hexagons(round(SIDE / 3**0.5 * 2), SIDE, ZOOM)
    height = hexagons.height if draws_hexagons(nca) else SIDE
    shown = nca.to_rgb(render(Scene(nca, height, SIDE, STEPS, seed=2)))[0]
    shown = hexagons.whole(shown) if draws_hexagons(nca) else enlarged(shown, ZOOM)
    return shown[:, : SIDE * ZOOM - 6]


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    runs.mkdir(parents=True, exist_ok=True)
    save_image(drawings.giraffe(), runs / "giraffe.png")
    run_training(
        Texture, TextureSources(str(runs / "giraffe.png")), runs / "hexagons", CONFIG, resume=True, progress=False
    )
    shelf = [NCA.from_pretrained(f"zoo:{name}") for name in ("scales", "weave")]
    pictures = [drawn(on_grid(nca, grid)) for nca in shelf for grid in ("square", "hex")]
    trained = drawn(NCA.from_pretrained(runs / "hexagons"))
    save_image(image_grid([*pictures, trained], 5, pad=6), Path(__file__).with_name("hexagons.png"))


if __name__ == "__main__":
    main()
