"""Six sprites of 40 x 40 pixels with transparency, drawn here."""

from collections.abc import Callable

from PIL import Image, ImageDraw

SIDE, OVER = 40, 8  # pixels, and how many times larger they are drawn

Draw = ImageDraw.ImageDraw


def _mushroom(draw: Draw) -> None:
    draw.ellipse((13, 17, 27, 39), "#f3e3c3")
    draw.pieslice((2, 2, 38, 38), 180, 360, "#d3302f")
    draw.ellipse((2, 15, 38, 25), "#d3302f")
    for x, y, r in ((12, 11, 3), (24, 8, 3.5), (30, 17, 2.5), (19, 17, 2.5), (8, 18, 2)):
        draw.ellipse((x - r, y - r, x + r, y + r), "#fff6ea")
    for x in (16, 24):
        draw.ellipse((x - 1.3, 27, x + 1.3, 31), "#40342c")


def _fish(draw: Draw) -> None:
    draw.polygon([(28, 20), (39, 8), (36, 20), (39, 32)], "#f08a24")
    draw.polygon([(12, 11), (22, 3), (26, 12)], "#f08a24")
    draw.ellipse((1, 8, 32, 33), "#ffb03b")
    for x in (13, 21):
        draw.arc((x - 8, 9, x + 4, 32), -70, 70, "#ffffff", 2)
    draw.ellipse((5, 14, 11, 20), "white")
    draw.ellipse((6.5, 15.5, 10, 19), "#222222")


def _butterfly(draw: Draw) -> None:
    for side in (-1, 1):
        for y, r, colour in ((12, 10, "#3f6fd8"), (27, 8, "#7ec4f0")):
            x = 20 + side * (r + 1)
            draw.ellipse((x - r, y - r, x + r, y + r), "#1d2b54")
            draw.ellipse((x - r + 2, y - r + 2, x + r - 2, y + r - 2), colour)
            draw.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), "#ffd84a")
        draw.line([(20, 9), (20 + side * 6, 2)], "#2a2230", 1)
    draw.ellipse((18, 7, 22, 36), "#2a2230")


def _cactus(draw: Draw) -> None:
    green = "#3f9b4f"
    draw.rounded_rectangle((15, 3, 25, 32), 5, green)
    draw.rounded_rectangle((4, 12, 10, 22), 3, green)
    draw.rounded_rectangle((4, 18, 18, 23), 3, green)
    draw.rounded_rectangle((30, 8, 36, 19), 3, green)
    draw.rounded_rectangle((22, 15, 36, 20), 3, green)
    for x in (18, 22):
        draw.line([(x, 6), (x, 30)], "#2c7a3b", 1)
    draw.ellipse((16, 0, 24, 6), "#f06292")
    draw.polygon([(10, 29), (30, 29), (27, 39), (13, 39)], "#c0673a")
    draw.rectangle((9, 28, 31, 31), "#d9804e")


def _ghost(draw: Draw) -> None:
    draw.pieslice((5, 2, 35, 34), 180, 360, "#9a7fe0")
    draw.rectangle((5, 18, 35, 34), "#9a7fe0")
    for x in (5, 15, 25):
        draw.ellipse((x, 29, x + 10, 39), "#9a7fe0")
    for x in (13, 25):
        draw.ellipse((x - 4, 11, x + 4, 21), "white")
        draw.ellipse((x - 0.5, 14, x + 3.5, 20), "#23306b")


def _rocket(draw: Draw) -> None:
    draw.polygon([(14, 30), (20, 40), (26, 30)], "#ffb300")
    draw.polygon([(17, 30), (20, 36), (23, 30)], "#fff59d")
    draw.polygon([(12, 20), (4, 32), (13, 30)], "#c62828")
    draw.polygon([(28, 20), (36, 32), (27, 30)], "#c62828")
    draw.ellipse((11, 0, 29, 44), "#eceff1")
    draw.pieslice((11, 0, 29, 44), 225, 315, "#c62828")
    draw.ellipse((15.5, 14, 24.5, 23), "#37474f")
    draw.ellipse((17, 15.5, 23, 21.5), "#81d4fa")


SPRITES: dict[str, Callable[[Draw], None]] = {
    "mushroom": _mushroom,
    "fish": _fish,
    "butterfly": _butterfly,
    "cactus": _cactus,
    "ghost": _ghost,
    "rocket": _rocket,
}


class _Scaled:
    """Draws in pixels of the sprite on a picture that is `OVER` times larger."""

    def __init__(self, draw: Draw):
        self.draw = draw

    def __getattr__(self, shape: str):
        method = getattr(self.draw, shape)

        def scaled(points, *rest):
            if isinstance(points, list):
                return method([(x * OVER, y * OVER) for x, y in points], *_width(shape, rest))
            return method([value * OVER for value in points], *_width(shape, rest))

        return scaled


def _width(shape: str, rest: tuple) -> tuple:
    """Scales what else is a length: the width of lines, the radius of corners."""
    if shape in ("line", "arc"):
        return (*rest[:-1], rest[-1] * OVER)
    return (rest[0] * OVER, *rest[1:]) if shape == "rounded_rectangle" else rest


def sprite(name: str) -> Image.Image:
    """Draws a sprite, RGBA, 40 x 40."""
    large = Image.new("RGBA", (SIDE * OVER, SIDE * OVER))
    SPRITES[name](_Scaled(ImageDraw.Draw(large)))
    return large.resize((SIDE, SIDE), Image.Resampling.BOX)
