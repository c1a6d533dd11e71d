"""Pictures of a trained automaton as files, of any size, by one process or by many."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nca_fast import processes
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.exchange import Alone, BandExchange, band_path, bands, check_other_counts
from nca_fast.canvas.plan import Reserve
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.state_file import state_bytes
from nca_fast.files import remove_leftovers
from nca_fast.hexagons import draws_hexagons
from nca_fast.media.formats import FORMATS, check_picture, write_picture
from nca_fast.media.images import PILLOW_FORMATS, enlarged, to_uint8
from nca_fast.rendering.finish import Finish
from nca_fast.rendering.hexagons import Hexagons, hexagon_blocks
from nca_fast.rendering.progress import progress_bar
from nca_fast.rendering.smooth import REACH, smoothed, smoothed_blocks
from nca_fast.rendering.surfaces import map_bytes, map_path, write_maps


def picture(
    scene: Scene,
    path: str | Path,
    *,
    zoom: int = 1,
    smooth: bool = False,
    save_state: Path | None = None,
    alpha: Tensor | None = None,
    finish: Finish | None = None,
    resume: bool | None = None,
    shared: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Writes a picture of the last state of a scene, and the maps of the surface where its automaton draws some.

    Args:
        scene: What is drawn.
        path: .png, .tif, .dzi, .jpg or .webp; it appears when the picture is complete.
        zoom: Pixels along the side of a cell, or from one hexagon to the next.
        smooth: Whether colours go over into each other from cell to cell, with a zoom above 1. Otherwise a cell is a
            plain square.
        save_state: File to write the state to, too.
        alpha: How opaque the picture is, [height, width] in [0, 1]. None: all of it.
        finish: What is made of the pixels, with a zoom of 1 and in one process. None: nothing.
        resume: As in `Canvas`.
        shared: Whether all processes of torchrun draw it together, each by this call. Then every band lies in a file
            beside the picture, so that all can resume when one is killed; on GPUs, to which a disk is slow, only with
            `config.resumable`.
        progress: Show a progress bar on stderr (in the first process).

    Returns:
        The files written, as by `write_picture`, those of the maps, and `save_state`; where several processes draw, in
        every one.

    Raises:
        ConnectionError: Another process has ended.
        ValueError, OSError: As `Canvas` and `write_picture`; or a band would have no rows.
    """
    path, circular = Path(path), scene.nca.rule.padding == "circular"
    check_zoom(scene, zoom, smooth)
    size = picture_size(scene, zoom)
    check_picture(path, *size)
    kind, more = FORMATS[path.suffix.lower()], size[0] * size[1] if alpha is not None else 0  # a byte for each pixel
    room = kind.bytes_needed(*size) + more + saved_bytes(scene, save_state) + map_bytes(scene.nca, *size)
    by_rows = " or a picture that is written by rows (.png, .tif, .dzi)" if kind in PILLOW_FORMATS.values() else ""
    reserve = Reserve(0, 2 * more + kind.bytes_held(*size), room, by_rows)
    opaque = None
    if alpha is not None:
        opaque = enlarging(scene, zoom, smooth)(alpha[None])[0].clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    kept, neighbours, share = path, Alone(circular), 1.0
    if shared and processes.count() > 1:
        if draws_hexagons(scene.nca):
            raise ValueError("hexagons must be drawn by one process: leave torchrun out, or take --grid square.")
        neighbours, kept, resume = BandExchange(scene.height, circular), band_path(path), bool(resume)
        if smooth:
            bands(scene.height, processes.count(), REACH)
        check_other_counts(path)
        share = (neighbours.rows[1] - neighbours.rows[0]) / scene.height
        reserve = reserve if processes.rank() == 0 else replace(reserve, held_after=0)
        progress = progress and processes.rank() == 0
        if scene.nca.device.type == "cpu":
            scene = replace(scene, config=replace(scene.config, resumable=True))
    if processes.rank() == 0:
        remove_half_written(path, save_state, *(map_path(path, name) for name in scene.nca.maps))
    options = {"path": kept, "resume": resume, "reserve": reserve, "neighbours": neighbours}
    with (
        Canvas(scene, on_cells=lambda cells: bar.update(cells / share), **options) as canvas,
        progress_bar(path.name, progress, *(cells / share for cells in canvas.cell_steps())) as bar,
    ):
        canvas.go()
        canvas.release()
        pixels = _pixels(canvas, zoom, smooth)
        pixels = pixels if finish is None else finish.blocks(pixels)
        looked = SingleColour()
        files = neighbours.together(
            lambda blocks: write_picture(path, *size, map(Tensor.numpy, looked.at(blocks)), opaque), pixels
        )
        if looked.found:
            warnings.warn(
                f"{path.name} shows a single colour: the automaton has run away, or has learned nothing yet.",
                stacklevel=2,
            )
        return files + write_maps(canvas, path, size, zoom, smooth) + saved(canvas, save_state)


def picture_size(scene: Scene, zoom: int) -> tuple[int, int]:
    """Rows and columns of the pixels that a scene becomes."""
    if draws_hexagons(scene.nca):
        return Hexagons(scene.height, scene.width, zoom).size
    return scene.height * zoom, scene.width * zoom


def enlarging(scene: Scene, zoom: int, smooth: bool) -> Callable[[Tensor], Tensor]:
    """Finds what makes pixels of squares, [c, H, W] -> [c, H * zoom, W * zoom]."""
    if smooth:
        return partial(smoothed, zoom=zoom, wraps=scene.nca.rule.padding == "circular")
    return partial(enlarged, zoom=zoom)


def _pixels(canvas: Canvas, zoom: int, smooth: bool) -> Iterator[Tensor]:
    """Shows a canvas at its end from top to bottom, in uint8 blocks [rows, columns of pixels, 3]."""
    to_rgb = canvas.scene.nca.to_rgb
    if draws_hexagons(canvas.scene.nca):
        blocks = map(to_uint8, hexagon_blocks(canvas, to_rgb, zoom))
    elif smooth:
        blocks = map(to_uint8, smoothed_blocks(canvas, to_rgb, zoom))
    else:
        blocks = canvas.pixels(zoom)
    return map(torch.from_numpy, blocks)


class SingleColour:
    """Looks at a picture that passes by in blocks [rows, W, 3], as long as it has a single colour."""

    def __init__(self):
        self.colour, self.found = None, False

    def at(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Gives the blocks on."""
        for block in blocks:
            self.found = self.colour is None or self.found
            self.colour = block[0, 0].clone() if self.colour is None else self.colour
            self.found = self.found and bool((block == self.colour).all())
            yield block


def remove_half_written(path: Path, save_state: Path | None, *others: Path) -> None:
    """Removes what renderings to the same names, which were killed, left half-written."""
    names = (path, path.with_suffix(".html"), path.with_name(f"{path.stem}_files"), save_state, *others)
    remove_leftovers(*(name for name in names if name is not None))


def check_zoom(scene: Scene, zoom: int, smooth: bool) -> None:
    """Raises ValueError for less than a pixel, and where there is nothing to smooth."""
    if zoom < 1:
        raise ValueError(f"zoom must be at least 1, but got {zoom}.")
    if smooth and draws_hexagons(scene.nca):
        raise ValueError("smooth must be left out on hexagons, whose edges are drawn smooth without it.")
    if smooth and zoom == 1:
        raise ValueError("smooth must go with a zoom above 1, but got 1: with 4, 4 x 4 pixels show a cell.")


def saved_bytes(scene: Scene, path: Path | None) -> int:
    """Counts the bytes that `saved` takes on the disk."""
    return 0 if path is None else state_bytes(scene.nca.rule.channels, scene.height, scene.width)


def saved(canvas: Canvas, path: Path | None) -> list[Path]:
    """Saves the state, where a file for it is named; returns that."""
    if path is None:
        return []
    canvas.save_state(path)
    return [path]
