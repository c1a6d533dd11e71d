"""Three distances between the feature maps of a picture and those of a style, blind to where in the picture things are.

A map [B, C, H, W] is taken as a cloud of H * W points in C dimensions. `SlicedOT` compares the clouds along random
lines, `GaussianW2` compares the Gaussians of the same mean and covariance, `Gram` compares the second moments.

    distance = cells * sum over samples and maps of D(map, target map)

with one D per class, made free of units by the target (see `units`; so that no map dominates because its numbers are
large, and every extractor works with the same weights), and `cells` the positions of the first map, the pixels.
Published texture losses sum over positions instead, which gives a map that is pooled twice a sixteenth of the say; and
multiplying by `cells` keeps the balance against `regularizers.overflow`, a sum over the state. `plain=True` is the
source's formula to the letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from nca_fast.devices import moved
from nca_fast.losses.gaussians import GaussianDistance, Gaussians, moments
from nca_fast.losses.sorting import all_sorted_squares
from nca_fast.losses.spectra import to_order_one
from nca_fast.losses.units import gram_unit, variance_unit


class _StyleLoss(nn.Module):
    """Holds the target maps as [C, n], checks the maps it is given and adds up their distances."""

    def __init__(self, targets: Sequence[torch.Tensor], plain: bool):
        super().__init__()
        if not targets:
            raise ValueError("targets must hold at least one map, but is empty.")
        for index, target in enumerate(targets):
            if target.ndim != 4 or target.shape[0] != 1 or target.numel() == 0 or not target.is_floating_point():
                raise ValueError(
                    f"targets must be float maps [1, C, H, W], but number {index} is {target.dtype} "
                    f"{tuple(target.shape)}."
                )
            if not target.is_meta and not torch.isfinite(target).all():
                raise ValueError(f"targets must be finite, but number {index} holds NaN or infinity.")
        self.plain = plain
        self.channels = [target.shape[1] for target in targets]
        for index, target in enumerate(targets):
            for name, value in self._prepare(target[0].detach().flatten(1).contiguous()).items():
                self.register_buffer(f"{name}{index}", value, persistent=False)

    def draw(self, generator: torch.Generator | None, counts: Sequence[int] | None = None) -> list[torch.Tensor]:
        """Draws what a call needs, on the CPU: nothing, but for `SlicedOT`.

        Args:
            generator: On the CPU. None: torch's own.
            counts: Positions of each map; asked for where only some of them take part.
        """
        return []

    def forward(
        self,
        maps: Sequence[torch.Tensor],
        generator: torch.Generator | None = None,
        drawn: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The distance of `maps` to the targets.

        Args:
            maps: one [B, C_l, H_l, W_l] per target, with its channels; sizes may differ from the target's.
            generator: where `SlicedOT` draws its directions from (a CPU generator); the other two draw nothing and take
                it so that the three can stand in for each other.
            drawn: what `draw` gave, on the device of the maps; None: it is drawn now.

        Returns:
            Scalar, summed over the batch.

        Raises:
            ValueError: maps that do not fit the targets.
        """
        if [map.shape[1] if map.ndim == 4 else None for map in maps] != self.channels:
            raise ValueError(
                f"maps must be [B, C, H, W] with channels {self.channels} like the targets, but got "
                f"{[tuple(map.shape) for map in maps]}; make both with the same features."
            )
        clouds = [map.flatten(2) for map in maps]
        if drawn is None:
            drawn = [moved(t, maps[0].device) for t in self.draw(generator, [cloud.shape[2] for cloud in clouds])]
        total = sum(self._distances(clouds, drawn))
        return total if self.plain else total * (maps[0].shape[2] * maps[0].shape[3])

    def _distances(self, clouds: list[torch.Tensor], drawn: Sequence[torch.Tensor]) -> Iterable[torch.Tensor]:
        """The distance of each map [B, C, n]."""
        return (self._distance(index, cloud) for index, cloud in enumerate(clouds))

    def _target(self, name: str, index: int) -> torch.Tensor:
        return self._buffers[f"{name}{index}"]


class SlicedOT(_StyleLoss):
    """Sliced optimal transport: along a random line, the squared 2-Wasserstein distance is that of sorted positions.

        D = mean over directions p and ranks r of (sort(p . map)_r - sort(p . target)_r)^2 / variance of the target

    with fresh unit vectors p at each call. When sizes differ, rank r of n is compared with rank (r + 1/2) n_target / n
    of the target. As the expectation of (p . v)^2 is |v|^2 / C, D estimates the squared distance per channel.

    Args:
        targets: maps [1, C_l, H_l, W_l] of the style.
        projections: number of directions; time and memory are proportional to it.
        positions: at most so many positions of each map, drawn anew at each call, take part; None for all. Sorting
            2,304 of 9,216 positions takes a fifth of the time and gives a noisier gradient.
        plain: True for the sum over directions, positions and samples of the Distill notebook, without division by the
            variance (the notebook rounds ranks down where sizes differ; we take the middle, which treats dark and
            bright alike).

    Source: Heitz et al., A sliced Wasserstein loss for neural texture synthesis, 2021; the Distill texture notebook.
    Departure: maps of all sizes weigh the same, see the module's docstring.
    """

    def __init__(
        self, targets: Sequence[torch.Tensor], projections: int = 32, positions: int | None = None, plain: bool = False
    ):
        if projections < 1:
            raise ValueError(f"projections must be at least 1, but got {projections}.")
        if positions is not None and positions < 1:
            raise ValueError(f"positions must be at least 1, or None for all, but got {positions}.")
        super().__init__(targets, plain)
        self.projections = projections
        self.positions = positions

    def _prepare(self, target: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"target": target, "variance": variance_unit(target)}

    def draw(self, generator: torch.Generator | None, counts: Sequence[int] | None = None) -> list[torch.Tensor]:
        """Draws directions [projections, C] of each map, each followed by the positions that take part where not all
        do."""
        drawn = []
        for index, channels in enumerate(self.channels):
            drawn.append(F.normalize(torch.randn(self.projections, channels, generator=generator), dim=1))
            if self.positions is not None and self.positions < counts[index]:
                drawn.append(torch.randperm(counts[index], generator=generator)[: self.positions])
        return drawn

    def _distances(self, clouds: list[torch.Tensor], drawn: Sequence[torch.Tensor]) -> Iterable[torch.Tensor]:
        given = iter(drawn)
        counts = [min(cloud.shape[2], self.positions or cloud.shape[2]) for cloud in clouds]
        projected = (
            self._projected(index, cloud, next(given), next(given) if count < cloud.shape[2] else None)
            for index, (cloud, count) in enumerate(zip(clouds, counts, strict=True))
        )
        for index, (squares, count) in enumerate(zip(all_sorted_squares(projected), counts, strict=True)):
            yield squares if self.plain else squares / (self.projections * count * self._target("variance", index))

    def _projected(self, index, map, directions, positions):
        """Where the points of a map and those of its target lie along the directions, [B, P, n] and [P, n_target]."""
        directions = directions.to(map.dtype)
        if positions is not None:
            map = map.index_select(2, positions)
        # A copy of the few directions per sample is cheaper than the transposition that a broadcast would cost.
        return torch.bmm(directions.expand(map.shape[0], -1, -1), map), directions @ self._target("target", index)


class Gram(_StyleLoss):
    """Gram matrices: which channels are active together.

        G = map map^T / n,    D = mean over entries of (G - G_target)^2 / mean over entries of G_target^2

    Args:
        targets: maps [1, C_l, H_l, W_l] of the style.
        plain: True for the mean alone, without the division and without the factor `cells`.

    Source: Gatys et al., Texture synthesis using convolutional neural networks, 2015; division by n as in the Distill
    notebook.
    """

    def __init__(self, targets: Sequence[torch.Tensor], plain: bool = False):
        super().__init__(targets, plain)

    def _prepare(self, target: torch.Tensor) -> dict[str, torch.Tensor]:
        gram = target @ target.T / target.shape[1]
        return {"gram": gram, "power": gram_unit(target, gram)}

    def _distance(self, index: int, map: torch.Tensor) -> torch.Tensor:
        gram = torch.bmm(map, map.transpose(1, 2)) / map.shape[2]
        squares = (gram - self._target("gram", index)).square().mean(dim=(1, 2)).sum()
        return squares if self.plain else squares / self._target("power", index)


class GaussianW2(_StyleLoss):
    """The squared 2-Wasserstein distance between Gaussians of the same mean m and covariance C ("Vincent" loss).

        W = |m - m_t|^2 + Tr C + Tr C_t - 2 Tr (S C S)^(1/2),   S = C_t^(1/2)
        D = W / (channels * variance of the target)

    The last trace is the sum of the square roots of the eigenvalues of S C S. Maps with more channels than positions,
    and flat pictures, make many of them 0, or negative by rounding, where the root's slope is infinite. So they are
    clipped at 0 and the root is sqrt(e + floor) - sqrt(floor): 0 where it should be 0, of finite slope, and still
    pulling at directions in which the picture does not vary yet, which a clip at the floor would leave to the shrinking
    force of Tr C. The floor is the rounding error of the largest eigenvalue. Eigenvectors are not differentiated, so
    equal eigenvalues do no harm.

    Args:
        targets: maps [1, C_l, H_l, W_l] of the style.
        plain: True for W alone, summed over maps and samples.

    Source: Marron, https://github.com/VinceMarron/style_transfer, 2017, with C = cov / n. Departures: the floor (Marron
    clips eigenvalues at 0.1, in units of VGG's maps) and D's denominator.
    """

    def __init__(self, targets: Sequence[torch.Tensor], plain: bool = False):
        super().__init__(targets, plain)
        count = range(len(targets))
        for name in ("mean", "scale", "floor", "weight"):
            self.register_buffer(f"{name}s", torch.cat([self._target(name, n) for n in count]), persistent=False)
        self.register_buffer("traces", torch.stack([self._target("trace", n) for n in count]).sum(), persistent=False)

    def _prepare(self, target: torch.Tensor) -> dict[str, torch.Tensor]:
        (mean,), _, (covariance,) = moments(target.double()[None])
        (unit,), (scale,) = to_order_one([covariance])
        values, vectors = torch.linalg.eigh(unit)
        values = values.clamp(min=0)
        root = (vectors * values.sqrt()) @ vectors.T
        values = values * scale
        floor = values.max().square().clamp(min=1e-12) * torch.finfo(target.dtype).eps
        weight = torch.ones_like(floor) if self.plain else 1 / (len(target) * variance_unit(target).double())
        numbers = {"scale": scale, "floor": floor, "weight": weight}
        prepared = {"mean": mean, "root": root, "trace": weight * values.sum()}
        prepared |= {name: number.repeat(len(target)) for name, number in numbers.items()}
        return {name: value.to(target.dtype) for name, value in prepared.items()}

    def _distances(self, clouds: list[torch.Tensor], drawn: Sequence[torch.Tensor]) -> Iterable[torch.Tensor]:
        roots = [self._target("root", index) for index in range(len(clouds))]
        targets = Gaussians(roots, self.means, self.scales, self.floors, self.weights, self.traces)
        return [GaussianDistance.apply(targets, *clouds)]


STYLE_LOSSES = {"ot": SlicedOT, "gram": Gram, "w2": GaussianW2}


def load(name: str, extractor: nn.Module, picture: torch.Tensor, projections: int = 32) -> nn.Module:
    """Makes the style loss of a picture.

    Args:
        name: One of `STYLE_LOSSES`.
        extractor: See `nca_fast.features`; on the device of the picture.
        picture: [3, h, w] in [0, 1].
        projections: For "ot": see `SlicedOT`.

    Returns:
        The loss of feature maps, on the same device.
    """
    with torch.no_grad():
        targets = extractor(picture[None])
    options = {"projections": projections} if name == "ot" else {}
    return STYLE_LOSSES[name](targets, **options)
