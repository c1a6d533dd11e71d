"""How wide the strokes of a picture are: brush strokes, panes, dots, lines, whatever it is made of."""

from torch import Tensor
from torch.nn import functional as F

_FLAT = 1e-3  # standard deviation, of 1: a quarter of a level of 255


def stroke_width(picture: Tensor) -> float:
    """Measures how far one has to go in a picture until the colour has changed, in pixels.

        w = standard deviation / mean change from a pixel to the next

    Stripes that are n pixels wide have n / 2, and n in the direction along them is left out of the count by the mean
    over both axes, which makes it n. Noise of single pixels has 0.9. The large waves of light and dark in a photograph
    count as far as the colours that they bring.

    Args:
        picture: [3, H, W] in [0, 1], 2 x 2 or larger.

    Returns:
        Infinity for a flat picture.
    """
    spread = picture.std(dim=(1, 2)).mean()
    change = (picture.diff(dim=1).abs().mean() + picture.diff(dim=2).abs().mean()) / 2
    return float(spread / change) if spread > _FLAT else float("inf")


def size_for_strokes(picture: Tensor, width: float, smallest: int, largest: int) -> int:
    """Finds the longer side, in pixels, to which a picture is shrunk so that its strokes are about so wide.

    Args:
        picture: [3, H, W] in [0, 1].
        width: In pixels, as `stroke_width` measures it.
        smallest, largest: Bounds of the answer; it is no larger than the picture either.

    Returns:
        `largest` where even then they are thinner, `smallest` where they are wider at all sizes.
    """
    longer = max(picture.shape[1:])
    low, high = min(smallest, longer), min(largest, longer)
    while low < high:
        middle = (low + high + 1) // 2
        if stroke_width(_shrunk(picture, middle)) <= width:
            low = middle
        else:
            high = middle - 1
    return low


def _shrunk(picture: Tensor, longer: int) -> Tensor:
    size = [max(2, round(side * longer / max(picture.shape[1:]))) for side in picture.shape[1:]]
    if list(picture.shape[1:]) == size:
        return picture
    return F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
