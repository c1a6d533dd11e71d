"""How commands end: what was written, what there is to say about it, and what could be done next."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nca_fast import checkpoint
from nca_fast.commands import streams
from nca_fast.pretrained import model_file


def finish(files: Sequence[Path], said: Sequence[str] = (), then: Sequence[str] = (), **facts: Any) -> None:
    """Ends a command: says what it wrote, what there is to say about it, and what could be done next; for --json the
    same is kept until its end.

    Args:
        files: What was written, in the order in which a user looks at it.
        said: Lines.
        then: Command lines, two of them.
        facts: More for --json, as JSON can hold it.
    """
    written = [{"file": str(path), "bytes": path.stat().st_size} for path in files]
    streams.keep({"files": written, "said": list(said), "next": list(then), **facts})
    width = max((len(str(path)) for path in files), default=0)
    for path, facts in zip(files, written, strict=True):
        print(f"{path!s:<{width}}  {facts['bytes'] / 1024:9.1f} KB")
    lines = [*said, *(f"{'next:' if number == 0 else '     '} {line}" for number, line in enumerate(then))]
    print("".join(f"{line}\n" for line in lines), end="")


def drawing(model: str, file: Path | None = None) -> str:
    """Spells the command that draws with a model.

    Args:
        model: As it is to be typed.
        file: Its file, if that is not what the name says.
    """
    head = checkpoint.load_metadata(file or model_file(model))
    name, out = shlex.quote(model), shlex.quote(f"{Path(model.rpartition(':')[2]).stem}.png")
    if "vae" in head:
        return f"nca-fast vae repair PICTURE --model {name} --damage 4 --out {out}"
    if head["nca"]["start"] == "image":
        return f"nca-fast apply {name} PICTURE --out {out}"
    return f"nca-fast render {name} --out {out}"


def page(*models: str) -> str:
    """Spells the command that makes a page of models."""
    return f"nca-fast web {shlex.join(models)} --out page.html"
