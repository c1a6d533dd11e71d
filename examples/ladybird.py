"""Draws ladybird.png, the emoji-sized picture with transparency that `nca-fast grow` learns in the README."""

from pathlib import Path

from PIL import Image, ImageDraw

SIZE, FINE = 40, 16  # pixels, and parts of a pixel while drawing


def ladybird() -> Image.Image:
    """A ladybird from above, RGBA, 40 x 40."""
    image = Image.new("RGBA", (SIZE * FINE, SIZE * FINE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)

    def circle(x, y, radius, colour):
        draw.ellipse([FINE * (x - radius), FINE * (y - radius), FINE * (x + radius), FINE * (y + radius)], fill=colour)

    def line(points, width, colour):
        draw.line([FINE * value for point in points for value in point], fill=colour, width=round(FINE * width))

    black, red, white = (30, 26, 34, 255), (214, 40, 44, 255), (250, 250, 245, 255)
    for side in (-1, 1):
        for y, reach in ((16, 17), (22, 18), (28, 16.5)):
            line([(20, y), (20 + side * reach, y + (y - 20) / 2)], 2.2, black)
        line([(20, 10), (20 + side * 6, 3)], 1.4, black)
        circle(20 + side * 6, 3, 1.4, black)
    circle(20, 11, 7.5, black)
    circle(20, 23, 14, red)
    line([(20, 9), (20, 37)], 1.4, black)
    for side in (-1, 1):
        for x, y, radius in ((5.5, 16, 2.6), (8.5, 24, 2.8), (4.5, 31, 2.4)):
            circle(20 + side * x, y, radius, black)
        circle(20 + side * 3.6, 7.5, 1.7, white)
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


if __name__ == "__main__":
    ladybird().save(Path(__file__).with_name("ladybird.png"))
