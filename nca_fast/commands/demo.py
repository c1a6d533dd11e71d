"""The command that shows in two minutes what nca_fast does: it learns a texture, draws it, and measures the speed."""

import importlib.util
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from nca_fast import zoo
from nca_fast.commands.profile import Profile
from nca_fast.commands.render import Render
from nca_fast.commands.train import TRAIN
from nca_fast.compute import ComputeConfig
from nca_fast.systems.texture_settings import TextureConfig, TextureSources

SHELF = "cobbles"  # whose picture is learned where scikit-image is not installed


@dataclass(frozen=True)
class Demo:
    """Learn a texture on this machine, draw it on a larger canvas, and say how fast that is beside stock PyTorch.

    It takes some two minutes on two cores:
        nca-fast demo
        nca-fast demo --minutes 5 --out bricks
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("demo")
    """Folder for the results; made when missing, and must not hold another run."""
    minutes: float = 1.25
    """Time for learning."""
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = field(default_factory=ComputeConfig)

    main: ClassVar[tuple[str, ...]] = ("out", "minutes", "device", "threads")

    def check(self) -> None:
        """Raises ValueError for settings that cannot be."""
        self._training()

    def run(self, command: str) -> None:
        """Does what three commands would."""
        from nca_fast.commands.ending import finish, page

        print(f"1. learning from {self._picture()}: nca-fast texture ... --minutes {self.minutes:g}", flush=True)
        self._training().run(command)
        wide = self.out / "wide.png"
        words = ["nca-fast", "render", str(self.out), "--height", "512", "--width", "1024", "--out", str(wide)]
        print(f"\n2. drawing it: {shlex.join(words)}", flush=True)
        Render(model=self.out, out=wide, height=512, width=1024, compute=self.compute).run(shlex.join(words))
        for backward in (False, True):
            work = Profile(size=96, steps=16, backward=backward, against="eager", repeats=3, compute=self.compute)
            flags = " --backward" * backward
            print(f"\n3. how fast: nca-fast profile --size 96 --steps 16{flags} --against eager", flush=True)
            work.measure()
        print()
        finish((), then=["nca-fast texture PICTURE --out runs/mine", page(str(self.out))])

    def _picture(self) -> str:
        return "skimage:brick" if importlib.util.find_spec("skimage") else str(zoo.FOLDER / f"{SHELF}.jpg")

    def _training(self):
        picture = self._picture()
        config = TextureConfig(**vars(self.compute), minutes=self.minutes, image_size=64)
        if picture.startswith("skimage:"):
            config = replace(config, image_crop=256)
        return TRAIN["texture"](out=self.out, sources=TextureSources(picture), config=config)
