"""Pictures and films of a trained automaton, as files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from nca_fast.canvas.canvas import Run
from nca_fast.canvas.scene import CanvasConfig
from nca_fast.canvas.state_file import state_bytes
from nca_fast.media.film import VideoWriter, check_film
from nca_fast.media.formats import FORMATS, check_picture, write_picture
from nca_fast.nca import NCA


def picture(
    nca: NCA,
    height: int,
    width: int,
    steps: int,
    path: str | Path,
    *,
    seed: int = 0,
    backend: str | None = None,
    image: Tensor | None = None,
    zoom: int = 1,
    config: CanvasConfig | None = None,
    save_state: Path | None = None,
    resume: bool | None = None,
    progress: bool = False,
) -> list[Path]:
    """Writes a picture of the state that an automaton reaches from its start state.

    Args:
        nca: The automaton.
        height: Rows of the canvas, in cells.
        width: Columns of the canvas, in cells.
        steps: Updates of every cell.
        path: `.png`, `.tif`, `.dzi`, `.jpg` or `.webp`; it appears when the picture is complete.
        seed: Fixes the start state and all fire masks.
        backend: As in `nca_fast.rollout`.
        image: As in `render`.
        zoom: Pixels along the side of a cell.
        config: Memory, start, maps, growth.
        save_state: File to write the state to, too.
        resume: Whether to go on with a run that was interrupted, or to begin one that can be gone on with if its state
            lies in a file. None: an interrupted run leaves nothing.
        progress: Show a progress bar on stderr.

    Returns:
        The files written, as by `write_picture`, and `save_state`.

    Raises:
        ValueError, OSError: As `Run` and `write_picture`.
    """
    path = Path(path)
    _check_zoom(zoom)
    size = (height * zoom, width * zoom)
    check_picture(path, *size)
    kind = FORMATS[path.suffix.lower()]
    with progress_bar(path, progress) as bar:
        run = Run(
            nca,
            height,
            width,
            steps,
            config,
            seed=seed,
            backend=backend,
            image=image,
            path=path,
            keep=resume is not None,
            resume=bool(resume),
            held_after=kind.bytes_held(*size),
            disk=kind.bytes_needed(*size) + _state_disk(nca, height, width, save_state),
            on_cells=bar.update,
        )
        with run:
            bar.total, bar.initial = run.cell_steps()
            bar.update(bar.initial)
            run.go()
            run.release()
            files = write_picture(path, *size, run.pixels(zoom))
            return files + _save_state(run, save_state)


def film(
    nca: NCA,
    height: int,
    width: int,
    frames: Sequence[int],
    path: str | Path,
    *,
    seed: int = 0,
    backend: str | None = None,
    image: Tensor | None = None,
    zoom: int = 1,
    fps: int = 30,
    config: CanvasConfig | None = None,
    save_state: Path | None = None,
    progress: bool = False,
) -> list[Path]:
    """Writes a film of an automaton that grows from its start state.

    Args:
        nca, height, width, seed, backend, config, save_state, progress: As in `picture`.
        image: As in `render`. A picture to start from is the first frame, unless the canvas grows.
        frames: Steps before each frame, such as `speed_ramp(steps)`.
        path: `.mp4` or `.gif`; it appears when the film is complete.
        zoom: Pixels along the side of a cell. (An mp4 keeps colours at half its resolution: 2 shows every cell.)
        fps: Frames per second.

    Returns:
        The files written.

    Raises:
        ValueError, OSError: As `Run` and `VideoWriter`.
    """
    path = Path(path)
    _check_zoom(zoom)
    check_film(path, height * zoom, width * zoom)
    with progress_bar(path, progress) as bar, VideoWriter(path, fps=fps) as video:
        run = Run(
            nca,
            height,
            width,
            sum(frames),
            config,
            seed=seed,
            backend=backend,
            image=image,
            path=path,
            longest=max(frames),
            held=height * width * (24 + 48 * zoom * zoom),  # a frame, enlarged, and on its way to bytes
            disk=_state_disk(nca, height, width, save_state),
            on_cells=bar.update,
        )
        with run:
            bar.total, _ = run.cell_steps()
            if run.start.image is not None and len(run.stages) == 1:
                video.add(_enlarged(run.start.image, zoom))
            for portion in frames:
                run.go(run.done + portion)
                video.add(_enlarged(_shown(run), zoom))
            return [path, *_save_state(run, save_state)]


@contextmanager
def progress_bar(path: Path, progress: bool) -> Iterator[tqdm]:
    """A bar that counts cell-steps, on stderr, if it is asked for."""
    options = {"unit": "cell-steps", "unit_scale": True, "dynamic_ncols": True, "smoothing": 0.1}
    with tqdm(total=0, desc=path.name, disable=not progress, **options) as bar:
        yield bar


def _state_disk(nca, height, width, path):
    return 0 if path is None else state_bytes(nca.rule.channels, height, width)


def _save_state(run, path):
    if path is None:
        return []
    run.save_state(path)
    return [path]


def _check_zoom(zoom: int) -> None:
    if zoom < 1:
        raise ValueError(f"zoom must be at least 1, but got {zoom}.")


def _shown(run: Run) -> Tensor:
    """What the state of a run looks like [3, H, W]; white surrounds a canvas that has not grown to its size yet."""
    shown = torch.cat([run.nca.to_rgb(block[None])[0] for block in run.blocks()], 1)
    top, left = (run.height - shown.shape[1]) // 2, (run.width - shown.shape[2]) // 2
    return torch.nn.functional.pad(shown, (left, left, top, top), value=1.0)


def _enlarged(rgb: Tensor, zoom: int) -> Tensor:
    """Every pixel of a picture [3, H, W] as zoom x zoom pixels."""
    return rgb.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
