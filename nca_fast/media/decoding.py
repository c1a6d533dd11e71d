"""Opening picture files as a viewer shows them: upright, in sRGB, with their transparency, whatever else they carry."""

from __future__ import annotations

import io
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from nca_fast.media import jp2
from nca_fast.media.color_profiles import in_srgb
from nca_fast.media.png import pixels_and_profile
from nca_fast.media.sources import check_picture_source

# Pillow starts Ghostscript for EPS, draws WMF with Windows, and only names the content of the others.
_NO_PICTURES = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "PDF", "WMF"}
HEIF_ENDINGS = (".heic", ".heif", ".hif")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Decoded:
    """A picture that was read.

    Args:
        color: Mode RGB, or F in [0, 1] for grey of more than 8 bits.
        alpha: Mode L, of the same size; None where nothing is transparent.
    """

    color: Image.Image
    alpha: Image.Image | None


def picture_files(folder: str | os.PathLike) -> list[Path]:
    """Lists the files of a folder whose names end as those of pictures do, in order; not hidden ones."""
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in _formats()}
    endings.update(HEIF_ENDINGS)  # so that they are named, and not passed over in silence
    return sorted(
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file()
    )


def decoded_file(name: str) -> Decoded:
    """Reads a picture file.

    Raises:
        ValueError: It is missing, of a kind that cannot be read, damaged, empty or suspiciously large.
    """
    check_picture_source(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # up to twice its limit Pillow only warns
            with open(name, "rb") as file:
                image, orientation = _loaded(file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(
            f"a picture must have at most {Image.MAX_IMAGE_PIXELS} pixels, but {name!r} has more "
            "(a decompression bomb?); if you trust it, shrink it with another program first."
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(_unidentified(name)) from error
    except Exception as error:  # decoders raise SyntaxError, EOFError, struct.error and more for damaged files
        raise ValueError(f"the picture {name!r} cannot be read; it may be damaged or cut short: {error}.") from error
    return decoded(image, name, orientation)


def decoded(image: Image.Image, name: str, orientation: object = None) -> Decoded:
    """Reduces the many modes of a picture of Pillow's, and turns it upright.

    Args:
        image: The picture.
        name: For errors.
        orientation: What EXIF says how to turn it; odd values are ignored.

    Raises:
        ValueError: As `decoded_file`.
    """
    if 0 in image.size:
        raise ValueError(f"a picture must have at least one pixel, but {name!r} is {image.width}x{image.height}.")
    try:
        color, alpha = _deep(image, name) if _is_deep(image) else _split(image, name)
        if alpha is not None and alpha.getextrema() == (255, 255):
            alpha = None
        turn = _TURNS.get(orientation)
        if turn is not None:
            color, alpha = color.transpose(turn), None if alpha is None else alpha.transpose(turn)
    except Exception as error:  # Pillow has many kinds for what it cannot convert
        if repr(name) in str(error):
            raise
        raise ValueError(f"the picture {name!r} cannot be read: {error}. Save it as an ordinary PNG.") from error
    return Decoded(color, alpha)


def _formats() -> list[str]:
    Image.init()
    return [kind for kind in Image.OPEN if kind not in _NO_PICTURES]


def _loaded(file: io.BufferedReader) -> tuple[Image.Image, object]:
    """Opens and decodes a picture, and reads its orientation; what else it carries cannot hurt where that is known."""
    start, profile, source = file.read(32), None, file
    file.seek(0)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        source, profile = pixels_and_profile(file)
    elif start[4:8] == b"ftyp" and b"avi" in start:
        # libavif refuses a picture for its EXIF, which turns nothing here: that AVIF says in another place.
        source = io.BytesIO(re.sub(rb"(infe[\s\S]{8})Exif", rb"\1free", file.read()))
    elif start.startswith(jp2.SIGNATURE):
        profile = jp2.profile_of(file)
        file.seek(0)
    image = Image.open(source, formats=_formats())
    if image.format == "TIFF":
        _check_tiles(image)
    image.load()
    if profile is not None:
        image.info["icc_profile"] = profile
    return image, _orientation(image)


def _unidentified(name: str) -> str:
    """Says why Pillow does not know a file, and what would help."""
    with open(name, "rb") as file:
        start = file.read(16)
    if Path(name).suffix.lower() in HEIF_ENDINGS or (start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS):
        return (
            f"{name!r} must be a picture that Pillow reads, but is HEIC: convert it to JPEG (pip install pillow-heif "
            "reads it in Python; phones and viewers can export it)."
        )
    if start.startswith((b"%PDF", b"%!PS", b"\xc5\xd0\xd3\xc6", b"<svg", b"<?xml")):
        return f"{name!r} must be a picture made of pixels, but is a drawing (PDF, EPS, SVG): export it as PNG."
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return (
            f"{name!r} must be a TIFF of a kind that Pillow reads, but its pixels are of another (such as 16-bit grey "
            "with alpha, 16-bit colours in planes, or more than 32 bits), or it is damaged: save it as PNG."
        )
    return f"{name!r} must be a picture (PNG, JPEG, WebP, GIF, TIFF, ...), but its content is none."


def _orientation(image: Image.Image) -> object:
    """Reads the EXIF tag that says how a picture is to be turned; None where it cannot be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
        return found if isinstance(found, int) else None
    except Exception:  # SyntaxError, struct.error, ...: odd EXIF is no damage of the picture
        return None


def _check_tiles(image: Image.Image) -> None:
    """Refuses what Pillow would make up of a TIFF that is not compressed: it says nothing of pixels that are not there,
    and takes every byte of 16-bit planes for a pixel."""
    ends = [tile[1][2:] for tile in image.tile if tile[0] == "raw"]
    bits = image.tag_v2.get(258, (1,))
    if ends and image.tag_v2.get(284) == 2 and len(bits) > 1 and max(bits) > 8:
        raise UnidentifiedImageError
    width, height = image.tag_v2[256], image.tag_v2[257]  # image.size may be of the picture that is turned already
    columns, rows = map(max, zip(*ends, strict=True)) if ends else (width, height)
    if columns < width or rows < height:
        raise ValueError(f"it says {height} x {width} pixels, and holds {rows} x {columns}")


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _deep(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """Scales grey of more than 8 bits to [0, 1], in mode F."""
    array = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits, inverted = tags.get(258, (16,))[0], tags.get(262) == 0
    if bits == 32 and image.mode == "I" and tags.get(339, (1,))[0] == 1:
        array = array.view(np.uint32)  # Pillow has signed numbers only
    low, high = array.min(), array.max()
    if image.mode == "F":
        top = 1.0
    elif high <= 65535:
        signed = bits == 16 and tags.get(339, (1,))[0] == 2
        # Of 32 bits too: most programs put 16-bit pictures there as they are.
        top = 2.0 ** (15 if signed else min(bits, 16)) - 1
    else:
        top = 2.0**32 - 1 if array.dtype == np.uint32 else 2.0**31 - 1
    # A picture of 32 bits that reaches not even a hundredth of their range has one that nobody can tell.
    if not (low >= 0 and high <= top) or (top > 65535 and high < top / 100):
        raise ValueError(
            f"grey values of {name!r} must lie in [0, {'1' if image.mode == 'F' else '65535] or fill [0, 2**32 - 1'}] "
            f"(mode {image.mode}), but they span [{low:g}, {high:g}]; rescale the picture first."
        )
    grey = (array.astype(np.float64) / top).astype(np.float32)
    grey = 1 - grey if inverted else grey
    alpha, clear = None, image.info.get("transparency")
    if isinstance(clear, int):  # the one value of a PNG that is transparent
        alpha = Image.fromarray(np.where(array == clear, 0, 255).astype(np.uint8))
    profile = image.info.get("icc_profile")
    if profile:
        levels = np.asarray(in_srgb(Image.fromarray(np.arange(256, dtype=np.uint8)[None]), profile, name).convert("L"))
        if not np.array_equal(levels[0], np.arange(256)):
            grey = np.interp(grey, np.arange(256) / 255, levels[0] / 255).astype(np.float32)
    return Image.fromarray(grey), alpha


def _split(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """Makes sRGB and alpha of a picture of up to 8 bits."""
    alpha, profile = None, image.info.get("icc_profile")
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La")
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # Pillow has no direct way
        alpha = image.getchannel("A")
        image = image.getchannel("R") if grey else image.convert("RGB")
    elif image.mode not in ("L", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if profile or image.mode == "LAB":
        image = in_srgb(image, profile, name)
    return image.convert("RGB"), alpha
