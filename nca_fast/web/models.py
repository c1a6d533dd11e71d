"""What the page needs of a model: the file, without what only its owner should read, and a name."""

import contextlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save

from nca_fast import checkpoint
from nca_fast.nca import NCA
from nca_fast.pretrained import model_file
from nca_fast.rendering.size import shown_steps
from nca_fast.rule import Rule
from nca_fast.textures import model_name, names_of
from nca_fast.web.poster import Poster, poster
from nca_fast.web.rules import is_vae, read_rules

PERCEIVED, WIDTH, CHANNELS = 1536, 1024, 1024  # as LIMITS in source/rule.js; of the GPU's own the page speaks
UNSAID = 96  # steps where a file names none, as in source/model.js


@dataclass(frozen=True)
class Model:
    """A model of the page.

    Args:
        name: What it is called there.
        file: Safetensors, with its rule and the steps after which its picture is there, and nothing else.
        poster: What it draws; None but for the first.
    """

    name: str
    file: bytes
    poster: Poster | None


def refusal(nca: NCA) -> str | None:
    """Says why the page cannot run an automaton; None where it can."""
    rule: Rule = nca.rule
    if rule.channels < 3:
        return f"channels must be at least 3, of which the page makes colours, but got {rule.channels}."
    if rule.channels > CHANNELS:
        return f"channels must be at most {CHANNELS} in the page, but got {rule.channels}."
    if rule.inputs > PERCEIVED:
        return f"channels times filters must be at most {PERCEIVED} in the page, but this rule perceives {rule.inputs}."
    if max(rule.hidden, default=0) > WIDTH:
        return f"hidden must be layers of at most {WIDTH} units in the page, but got {rule.hidden}."
    if nca.start == "image" and rule.frozen not in (0, 3):
        return f"frozen must be 0 or 3 for a picture, but got {rule.frozen}."
    return None


def read(
    models: list[str],
    dataset: str | None = None,
    wait: Callable[[str], AbstractContextManager[object]] = contextlib.nullcontext,
) -> list[Model]:
    """Reads models, and lets the first draw.

    Args:
        models: As `NCA.from_pretrained` takes them, or VAE-NCAs. At least one.
        dataset: As in `read_rules`, for VAE-NCAs.
        wait: Takes what is done in a block that may take long, and gives a context for it.

    Raises:
        OSError, ValueError: There is no such model, or it is none that the page can run.
    """
    if not models:
        raise ValueError("models must be at least one, but got none.")
    names = names_of([model_name(model) for model in models])
    read = []
    for model, name in zip(models, names, strict=True):
        with wait(f"{'reading' if read else 'reading and drawing'} {name}"):
            read.append(_read(model, name, dataset, first=not read))
    return read


def _read(model: str, name: str, dataset: str | None, first: bool) -> Model:
    path = model_file(model)
    if is_vae(path):
        rules = read_rules(path, dataset)
        return Model(name, rules.file, poster(rules.first, rules.steps, rules.side) if first else None)
    nca = NCA.from_pretrained(path)
    if reason := refusal(nca):
        raise ValueError(f"{model}: {reason}")
    return Model(name, _slim(path, nca), poster(nca, steps_of(path)) if first else None)


def steps_of(path: Path) -> int:
    """Reads after how many steps the picture of the automaton in a file is there; 96 where the file does not say."""
    return shown_steps(checkpoint.load_metadata(path).get("provenance", {})) or UNSAID


def _slim(path: Path, nca: NCA) -> bytes:
    """A model file of float32 weights, without names of pictures and folders."""
    facts = {"nca": nca.config(), "provenance": {"shown_steps": steps_of(path)}}
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in nca.state_dict().items()}
    return save(tensors, metadata={"format": "pt", checkpoint.HEADER_KEY: json.dumps(facts)})
