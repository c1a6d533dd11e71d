"""What an automaton draws beside colours: maps of a surface, as programs for 3-D scenes put them onto one.

A map lies in channels after those of the colours, and shows as value + 0.5, as they do. A "normal" map holds the
direction that a surface faces, (x, y, z) as (x + 1) / 2 and so on; "height" is written with 16 bits.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nca_fast.integers import checked_integer
from nca_fast.map_names import NAMES, check_name


def checked_maps(maps: Mapping[str, int], channels: int, rgb_channel: int) -> dict[str, int]:
    """The maps of an automaton: by name the number of channels.

    Args:
        maps: In the order of their channels, which follow those of the colours. May be empty.
        channels, rgb_channel: Of the automaton.

    Raises:
        ValueError: There is no map of such a name or number of channels, or no room for all.
    """
    if not isinstance(maps, Mapping):
        raise ValueError(f"maps must be numbers of channels by name, but got {type(maps).__name__}.")
    found = {}
    for name, count in maps.items():
        check_name(name)
        count = checked_integer(f"channels of map {name}", count, 1, 3)
        if count not in ((1, 3) if NAMES[name] is None else (NAMES[name],)):
            raise ValueError(f"map {name} must have {NAMES[name] or '1 or 3'} channels, but got {count}.")
        found[name] = count
    if found and rgb_channel + 3 + sum(found.values()) > channels:
        raise ValueError(
            f"maps must find room after the colours, but {sum(found.values())} channels from {rgb_channel + 3} on are "
            f"more than the {channels} of the rule."
        )
    return found


def channels_of(maps: Mapping[str, int], name: str, rgb_channel: int) -> slice:
    """Finds the channels of a map."""
    first = rgb_channel + 3
    for other, count in maps.items():
        if other == name:
            return slice(first, first + count)
        first += count
    raise ValueError(f"map must be one of {', '.join(maps) or 'none, which this automaton draws'}, but got {name!r}.")


def facing(normals: Tensor) -> Tensor:
    """Gives directions the length 1. [..., 3, h, w] as (x + 1) / 2 -> same; what has no direction faces the viewer."""
    directions = 2 * normals - 1
    length = directions.norm(dim=-3, keepdim=True)
    up = torch.tensor([0.0, 0.0, 1.0]).to(normals)[:, None, None]
    return torch.where(length > 1e-6, directions / length.clamp(min=1e-6), up) / 2 + 0.5
