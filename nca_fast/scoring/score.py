"""How good pictures are that shall be what an original is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from nca_fast.scoring.differences import Difference, differences
from nca_fast.scoring.scale import Scale, Scaled, scaled, together
from nca_fast.scoring.spectrum import seam
from nca_fast.scoring.views import pattern_view, vgg_view, vgg_weights, wave_view

SMALLEST = 32  # pixels on the shorter side
_SCALES = 4  # of waves, at most
_REPEATS = 20  # times as far as another half is the spectrum only of what repeats itself (47 and more; others: 4)
_PIECE = 16  # cells of the coarsest scale along the shorter side of a piece


@dataclass(frozen=True)
class Score:
    """How good pictures are.

    Args:
        total: Of all measures that come with nca_fast, put together: the geometric mean of their distances, each in
            units of what halves of the original differ by, and where that lies between 0 and 1.
        measures: Each of them, and `vgg16`, where its weights are at hand.
        differences: `spectrum` (decibel), `autocorrelation` (of 1), `color` (levels of 255).
        seam: How far the border stands out where the picture meets itself; 0 on a torus.
        missing: What was not measured, and why.
    """

    total: Scaled
    measures: dict[str, Scaled]
    differences: dict[str, Difference]
    seam: float
    missing: tuple[str, ...]

    def as_json(self) -> dict:
        """The same as JSON can hold it; None in place of NaN."""
        return _plain(asdict(self) | {"repeats": self.repeats})

    @property
    def repeats(self) -> bool:
        """Whether the original repeats itself, or has a single colour: then its halves are equal, but for the edges,
        and no unit for how far pictures are from it."""
        return self.total.phase > _REPEATS * self.total.real or self.total.real < 1 / _REPEATS

    def lines(self) -> list[str]:
        """Says the same in lines of a terminal."""
        total = self.total
        second = f"{total.distance:.2f} times as far from the original as another half of it"
        second += f" (its spectrum only: {total.phase:.2f})"
        if self.repeats:
            second = "the original repeats itself exactly: its halves are equal, and no scale for distances from it"
        if total.says:
            first = f"score {total.score:.2f} +- {total.error:.2f}: 0 another part of the original, 1 its spectrum only"
        else:
            first = "score: says nothing here, because the original is hardly more than its spectrum; look at:"
        found = [first, second]
        for name, measure in self.measures.items():
            says = f"{measure.score:.2f} +- {measure.error:.2f}" if measure.says else "says nothing here"
            found.append(
                f"  {name:<16} {says:<18} " + ("" if self.repeats else f"{measure.times:.2f} times another half")
            )
        units = {"spectrum": "dB", "autocorrelation": "of 1", "color": "levels"}
        for name, difference in self.differences.items():
            shown = f"{difference.value:.3g} {units[name]}"
            found.append(f"  {name:<16} {shown:<18} parts of the original: {difference.real:.3g}")
        found.append(f"  {'seam':<16} {self.seam:<18.2f} 0 on a torus")
        return found + [f"not measured: {what}" for what in self.missing]


def score(pictures: Sequence[Tensor], reference: Tensor, *, weights: str | Path | None = None) -> Score:
    """Measures pictures from an original, with what no training looks at.

    Args:
        pictures: One or more that show the same thing, such as drawings of one automaton, float [3, h, w] in [0, 1], at
            the scale of the original: a brick has as many pixels in both.
        reference: The original, all of it, because parts of it show what parts may differ by. [3, H, W]
        weights: File with VGG-16's weights. None: torchvision's cache; it is left out where there are none.

    Raises:
        ValueError: A picture that is too small, or not finite, or no picture; a file without the weights.
    """
    for name, picture in (("reference", reference), *(("picture", picture) for picture in pictures)):
        _check(name, picture)
    if not pictures:
        raise ValueError("pictures must be at least one, but there are none.")
    smallest = tuple(min(picture.shape[axis] for picture in pictures) for axis in (1, 2))
    sample = min(min(side // 2, small) for side, small in zip(reference.shape[1:], smallest, strict=True))
    scales = max(1, min(_SCALES, (sample // _PIECE).bit_length()))
    views = [wave_view(scales), pattern_view(reference, min(3, scales))]
    weights = vgg_weights() if weights is None else weights
    trained = None if weights is None else vgg_view(weights)
    shipped = {}
    for view in views:
        shipped |= Scale(view, reference, smallest).measure(pictures)
    measures, missing = dict(shipped), []
    if trained is None:
        missing.append("vgg16, which has no weights in torchvision's cache: --weights FILE names them.")
    else:
        measures |= Scale(trained, reference, smallest).measure(pictures)
    return Score(
        total=scaled(together(shipped)),
        measures={name: scaled(distances) for name, distances in measures.items()},
        differences=differences(pictures, reference),
        seam=max(seam(picture) for picture in pictures),
        missing=tuple(missing),
    )


def _check(name: str, picture: Tensor) -> None:
    if picture.ndim != 3 or picture.shape[0] != 3 or not picture.is_floating_point():
        raise ValueError(f"{name} must be a float [3, h, w], but is {picture.dtype} {list(picture.shape)}.")
    if min(picture.shape[1:]) < SMALLEST:
        remedy = "Take a larger one, or shrink it less" if name == "reference" else "Draw a larger one"
        raise ValueError(
            f"{name} must have at least {SMALLEST} pixels on each side to be measured, but it is {picture.shape[1]} x "
            f"{picture.shape[2]}. {remedy}."
        )
    if not torch.isfinite(picture).all():
        raise ValueError(f"{name} must be finite, but holds NaN or infinity: the automaton blew up.")


def _plain(value):
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
