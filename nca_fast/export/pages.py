"""A trained automaton as JSON, which any language reads."""

import json

from torch import Tensor

from nca_fast.nca import NCA

FORMAT, VERSION = "nca_fast automaton", 1


def encoded(nca: NCA, shown_steps: int) -> bytes:
    """Writes all that a step is, and how the automaton is begun and looked at. docs/export.md says what the fields are.

    Weights are those of float32, each as the decimal number that names its double: it reads back to the same bits.

    Args:
        shown_steps: After how many steps its picture is there.
    """
    weights = [(_numbers(weight), None if bias is None else _numbers(bias)) for weight, bias in nca.weights]
    kernels = {"kernels": weights.pop(0)[0]} if nca.rule.learned_filters else {}
    layers = [{"weight": weight, "bias": bias} for weight, bias in weights]
    config = nca.config() | {"rule": json.loads(nca.rule.to_json())}
    facts = {"format": FORMAT, "version": VERSION, **config, "shown_steps": shown_steps, **kernels, "layers": layers}
    return json.dumps(facts, allow_nan=False).encode()


def _numbers(tensor: Tensor) -> list:
    return tensor.detach().cpu().float().double().tolist()
