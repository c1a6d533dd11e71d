"""What `render --replay` takes from a replay: its canvas, its seed and its models."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from nca_fast import zoo
from nca_fast.canvas.replay import Replay
from nca_fast.canvas.settings import STARTS, CanvasConfig
from nca_fast.media.endings import PICTURES

# What a replay leaves open of a canvas, beside a picture to start from.
FREE = ("memory", "resumable", "state_dtype", "steps_per_pass", "start", "graft")
_LONGEST = 60  # letters of what a replay says, in errors
_MOST = 16  # models that they name


def check_config(config: CanvasConfig) -> None:
    """Raises ValueError for settings of a canvas that a replay has itself."""
    given = [f.name for f in fields(config) if f.name not in FREE and getattr(config, f.name) != f.default]
    if given:
        raise ValueError(f"{', '.join(given)} must be left out with a replay, which says what happens on the canvas.")
    if config.start is not None and (config.start in STARTS or config.start_file.suffix.lower() not in PICTURES):
        raise ValueError(
            f"start must be a picture with a replay, which says all else of how it begins, but got {config.start!r}."
        )


def replayed_models(replay: Replay, given: Sequence[Path]) -> list[Path]:
    """Finds the automata of a replay by their weights, among those that were given and on the shelf.

    Args:
        replay: For names and checksums.
        given: Files or folders, in any order.

    Returns:
        Models in the order of the replay.

    Raises:
        OSError, ValueError: One is missing or has other weights, or one was given that is not in it: a sentence.
    """
    from nca_fast.canvas.events import weights_sum
    from nca_fast.nca import NCA
    from nca_fast.textures import model_name

    sums = {model: weights_sum(NCA.from_pretrained(model)) for model in given}
    found = []
    for name, wanted in zip(replay.models, replay.weights, strict=True):
        shelf = Path(zoo.PREFIX + name)
        if wanted not in sums.values() and name in zoo.names():
            sums[shelf] = weights_sum(NCA.from_pretrained(shelf))
        match = next((model for model, checksum in sums.items() if checksum == wanted), None)
        if match is None:
            named = next((model for model in sums if model_name(model) == name), None)
            raise ValueError(f"{replay.where} {_missing(name, wanted, named, sums.get(named))}")
        found.append(match)
    others = [str(model) for model in given if model not in found]
    if others:
        names = ", ".join(name[:_LONGEST] for name in replay.models[:_MOST])
        raise ValueError(f"models must be those of {replay.where}, {names}, but got {', '.join(others)}, too.")
    return found


def _missing(name, wanted, named, checksum):
    """Says which model is not there, or that it has other weights."""
    name, wanted = name[:_LONGEST], wanted[:_LONGEST]
    remedy = "Give it as MODEL, further ones with --graft."
    if named is None:
        return f"needs the model {name!r}, which was not given and is not in the zoo. {remedy}"
    return (
        f"needs the model {name!r} whose weights have the checksum {wanted}, but those of {named} have {checksum}: it "
        f"was trained further, or is another. {remedy}"
    )
