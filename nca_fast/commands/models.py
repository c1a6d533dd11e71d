"""Models that commands open."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nca_fast.compute import ComputeConfig

if TYPE_CHECKING:
    from nca_fast.nca import NCA
    from nca_fast.systems.vae.model import VAENCA

Model = TypeVar("Model", "NCA", "VAENCA")


def open_model(kind: type[Model], path: Path, compute: ComputeConfig, *others: Path) -> Model:
    """Reads a model onto the device that serves it and others, and says which GPU that is, if it is one.

    Raises:
        OSError, ValueError: There is no such model or device, or what the settings ask for cannot serve.
    """
    from nca_fast.commands.report import print_device

    model = kind.from_pretrained(path)
    device = compute.pick(model.rule, *(kind.from_pretrained(other).rule for other in others))
    print_device(device)
    return model.to(device)


def model_shares(models: str) -> dict[str, float]:
    """Reads models to blend, "A:0.5,B:0.5", each with its share, or the name of one, whose share is 1.

    A name that a file or folder has is that of one, whatever is in it.

    Raises:
        ValueError: One of several without a share, one that is there twice, or shares that cannot be.
    """
    parts = [part.rpartition(":") for part in models.split(",")]
    shares = {name: _share(share) for name, _, share in parts}
    if Path(models).exists() or (len(parts) == 1 and None in shares.values()):
        return {models: 1.0}
    if len(shares) < len(parts) or None in shares.values() or not all(shares) or not any(shares.values()):
        raise ValueError(
            "several models must be different ones, each with its share of at least 0, and not all 0, such as "
            f"runs/tissue:0.5,runs/gravel:0.5, but got {models!r}."
        )
    return shares


def _share(text: str) -> float | None:
    """Reads a number of at least 0; None where it is none."""
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0 <= share < float("inf") else None
