"""Commands that train, one for each task, made of its sources and settings."""

from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nca_fast.commands import streams
from nca_fast.commands.waits import OPENING
from nca_fast.files import TRAINING_FILE
from nca_fast.pretrained import check_model
from nca_fast.systems import TASKS
from nca_fast.training.task import Task, check_given

_OUT = tyro.conf.arg(metavar="DIR", help="Folder for the results; made when missing.")
_INIT = tyro.conf.arg(
    metavar="MODEL",
    help="Begin with the weights of a trained model of the same rule, in place of fresh ones: model.safetensors of a "
    "training, its folder, zoo:NAME or hf:USER/NAME.",
)
_RESUME = tyro.conf.arg(help="Go on with the run in DIR. More iterations may be asked for.")


class Train:
    """What all these commands do. A subclass, made by `command`, has the fields out, sources, resume and config."""

    task: Task

    def check(self) -> None:
        """Raises ValueError or OSError for sources and models that are missing, not there, or of no use."""
        self.sources.check(self.config)
        if not (self.resume and (self.out / TRAINING_FILE).exists()):
            check_given(self.sources, self.config, self.out)
        if self.init is not None:
            check_model(self.init)
            if self.resume:
                raise ValueError(
                    f"init must be left out with --resume, which goes on with its own model: {self.init!r}."
                )

    def run(self, command: str) -> None:
        """Trains, and says what was written and how to go on."""
        from nca_fast.commands.report import finish_training, resume_training
        from nca_fast.training.session import run_training

        system = self.task.system
        print("".join(f"{line}\n" for line in system.opening(self.sources)), end="", flush=True)
        how = {
            "resume": self.resume,
            "init": self.init,
            "command": command,
            "say": streams.say_above,
            "wait": streams.waiting,
            "progress": streams.shows_progress(),
        }
        with resume_training(system.name, self.out), streams.waiting(OPENING):
            result = run_training(system, self.sources, self.out, self.config, **how)
        score = None
        if system.name == "texture":
            from nca_fast.commands.measure import drawing_score

            score = drawing_score(self.out, self.sources, result.seconds)
        finish_training(result, score)
        if result.runs_away:
            usual = self.task.Config().iterations
            again = f"with {system.remedy}, longer, or with another --seed"
            if result.iterations < usual:
                again = f"longer (it had {result.iterations} of the usual {usual} iterations), or with another --seed"
            raise FloatingPointError(
                f"the automaton must last, but it {result.endured}, although the training went on. Train again {again}."
            )


def command(task: Task) -> type[Train]:
    """Makes the command of a task."""
    fields = [
        ("out", Annotated[Path, _OUT]),
        ("sources", _flat(task.Sources), field(default_factory=task.Sources)),
        ("resume", Annotated[bool, tyro.conf.FlagCreatePairsOff, _RESUME], False),
        ("init", Annotated[str | None, _INIT], None),
        ("config", _flat(task.Config), field(default_factory=task.Config)),
    ]
    if task.recipes:
        recipe = tyro.conf.arg(help=" ".join(task.recipe_help.split()))
        fields.insert(2, ("recipe", Annotated[Literal[tuple(task.recipes)] | None, recipe], None))
    same = {"task": task, "main": (*task.main, "out", "minutes", "init", "resume")}
    made = make_dataclass(task.name.capitalize(), fields, bases=(Train,), frozen=True, namespace=same)
    made.__doc__ = task.help
    return made


def _flat(fields: type) -> type:
    """A dataclass whose fields are options of their own names."""
    return Annotated[fields, tyro.conf.arg(name="")]


TRAIN = {name: command(task) for name, task in TASKS.items()}
