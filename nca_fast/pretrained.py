"""Where trained models are: a folder or file, the shelf that comes with the package, or the Hugging Face hub."""

import re
from pathlib import Path

from nca_fast import zoo
from nca_fast.files import MODEL_FILE
from nca_fast.suggestions import closest, closest_path, did_you_mean

HUB = "hf:"
_NAMED = 8  # runs of a folder that an error lists
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def model_file(model: str | Path) -> Path:
    """Finds the file of a model.

    Args:
        model: The file; the folder that holds it as model.safetensors, as trainings write it; "zoo:NAME" of an
            automaton that comes with nca_fast; or "hf:user/name" of a repository on the Hugging Face hub, which is
            downloaded unless it is in the cache of huggingface_hub.

    Returns:
        The file, which need not exist where a path was given.

    Raises:
        ValueError: There is no such automaton in the zoo, or what follows "hf:" is no name of a repository.
        OSError: The hub has no such repository or file, or cannot be reached; or there is no such path, and it looks
            like the name of a repository.
    """
    name = model.as_posix() if isinstance(model, Path) else str(model)
    if name.startswith(zoo.PREFIX):
        return zoo.file(name)
    if name.startswith(HUB):
        return _downloaded(name)
    path = Path(model)
    if _REPOSITORY.fullmatch(name) and not path.exists() and not path.parent.exists():
        raise FileNotFoundError(
            f"model file {path} must exist, but there is none. Check the path (the Hugging Face hub's is {HUB}{name})."
        )
    return path / MODEL_FILE if path.is_dir() else path


def check_model(model: str | Path) -> None:
    """Refuses a model that is not there, before torch is loaded; of the hub it is asked later.

    Raises:
        ValueError, OSError: As `model_file`; or there is no such file.
    """
    if not str(model).startswith(HUB):
        path = model_file(model)
        if not path.exists():
            raise FileNotFoundError(_missing(Path(model), path))


def _missing(model: Path, file: Path) -> str:
    """Says that a model is not there, and what may have been meant."""
    if model.is_dir():
        runs = sorted(str(folder) for folder in model.iterdir() if _is_run(folder))
        more = ", ..." if len(runs) > _NAMED else ""
        held = f"the runs {', '.join(runs[:_NAMED])}{more}: name one" if runs else "none, and no runs"
        return f"folder {model} must be that of a run, with {MODEL_FILE}, but it holds {held}."
    near = closest(str(model), zoo.names())
    beside = closest_path(model, lambda path: _is_run(path) or path.suffix == file.suffix == ".safetensors")
    meant = did_you_mean(beside, near and f"{zoo.PREFIX}{near}")
    return f"model file {file} must exist, but there is none.{meant or ' Check the path.'}"


def _is_run(folder: Path) -> bool:
    return (folder / MODEL_FILE).is_file()


def hub_name(name: str) -> str:
    """Takes "user/name" out of "hf:user/name" or itself. Raises ValueError for what is no name of a repository."""
    bare = name.removeprefix(HUB)
    if not _REPOSITORY.fullmatch(bare):
        raise ValueError(f"a model of the hub must be {HUB}user/name, but got {name!r}.")
    return bare


def _downloaded(name: str) -> Path:
    repository = hub_name(name)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, MODEL_FILE))
    except OSError as error:  # all that the hub's library raises for what is not there
        reason = " ".join(str(error).split())[:300]
        raise OSError(
            f"{name} must be a repository of the Hugging Face hub that holds {MODEL_FILE} and can be reached, but "
            f"{type(error).__name__}: {reason}"
        ) from error
