"""Makes examples/smooth.png: a ladybird and scales, every cell a square, and with colours that go over into each other.

python -m examples.smooth        some 3 CPU seconds
"""

from pathlib import Path

from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.media.images import enlarged, image_grid, save_image
from nca_fast.rendering.render import render
from nca_fast.rendering.smooth import smoothed

SIDE, ZOOM = 36, 8
SHOWN = {"ladybird": (56, 200), "scales": (SIDE, 300)}  # rows and columns of the canvas, and steps


def main() -> None:
    pictures = []
    for name, (side, steps) in SHOWN.items():
        nca, edge = NCA.from_pretrained(f"zoo:{name}"), (side - SIDE) // 2
        cells = nca.to_rgb(render(Scene(nca, side, side, steps, seed=2)))[0]
        for large in (enlarged(cells, ZOOM), smoothed(cells, ZOOM, wraps=True)):
            pictures.append(large[:, edge * ZOOM :, edge * ZOOM :][:, : SIDE * ZOOM, : SIDE * ZOOM])
    save_image(image_grid(pictures, 4, pad=6), Path(__file__).with_name("smooth.png"))


if __name__ == "__main__":
    main()
