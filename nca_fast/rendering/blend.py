"""Several automata of one kind that redraw one picture together, as one automaton."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nca_fast.nca import NCA


@torch.no_grad()
def blended(ncas: Sequence[NCA], shares: Sequence[float]) -> NCA:
    """Makes the automaton that changes a picture by a weighted mean of what several would.

        rgb' = rgb + m * sum over i of share_i * update_i(picture, rgb, hidden_i),    hidden_i' as automaton i has it

    All paint on the same colours and see what the others have painted; the hidden channels of each stay its own,
    because what a hidden channel means is another thing in every training. So it is a rule like any other, with as many
    hidden channels and units as all of them have together, whose weights hold theirs in blocks.

    Args:
        ncas: Automata that start from a picture, of one rule.
        shares: How much each has to say, at least 0; only their ratios count. What has none is left out, and one alone
            is itself.

    Returns:
        The automaton, on their device.

    Raises:
        ValueError: name, rule and value of what does not go together.
    """
    if (
        len(ncas) != len(shares)
        or not ncas
        or not all(0 <= share < float("inf") for share in shares)
        or not any(shares)
    ):
        raise ValueError(f"shares must be one for each automaton, at least 0 and not all 0, but got {list(shares)}.")
    first = ncas[0]
    if first.start != "image":
        raise ValueError(
            f"an automaton that redraws pictures must start from one, as those of nca-fast style do, but got "
            f"{_kind(first)}: nca-fast render draws with it."
        )
    for nca in ncas:
        kind = (first.rule, first.rgb_channel, "image", None, 0)
        own = (nca.rule, nca.rgb_channel, nca.start, nca.rule.alive_channel, nca.rule.learned_filters)
        if own != kind:
            raise ValueError(
                "automata to blend must start from a picture and have one rule without alive_channel and learned "
                f"filters, as those of one preset with the same filters have, but got {_kind(first)} and {_kind(nca)}."
            )
    shares = [share / max(shares) for share in shares]  # whose sum is finite
    present = [(nca, share / sum(shares)) for nca, share in zip(ncas, shares, strict=True) if share > 0]
    if len(present) == 1:
        return present[0][0]
    rule, shared, count = first.rule, first.rgb_channel + 3, len(present)
    own = rule.channels - shared
    rule = replace(rule, channels=shared + count * own, hidden=tuple(count * width for width in rule.hidden))
    whole = NCA(rule, rgb_channel=first.rgb_channel, start=first.start).to(first.device)
    for parameter in whole.parameters():
        parameter.zero_()
    for index, (nca, share) in enumerate(present):
        # The channels of this automaton among those of the whole.
        channels = [*range(shared), *range(shared + index * own, shared + (index + 1) * own)]
        _put(whole, nca, share, index, torch.tensor(channels, device=first.device))
    return whole


def _put(whole: NCA, nca: NCA, share: float, index: int, channels: Tensor) -> None:
    """Adds the weights of an automaton to those of the whole, of which it is number `index`."""
    rule, last = nca.rule, len(nca.layers) - 1
    maps = torch.arange(rule.inputs // rule.channels, device=channels.device)  # of each channel: filters
    columns = (maps[:, None] * whole.rule.channels + channels).flatten()
    for depth, (mine, all_of_it) in enumerate(zip(nca.weights, whole.weights, strict=True)):
        outputs = len(mine[0])
        rows = torch.arange(index * outputs, (index + 1) * outputs, device=channels.device)
        weight, bias = mine
        if depth == last:
            rows = channels[rule.frozen :] - rule.frozen
            say = torch.ones(outputs, device=channels.device)
            say[: nca.rgb_channel + 3 - rule.frozen] = share
            weight, bias = weight * say[:, None], None if bias is None else bias * say
        all_of_it[0][rows[:, None], columns] += weight
        if bias is not None:
            all_of_it[1][rows] += bias
        columns = rows


def _kind(nca: NCA) -> str:
    rule = nca.rule
    filters = ", ".join(filter.name for filter in rule.filters)
    return f"{rule.channels} channels, hidden {rule.hidden}, filters {filters}, start={nca.start!r}"
