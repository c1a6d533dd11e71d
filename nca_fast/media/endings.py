"""The endings of the files that can be written, which commands check before torch is loaded: the keys of
`images.PILLOW_FORMATS`, `formats.FORMATS` and `film.FILMS`."""

from pathlib import Path

PILLOW = (".png", ".jpg", ".jpeg", ".webp")
PICTURES = (*PILLOW, ".tif", ".tiff", ".dzi")
FILMS = (".mp4", ".gif")


def check_picture(out: Path) -> None:
    """Raises ValueError for a name whose ending is none of those of pictures that are held in memory."""
    if out.suffix.lower() not in PILLOW:
        raise ValueError(f"out must end in one of {', '.join(PILLOW)}, but got {str(out)!r}.")
