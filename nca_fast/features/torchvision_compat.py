"""Import torchvision beside a torch build that it was not compiled for.

torchvision's wheel from PyPI is compiled for CUDA. Beside a CPU build of torch its C++ extension does not load, which
would cost only detection operators; but torchvision registers shape functions for two of them regardless and the import
ends with "operator torchvision::nms does not exist". Declaring the two operators, without any implementation, is
enough.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: torch.library.Library | None = None  # the declarations live as long as this object


def import_torchvision() -> ModuleType:
    """Return the torchvision module, mending the import when, and only when, it fails for the missing operators.

    Other packages that import torchvision (open_clip, timm) work afterwards too.

    Returns:
        The module.

    Raises:
        ImportError: torchvision is absent or broken in another way.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise ImportError("this feature needs torchvision: pip install torchvision.") from error
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise ImportError(f"torchvision does not work with torch {torch.__version__}: {error}") from error
    _declare_missing_operators()
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        raise ImportError(f"torchvision does not work with torch {torch.__version__}: {error}") from error


def _declare_missing_operators() -> None:
    global _library
    if _library is None:
        _library = torch.library.Library("torchvision", "DEF")
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                _library.define(schema)
