"""Films of a trained automaton as files."""

from pathlib import Path

import torch
from torch import Tensor

from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.plan import Reserve
from nca_fast.canvas.scene import Scene
from nca_fast.hexagons import draws_hexagons
from nca_fast.media.film import VideoWriter, check_film, check_length, even_speed, speed_ramp
from nca_fast.rendering.finish import Finish
from nca_fast.rendering.hexagons import Hexagons
from nca_fast.rendering.picture import (
    check_zoom,
    enlarging,
    picture_size,
    remove_half_written,
    saved,
    saved_bytes,
)
from nca_fast.rendering.progress import progress_bar


def film(
    scene: Scene,
    path: str | Path,
    *,
    steps_per_frame: int | None = None,
    fps: int = 30,
    zoom: int = 1,
    smooth: bool = False,
    save_state: Path | None = None,
    alpha: Tensor | None = None,
    finish: Finish | None = None,
    progress: bool = False,
) -> list[Path]:
    """Writes a film of a scene from its start state on.

    Args:
        scene: What is filmed. A picture to start from is the first frame, unless the canvas grows.
        path: .mp4 or .gif; it appears when the film is complete.
        steps_per_frame: Steps between two frames; the last takes what is left. None: `speed_ramp`.
        fps: Frames per second.
        zoom: Pixels along the side of a cell, or from one hexagon to the next. (An mp4 keeps colours at half its
            resolution: 2 shows every cell.)
        smooth: As in `picture`.
        save_state: File to write the last state to, too.
        alpha: How opaque the picture is that the canvas starts from, [height, width] in [0, 1]; a film shows it on
            white. None: all of it.
        finish: What is made of the pixels of each frame. None: nothing.
        progress: Show a progress bar on stderr.

    Returns:
        The files written.

    Raises:
        ValueError, OSError: As `Canvas` and `VideoWriter`.
    """
    path, cells = Path(path), scene.height * scene.width
    check_zoom(scene, zoom, smooth)
    check_film(path, *picture_size(scene, zoom))
    enlarged = enlarging(scene, zoom, smooth)
    hexagons = Hexagons(scene.height, scene.width, zoom) if draws_hexagons(scene.nca) else None
    check_length(scene.steps, steps_per_frame)
    frames = speed_ramp(scene.steps) if steps_per_frame is None else even_speed(scene.steps, steps_per_frame)
    remove_half_written(path, save_state)
    # A frame, enlarged, and on its way to bytes; of hexagons, the cell of each of the 16 samples of a pixel.
    reserve = Reserve(
        held=cells * (24 + (48 if hexagons is None else 256) * zoom * zoom), disk=saved_bytes(scene, save_state)
    )
    with (
        VideoWriter(path, fps=fps) as video,
        Canvas(
            scene, path=path, longest=max(frames), reserve=reserve, on_cells=lambda cells: bar.update(cells)
        ) as canvas,
        progress_bar(path.name, progress, canvas.cell_steps()[0]) as bar,
    ):
        if canvas.start.image is not None and len(canvas.stages) == 1:
            video.add(enlarged(canvas.start.image))
        for portion in frames:
            canvas.go(canvas.done + portion)
            canvas.turn_textures()
            shown = _shown(canvas) if finish is None else finish(_shown(canvas))
            shown = shown if alpha is None else torch.lerp(torch.ones(()), shown.cpu(), alpha)
            video.add(enlarged(shown) if hexagons is None else hexagons.whole(shown.float().cpu()))
        return [path, *saved(canvas, save_state)]


def _shown(canvas: Canvas) -> Tensor:
    """Shows the state [3, H, W]; white surrounds a canvas that has not grown to its size yet."""
    scene = canvas.scene
    shown = torch.cat([scene.nca.to_rgb(block[None])[0] for block in canvas.blocks()], 1)
    top, left = (scene.height - shown.shape[1]) // 2, (scene.width - shown.shape[2]) // 2
    return torch.nn.functional.pad(shown, (left, left, top, top), value=1.0)
