"""The part of a picture that a texture's automaton learns, and how many of its pixels are a cell."""

from torch import Tensor
from torch.nn import functional as F

from nca_fast.media.structure import period
from nca_fast.systems.texture_settings import SMALLEST_IMAGE

CELLS = 12  # from one thing in a picture to the next, where the scale is chosen


def check_picture(picture: Tensor, name: str, smallest: int) -> None:
    """Raises ValueError for what is no picture to learn, or has fewer rows or columns than `smallest`.

    Args:
        picture: [3, h, w]
        name: What the error calls it.
    """
    if picture.ndim != 3 or picture.shape[0] != 3 or min(picture.shape[1:]) < smallest:
        raise ValueError(
            f"{name} must be [3, h, w], at least {smallest} pixels high and wide, but its shape is "
            f"{list(picture.shape)}. Choose another picture."
        )


def chosen_crop(image: Tensor, size: int) -> int:
    """Finds how many pixels of a picture [3, H, W] a canvas of size x size cells should show, from side to side.

    So many that there are `CELLS` cells from one thing in it to the next: with fewer they are no more than dots, and
    with more an automaton of some dozens of steps does not see how they go together. Where nothing repeats, 4 pixels
    are a cell, or half of the shorter side is shown if that is more. Never more than there are pixels, and never so few
    that the picture would have to be enlarged.
    """
    largest, found = min(image.shape[1:]), period(image)
    crop = max(largest // 2, 4 * size) if found is None else round(found * size / CELLS)
    return min(max(image.shape[1:]), max(size, min(largest, crop)))


def as_target(image: Tensor, crop: int, size: int) -> Tensor:
    """Cuts the middle crop x crop pixels out of a picture [3, H, W], or all of a shorter side, and shrinks them to
    `size` for `crop`. [3, h, w] in [0, 1]"""
    height, width = image.shape[1:]
    if crop > max(height, width):
        raise ValueError(f"image_crop must be at most the {height} x {width} pixels of the image, but got {crop}.")
    rows, columns = min(crop, height), min(crop, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    target = image[:, top : top + rows, left : left + columns]
    if crop > size:
        shrunk = [max(1, round(side * size / crop)) for side in (rows, columns)]
        if min(shrunk) < SMALLEST_IMAGE:
            raise ValueError(
                f"image must be at least {SMALLEST_IMAGE} pixels high and wide when {crop} of its pixels are shrunk to "
                f"{size}, but then it is {shrunk[0]} x {shrunk[1]}. Choose a smaller image_crop."
            )
        target = F.interpolate(target[None].float(), shrunk, mode="bicubic", antialias=True)[0].clamp(0, 1)
    return target.float().contiguous()
