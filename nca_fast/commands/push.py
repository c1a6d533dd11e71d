"""The command that uploads a model with its card."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from nca_fast.commands.score import ScoreCommand
from nca_fast.compute import ComputeConfig
from nca_fast.files import MODEL_FILE
from nca_fast.pretrained import HUB, check_model, hub_name
from nca_fast.systems import TASKS


@dataclass(frozen=True)
class Push:
    """Upload a trained model to the Hugging Face hub, with a card that shows its picture, its score and its command.

    You need an account there, and to have logged in once with `hf auth login`:
        nca-fast push runs/brick hf:user/brick-nca --license mit

    Afterwards everybody's nca-fast takes hf:user/brick-nca wherever it takes a MODEL.
    """

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a training. The card is written into it too, as README.md."""
    repository: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="hf:USER/NAME")]
    """Where to; made when it is not there."""
    license: str | None = None
    """What others may do with it, as the hub calls it: mit, cc0-1.0, cc-by-4.0 ... None: the card does not say."""
    private: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Make a repository that others cannot see."""
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = field(default_factory=ComputeConfig)

    main: ClassVar[tuple[str, ...]] = ("license", "private")

    def check(self) -> None:
        """Raises ValueError or OSError for a model that is not there, or a name that is none."""
        hub_name(self.repository)
        check_model(self.run_folder)

    def run(self, command: str) -> None:
        """Measures, uploads, and says where the model is now."""
        from nca_fast import checkpoint
        from nca_fast.commands.ending import drawing, finish, page
        from nca_fast.commands.measure import measured
        from nca_fast.model_card import check_licence, push_to_hub
        from nca_fast.training.run_folder import PREVIEW_FILE

        name = hub_name(self.repository)
        check_licence(self.license)
        made = checkpoint.facts_of(self.run_folder / MODEL_FILE)
        task = TASKS.get(made.get("system"))
        pictures = [self.run_folder / file for file in (*(task.system.files if task else ()), PREVIEW_FILE)]
        picture = next((file for file in pictures if file.suffix == ".png" and file.exists()), None)
        try:
            found = measured(ScoreCommand(str(self.run_folder), compute=self.compute))
            score = [line for one in found for line in one.lines()]
        except ValueError:  # of what has no score, such as a growing picture, or whose original is gone
            score = []
        how = {"picture": picture, "score": score, "licence": self.license, "private": self.private}
        there = f"{HUB}{name}"
        then = [drawing(there, self.run_folder / MODEL_FILE), page(there)]
        finish([], [push_to_hub(self.run_folder, name, **how)], then)
