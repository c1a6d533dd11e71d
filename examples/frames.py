"""Makes examples/frames.jpg, automata of the shelf aligned to a pole and to two, and examples/scales.jpg, one that was
trained with --recipe noise and one of the shelf at three scales.

python -m examples.frames [FOLDER]        some 100 CPU seconds; a run in FOLDER (runs) is gone on with
"""

import sys
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from bench.zoo import drawings
from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.media.images import enlarged, image_grid, save_image
from nca_fast.rendering.render import render
from nca_fast.systems.texture import Texture
from nca_fast.systems.texture_settings import NOISE, TextureSources
from nca_fast.training.session import run_training

SHELF, ALIGNMENTS = ("zebra", "weave", "bark"), ("polar", "dipole")
CONFIG = replace(NOISE, image_crop=200, image_size=48, iterations=1000, video_steps=0, picture_steps=64, threads=1)
SCALES = (0.7, 1.0, 2.0)


def drawn(nca: NCA, height: int, width: int, steps: int, zoom: int, **settings) -> Tensor:
    """What the automaton draws, each cell as zoom x zoom pixels."""
    scene = Scene(nca, height, width, steps, seed=1, config=CanvasConfig(**settings))
    return enlarged(nca.to_rgb(render(scene))[0], zoom)


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    runs.mkdir(parents=True, exist_ok=True)
    aligned = [
        drawn(NCA.from_pretrained(f"zoo:{name}"), 120, 168, 250, 2, align=align)
        for name in SHELF
        for align in ALIGNMENTS
    ]
    save_image(image_grid(aligned, columns=2, pad=4), Path(__file__).with_name("frames.jpg"))
    save_image(drawings.giraffe(), runs / "giraffe.png")
    run_training(Texture, TextureSources(str(runs / "giraffe.png")), runs / "giraffe", CONFIG, resume=True)
    rows = []
    for nca in (NCA.from_pretrained(runs / "giraffe"), NCA.from_pretrained("zoo:weave")):
        rows += [drawn(nca, 96, 96, round(300 * max(1, scale) ** 2), 3, scale=scale) for scale in SCALES]
    save_image(image_grid(rows, columns=3, pad=4), Path(__file__).with_name("scales.jpg"))


if __name__ == "__main__":
    main()
