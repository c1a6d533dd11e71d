"""Rendering in memory: the state that a trained automaton reaches on a canvas of any size.

A cell sees nothing but its neighbourhood, so a canvas needs neither the size nor the shape of the training canvas.
"""

import torch
from torch import Tensor

from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.scene import Scene
from nca_fast.rendering.progress import progress_bar


@torch.no_grad()
def render(scene: Scene, progress: str | None = None) -> Tensor:
    """Rolls an automaton out from its start state, in memory. For states on the way, or in files, see `Canvas`.

    Args:
        scene: What is computed.
        progress: What stands before a progress bar on stderr; None shows none.

    Returns:
        The final state, on the device of the automaton. [1, C, height, width]

    Raises:
        ValueError: The canvas does not fit into memory, or the image is missing or of another size.

    Example:
        >>> state = render(Scene(nca, 512, 512, steps=300))
        >>> image = nca.to_rgb(state)[0]    # [3, 512, 512]
    """
    with (
        Canvas(scene, on_cells=lambda cells: bar.update(cells)) as canvas,
        progress_bar(progress or "", progress is not None, canvas.cell_steps()[0]) as bar,
    ):
        canvas.go()
        return canvas.state()
