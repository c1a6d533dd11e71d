"""Rendering: run a trained automaton on a canvas of any size, and show its states on the way.

A cell sees nothing but its neighbourhood, so a canvas needs neither the size nor the shape of the training canvas.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nca_fast.canvas.canvas import Run
from nca_fast.canvas.scene import CanvasConfig
from nca_fast.nca import NCA


@torch.no_grad()
def render(
    nca: NCA,
    height: int,
    width: int,
    steps: int,
    *,
    seed: int = 0,
    backend: str | None = None,
    image: Tensor | None = None,
    config: CanvasConfig | None = None,
    frames: Sequence[int] | None = None,
    on_frame: Callable[[Tensor, int], None] | None = None,
) -> Tensor:
    """Rolls an automaton out from its start state, in memory. `run.Run` is for canvases that do not fit.

    Args:
        nca: The automaton; the canvas lives on its device.
        height: Rows of the canvas, in cells.
        width: Columns of the canvas, in cells.
        steps: Updates of every cell. At least 1.
        seed: Fixes the start state and all fire masks; the same result whatever the frames.
        backend: As in `nca_fast.rollout`.
        image: For automata that start from a picture: [3, height, width] in [0, 1].
        config: Another start, maps, growth; None is none of it.
        frames: Portions that sum to `steps`, such as `speed_ramp(steps)`; None is a single portion.
        on_frame: Called after each portion with the state [1, C, H, W] and the number of steps done so far. The next
            portion overwrites the state.

    Returns:
        The final state. [1, C, H, W]

    Raises:
        ValueError: A size or the number of steps is not positive, the frames do not sum to it, the canvas does not
            fit into memory, or the image is missing or of another size.
    """
    frames = [steps] if frames is None else list(frames)
    if steps >= 1 and (sum(frames) != steps or min(frames) < 1):
        raise ValueError(f"frames must be positive and sum to the {steps} steps, but they sum to {sum(frames)}.")
    with Run(nca, height, width, steps, config, seed=seed, backend=backend, image=image, longest=max(frames)) as run:
        for portion in frames:
            run.go(run.done + portion)
            if on_frame is not None:
                on_frame(run.state(), run.done)
        return run.state()
