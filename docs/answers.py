"""What backends answer when they are asked whether they serve a rule: the rows of the tables in docs/backends.md.

Nothing is written down here of what a backend can do. The GPUs are made up, so that answers are the same everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from unittest import mock

import torch

from nca_fast import Rule, backends
from nca_fast.presets import PRESETS

PADDINGS = ("circular", "zero", "reflect", "replicate")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
GPUS = (  # name, compute capability, KiB of shared memory that a block of threads may have, AMD's architecture
    ("T4 (Turing)", (7, 5), 64, ""),
    ("A100 (Ampere)", (8, 0), 163, ""),
    ("RTX 30, A10 (Ampere)", (8, 6), 99, ""),
    ("L4, RTX 40 (Ada)", (8, 9), 99, ""),
    ("H100, H200 (Hopper)", (9, 0), 227, ""),
    ("B200 (Blackwell)", (10, 0), 227, ""),
    ("RTX 50 (Blackwell)", (12, 0), 99, ""),
    ("MI250", (9, 0), 64, "gfx90a"),
    ("MI300X", (9, 4), 64, "gfx942"),
    ("RX 7900", (11, 0), 64, "gfx1100"),
)


@dataclass(frozen=True)
class Question:
    """Something that is asked of a backend.

    Args:
        title: The row.
        rule: Of the question; that of textures where it is about something else.
        uses, dtype, precision: As `backends.refusal` has them.
    """

    title: str
    rule: Rule = Rule()
    uses: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32
    precision: str | None = "fp32"


QUESTIONS = (
    Question("filters of 3 x 3"),
    Question("filters of 5 x 5 to 9 x 9", Rule(filters=("identity", (((1.0,) * 9),) * 9))),
    Question("learned filters", Rule(learned_filters=3)),
    Question("local maxima", Rule(maximum_window=3)),
    *(Question(f'padding="{padding}"', Rule(padding=padding)) for padding in PADDINGS),
    Question("frozen channels", Rule(frozen=3)),
    *(
        Question(f'alive mask "{mask}"', Rule(alive_channel=3, alive_mask=mask))
        for mask in ("both", "before", "after", "update")
    ),
    Question("activations: tanh, gelu ...", Rule(activation="gelu")),
    Question("activation of the update", Rule(update_activation="tanh/10")),
    Question("residual=False", Rule(residual=False)),
    Question("clamp", Rule(clamp=(-1.0, 1.0))),
    Question("noise on state and update", Rule(state_noise=0.1, update_noise=0.1)),
    Question("each channel fires for itself", Rule(fire_shared=())),
    Question("no hidden layer", Rule(hidden=())),
    Question("a hidden layer of 256", Rule(hidden=(256,))),
    Question("a hidden layer of 512", Rule(hidden=(512,))),
    Question("two hidden layers of 128", Rule(hidden=(128, 128))),
    Question("two hidden layers of 256", Rule(hidden=(256, 256))),
    Question("three hidden layers", Rule(hidden=(32, 32, 32))),
    *(Question(f"{channels} channels", Rule(channels=channels)) for channels in (32, 64, 128)),
    Question("weights that change from step to step", uses=("weights by step",)),
    Question("maps of fire rates by step", uses=("fire rates by step, sample and channel",)),
    Question("frames: turned and scaled perception", uses=("frames",)),
    *(Question(f"states in {str(dtype)[6:]}", dtype=dtype) for dtype in DTYPES),
    *(Question(f'precision="{precision}"', precision=precision) for precision in PRECISIONS),
)


class Notes(list):
    """Sentences below a table, each once."""

    def cell(self, refusal: str | None) -> str:
        """ "yes", or "no" and the number of the sentence."""
        return f"no, {self.number(refusal)}" if refusal else "yes"

    def number(self, sentence: str) -> int:
        """Numbers a sentence from 1 on."""
        if sentence not in self:
            self.append(sentence)
        return self.index(sentence) + 1

    def lines(self) -> list[str]:
        """The sentences as a list."""
        return [f"{number}. {text[:1].upper()}{text[1:]}" for number, text in enumerate(self, 1)]


def fields() -> tuple[list[list[str]], list[str]]:
    """Which backend serves which field, and the sentences where one does not."""
    return _served("", [(asked.title, asked) for asked in QUESTIONS])


def presets() -> tuple[list[list[str]], list[str]]:
    """Which backend serves which named automaton."""
    return _served("preset", [(f"`{n}`", Question(n, preset["rule"], precision=None)) for n, preset in PRESETS.items()])


def _served(head: str, questions: list[tuple[str, Question]]) -> tuple[list[list[str]], list[str]]:
    notes, rows = Notes(), [[head, "C++, on CPUs", "Triton, on GPUs"]]
    for title, asked in questions:
        rows.append([title, *(notes.cell(_refusal(backend, asked)) for backend in ("cpu", "triton"))])
    return rows, notes.lines()


def gpus() -> tuple[list[list[str]], list[str]]:
    """How many presets each kind of GPU serves by Triton, in which precisions, and what it says of the first other."""
    notes, rows = Notes(), [["GPU", *PRECISIONS, "note"]]
    for name, *facts in GPUS:
        counts, reasons = [], []
        for precision in PRECISIONS:
            with _pretended(name, *facts):
                asked = [Question(name, preset["rule"], precision=precision) for preset in PRESETS.values()]
                said = [_refusal("triton", one, on_gpu=True) for one in asked]
            counts.append(f"{said.count(None)} of {len(said)}")
            reasons += [reason for reason in said if reason and name in reason]
        rows.append([name, *counts, str(notes.number(reasons[0])) if reasons else ""])
    return rows, notes.lines()


def _refusal(backend: str, asked: Question, on_gpu: bool = False) -> str | None:
    """Asks a backend about states on its device; `on_gpu`: about the GPU of `_pretended`, too."""
    kind = backends.BACKENDS[backend].DEVICE
    state = SimpleNamespace(device=torch.device(kind), dtype=asked.dtype, is_cuda=on_gpu)
    precision = asked.precision or ("fp16" if kind == "cuda" else "fp32")
    limits = import_module("nca_fast.kernels.triton.limits")
    with mock.patch.multiple(limits, triton_version=lambda: "3.9.0", find_spec=lambda name: name):
        return backends.refusal(backend, asked.rule, state, precision, asked.uses)


@contextmanager
def _pretended(name: str, capability: tuple[int, int], shared: int, architecture: str) -> Iterator[None]:
    """Lets PyTorch say that there is a GPU: with so much shared memory in KiB, or of an architecture of AMD's."""
    found = SimpleNamespace(gcnArchName=architecture, shared_memory_per_block_optin=shared * 1024)
    answers = {"get_device_name": name, "get_device_capability": capability, "get_device_properties": found}
    asked = {function: lambda device, answer=answer: answer for function, answer in answers.items()}
    with mock.patch.multiple(torch.cuda, **asked), mock.patch.object(torch.version, "hip", architecture or None):
        yield
