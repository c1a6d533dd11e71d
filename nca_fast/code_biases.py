"""What the code of a texture does in a cell that has it all around: a bias of each hidden unit, which turns some off.

A filter answers to what is the same everywhere with its sum. So what the first layer makes of a code is a bias,

    b = b1 + sum over filters f and channels c of the code: (sum of f) W1[:, f, c] code[c],

and an automaton of several textures does on a torus of one of them what a smaller one does: without the channels of
the code, and without the units that it turns off (see `nca_fast.systems.swatches.for_textures`).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nca_fast import ops
from nca_fast.activations import as_activation
from nca_fast.nca import NCA
from nca_fast.rule import Rule
from nca_fast.textures import all_codes

RELU = as_activation("relu")
OFF = 8.0  # a unit's bias under the code of another texture, where sums that were seen stay below 3


def units_at_work(nca: NCA, codes: Tensor | None = None) -> Tensor | None:
    """Finds the units of the first hidden layer that each of some codes leaves on.

    Args:
        nca: The automaton, see `for_textures`.
        codes: As many units for each, [n, frozen]. None: those of all textures.

    Returns:
        int64 [n, units], on its device; None where all are on.
    """
    rule, count, found = nca.rule, nca.rule.frozen, off_by(nca.rule)
    if found is None:
        return None
    seen, off = found
    codes = (all_codes(nca.textures) if codes is None else codes).to(nca.layers[0].weight)
    weights = nca.layers[0].weight.detach().view(rule.hidden[0], -1, rule.channels)[:, seen, :count]
    on = codes @ (weights / off > 0.75).to(codes).T < 0.999  # Muon moves what has no gradient a little
    return None if on.all() else on.nonzero()[:, 1].view(len(codes), -1)


def off_by(rule: Rule) -> tuple[int, float] | None:
    """Finds the filter by which a cell sees its code best, and the weight with which it turns a unit off.

    Returns:
        The filter's number, and the weight. None where no code turns a unit off, because there is no unit that rests
        below 0, or no filter that sees what is the same everywhere.
    """
    sums = _sums(rule)
    seen = max(range(len(sums)), key=lambda number: abs(sums[number]), default=None)
    if not rule.hidden or rule.activations[0] != RELU or seen is None or abs(sums[seen]) < 1e-6:
        return None
    return seen, -OFF / sums[seen]


def _sums(rule: Rule) -> list[float]:
    """What each filter, and the maximum, answers to a channel that is 1 everywhere."""
    return [sum(map(sum, filter.kernel)) for filter in rule.filters] + [1.0] * (rule.maximum_window is not None)


def rolled_out(nca: NCA, states: Tensor, steps: int, units: Tensor | None = None, **options: Any) -> Tensor:
    """Does what the automaton does to states each of which has one code all over its torus, in half of the time.

    Each state has a rule of its own, without the channels of the code and without the units that it turns off.

    Args:
        nca: The automaton, see `for_textures`.
        states: The code of a texture, one-hot, in the first channels. [B, C, H, W]
        units: Those at work, as `units_at_work` finds them. None: all.
        steps, options: As in `nca_fast.rollout`.
    """
    count = nca.rule.frozen
    if not folds(nca.rule):
        return nca(states, steps, **options)
    codes = states[:, :count, 0, 0]
    rule, weights = _without_codes(nca, codes, None if units is None else units[codes.argmax(1)])
    changed = ops.rollout(states[:, count:].contiguous(), weights, rule, steps, **options)
    return torch.cat([states[:, :count], changed], 1)


def all_rolled_out(nca: NCA, states: Tensor, steps: int, units: Tensor | None = None, **options: Any) -> Tensor:
    """As `rolled_out`, of states of which the last may have several codes."""
    alone = rolled_out(nca, states[:-1], steps, units, **options)
    return torch.cat([alone, nca(states[-1:], steps, first_sample=len(alone), **options)])


def single_texture(nca: NCA, code: Tensor) -> NCA:
    """Makes an automaton that draws one texture of several, or one blend, and nothing else: as it would, but smaller.

    Its states are those of the other without the channels of the code, up to the rounding of sums.

    Args:
        nca: The automaton, which knows several.
        code: What it draws, as `nca_fast.textures.mixed` makes it. [frozen]

    Raises:
        ValueError: There is none, see `has_single`.
    """
    rule, count = nca.rule, nca.rule.frozen
    if not has_single(nca):
        raise ValueError(
            "texture must be left out for this automaton, which draws one of its textures only as a whole: its rule "
            'must have padding "circular", hidden units with biases, no learned filters, no alive channel and nothing '
            "that is drawn for each channel, and its colours must come after the channels of the code."
        )
    codes = code[None].to(nca.layers[0].weight)
    with torch.no_grad():
        rule, weights = _without_codes(nca, codes, units_at_work(nca, codes))
        alone = NCA(rule, rgb_channel=nca.rgb_channel - count, start=nca.start, maps=nca.maps)
        alone = alone.to(nca.layers[0].weight)
        for layer, (weight, bias) in zip(alone.layers, weights, strict=True):
            layer.weight.copy_(weight[0])
            if bias is not None:
                layer.bias.copy_(bias[0])
    return alone


def _without_codes(nca: NCA, codes: Tensor, units: Tensor | None) -> tuple[Rule, list[tuple[Tensor, Tensor | None]]]:
    """Makes a rule without codes, and its weights for each of some codes [B, frozen] and the units that it leaves on
    [B, n]; None: all."""
    rule, count, samples = nca.rule, nca.rule.frozen, len(codes)
    (weight, bias), *later = nca.weights
    maps = weight.view(len(weight), -1, rule.channels)
    answers = torch.einsum("hfc,f,bc->bh", maps[:, :, :count], weight.new_tensor(_sums(rule)), codes)
    weights = [(maps[:, :, count:].flatten(1).expand(samples, -1, -1), bias + answers)]
    for weight, bias in later:
        weights.append((weight.expand(samples, -1, -1), None if bias is None else bias.expand(samples, -1)))
    if units is not None:
        (weight, bias), (following, its_bias), *rest = weights
        rows = units[:, :, None].expand(-1, -1, weight.shape[2])
        columns = units[:, None].expand(-1, following.shape[1], -1)
        weights = [(weight.gather(1, rows), bias.gather(1, units)), (following.gather(2, columns), its_bias), *rest]
    hidden = (weights[0][0].shape[1], *rule.hidden[1:])
    return replace(rule, channels=rule.written, frozen=0, hidden=hidden), weights


def folds(rule: Rule) -> bool:
    """Says whether codes can be biases: on a torus, where no channel has filters, noise or a meaning by its number."""
    drawn = "channel" not in rule.fire_shared or rule.state_noise or rule.update_noise
    named = rule.learned_filters or rule.alive_channel is not None
    return rule.padding == "circular" and rule.hidden_bias and bool(rule.hidden) and not (drawn or named)


def has_single(nca: NCA) -> bool:
    """Says whether `single_texture` can make one: codes can be biases, and none of them is shown as a colour."""
    return folds(nca.rule) and nca.rgb_channel >= nca.rule.frozen
