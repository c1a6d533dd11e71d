"""The command that shows the automata that come with nca_fast."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nca_fast import zoo
from nca_fast.media import endings

COLUMNS = 5  # pictures in a row of the sheet
_EXAMPLES = {
    "texture": "nca-fast render {model} --height 512 --width 512 --steps {steps} --out {name}.png",
    "style": "nca-fast apply {model} photo.jpg --out photo-{name}.png",
    "grow": "nca-fast render {model} --height {side} --width {side} --steps 500 --zoom 4 --out {name}.mp4",
}


@dataclass(frozen=True)
class Zoo:
    """List the automata that come with nca_fast, say how one was made, and write pictures of them.

    Whatever takes a MODEL takes zoo:NAME:
        nca-fast zoo
        nca-fast zoo bark
        nca-fast zoo --out zoo.jpg
        nca-fast render zoo:bark --height 1024 --width 1024 --steps 256 --out bark.png
    """

    name: tyro.conf.Positional[str | None] = None
    """One of them. None: all."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Picture (.png .jpg .webp) to write: what the automaton draws, or a sheet of all of them."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON, for programs."""

    @property
    def needs_torch(self) -> bool:
        """Whether a picture is to be written; a card is in the header of a file."""
        return self.out is not None

    def check(self) -> None:
        """Raises ValueError for a name or an ending that is none, OSError for an empty zoo."""
        if self.out is not None:
            endings.check_picture(self.out)
        if not zoo.names():
            raise FileNotFoundError(f"the zoo must hold automata, but there are none in {zoo.FOLDER}: install again.")
        if self.name is not None:
            zoo.file(self.name)

    def run(self, command: str) -> None:
        """Prints the list or a card, and writes the picture."""
        cards = [zoo.card(name) for name in ([self.name] if self.name else zoo.names())]
        if self.json:
            print(json.dumps([asdict(card) for card in cards], indent=1))
        elif self.name:
            print("\n".join(described(cards[0])))
        else:
            print("\n".join(listed(cards)))
        if self.out is not None:
            from nca_fast.commands.ending import finish
            from nca_fast.files import check_writable
            from nca_fast.media.images import image_grid, load_image, save_image

            check_writable(self.out.parent)
            pictures = [load_image(card.picture) for card in cards]
            save_image(pictures[0] if self.name else image_grid(pictures, COLUMNS, pad=8), self.out)
            if not self.json:
                finish([self.out])


def listed(cards: list[zoo.Card]) -> list[str]:
    """Writes a line for each card, and what to do with them."""
    names = [f"{zoo.PREFIX}{card.name}" for card in cards]
    width, kind = max(map(len, names)), max(len(card.system) for card in cards)
    lines = [f"{n:<{width}}  {c.system:<{kind}}  {c.title}" for n, c in zip(names, cards, strict=True)]
    return [*lines, "", f"How one was made: nca-fast zoo {cards[0].name}", f"Use one: {example(cards[0])}"]


def described(card: zoo.Card) -> list[str]:
    """Writes a card in lines."""
    kib = card.file.stat().st_size / 1024
    return [
        f"{zoo.PREFIX}{card.name}: {card.title} ({card.system}, {kib:.0f} KB)",
        f"learned from  {card.source}",
        f"licence       {card.licence} (the picture); MIT, as nca_fast (the automaton)",
        f"trained       {card.seconds:.0f} CPU seconds on one thread: {card.command}",
        f"how good      {card.score}",
        f"picture       {card.picture}",
        f"use           {example(card)}",
    ]


def example(card: zoo.Card) -> str:
    """Writes a command that draws with an automaton."""
    facts = {"model": f"{zoo.PREFIX}{card.name}", "name": card.name, "steps": card.steps, "side": card.side}
    return _EXAMPLES[card.system].format(**facts)
