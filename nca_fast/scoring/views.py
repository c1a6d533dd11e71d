"""The views of a picture that a score compares: maps whose positions are compared regardless of where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nca_fast.losses.sorting import sort_values
from nca_fast.losses.style import GaussianW2
from nca_fast.scoring.patterns import hellinger, histograms, pattern_codes
from nca_fast.scoring.wavelets import wavelet_maps

Cloud = Tensor  # [C, n], n positions
Distance = Callable[[Sequence[Cloud]], float]  # of the clouds of a sample from those of a target

_LINES = 48  # random lines of the transport distance, beside the axes
_CONVOLUTIONS = (2, 7, 14)  # conv1_2, conv2_2, conv3_3: positions in torchvision's VGG-16, before ReLU


@dataclass(frozen=True)
class View:
    """One way to look at pictures.

    Args:
        maps: rgb [3, H, W] in [0, 1] -> maps [C_l, H_l, W_l].
        distances: By name: (clouds of the target) -> the distance from it.
    """

    maps: Callable[[Tensor], list[Tensor]]
    distances: dict[str, Callable[[Sequence[Cloud]], Distance]]


def wave_view(scales: int) -> View:
    """Looks at `wavelet_maps`.

    Distances: `waves`, of Gaussians (means and covariances), and `waves-transport`, the mean squared difference of
    sorted responses along every axis and along random lines.
    """
    return View(lambda rgb: wavelet_maps(rgb, scales), {"waves": _gaussian, "waves-transport": _transport})


def pattern_view(reference: Tensor, reaches: int) -> View:
    """Looks at `pattern_codes`. Distance: `patterns`, the squared Hellinger distance of their histograms."""
    contrast = float(reference.mean(0).std())

    def against(target: Sequence[Cloud]) -> Distance:
        wanted = [histograms(codes) for codes in target]

        def distance(clouds: Sequence[Cloud]) -> float:
            return _mean(hellinger(histograms(codes), shares) for codes, shares in zip(clouds, wanted, strict=True))

        return distance

    return View(lambda rgb: pattern_codes(rgb, reaches, contrast), {"patterns": against})


def vgg_view(weights: str | Path | None) -> View:
    """Looks at layers of VGG-16 before their ReLU that no training takes. Distance: `vgg16`, of Gaussians.

    Raises:
        ValueError, ImportError: As `features.vgg.VGG`.
    """
    from nca_fast.features.vgg import VGG

    network = VGG("vgg16", weights=weights)

    @torch.no_grad()
    def maps(rgb: Tensor) -> list[Tensor]:
        x, found = network.normalize(rgb[None]), []
        for index, layer in enumerate(network.features[: _CONVOLUTIONS[-1] + 1]):
            x = layer(x)
            if index in _CONVOLUTIONS:
                found.append(x[0].clone())  # the next layer works in place
        return found

    return View(maps, {"vgg16": _gaussian})


def vgg_weights() -> Path | None:
    """Finds VGG-16's weights in torchvision's cache."""
    return next(iter(sorted((Path(torch.hub.get_dir()) / "checkpoints").glob("vgg16-*.pth"))), None)


def _gaussian(target: Sequence[Cloud]) -> Distance:
    losses = [GaussianW2([cloud[None, :, None]]) for cloud in target]

    @torch.no_grad()
    def distance(clouds: Sequence[Cloud]) -> float:
        parts = zip(losses, clouds, strict=True)
        return _mean(float(loss([cloud[None, :, None]])) / cloud.shape[1] for loss, cloud in parts)

    return distance


def _transport(target: Sequence[Cloud]) -> Distance:
    generator = torch.Generator().manual_seed(0)
    lines = []
    for cloud in target:
        random = torch.nn.functional.normalize(torch.randn(_LINES, len(cloud), generator=generator), dim=1)
        lines.append(torch.cat([torch.eye(len(cloud)), random]))
    wanted = [sort_values(line @ cloud) for line, cloud in zip(lines, target, strict=True)]

    def distance(clouds: Sequence[Cloud]) -> float:
        found = []
        for line, cloud, sorted_target in zip(lines, clouds, wanted, strict=True):
            count, length = cloud.shape[1], sorted_target.shape[1]
            ranks = (torch.arange(count) * 2 + 1) * length // (2 * count)
            found.append((sort_values(line @ cloud) - sorted_target[:, ranks]).square().mean(1))
        return _mean(float(squares[:-_LINES].mean() + squares[-_LINES:].mean()) / 2 for squares in found)

    return distance


def _mean(distances: Iterable[float]) -> float:
    """The squared mean of roots, so that one scale that is far off, as in a blurred picture, does not drown others."""
    roots = [max(0.0, distance) ** 0.5 for distance in distances]
    return (sum(roots) / len(roots)) ** 2
