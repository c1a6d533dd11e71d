"""Pictures in and out, through Pillow. A picture is a float32 tensor [3, H, W] in [0, 1], sRGB."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nca_fast.media.decoding import Decoded, decoded, decoded_file
from nca_fast.media.row_blocks import PictureFormat, one_file
from nca_fast.media.sources import SKIMAGE, check_picture_source


def _pillow_format(name: str, largest_side: int, bytes_a_pixel: int, alpha: bool, **options) -> PictureFormat:
    """Describes a format of Pillow, which takes the whole picture, and holds so many bytes of each pixel of it."""

    def write(path: Path, height: int, width: int, blocks: Iterable[np.ndarray], channels: int = 3) -> None:
        pixels, row = np.empty((height, width, channels), np.uint8), 0
        for block in blocks:
            pixels[row : row + len(block)] = block
            row += len(block)
        Image.fromarray(pixels).save(path, format=name, **options)

    return PictureFormat(
        largest_side,
        one_file(write),
        # Noise stays as large as it is (tests/test_formats.py).
        bytes_needed=lambda height, width: 3 * height * width + height * width // 10 + 65536,
        bytes_held=lambda height, width: bytes_a_pixel * height * width,
        write_rgba=one_file(partial(write, channels=4)) if alpha else None,
    )


# JPEG has 16 bits for a side, and libjpeg-turbo stops at 65500; WebP has 14 bits. Pillow has a copy of 4 bytes a pixel,
# WebP three more.
_JPEG = _pillow_format("JPEG", 65500, 8, False, quality=95, subsampling=0)
PILLOW_FORMATS = {
    ".png": _pillow_format("PNG", 2**31 - 1, 8, True),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _pillow_format("WEBP", 16383, 16, True, lossless=True),
}


def load_image(path_or_name: str | os.PathLike, max_size: int | None = None) -> torch.Tensor:
    """Reads a picture as a viewer would show it.

    EXIF rotation and colour profiles are applied, transparency is laid over white, grey, palette, CMYK and 16-bit
    pictures become RGB, and of an animation the first frame is taken. A broken profile is ignored, with a warning.

    Args:
        path_or_name: a file, or `skimage:NAME` for a picture that comes with scikit-image (`skimage:brick`).
        max_size: longest side in pixels; a larger picture is shrunk (Lanczos), a smaller one is left alone.

    Returns:
        float32 [3, H, W] in [0, 1].

    Raises:
        ValueError: missing, unreadable, damaged, empty or suspiciously large file; unknown name; max_size below 1.
        ImportError: `skimage:` without scikit-image.
    """
    return load_with_alpha(path_or_name, max_size)[0]


def load_with_alpha(
    path_or_name: str | os.PathLike, max_size: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Does as `load_image`, and says how opaque the picture is: [H, W] in [0, 1], None where nothing is transparent."""
    _check_max_size(max_size)
    picture = _read(os.fspath(path_or_name))
    if picture.alpha is None:
        return _tensor(_shrunk(picture.color, max_size)), None
    if picture.color.mode == "F":
        alpha = np.asarray(picture.alpha, dtype=np.float32) / 255
        color = Image.fromarray(np.asarray(picture.color) * alpha + (1 - alpha))
    else:
        layers = Image.new("RGBA", picture.color.size, "white"), _rgba(picture)
        color = Image.alpha_composite(*layers).convert("RGB")
    return _tensor(_shrunk(color, max_size)), _tensor(_shrunk(picture.alpha, max_size))[0]


def source_name(source: str | os.PathLike | torch.Tensor | None) -> str | None:
    """Says where a picture comes from: its file or "skimage:NAME"; None for a tensor or no picture."""
    return None if source is None or isinstance(source, torch.Tensor) else os.fspath(source)


def load_rgba(path: str | os.PathLike, max_size: int | None) -> torch.Tensor:
    """Reads a picture with its transparency.

    Args:
        path: a file; one without transparency is opaque all over.
        max_size: longest side in pixels; a larger picture is shrunk (Lanczos), a smaller one is left alone; None:
            all are.

    Returns:
        float32 [4, H, W] in [0, 1]: red, green and blue, multiplied by alpha, and alpha.

    Raises:
        ValueError: missing, unreadable, damaged, empty or suspiciously large file; max_size below 1.
    """
    _check_max_size(max_size)
    picture = _read(os.fspath(path))
    if picture.color.mode == "RGB":  # Pillow multiplies by alpha while it shrinks
        pixels = torch.from_numpy(np.asarray(_shrunk(_rgba(picture), max_size), dtype=np.float32) / 255)
        pixels = pixels.permute(2, 0, 1)
        return torch.cat([pixels[:3] * pixels[3:], pixels[3:]]).contiguous()
    alpha = picture.alpha or Image.new("L", picture.color.size, 255)
    held = np.asarray(picture.color) * (np.asarray(alpha, dtype=np.float32) / 255)
    return torch.cat([_tensor(_shrunk(Image.fromarray(held), max_size)), _tensor(_shrunk(alpha, max_size))[:1]])


def load_straight(path: str | os.PathLike, max_size: int | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Does as `load_with_alpha`, and leaves the colours as they are, of no background: [3, H, W] in [0, 1]. Where
    nothing can be seen they are white."""
    rgba = load_rgba(path, max_size)
    color, alpha = rgba[:3], rgba[3]
    if (alpha == 1).all():
        return color, None
    return torch.where(alpha > 0, color / alpha.clamp(min=1e-6), 1.0).clamp(0, 1), alpha


def save_image(image: torch.Tensor, path: str | os.PathLike) -> None:
    """Writes a picture, atomically; the ending of `path` decides between PNG, JPEG and WebP.

    Args:
        image: [3, H, W] float in [0, 1]; values outside are clipped.
        path: a name that ends in .png, .jpg, .jpeg or .webp.

    Raises:
        ValueError: a shape, NaN or ending that cannot be saved.
        OSError: the file cannot be written; the file that was there before is unchanged.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in PILLOW_FORMATS:
        raise ValueError(
            f"the picture's name must end in one of {', '.join(sorted(PILLOW_FORMATS))}, but got {os.fspath(path)!r}."
        )
    pixels = to_uint8(image)
    PILLOW_FORMATS[suffix].write(Path(path), *pixels.shape[:2], [pixels])


def image_grid(images: Sequence[torch.Tensor], columns: int, pad: int = 2) -> torch.Tensor:
    """Lays pictures out in rows on white.

    Args:
        images: at least one [3, H, W] in [0, 1], all of one size.
        columns: pictures per row (fewer when there are fewer pictures).
        pad: white pixels between neighbours.

    Returns:
        [3, rows * (H + pad) - pad, columns * (W + pad) - pad].

    Raises:
        ValueError: no pictures, different sizes, columns below 1 or pad below 0.
    """
    if not images or any(image.ndim != 3 or image.shape != images[0].shape for image in images):
        raise ValueError(
            f"images must be one or more [3, H, W] of one size, but got {[tuple(image.shape) for image in images]}."
        )
    if columns < 1 or pad < 0:
        raise ValueError(f"columns must be at least 1 and pad at least 0, but got {columns} and {pad}.")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    depth, height, width = images[0].shape
    grid = images[0].new_ones(depth, rows * (height + pad) - pad, columns * (width + pad) - pad)
    for index, image in enumerate(images):
        top, left = index // columns * (height + pad), index % columns * (width + pad)
        grid[:, top : top + height, left : left + width] = image
    return grid


def enlarged(image: torch.Tensor, zoom: int) -> torch.Tensor:
    """Enlarge a picture: every pixel becomes zoom x zoom pixels. [..., H, W] -> [..., H * zoom, W * zoom]"""
    return image.repeat_interleave(zoom, -2).repeat_interleave(zoom, -1)


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """Converts one picture to bytes: round(255 * clip(image, 0, 1)).

    Args:
        image: [3, H, W] float in [0, 1].

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: another shape, an empty picture, an integer tensor or NaN.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0 or not image.is_floating_point():
        raise ValueError(f"a picture must be a non-empty float [3, H, W], but got {image.dtype} {tuple(image.shape)}.")
    image = image.detach().to("cpu", torch.float32)
    if torch.isnan(image).any():
        raise ValueError(
            "a picture must not hold NaN; did the automaton blow up? A lower learning rate often mends that."
        )
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _check_max_size(max_size: int | None) -> None:
    if max_size is not None and max_size < 1:
        raise ValueError(f"max_size must be at least 1 pixel, but got {max_size}.")


def _shrunk(image: Image.Image, max_size: int | None) -> Image.Image:
    if max_size is None or max(image.size) <= max_size:
        return image
    scale = max_size / max(image.size)
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)


def _read(name: str) -> Decoded:
    return decoded(_open_skimage(name), name) if name.startswith(SKIMAGE) else decoded_file(name)


def _rgba(picture: Decoded) -> Image.Image:
    rgba = picture.color.convert("RGBA")
    if picture.alpha is not None:
        rgba.putalpha(picture.alpha)
    return rgba


def _tensor(image: Image.Image) -> torch.Tensor:
    """Makes float32 [3, H, W] in [0, 1] of a picture of mode RGB, L or F."""
    array = np.asarray(image, dtype=np.float32)
    # The Lanczos filter overshoots at edges; Pillow clips that for 8-bit pictures only.
    array = array.clip(0, 1) if image.mode == "F" else array / np.float32(255)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _open_skimage(name: str) -> Image.Image:
    check_picture_source(name)
    try:
        import skimage.data
    except ImportError as error:
        raise ImportError(f"{name!r} needs scikit-image: pip install 'nca-fast[examples]'.") from error
    array = getattr(skimage.data, name.removeprefix(SKIMAGE))()
    return Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == bool else array)
