"""Models that commands open."""

from pathlib import Path
from typing import TypeVar

from nca_fast.commands.report import print_device
from nca_fast.devices import ComputeConfig
from nca_fast.nca import NCA
from nca_fast.systems.vae.model import VAENCA

Model = TypeVar("Model", NCA, VAENCA)


def open_model(kind: type[Model], path: Path, compute: ComputeConfig, *others: Path) -> Model:
    """Reads a model onto the device that serves it and others, and says which GPU that is, if it is one.

    Raises:
        OSError, ValueError: There is no such model or device, or what the settings ask for cannot serve.
    """
    compute.check_compute()
    model = kind.from_pretrained(path)
    device = compute.pick(model.rule, *(kind.from_pretrained(other).rule for other in others))
    print_device(device)
    return model.to(device)
