"""Pictures in a Jupyter notebook, which asks what a cell gave, or what `display` was given, for bytes it can show."""

import io
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from nca_fast.media.images import enlarged, image_grid, to_uint8

QUALITY = 85  # of JPEG: a notebook keeps what it shows, and PNG of a texture is several times as large


class Row:
    """Pictures beside each other, for a notebook.

        screen = display(Row(target), display_id=True)      # in a cell that trains
        screen.update(Row(target, nca.to_rgb(x)))           # as often as you like: it takes the place of the first

    Args:
        images: One or more [3, H, W] or batches [B, 3, H, W] of one height and width; values outside [0, 1] are
            clipped.
        columns: Pictures in a row; None: all of them.
        zoom: Pixels along the side of a cell.

    Raises:
        ValueError: Pictures of other shapes or of several sizes; NaN, once it is shown.
    """

    def __init__(self, *images: Tensor, columns: int | None = None, zoom: int = 1):
        if zoom < 1:
            raise ValueError(f"zoom must be at least 1, but got {zoom}.")
        pictures: Sequence[Tensor] = [
            picture.detach().cpu() for image in images for picture in (image if image.ndim == 4 else image[None])
        ]
        self.picture = enlarged(image_grid(pictures, columns or max(len(pictures), 1)), zoom)

    def _repr_jpeg_(self) -> bytes:
        """Encodes them, for Jupyter."""
        file = io.BytesIO()
        Image.fromarray(to_uint8(self.picture)).save(file, "JPEG", quality=QUALITY)
        return file.getvalue()
