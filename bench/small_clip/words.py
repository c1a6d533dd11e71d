"""Teaches a model new words while its picture tower stays what it is: pictures are drawn and seen once, and met often.

What the tower tells apart gets its word at a tenth of the cost of training both; what it does not is left to
`bench.small_clip.train`, which then begins with words that are no noise.
"""

import random
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.small_clip import captions as patterns
from bench.small_clip import drawings, zero_shot
from bench.small_clip.kinds import SHARES

FRESH, KEPT = 24, 12_000  # pictures that are drawn for each step, and that are kept
KINDS = 4  # of one group, in every other batch


class Seen:
    """Pictures as the tower sees them, by what they show.

    Args:
        see: Pictures [N, 3, 64, 64] in [0, 1] -> vectors of length 1, [N, D].
        draw, generator: Decide all.
    """

    def __init__(self, see: Callable[[Tensor], Tensor], draw: random.Random, generator: torch.Generator):
        self.see, self.draw, self.generator = see, draw, generator
        self.vectors: list[Tensor] = []
        self.compositions: list[patterns.Composition] = []
        self.of_kind: dict[str, list[int]] = defaultdict(list)

    def look(self) -> None:
        """Draws some more pictures, until there are KEPT."""
        if len(self.vectors) >= KEPT:
            return
        chosen = zero_shot.compositions(FRESH, self.draw)
        with torch.no_grad():
            vectors = self.see(drawings.render(chosen, self.generator).clamp(0, 1))
        for what, vector in zip(chosen, vectors, strict=True):
            self.of_kind[what.kind].append(len(self.vectors))
            self.vectors.append(vector)
            self.compositions.append(what)

    def batch(self, count: int, few_kinds: bool) -> tuple[Tensor, list[str]]:
        """Vectors [N, D] and a new sentence for each, of all kinds or of few."""
        if few_kinds:
            groups, shares = zip(*SHARES, strict=True)
            group = self.draw.choices(groups, shares)[0]
            names = [name for name in group if self.of_kind[name]]
            among = [i for name in self.draw.sample(names, min(KINDS, len(names))) for i in self.of_kind[name]]
        else:
            among = range(len(self.vectors))
        indices = self.draw.sample(among, min(count, len(among)))
        texts = [patterns.caption(self.compositions[i], self.draw, complete=self.draw.random() < 0.4) for i in indices]
        return torch.stack([self.vectors[i] for i in indices]), texts


def step_loss(seen: Seen, encode: Callable[[list[str]], Tensor], scale: Tensor, count: int, few_kinds: bool) -> Tensor:
    """The contrastive loss of some pictures and their sentences. `encode`: texts -> vectors of length 1."""
    seen.look()
    images, texts = seen.batch(count, few_kinds)
    alike = scale * images @ encode(texts).T
    right = torch.arange(len(texts))
    return (F.cross_entropy(alike, right) + F.cross_entropy(alike.T, right)) / 2
