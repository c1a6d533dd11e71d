"""Known answers of the one operation, and what a backend makes of them: `nca-fast check`, and the tests.

They lie in vectors/, a JSON file each, and README.md there says how any other implementation takes them. The inputs are
made from whole numbers by a written-out formula and are exact in float32; the answers are those of the reference in
float64 (bench/vectors.py).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nca_fast.fire_masks import mixed, signed
from nca_fast.ops import rollout
from nca_fast.reference import split
from nca_fast.rule import Rule

FOLDER = Path(__file__).with_name("vectors")
_STREAMS_PER_SALT = 16
_STATE, _GRAD, _RATES, _LAYERS, _FRAMES, _KERNELS = 0, 1, 2, 3, 14, 15


@dataclass(frozen=True)
class Vector:
    """One question with its answers.

    Args:
        name: Of its file.
        about: What it asks, in a sentence.
        rule: Of the automaton.
        shape: Of the state. [B, C, H, W]
        steps: Length of the rollout.
        where: Keyword arguments of `nca_fast.rollout`: seed, first_step, origin, first_sample, canvas_height.
        salt: Chooses the numbers; None where only the fire mask or normal numbers are asked for: weights and states of
            zero, and an output bias of one.
        state_scale, weight_scale: Powers of two by which the numbers are multiplied.
        per_sample: Whether every sample has weights of its own.
        rate_map: Whether the fire rate is a map.
        frames: Whether each cell has a frame.
        gradients: Whether they are asked for.
        answers: Name -> {"shape", "values", "tolerance", "cause"}.
    """

    name: str
    about: str
    rule: Rule
    shape: tuple[int, int, int, int]
    steps: int
    where: Mapping[str, Any]
    salt: int | None
    state_scale: float
    weight_scale: float
    per_sample: bool
    rate_map: bool
    frames: bool
    gradients: bool
    answers: Mapping[str, Mapping[str, Any]]


def load(path: Path) -> Vector:
    """Reads a vector from its file."""
    page = json.loads(path.read_text(encoding="utf-8"))
    page["rule"], page["shape"] = Rule.from_json(json.dumps(page["rule"])), tuple(page["shape"])
    page["where"] |= {"seed": int(page["where"]["seed"], 16), "origin": tuple(page["where"]["origin"])}
    return Vector(name=path.stem, **page)


def load_all() -> list[Vector]:
    """Reads all vectors, by name."""
    return [load(path) for path in sorted(FOLDER.glob("*.json"))]


def numbers(stream: int, *shape: int) -> Tensor:
    """Makes numbers k / 2048 with whole k from -2048 to 2047, a pure function of the stream and the place.

        z = place * 0x9E3779B9 + stream * 0x85EBCA6B
        z ^= z >> 16;  z *= 0x21F0AAAD;  z ^= z >> 15;  z *= 0x735A2D97;  z ^= z >> 15
        k = (z >> 20) - 2048

    all modulo 2**32; places count from 0 with the last index fastest. float64 [*shape]
    """
    z = mixed(signed(torch.arange(math.prod(shape)) * 0x9E3779B9 + stream * 0x85EBCA6B)).long() & 0xFFFFFFFF
    return (((z >> 20) - 2048).double() / 2048).reshape(shape)


def frames(vector: Vector) -> Tensor | None:
    """Makes the frames, [2, H, W], where there are some; in float64."""
    stream = (vector.salt or 0) * _STREAMS_PER_SALT + _FRAMES
    return numbers(stream, 2, *vector.shape[2:]) if vector.frames else None


def inputs(vector: Vector) -> tuple[Tensor, list[tuple[Tensor, Tensor | None]], Tensor | None, Tensor]:
    """Makes state [B, C, H, W], weights, map of fire rates [H, W] or None, and gradient of the result; in float64."""
    height, width = vector.shape[2:]
    first = (vector.salt or 0) * _STREAMS_PER_SALT
    rates = (numbers(first + _RATES, height, width) + 1) / 2 if vector.rate_map else None
    lead = vector.shape[:1] if vector.per_sample else ()
    if vector.salt is None:
        zero = [(torch.zeros(out, ins), torch.zeros(out) if bias else None) for out, ins, bias in vector.rule.layers]
        weights = [(weight.double(), None if bias is None else bias.double()) for weight, bias in zero]
        weights[-1][1].fill_(1.0)
        return torch.zeros(vector.shape).double(), weights, rates, torch.zeros(vector.shape).double()
    weights, scale = [], vector.weight_scale
    if vector.rule.learned_filters:
        weights.append((numbers(first + _KERNELS, *lead, *vector.rule.weight_shapes[0][0]) * scale, None))
    for layer, (out, ins, bias) in enumerate(vector.rule.layers):
        stream = first + _LAYERS + 2 * layer
        weight = numbers(stream, *lead, out, ins) * scale
        weights.append((weight, numbers(stream + 1, *lead, out) * scale if bias else None))
    x = numbers(first + _STATE, *vector.shape) * vector.state_scale
    return x, weights, rates, numbers(first + _GRAD, *vector.shape)


def run(vector: Vector, backend: str, device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Computes all that a vector asks for: "y", and with gradients "grad_x", "grad_f" of frames, "grad_k" of learned
    filters, "grad_w0" ...

    Raises:
        ValueError, RuntimeError: The backend cannot serve.
    """
    x, weights, rates, grad = inputs(vector)
    x = x.to(device, dtype).requires_grad_(vector.gradients)
    kernels, layers = split(weights, vector.rule)
    named = {"grad_f": frames(vector), "grad_k": kernels}
    for layer, (weight, bias) in enumerate(layers):
        named |= {f"grad_w{layer}": weight, f"grad_b{layer}": bias}
    made = {name: t.to(device, dtype).requires_grad_(vector.gradients) for name, t in named.items() if t is not None}
    params = {"grad_x": x} | made
    pairs = [(params[f"grad_w{layer}"], params.get(f"grad_b{layer}")) for layer in range(len(layers))]
    pairs = pairs if kernels is None else [(params["grad_k"], None), *pairs]
    rates = None if rates is None else rates.to(device, torch.float32)  # exactly
    how = {"backend": backend, "precision": "fp32"}
    fields = {"fire_rate": rates, "frame": params.get("grad_f")}
    y = rollout(x, pairs, vector.rule, vector.steps, **fields, **vector.where, **how)
    found = {"y": y.detach()}
    if vector.gradients:
        gradients = torch.autograd.grad(y, list(params.values()), grad.to(device, dtype))
        found |= dict(zip(params, gradients, strict=True))
    return {name: value.cpu().double() for name, value in found.items()}


@dataclass(frozen=True)
class Outcome:
    """What a backend made of a vector.

    Args:
        vector: Its name.
        backend, device: Who answered.
        share: The largest error as a share of its tolerance; infinite where there was no answer.
        answer: The name of the answer that was furthest off; empty where there was none.
        trouble: Why there was no answer, in a sentence; None where there was one.
    """

    vector: str
    backend: str
    device: str
    share: float
    answer: str = ""
    trouble: str | None = None

    @property
    def right(self) -> bool:
        """Whether all answers are within their tolerances."""
        return self.share <= 1


def check(vector: Vector, backend: str, device: torch.device) -> Outcome:
    """Asks a backend, and compares."""
    try:
        found = run(vector, backend, device)
    except Exception as error:  # whatever it is, it is what is to be reported
        trouble = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Outcome(vector.name, backend, str(device), math.inf, trouble=trouble)
    shares = {name: share(found[name], answer) for name, answer in vector.answers.items()}
    worst = max(shares, key=shares.get)
    return Outcome(vector.name, backend, str(device), shares[worst], worst)


def share(found: Tensor, answer: Mapping[str, Any]) -> float:
    """Returns the largest error as a share of the tolerance; infinite for NaN."""
    exact = torch.tensor(answer["values"], dtype=torch.float64).reshape(answer["shape"])
    error = (found - exact).abs().max().item()
    if not error < math.inf:
        return math.inf
    return error / answer["tolerance"] if answer["tolerance"] else (math.inf if error else 0.0)
