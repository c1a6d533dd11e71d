"""What the command line knows of a training before torch is loaded, which takes seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from nca_fast.training.settings import RunConfig


@dataclass(frozen=True)
class Task:
    """One thing that people train an automaton for.

    Args:
        name: Of the command.
        help: Of the command: a line, an empty one, examples and whatever else.
        Sources: A frozen dataclass of what is learned: pictures, texts. Its fields have defaults, which say "none". It
            has a `check(config)` of what can be seen before torch is loaded, and a `missing(config)`, the names of what
            a run cannot begin without and is not given.
        Config: A frozen dataclass of settings.
        home: Where the `training.system.System` is that does it, "nca_fast.systems.texture:Texture".
        main: The names of the settings and sources that --help shows; --help-all shows all.
        recipes: Settings by name that a user may begin with instead of the defaults.
        recipe_help: Explains them.
    """

    name: str
    help: str
    Sources: type
    Config: type[RunConfig]
    home: str
    main: tuple[str, ...]
    recipes: Mapping[str, RunConfig] = field(default_factory=dict)
    recipe_help: str = ""

    @property
    def system(self) -> type:
        """The system, a class; it is imported now."""
        module, _, name = self.home.partition(":")
        return getattr(import_module(module), name)


def check_given(sources: Any, config: RunConfig, out: Path) -> None:
    """Refuses to begin a run that is not told what to learn.

    Args:
        sources: A `Task.Sources`.
        config: Its settings.
        out: The folder of the run, for the error.

    Raises:
        ValueError: Something is missing.
    """
    missing = sources.missing(config)
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} must be given to begin a run: folder {out} holds none that --resume goes on with."
        )
