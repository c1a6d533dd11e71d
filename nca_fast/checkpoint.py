"""Model and training files: safetensors, with the rule, the settings and the provenance as JSON in the header.

A safetensors file is tensors plus a header of strings, and loading it executes nothing. nca_fast keeps one string
there, whose JSON says all that the tensors do not: what the automaton is, how it was made, and by which versions.

Who reads that string alone does not wait for torch, which is loaded where there are tensors.
"""

from __future__ import annotations

import datetime
import itertools
import json
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError, safe_open

from nca_fast import __version__
from nca_fast.fields import field, parsed, typed
from nca_fast.files import atomic_path

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Module = TypeVar("Module", bound="nn.Module")

HEADER_KEY = "nca_fast"
FLOATS = ("F64", "F32", "F16", "BF16")
INTEGERS = ("I64", "I32", "I16", "I8", "U8", "BOOL")
# What model files hold, by the key of its description: what errors call it, and what draws with it.
_KINDS = {
    "nca": ("an automaton of one rule", "nca-fast render or apply draws"),
    "vae": ("a VAE-NCA", "nca-fast vae fuse, repair or outpaint draws"),
}


class Contents(dict):
    """What a file holds, by name; asked for what it has not, it says so.

    Args:
        values: Tensors or facts by name.
        where: What errors call the file.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        super().__init__(values)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"{self.where} must hold {name!r}, but does not: it is damaged, or of another version.")

    def tensor(self, name: str, shape: Sequence[int | None], like: torch.dtype | None = None) -> Tensor:
        """Takes a tensor of a shape, None where any number will do, and a kind: exactly `like`, or floating point.

        Raises:
            ValueError: It is missing, or another.
        """
        tensor, sizes = self[name], ", ".join("any" if size is None else str(size) for size in shape)
        fits = len(shape) == tensor.ndim and all(a in (None, b) for a, b in zip(shape, tensor.shape, strict=True))
        if not fits or not (tensor.is_floating_point() if like is None else tensor.dtype == like):
            kind = "floating point" if like is None else str(like)
            raise ValueError(
                f"tensor {name!r} of {self.where} must be [{sizes}] in {kind}, but is {list(tensor.shape)} in "
                f"{tensor.dtype}."
            )
        return tensor


def provenance() -> dict[str, str]:
    """Where a file comes from: versions, machine and time."""
    import torch

    return {
        "nca_fast": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def save(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes tensors and metadata to one safetensors file: all of it, or nothing.

    Args:
        path: The file, `something.safetensors`; an existing one is replaced in one move.
        tensors: Tensors by name, on any device. Floating-point values must be finite.
        metadata: A dict that JSON can hold. Its "provenance" is completed by what `provenance()` says.

    Raises:
        ValueError: A tensor holds NaN or infinity.
        OSError: The file cannot be written: missing folder, no permission, full disk.
    """
    from safetensors.torch import save as serialize

    path = Path(path)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _check_finite(plain, f"to be saved in {path}", "The training diverged: lower its learning rate")
    facts = provenance() | (metadata.get("provenance") or {})
    header = {"format": "pt", HEADER_KEY: json.dumps({**metadata, "provenance": facts}, allow_nan=False)}
    content = serialize(_unshared(plain), metadata=header)
    with atomic_path(path) as temporary:
        # Not safetensors' own save_file: it goes through a temporary file of its own, whose name a killed process would
        # leave behind and whose permissions keep others from reading the result.
        temporary.write_bytes(content)


def load(path: str | Path) -> tuple[Contents, Contents]:
    """Reads a file that `save` wrote.

    Args:
        path: The safetensors file.

    Returns:
        Tensors by name, on the CPU, and the metadata.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The file cannot be read.
        ValueError: It is not a safetensors file, or is truncated, or was not written by nca_fast, or holds NaN or
            infinity, or tensors of a kind that nca_fast does not write.
    """
    path = Path(path)
    with opened(path) as file:
        return _tensors(file, path), _metadata(file, path)


def load_metadata(path: str | Path) -> Contents:
    """The metadata of a file that `save` wrote, without reading its tensors. Raises what `load` raises."""
    path = Path(path)
    with opened(path, framework="np") as file:  # "pt" would load torch
        return _metadata(file, path)


def opened(path: Path, what: str = "model file", framework: str = "pt") -> safe_open:
    """Opens a safetensors file, or raises an error that says which file (`what`) is wrong and in which way.

    Args:
        path: The file.
        what: What the error calls it.
        framework: Whose tensors it gives, of PyTorch ("pt") or NumPy ("np").
    """
    if not path.exists():
        raise FileNotFoundError(f"{what} {path} must exist, but there is none. Check the path.")
    if path.is_dir():
        raise IsADirectoryError(f"{what} {path} must be a file, but it is a folder. Name the file inside it.")
    try:
        with path.open("rb") as file:  # a missing permission raises here, naming the file
            start = file.read(9)
            return safe_open(_readable_name(path, file.fileno()), framework=framework)
    except SafetensorError as error:
        # The format begins with the length of the header in eight bytes, then the header, which is JSON.
        if len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**32:
            rule, remedy = "complete, but it is truncated or damaged", "Copy or save it again."
        else:
            rule, remedy = "a safetensors file, but it is something else", "Name a file that nca_fast saved."
        raise ValueError(f"{what} {path} must be {rule} ({path.stat().st_size} bytes: {error}). {remedy}") from error


def _readable_name(path: Path, number: int) -> str:
    """The name of an open file for safetensors, which takes UTF-8 alone; Linux and macOS know it by its number, too."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"/dev/fd/{number}"
    return str(path)


def load_module(path: Path, key: str, make: Callable[[dict], Module]) -> Module:
    """A module with the weights of a model file.

    Args:
        path: The file.
        key: Where its metadata has the module's configuration, one of `_KINDS`.
        make: The module of a configuration.

    Raises:
        OSError, ValueError: There is no such file, or it does not hold such a module.
    """
    import torch

    with opened(path) as file:
        metadata = _metadata(file, path)
        what = _KINDS[key][0]
        if key not in metadata:
            held = [
                f"holds {other}, and {draws} with it" for name, (other, draws) in _KINDS.items() if name in metadata
            ]
            raise ValueError(f"{path} must hold {what}, but {(*held, 'has no description of one')[0]}.")
        try:
            # Without memory, of which a few bytes can ask for any amount, and with no more layers than there can be.
            with torch.device("meta"), _at_most(2 * len(file.keys()) + 16):
                expected = {name: list(tensor.shape) for name, tensor in make(metadata[key]).state_dict().items()}
        except Exception as error:  # whatever the description makes the constructor trip over
            said = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
            raise ValueError(f"model file {path} must describe {what}, but does not: {said}{error}") from error
        _check_header(file, path, expected)
        tensors = _tensors(file, path)
    module = make(metadata[key])
    module.load_state_dict(tensors)
    return module


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Refuses to make more parameters than so many, in a block: each layer takes time and memory for itself."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    made, here = itertools.count(1), threading.get_ident()  # what other threads make meanwhile is not of this file

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        if threading.get_ident() == here and parameter is not None and next(made) > most:
            raise ValueError("its layers must have their tensors in the file, but they are far more than those.")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _check_header(file, path, expected):
    """Compares names, shapes and kinds of tensors before any of them is read."""
    names = file.keys()
    for name in sorted(expected.keys() | set(names)):
        want = expected.get(name)
        if want is None or name not in names:
            found = "is missing" if want else "is there too"
        else:
            entry = file.get_slice(name)
            shape, kind = entry.get_shape(), entry.get_dtype()
            if shape == want and kind in FLOATS:
                continue
            found = f"is {shape} in {kind}"
        rule = f"hold the tensor {name!r} {want} in one of {', '.join(FLOATS)}" if want else "hold no others"
        raise ValueError(f"model file {path} must {rule}, by what it says of itself, but {name!r} {found}.")


def _tensors(file: safe_open, path: Path) -> Contents:
    """Reads all tensors. Copies, because safetensors maps the file into memory and a tensor must survive what happens
    to the file."""
    tensors = {}
    for name in file.keys():  # noqa: SIM118 (file is no dict)
        kind = file.get_slice(name).get_dtype()
        if kind not in FLOATS + INTEGERS:
            raise ValueError(f"tensor {name!r} in {path} must be of {', '.join(FLOATS + INTEGERS)}, but is of {kind}.")
        tensors[name] = file.get_tensor(name).clone()
    _check_finite(tensors, f"in {path}", "The file is damaged or its training diverged: use another one")
    return Contents(tensors, str(path))


def _metadata(file: safe_open, path: Path) -> Contents:
    text = (file.metadata() or {}).get(HEADER_KEY)
    try:
        metadata = typed(dict, parsed(text or "", "it"), "it")
    except ValueError:
        found = "none" if text is None else f"{text[:40]!r}"
        raise ValueError(
            f"model file {path} must carry the JSON of nca_fast (its rule), but it carries {found}. Name a file that "
            "nca_fast saved; the weights of other projects come in through nca_fast.convert."
        ) from None
    if "provenance" in metadata:
        metadata["provenance"] = typed(dict, metadata["provenance"] or {}, f"'provenance' of {path}")
    return Contents(metadata, str(path))


def facts_of(path: Path) -> dict[str, Any]:
    """Reads how the model in a file came about, without reading its tensors: what its "provenance" says.

    Raises:
        ValueError: What commands use of it is of another type; others as `load`.
    """
    facts, where = load_metadata(path).get("provenance", {}), f"'provenance' of {path}"
    kinds = {"system": str | None, "command": str | None, "config": dict, "image": str | None}
    return facts | {name: field(facts, name, kind, where) for name, kind in kinds.items() if name in facts}


def _check_finite(tensors: Mapping[str, Tensor], where: str, remedy: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            bad = tensor.numel() - int(tensor.isfinite().sum())
            if bad:
                raise ValueError(
                    f"tensor {name!r} {where} must be finite, but {bad} of its {tensor.numel()} values are not. "
                    f"{remedy}."
                )


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies those tensors that share memory with an earlier one: safetensors would refuse to write them."""
    seen, result = set(), {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return result
