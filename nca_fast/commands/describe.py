"""What `nca-fast info MODEL` says: what an automaton is, what it learned, how it was made, and how to use it."""

import json
from collections.abc import Mapping
from typing import Any

from nca_fast import checkpoint
from nca_fast.commands.ending import drawing, page
from nca_fast.commands.info import lines
from nca_fast.nca import NCA
from nca_fast.pretrained import model_file
from nca_fast.rendering.size import sensible_size, shown_steps
from nca_fast.rule import Rule
from nca_fast.scoring.spelling import scoring
from nca_fast.sizes import in_words
from nca_fast.systems.vae.model import VAENCA
from nca_fast.textures import named

_STARTS = {"zeros": "zeros", "noise": "noise", "image": "a picture and noise", "cell": "one living cell"}
_SOURCES = ("image", "textures", "maps", "style", "content", "prompts", "dataset", "init")  # facts of trainings
_MADE = ("iterations", "seed", "seconds", "nca_fast", "torch", "machine", "date")
_ORIGINALS = {"texture": "image", "style": "style"}  # what names the originals of systems that are measured


def show(model: str, as_json: bool) -> None:
    """Prints what there is to say about a model.

    Raises:
        OSError, ValueError: There is no such model, or it is damaged.
    """
    found = facts(model)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    *known, (use, commands) = found.items()
    for name, value in known:
        print("\n".join(_printable(line) for line in lines(name, value)))
    for number, command in enumerate(commands):
        print(_printable(f"{use if number == 0 else '':<18} {command}"))


def facts(model: str) -> dict[str, Any]:
    """Finds what there is to say about a model, by name, for people and for JSON alike.

    Args:
        model: As in `NCA.from_pretrained`.

    Raises:
        OSError, ValueError: There is no such model, or it is damaged.
    """
    path = model_file(model)
    metadata, made = checkpoint.load_metadata(path), checkpoint.facts_of(path)
    automaton = VAENCA.from_pretrained(path) if "vae" in metadata else NCA.from_pretrained(path)
    numbers = sum(parameter.numel() for parameter in automaton.parameters())
    found: dict[str, Any] = {"model": str(path), "system": made.get("system") or "none of nca-fast"}
    found |= {"size": f"{numbers:,} numbers, {in_words(path.stat().st_size)}", "rule": rule_in_words(automaton.rule)}
    if isinstance(automaton, NCA):
        found |= {"channels": _channels(automaton), "begins with": _STARTS[automaton.start]} | _canvas(automaton, made)
    learned = {name: _listed(made[name]) for name in _SOURCES if made.get(name)}
    card = made.get("card")
    if isinstance(card, Mapping):
        learned |= {name: str(card[name]) for name in ("title", "source", "licence") if name in card}
    found["learned"] = learned or "its file does not say"
    facts = {name: str(made[name]) for name in _MADE if isinstance(made.get(name), str | int | float)}
    found["made"] = ({"command": made["command"]} if made.get("command") else {}) | facts
    if isinstance(card, Mapping) and "score" in card:
        found["how good"] = str(card["score"])
    elif made.get("system") in _ORIGINALS:
        known = {one["name"]: one["image"] for one in named(made, f"'provenance' of {path}")}
        found["how good"] = f"not measured: {scoring(model, known or {None: made.get(_ORIGINALS[made['system']])})}"
    return found | {"use": [drawing(model), page(model)]}


def rule_in_words(rule: Rule) -> dict[str, str]:
    """Says what a step is: what a cell perceives, which network it runs, and what else its rule asks for."""
    names = [f"{one.name or 'unnamed'} {len(one.taps)} x {len(one.taps)}" for one in rule.filters]
    names = names if len(names) <= 8 else [f"{len(names)} filters, the largest {2 * rule.filter_reach + 1} wide"]
    names += [f"{rule.learned_filters} learned 3 x 3"] * bool(rule.learned_filters)
    names += [f"maximum of {rule.maximum_window} x {rule.maximum_window}"] * (rule.maximum_window is not None)
    layers = [rule.inputs, *rule.hidden, rule.written]
    said = {"perceives": ", ".join(names), "network": " -> ".join(map(str, layers)), "fires": f"{rule.fire_rate:g}"}
    said["padding"] = rule.padding
    usual = Rule()
    for name in ("activation", "update_activation", "residual", "clamp", "state_noise", "update_noise", "fire_shared"):
        if getattr(rule, name) != getattr(usual, name):
            said[name] = str(getattr(rule, name))
    if rule.alive_channel is not None:
        said["lives"] = f"where channel {rule.alive_channel} is above {rule.alive_threshold:g} ({rule.alive_mask})"
    return said


def _channels(nca: NCA) -> dict[str, str]:
    """What each channel holds, by the first and the last of them."""
    rule, first = nca.rule, nca.rgb_channel
    kinds = ["state"] * rule.channels
    for channel in range(rule.frozen):
        kinds[channel] = "picture, read only" if nca.start == "image" else "frozen, read only"
        kinds[channel] = "code of the texture, read only" if nca.textures else kinds[channel]
    for channel in range(first, min(first + 3, rule.channels)):
        kinds[channel] = "colors"
    at = first + 3
    for name, width in nca.maps.items():
        kinds[at : at + width] = [name] * width
        at += width
    if rule.alive_channel is not None:
        kinds[rule.alive_channel] = "alive"
    runs: list[tuple[int, int, str]] = []
    for channel, kind in enumerate(kinds):
        begun = runs.pop() if runs and runs[-1][2] == kind else (channel, channel, kind)
        runs.append((begun[0], channel, kind))
    return {str(low) if low == high else f"{low} to {high}": kind for low, high, kind in runs}


def _canvas(nca: NCA, made: Mapping[str, Any]) -> dict[str, str]:
    suits, shown = sensible_size(made), shown_steps(made)
    found = {"picture": f"after {shown or suits.steps} steps"} if nca.start == "image" else {}
    found = found or {"picture": f"{suits.side} x {suits.side} cells after {suits.steps} steps"}
    found |= {"knows": ", ".join(nca.textures)} if nca.textures else {}
    return found


def _listed(value: Any) -> str:
    """Writes what a fact of a file says, whatever that is."""
    if isinstance(value, list):
        return ", ".join(_listed(one) for one in value)
    if isinstance(value, Mapping):
        return " ".join(_listed(value[name]) for name in ("name", "image") if value.get(name))
    return str(value)


def _printable(line: str) -> str:
    """A line without what a terminal would take for a command: a file may come from anywhere."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)
