"""Makes the pictures of examples/ that the shelf's automata draw. `python -m bench.zoo.examples`, a minute of one core

- textures.jpg: left what an automaton learned, right what it grew, on a canvas larger than any it was trained on.
- style.jpg: above a style and three photographs, below the photographs as zoo:night redraws them; it never saw them.
- zoo.jpg: the shelf, as `nca-fast zoo --out` writes it.
"""

from pathlib import Path

import torch
from torch import Tensor

from bench.held_set.textures import PHOTOGRAPHS
from bench.zoo.items import ITEMS
from nca_fast import NCA, zoo
from nca_fast.canvas.scene import Scene
from nca_fast.commands.measure import as_learned
from nca_fast.commands.zoo import Zoo
from nca_fast.media.images import enlarged, image_grid, save_image
from nca_fast.rendering.render import render
from nca_fast.training.content import shrunk

FOLDER = Path(__file__).parents[2] / "examples"
TEXTURES = ("water", "weave", "cobbles")
CELLS, WIDTH, STEPS, ZOOM = 96, 288, 400, 2
STYLE, SEEN, SIDE = "night", ("flower", "camera", "china"), 256


def square(picture: Tensor, side: int) -> Tensor:
    """The middle of a picture, [3, side, side]."""
    top, left = ((length - side) // 2 for length in picture.shape[1:])
    return picture[:, top : top + side, left : left + side]


def textures() -> Tensor:
    """A line for each texture."""
    lines = []
    for name in TEXTURES:
        item, nca = ITEMS[name], NCA.from_pretrained(f"zoo:{name}")
        target = as_learned(item.picture(), item.settings["image_size"], item.settings["image_crop"])
        grown = nca.to_rgb(render(Scene(nca, CELLS, WIDTH, STEPS, seed=1)))[0]
        gap = torch.ones(3, ZOOM * CELLS, 8)
        lines.append(torch.cat([enlarged(square(target, CELLS), ZOOM), gap, enlarged(grown, ZOOM)], dim=2))
    return image_grid(lines, columns=1, pad=4)


def style() -> Tensor:
    """A style and photographs, and below these what became of them."""
    nca, steps = NCA.from_pretrained(f"zoo:{STYLE}"), zoo.card(STYLE).steps
    photographs = [square(shrunk(PHOTOGRAPHS[name](), SIDE * 3 // 2), SIDE) for name in SEEN]
    redrawn = [nca.to_rgb(nca(nca.initial_state(1, SIDE, SIDE, image=p), steps, seed=0))[0] for p in photographs]
    return image_grid([ITEMS[STYLE].picture(), *photographs, torch.ones(3, SIDE, SIDE), *redrawn], 4, pad=4)


@torch.no_grad()
def main() -> None:
    for name, picture in (("textures.jpg", textures()), ("style.jpg", style())):
        save_image(picture, FOLDER / name)
    Zoo(out=FOLDER / "zoo.jpg").run("nca-fast zoo")


if __name__ == "__main__":
    main()
