"""The shelf: automata that come with nca_fast, trained by `python -m bench.zoo` on pictures that anybody may use.

Each is a model file, whose provenance holds its card, and a picture of what it draws, of the same name.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nca_fast import checkpoint
from nca_fast.suggestions import closest, did_you_mean

PREFIX = "zoo:"
FOLDER = Path(__file__).parent
CARD = ("title", "source", "licence", "score")  # what the provenance of a model of the zoo says under "card"


@dataclass(frozen=True)
class Card:
    """What is known of an automaton of the zoo.

    Args:
        name: After "zoo:".
        system: The training that made it: "texture", "style" or "grow".
        title: What it draws.
        source: The picture that it learned from.
        licence: Of that picture; the automaton is under the licence of nca_fast.
        score: How good it is, as `nca-fast score` or, of a grown picture, its error says.
        seconds: CPU seconds of its training, on one thread.
        command: What trained it.
        steps: Updates after which its picture was drawn.
        side: Rows and columns of the canvas in training.
    """

    name: str
    system: str
    title: str
    source: str
    licence: str
    score: str
    seconds: float
    command: str
    steps: int
    side: int

    @property
    def file(self) -> Path:
        """The model."""
        return FOLDER / f"{self.name}.safetensors"

    @property
    def picture(self) -> Path:
        """What it draws."""
        return FOLDER / f"{self.name}.jpg"


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Lists the automata, in the order of the alphabet."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def file(name: str) -> Path:
    """Finds the model file of an automaton of the zoo.

    Args:
        name: With or without "zoo:" before it.

    Raises:
        ValueError: There is none of this name.
    """
    bare = name.removeprefix(PREFIX)
    if bare not in names():
        near = closest(bare, names())
        meant = did_you_mean(near and f"{PREFIX}{near}")
        raise ValueError(f"the zoo has {', '.join(names())}; but got {bare!r}.{meant}")
    return FOLDER / f"{bare}.safetensors"


def card(name: str) -> Card:
    """Reads the card of an automaton of the zoo, named as for `file`."""
    path = file(name)
    made = checkpoint.load_metadata(path)["provenance"]
    facts = {key: made[key] for key in ("system", "command", "seconds", "steps", "side")}
    return Card(name=path.stem, **facts, **{key: made["card"][key] for key in CARD})
