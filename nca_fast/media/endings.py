"""The endings of the files that can be written, which commands check before torch is loaded: the keys of
`images.PILLOW_FORMATS`, `formats.FORMATS` and `film.FILMS`."""

PILLOW = (".png", ".jpg", ".jpeg", ".webp")
PICTURES = (*PILLOW, ".tif", ".tiff", ".dzi")
FILMS = (".mp4", ".gif")
