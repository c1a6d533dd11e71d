"""What users write with what `import nca_fast` offers; no test, but read by mypy, to which it must be sound."""

import torch
from torch import Tensor

from nca_fast import NCA, Filter, Rule, alive, convert, filters, fire_mask, normal, rollout


def layer(folder: str) -> Tensor:
    rule = Rule(channels=12, hidden=(96,), fire_rate=0.5)
    named: Rule = Rule(
        filters=("identity", "sobel_x", Filter("own", ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0))))
    )
    nca: NCA = NCA(rule)
    x: Tensor = nca.initial_state(4, 64, 64, seed=1)
    x = nca(x, steps=32, seed=0)
    rgb: Tensor = nca.to_rgb(x, clamp=False)
    nca.save_pretrained(folder)
    loaded: NCA = NCA.from_pretrained(folder)
    preset: NCA = NCA.preset("texture")
    return rgb + len(loaded.rule.filters) + len(preset.rule.hidden) + named.channels


def functions(nca: NCA, x: Tensor) -> Tensor:
    y: Tensor = rollout(x, nca.weights, nca.rule, 8, seed=3, first_step=2)
    mask: Tensor = fire_mask(0, 1, 2, 8, 8, 0.5)
    drawn: Tensor = normal(0, 1, 2, 3, 8, 8)
    living: Tensor = alive(y, nca.rule)
    other: NCA = convert.from_distill({"w1.weight": torch.zeros(96, 48, 1, 1)})
    return mask.float().sum() + drawn.sum() + living.float().sum() + len(other.weights) + len(vars(filters))
