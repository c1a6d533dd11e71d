"""Colour profiles (ICC) of pictures: their numbers become those of sRGB, by LittleCMS, which comes with Pillow."""

import io
import itertools
import warnings

import numpy as np
from PIL import Image, ImageCms

SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}  # of a profile -> Pillow's mode
# Profiles of sRGB differ in their last digits; a picture in one of them keeps its numbers.
SAME = 2


def in_srgb(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """Converts a picture to sRGB.

    Args:
        image: Mode L, RGB, CMYK or LAB.
        profile: What its numbers mean. None: CIE Lab, for mode LAB.
        name: Of the picture, for a warning.

    Returns:
        Mode RGB; the picture itself, with a warning, where the profile is broken or one of another kind of picture,
        and without where it is that of sRGB.
    """
    try:
        source = ImageCms.createProfile("LAB") if profile is None else ImageCms.getOpenProfile(io.BytesIO(profile))
        kind = getattr(source, "profile", source).xcolor_space.strip()
        if image.mode == "L" and kind == "RGB":
            image = image.convert("RGB")
        if SPACES.get(kind) != image.mode:
            raise ValueError(f"it is one of {kind} for a picture of {image.mode}")
        to_srgb = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, "RGB")
        if image.mode in ("L", "RGB"):
            probe = _probe(image.mode)
            change = np.asarray(ImageCms.applyTransform(probe, to_srgb), np.int16) - np.asarray(probe.convert("RGB"))
            if np.abs(change).max() <= SAME:
                return image
        return ImageCms.applyTransform(image, to_srgb)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        if image.mode == "LAB":
            raise ValueError(f"the picture {name!r} in Lab colours cannot be read: {error}.") from error
        warnings.warn(
            f"the colour profile in {name!r} cannot be used ({error}): the picture is taken for sRGB.", stacklevel=2
        )
        return image


def _probe(mode: str) -> Image.Image:
    """Makes a picture of all greys, or of colours from all over the cube."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    colors = list(itertools.product(range(0, 256, 15), repeat=3))
    return Image.fromarray(np.array(colors, np.uint8)[None])
