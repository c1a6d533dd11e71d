"""The maps of a surface that an automaton draws beside colours, as files beside the picture."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nca_fast.canvas.canvas import PIXELS, Canvas
from nca_fast.hexagons import draws_hexagons
from nca_fast.map_names import HEIGHT, NORMAL
from nca_fast.media.images import enlarged
from nca_fast.media.png import PNG, write_png
from nca_fast.media.row_blocks import one_file
from nca_fast.nca import NCA
from nca_fast.rendering.hexagons import hexagon_blocks
from nca_fast.rendering.smooth import smoothed_blocks
from nca_fast.surfaces import facing


def map_path(path: Path, name: str) -> Path:
    """Names the file of a map: wall_normal.png beside wall.png, always a PNG, for a map bears no loss."""
    return path.with_name(f"{path.stem}_{name}.png")


def map_bytes(nca: NCA, height: int, width: int) -> int:
    """Counts the bytes that the maps of a picture of so many pixels take on the disk, at most."""
    return len(nca.maps) * PNG.bytes_needed(height, width)


def write_maps(canvas: Canvas, path: Path, size: tuple[int, int], zoom: int = 1, smooth: bool = False) -> list[Path]:
    """Writes all maps of a canvas; a height with 16 bits, other maps with 8.

    Args:
        canvas: At its end.
        path: Of the picture.
        size: Rows and columns of the picture, in pixels.
        zoom, smooth: As in `picture`.

    Returns:
        The files; none where the automaton draws no maps.

    Raises:
        OSError: A file cannot be written.
    """
    files = []
    for name, channels in canvas.scene.nca.maps.items():
        kind = {"channels": channels, "depth": 16 if name == HEIGHT else 8}
        write = one_file(partial(write_png, **kind))

        def written(blocks: Iterator[Tensor], name=name, write=write, depth=kind["depth"]) -> list[Path]:
            numbers = (block.numpy().astype(f"uint{depth}") for block in blocks)
            return write(map_path(path, name), *size, numbers)

        files += canvas.neighbours.together(written, _levels(canvas, name, zoom, smooth, 2 ** kind["depth"] - 1))
    return files


def _levels(canvas: Canvas, name: str, zoom: int, smooth: bool, highest: int) -> Iterator[Tensor]:
    """Shows a map from top to bottom: int32 [rows * zoom, width * zoom, channels], from 0 to `highest`."""
    nca = canvas.scene.nca
    show = partial(nca.to_map, name=name)
    if draws_hexagons(nca) or smooth:
        blocks = smoothed_blocks(canvas, show, zoom) if smooth else hexagon_blocks(canvas, show, zoom, light=False)
        blocks = map(facing, blocks) if name == NORMAL else (block.clamp(0, 1) for block in blocks)
    else:
        at_once = max(1, PIXELS // (canvas.band.width * zoom * zoom))
        blocks = (
            enlarged(show(canvas.rows(row, count)[None])[0].float().cpu(), zoom)
            for row, count in canvas.band.blocks(at_once)
        )
    for values in blocks:
        yield (values * highest).round().to(torch.int32).permute(1, 2, 0).contiguous()
