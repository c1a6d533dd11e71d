"""Pictures and films of a trained automaton, as files."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from nca_fast.images import save_image
from nca_fast.nca import NCA
from nca_fast.rendering.canvas import even_speed, render
from nca_fast.rendering.video import VideoWriter

STEPS_BETWEEN_LOOKS = 16  # how often the rollout of a picture moves its progress bar and can be interrupted


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
    progress: bool = False,
) -> None:
    """Writes a picture of the state that an automaton reaches from its start state.

    Args:
        nca: The automaton.
        height: Rows of the canvas, in cells.
        width: Columns of the canvas, in cells.
        steps: Updates of every cell.
        path: `.png`, `.jpg` or `.webp`; it appears when the picture is complete.
        seed: Fixes the start state and all fire masks.
        backend: As in `nca_fast.rollout`.
        image: As in `render`.
        zoom: Pixels along the side of a cell.
        progress: Show a progress bar on stderr.

    Raises:
        ValueError, OSError: As `render` and `save_image`.
    """
    _check_zoom(zoom)
    with tqdm(total=steps, desc=Path(path).name, unit="step", dynamic_ncols=True, disable=not progress) as bar:
        state = render(
            nca,
            height,
            width,
            steps,
            seed=seed,
            backend=backend,
            image=image,
            frames=even_speed(steps, STEPS_BETWEEN_LOOKS),
            on_frame=lambda _, done: bar.update(done - bar.n),
        )
        save_image(_enlarged(nca.to_rgb(state)[0], zoom), path)


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
    progress: bool = False,
) -> None:
    """Writes a film of an automaton that grows from its start state.

    Args:
        nca, height, width, seed, backend, progress: As in `picture`.
        image: As in `render`; it is then the first frame.
        frames: Steps before each frame, such as `speed_ramp(steps)`.
        path: `.mp4` or `.gif`; it appears when the film is complete.
        zoom: Pixels along the side of a cell. (An mp4 keeps colours at half its resolution: 2 shows every cell.)
        fps: Frames per second.

    Raises:
        ValueError, OSError: As `render` and `VideoWriter`.
    """
    _check_zoom(zoom)

    def add(state: Tensor, done: int) -> None:
        video.add(_enlarged(nca.to_rgb(state)[0], zoom))
        bar.update(done - bar.n)

    with (
        tqdm(total=sum(frames), desc=Path(path).name, unit="step", dynamic_ncols=True, disable=not progress) as bar,
        VideoWriter(path, fps=fps) as video,
    ):
        if image is not None:
            video.add(_enlarged(image, zoom))
        same = {"seed": seed, "backend": backend, "image": image}
        render(nca, height, width, sum(frames), **same, frames=frames, on_frame=add)


def _check_zoom(zoom: int) -> None:
    if zoom < 1:
        raise ValueError(f"zoom must be at least 1, but got {zoom}.")


def _enlarged(rgb: Tensor, zoom: int) -> Tensor:
    """Every pixel of a picture [3, H, W] as zoom x zoom pixels."""
    return rgb.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
