"""How far pictures are from prompts: distances between CLIP vectors, and the cutouts through which CLIP looks."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nca_fast.choices import DistanceName
from nca_fast.devices import generator_on, moved
from nca_fast.losses.regularizers import total_variation

DISTANCES = get_args(DistanceName)


class PromptDistance(nn.Module):
    """The weighted distance of picture vectors v to prompt vectors p.

        D(v) = sum over prompts of w_p d(v, p) / |sum over prompts of w_p|

        dot         d = - v . p
        cosine      d = 1 - cos(v, p)
        spherical   d = 2 arcsin(|v/|v| - p/|p|| / 2)^2       half the squared angle

    A negative weight pushes away.

    Args:
        targets: Prompt vectors p, not normalised. [P, D]
        weights: w. [P]
        distance: "dot" (Deb, 2022: of the raw vectors, so long ones count more), "cosine" or "spherical" (Petersen,
            2022, after Crowson).

    Raises:
        ValueError: Unknown distance; shapes that do not fit; weights that sum to less than 0.001.
    """

    def __init__(self, targets: Tensor, weights: Tensor, distance: str = "spherical"):
        super().__init__()
        if distance not in DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, but got {distance!r}.")
        if targets.ndim != 2 or weights.shape != targets.shape[:1] or not len(targets):
            raise ValueError(
                f"targets must be [P, D] and weights [P], but got {list(targets.shape)} and {list(weights.shape)}."
            )
        total = float(weights.sum())
        if not abs(total) >= 1e-3:
            raise ValueError(
                f"the weights of the prompts must not cancel out, but {weights.tolist()} sum to {total:g}. Change one."
            )
        self.distance = distance
        self.register_buffer("targets", targets if distance == "dot" else F.normalize(targets, dim=1), persistent=False)
        self.register_buffer("weights", weights / abs(total), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """[N, D] -> [N]"""
        if self.distance == "dot":
            return -vectors @ self.targets.T @ self.weights
        vectors = F.normalize(vectors, dim=1)
        if self.distance == "cosine":
            return (1 - vectors @ self.targets.T) @ self.weights
        half = (vectors[:, None] - self.targets).norm(dim=2) / 2
        # Rounding may carry the half chord of opposite vectors beyond 1, where arcsin ends and its slope is infinite.
        return 2 * half.clamp(max=1 - 1e-6).arcsin().square() @ self.weights


def whole(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """The whole picture in the size that a model takes, bilinear. [B, 3, H, W] -> [B, 3, *size]"""
    return F.interpolate(rgb, size, mode="bilinear", align_corners=False)


def cutouts(
    rgb: Tensor,
    size: tuple[int, int],
    count: int,
    generator: torch.Generator,
    *,
    smallest: float = 0.5,
    largest: float = 1.0,
    wrap: bool = True,
    noise: float = 0.0,
    jitter: float = 0.0,
) -> Tensor:
    """Random squares of pictures, a little disturbed: what holds for all of them is a pattern, and not a trick.

    Places and sizes are drawn anew at each call and are the same for all pictures of a batch.

    Args:
        rgb: [B, 3, H, W].
        size: (rows, columns) of the result, to which the squares are resized (bilinear, antialiased).
        count: Squares of each picture.
        generator: Decides all, on the CPU; noise on a GPU is drawn there (see `devices.generator_on`).
        smallest, largest: Side of a square as a share of the shorter side of the picture, in (0, 1].
        wrap: The picture is a torus, and squares may lie across its border.
        noise: Standard deviation of the noise that is added, of random strength up to this.
        jitter: Contrast is changed by a factor of up to 1 plus or minus this, brightness by half as much.

    Returns:
        [count * B, 3, *size], square by square.

    Source: Crowson's CLIP-guided notebooks (2021), whose cutouts are of random size and place.
    """
    if count < 1 or not 0 < smallest <= largest <= 1:
        raise ValueError(
            f"cutouts must be at least 1 of sizes in (0, 1], but got {count} from {smallest} to {largest}."
        )
    height, width = rgb.shape[2:]

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    large = generator_on(rgb.device, generator) if noise else generator
    squares = []
    for _ in range(count):
        share = smallest + (largest - smallest) * float(torch.rand((), generator=generator))
        side = max(1, round(share * min(height, width)))
        if wrap:
            top = left = 0
            picture = rgb.roll((draw(height), draw(width)), dims=(2, 3))
        else:
            top, left, picture = draw(height - side + 1), draw(width - side + 1), rgb
        square = picture[:, :, top : top + side, left : left + side]
        if square.shape[2:] != size:
            square = F.interpolate(square, size, mode="bilinear", antialias=True)
        if jitter:
            contrast, brightness = (jitter * (2 * torch.rand(2, generator=generator) - 1)).tolist()
            square = (square - 0.5) * (1 + contrast) + 0.5 + brightness / 2
        if noise:
            strength = noise * float(torch.rand((), generator=generator))
            drawn = torch.randn(3, *size, generator=large, device=large.device)
            square = square + strength * moved(drawn, rgb.device).to(rgb.dtype)
        squares.append(square)
    return torch.cat(squares)


def flatness(rgb: Tensor, least: float) -> Tensor:
    """How much of a contrast pictures lack, times their cells.

        sum over pictures of H W max(0, 1 - deviation / least)

    A flat picture is a trap: whatever faint pattern comes next, CLIP's slope is all but zero there, and an automaton
    that has learned to level its start state stays level. This slope is steepest there, and ends at `least`.

    Args:
        rgb: [B, 3, H, W].
        least: Standard deviation over cells, the root mean square of the three colours'; above 0.

    Returns:
        Scalar; a sum over pictures and cells, as the other losses are.
    """
    # The small constant keeps the root's slope finite where all cells are equal, down to the last bit.
    deviation = (rgb.var((2, 3), unbiased=False).mean(1) + 1e-8).sqrt()
    return rgb.shape[2] * rgb.shape[3] * (1 - deviation / least).clamp(min=0).sum()


def fringes(rgb: Tensor) -> Tensor:
    """Total variation of what is left of pictures without their brightness. [B, 3, H, W] -> scalar

    CLIP hardly sees coloured rims that cancel out over a few pixels, and automata, whose channels run after one
    another, make them around everything.
    """
    return total_variation(rgb - rgb.mean(1, keepdim=True))
