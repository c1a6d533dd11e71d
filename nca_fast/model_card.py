"""The card of a model, and its way to the Hugging Face hub: what it draws, how good it is, and how it was made."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nca_fast import checkpoint
from nca_fast.files import MODEL_FILE, atomic_path
from nca_fast.pretrained import HUB, hub_name

CARD_FILE = "README.md"
_HEAD = "library_name: nca-fast"
_TAGS = {"texture": "texture-synthesis", "style": "style-transfer", "clip": "clip", "vae": "vae", "grow": "growing"}
_USES = {
    "texture": "nca-fast render {model} --height 1024 --width 1024 --steps 256 --out picture.png",
    "style": "nca-fast apply {model} photo.jpg --out restyled.png",
    "clip": "nca-fast render {model} --height 512 --width 512 --steps 128 --out picture.png",
    "grow": "nca-fast render {model} --height 72 --width 72 --steps 500 --zoom 4 --out growing.mp4",
    "vae": "nca-fast vae fuse {model} --help",
}


def model_card(
    metadata: Mapping[str, Any],
    model: str,
    picture: str | None = None,
    score: Sequence[str] = (),
    licence: str | None = None,
) -> str:
    """Writes the card of a model, as the hub shows it.

    Args:
        metadata: Of its file (`checkpoint.load_metadata`).
        model: How commands call it: "hf:user/name".
        picture: File beside the card that shows what it draws.
        score: What `nca-fast score` says of it, in lines.
        licence: An identifier of the hub's, such as "mit" or "cc0-1.0".

    Returns:
        Markdown, with the hub's own facts in YAML at its head.

    Raises:
        ValueError: The licence is no such.
    """
    check_licence(licence)
    made = metadata.get("provenance", {})
    system = made.get("system")
    tags = ["neural-cellular-automata", *([_TAGS[system]] if system in _TAGS else [])]
    head = [_HEAD, *([f"license: {licence}"] if licence else [])]
    head += ["tags:", *(f"- {tag}" for tag in tags)]
    lines = ["---", *head, "---", "", f"# {model.removeprefix(HUB)}", ""]
    lines += ["A neural cellular automaton, made with nca_fast.", ""]
    if picture:
        lines += [f"![what it draws]({picture})", ""]
    if score:
        lines += ["How good it is, by `nca-fast score`:", "", *_block(score)]
    if made.get("command"):
        lines += ["How it was made:", "", *_block([made["command"]])]
    names = ("iterations", "seed", "nca_fast", "torch", "date")
    facts = {name: made[name] for name in names if isinstance(made.get(name), str | int)}
    lines += [", ".join(f"{name} {value}" for name, value in facts.items()), ""] if facts else []
    lines += ["Draw with it, after `pip install nca-fast`:", ""]
    lines += _block([_USES[system].format(model=model)] if system in _USES else [f"nca-fast render {model} --help"])
    if "nca" in metadata:
        lines += [
            "In Python:",
            "",
            "```python",
            "import nca_fast",
            "",
            f'nca = nca_fast.NCA.from_pretrained("{model}")',
        ]
        lines += ["```", ""]
    return "\n".join(lines)


def check_licence(licence: str | None) -> None:
    """Raises ValueError for what is no identifier, and might say something else of the model than its licence."""
    if licence is not None and not re.fullmatch(r"[\w.-]+", licence):
        raise ValueError(f"license must be one word, as the hub has it: mit, cc-by-4.0 ... but got {licence!r}.")


def push_to_hub(
    folder: str | Path,
    repository: str,
    *,
    picture: str | Path | None = None,
    score: Sequence[str] = (),
    licence: str | None = None,
    private: bool = False,
) -> str:
    """Uploads the model of a folder with a card, so that "hf:user/name" is it; needs a login (`hf auth login`).

    Args:
        folder: As trainings and `save_pretrained` leave it: it holds model.safetensors. The card is written there too,
            as README.md.
        repository: "user/name" or "hf:user/name"; made when it is not there.
        picture: What the card shows; a file.
        score, licence: As in `model_card`.
        private: Make a repository that others cannot see.

    Returns:
        The address of the commit.

    Raises:
        ValueError: `repository` is no such name, or the folder holds no model of ours.
        FileExistsError: The folder holds a README.md that is no card.
        OSError: The hub cannot be reached, or refuses.
    """
    folder, name = Path(folder), hub_name(repository)
    metadata = checkpoint.load_metadata(folder / MODEL_FILE)
    picture = None if picture is None else Path(picture)
    card = model_card(metadata, HUB + name, picture and picture.name, score, licence)
    _check_ours(folder / CARD_FILE)
    with atomic_path(folder / CARD_FILE) as temporary:
        temporary.write_text(card, encoding="utf-8")
    from huggingface_hub import CommitOperationAdd, HfApi

    files = {MODEL_FILE: folder / MODEL_FILE, CARD_FILE: folder / CARD_FILE}
    files |= {picture.name: picture} if picture else {}
    api = HfApi(library_name="nca-fast")
    try:
        api.create_repo(name, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=at, path_or_fileobj=str(file)) for at, file in files.items()]
        return api.create_commit(name, operations, commit_message="Model and card, by nca_fast").commit_url
    except Exception as error:  # its library lets errors of the one below it through
        reason = " ".join(str(error).split())[:300]
        raise OSError(
            f"{HUB}{name} must take the model, but {type(error).__name__}: {reason}. It needs a network, an account "
            "that may write there, and to have logged in once with `hf auth login`."
        ) from error


def _check_ours(path):
    """Raises FileExistsError for a README.md that is no card of ours."""
    if path.exists() and _HEAD not in path.read_text(encoding="utf-8", errors="replace")[:200]:
        raise FileExistsError(
            f"{path} must be a card that nca_fast wrote, or absent, but is another text, which the card would replace: "
            "move it away."
        )


def _block(lines: Sequence[str]) -> list[str]:
    """Fences lines that end it in no way: what a model file says is not the card's own Markdown."""
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [fence, text, fence, ""]
