"""Questions with known answers for every backend of this machine."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict

import torch

import nca_fast
from nca_fast import backends, conformance, devices
from nca_fast.commands.ending import finish
from nca_fast.conformance import Outcome, Vector


def ask(as_json: bool) -> int:
    """Asks, says what was right and wrong, and returns the exit status."""
    vectors = conformance.load_all()
    width = 2 + max(len(vector.name) for vector in vectors)
    asked, passed_over = _backends(vectors)
    if not as_json:
        print(" " * width + "".join(f"{f'{backend} on {device}':<24}" for backend, device in asked))
    outcomes = []
    for vector in vectors:
        row = [conformance.check(vector, *pair) if _serves(vector, *pair) else None for pair in asked]
        outcomes += [outcome for outcome in row if outcome is not None]
        if not as_json:
            print(f"{vector.name:<{width}}" + "".join(f"{_said(outcome):<24}" for outcome in row).rstrip())
    wrong = [outcome for outcome in outcomes if not outcome.right]
    if as_json:
        page = {"nca_fast": nca_fast.__version__, "right": not wrong, "not_asked": passed_over}
        page["outcomes"] = [{"right": outcome.right} | _finite(asdict(outcome)) for outcome in outcomes]
        print(json.dumps(page, indent=2))
        return int(bool(wrong))
    for outcome in wrong:
        print(f"{outcome.vector}, {outcome.backend} on {outcome.device}: {_trouble(outcome)}")
    for name, reason in passed_over.items():
        print(f"{name} was not asked: {reason}")
    said = f"{len(outcomes) - len(wrong)} of {len(outcomes)} are right."
    finish((), [said], ["nca-fast info"] if wrong else ["nca-fast profile", "nca-fast demo"])
    return int(bool(wrong))


def _backends(vectors: list[Vector]) -> tuple[list[tuple[str, torch.device]], dict[str, str]]:
    """Lists who can be asked, as (backend, device), and says of the other backends why they cannot."""
    asked, reasons = [], {}
    for device in devices.available():
        asked += [(name, device) for name in backends.PLAIN]
        for name in backends.BACKENDS:
            reason = next(_refusals(name, vectors, device), None) or backends.trouble(name)
            if reason is None:
                asked.append((name, device))
            else:
                reasons.setdefault(name, reason)
    found = {name for name, _ in asked}
    return asked, {name: reason for name, reason in reasons.items() if name not in found}


def _refusals(name: str, vectors: list[Vector], device: torch.device) -> Iterator[str | None]:
    for vector in vectors:
        uses = ("frames",) if vector.frames else ()
        yield backends.refusal(name, vector.rule, torch.empty(0, device=device), "fp32", uses)


def _serves(vector: Vector, backend: str, device: torch.device) -> bool:
    """Says whether a backend takes a vector's rule: kernels may refuse what others serve."""
    return backend in backends.PLAIN or next(_refusals(backend, [vector], device)) is None


def _said(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not served"
    if outcome.trouble is not None:
        return "WRONG (no answer)"
    return f"{'right' if outcome.right else 'WRONG'} ({outcome.share:.0%})"


def _trouble(outcome: Outcome) -> str:
    if outcome.trouble is not None:
        return outcome.trouble
    return f"{outcome.answer} must be within its tolerance, but is {outcome.share:.3g} times as far off."


def _finite(fields: dict) -> dict:
    """JSON knows no infinity."""
    return {name: None if value == math.inf else value for name, value in fields.items()}
