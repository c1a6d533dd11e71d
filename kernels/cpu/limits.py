"""What the C++ kernel can do, and what memory it takes."""

import torch
from torch import Tensor

DEVICE = "cpu"


def refusal(rule, x: Tensor, precision: str, uses: tuple[str, ...] = ()) -> str | None:
    """Says why the C++ kernel cannot serve, or None; see `nca_fast.backends.Backend`."""
    if x.device.type != "cpu":
        return f"the C++ kernel takes states on the CPU, but x is on {x.device.type}."
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the C++ kernel takes float32, bfloat16 and float16 states, but x is {x.dtype}: use x.float()."
    if precision != "fp32":
        return f'the C++ kernel computes in precision "fp32", but {precision!r} was asked for.'
    if rule.channels > 64:
        return f"the C++ kernel takes at most 64 channels, but the rule has {rule.channels}."
    return _not_served(rule, uses)


def _not_served(rule, uses):
    """Names the first thing that a rule or a call asks for and this kernel does not know; or None."""
    asked = {
        "no hidden layer": not rule.hidden,
        f"padding {rule.padding!r}": rule.padding not in ("circular", "zero"),
        f"alive_mask {rule.alive_mask!r}": rule.alive_channel is not None and rule.alive_mask != "both",
        "an alive_padding": rule.alive_channel is not None and rule.alive_circular != rule.circular,
        f"fire_shared {rule.fire_shared}": rule.fire_shared != ("channel",),
        "activations other than relu": any(a != ("relu", 0, 1) for a in rule.activations[:-1]),
        "an update_activation": rule.activations[-1] != ("identity", 0, 1),
        "residual=False": not rule.residual,
        "a clamp": rule.clamp is not None,
        "noise": rule.state_noise > 0 or rule.update_noise > 0,
    } | dict.fromkeys(uses, True)
    name = next((name for name, is_asked in asked.items() if is_asked), None)
    return None if name is None else f"the C++ kernel does not serve {name}."


def bytes_per_cell(rule) -> int:
    """Counts the sets of cells of the alive mask, a bit each."""
    return 0 if rule.alive_channel is None else 1
