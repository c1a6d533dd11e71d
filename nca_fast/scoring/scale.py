"""The scale of a score: 0 is as good as another part of the original, 1 has nothing right but the spectrum.

Distances of samples are only worth something beside those of equally large samples of the original itself: two halves
of a real picture differ, too, and stochastic ones by almost as much as they differ from a phase-randomised picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from nca_fast.scoring.spectrum import phase_randomised
from nca_fast.scoring.views import Cloud, Distance, View

_SPLITS = (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))  # of four quarters into two halves
_PHASES = 3  # phase-randomised halves, of each half
_SAMPLES = 8  # of a picture, at most
_APART = 2.0  # 0 and 1 are told apart by so many standard deviations, or the scale says nothing
# Of what real parts differ by. Three numbers may agree by chance; and a phase-randomised picture lacks the jump at the
# border, which alone takes white noise 9 to 16 % further from white noise than another one is.
_LEAST_SPREAD = 0.125
_LEAST_UNIT = 1e-4


@dataclass(frozen=True)
class Distances:
    """Distances from halves of the original, each a list of samples.

    Args:
        picture: Of parts of the picture; each the mean over all halves.
        real: Of the other half of the original, for each way to halve it.
        phase: Of phase-randomised other halves.
    """

    picture: list[float]
    real: list[float]
    phase: list[float]

    def unit(self) -> float:
        """What halves of the original differ by: the unit of `times`. Those of a checkerboard do not differ at all."""
        return max(fmean(self.real), _LEAST_UNIT * fmean(self.phase), 1e-9)


@dataclass(frozen=True)
class Scaled:
    """Where a distance lies between 0, another part of the original, and 1, the right spectrum only.

    Args:
        distance, real, phase: Means of `Distances`.
        score: (distance - real) / (phase - real); NaN where that is no scale, because phase is below real.
        error: Its standard deviation, by how much single parts of original and picture differ from each other.
        says: Whether 0 and 1 are further apart than parts of the original.
        times: distance / real: how many times as far from the original as another half of it.
    """

    distance: float
    real: float
    phase: float
    score: float
    error: float
    says: bool
    times: float


def scaled(distances: Distances) -> Scaled:
    """Puts distances on the scale."""
    distance, real, phase = fmean(distances.picture), fmean(distances.real), fmean(distances.phase)
    spread = max(stdev(distances.real), _LEAST_SPREAD * real)
    own = stdev(distances.picture) if len(distances.picture) > 1 else spread
    one = phase - real
    says = one > _APART * math.hypot(spread, stdev(distances.phase) / len(distances.phase) ** 0.5)
    if one <= 0:
        return Scaled(distance, real, phase, math.nan, math.nan, False, distance / distances.unit())
    score, error = (distance - real) / one, math.hypot(spread, own) / one
    return Scaled(distance, real, phase, score, error, says, distance / distances.unit())


def together(measured: Mapping[str, Distances]) -> Distances:
    """Makes one distance of several: the geometric mean of each in units of what the original's own halves differ by.

    1 is another half of the original.
    """

    def merged(part: str) -> list[float]:
        lists = []
        for distances in measured.values():
            unit = distances.unit()
            lists.append([max(d, _LEAST_UNIT * unit) / unit for d in getattr(distances, part)])
        return [math.exp(fmean(map(math.log, each))) for each in zip(*lists, strict=True)]

    return Distances(merged("picture"), merged("real"), merged("phase"))


class Scale:
    """Measures pictures from an original by one view, beside the original's own halves and phase-randomised ones.

    All are cut into pieces first, and each piece is looked at by itself, so that all have edges alike.

    Args:
        view: The way to look.
        reference: The original, [3, H, W] in [0, 1].
        smallest: Rows and columns of the smallest picture that will be measured.
    """

    def __init__(self, view: View, reference: Tensor, smallest: tuple[int, int]):
        self.view, whole = view, reference.shape[1:]
        self.size = tuple(min(side // 2, small) for side, small in zip(whole, smallest, strict=True))
        # Samples are as large as a picture allows: a quarter of the original, or two.
        self.pair = math.prod(small // side for small, side in zip(smallest, self.size, strict=True)) > 1
        quarters = self._pieces(reference, 2, 2)
        phases = {half: self._phases(reference, half) for split in _SPLITS[:2] for half in split}
        self.targets, self.real, self.phase = ({name: [] for name in view.distances} for _ in range(3))
        for name, against in view.distances.items():
            for split in _SPLITS:
                both = []
                for target, rest in (split, split[::-1]):
                    distance = against(_pooled([quarters[i] for i in target]))
                    self.targets[name].append(distance)
                    both.append(self._mean(distance, [quarters[i] for i in rest]))
                    self.phase[name] += [self._mean(distance, pieces) for pieces in phases.get(rest, ())]
                self.real[name].append(fmean(both))  # the same two halves

    def measure(self, pictures: Sequence[Tensor]) -> dict[str, Distances]:
        """Measures pictures [3, H, W] that show the same thing, none smaller than promised; by name of the distance."""
        samples = []
        for picture in pictures:
            pieces = self._pieces(picture, *(a // b for a, b in zip(picture.shape[1:], self.size, strict=True)))
            step = 2 if self.pair else 1
            groups = [_pooled(pieces[i : i + step]) for i in range(0, len(pieces) - step + 1, step)]
            samples += groups[:: math.ceil(len(groups) / _SAMPLES)]
        found = {}
        for name, targets in self.targets.items():
            picture = [fmean(distance(sample) for distance in targets) for sample in samples]
            found[name] = Distances(picture, self.real[name], self.phase[name])
        return found

    def _phases(self, reference: Tensor, half: tuple[int, int]) -> list[list[list[Cloud]]]:
        """Phase-randomises one half of the original several times; the two pieces of each. It has the colours and
        spectrum of the half, so that it differs from the other half as this one does, and in its phases."""
        height, width = (side // 2 for side in reference.shape[1:])
        rows, columns = sorted({i // 2 for i in half}), sorted({i % 2 for i in half})
        top, left = rows[0] * height, columns[0] * width
        part = reference[:, top : top + len(rows) * height, left : left + len(columns) * width]
        return [self._pieces(phase_randomised(part, seed), len(rows), len(columns)) for seed in range(_PHASES)]

    def _mean(self, distance: Distance, pieces: Sequence[Sequence[Cloud]]) -> float:
        """The distance of two pieces, together or one by one."""
        return distance(_pooled(pieces)) if self.pair else fmean(distance(piece) for piece in pieces)

    def _pieces(self, rgb: Tensor, rows: int, columns: int) -> list[list[Cloud]]:
        """Cuts a picture into pieces, evenly spread; for each the clouds of its maps."""
        height, width = self.size
        pieces = []
        for row in range(rows):
            for column in range(columns):
                top = row * (rgb.shape[1] - height) // max(1, rows - 1)
                left = column * (rgb.shape[2] - width) // max(1, columns - 1)
                piece = rgb[:, top : top + height, left : left + width]
                pieces.append([found.flatten(1) for found in self.view.maps(piece)])
        return pieces


def _pooled(pieces: Sequence[Sequence[Cloud]]) -> list[Cloud]:
    """Takes the positions of several pieces for those of one."""
    return [torch.cat(clouds, 1) for clouds in zip(*pieces, strict=True)]
