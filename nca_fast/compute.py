"""Where, by what and how exactly something is computed: settings that nearly all commands have.

They are read before torch is loaded, which takes seconds.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from nca_fast.choices import BackendName, PrecisionName

if TYPE_CHECKING:
    import torch

    from nca_fast.rule import Rule

MOST_THREADS = 1024  # with some ten thousands the process would be killed


@dataclass(frozen=True)
class ComputeConfig:
    """Settings of everything that computes: where, by what, and how exactly."""

    device: str = "auto"
    """Where it computes: auto (a GPU when there is one that the kernels serve, else the CPU), cpu, cuda, or cuda:1."""
    backend: BackendName | None = None
    """What computes the rollouts. None: the fastest that the device has."""
    precision: PrecisionName | None = None
    """What matrix products multiply. None: what stock convolutions would, fp32 on a CPU; on a GPU fp16 where those use
    TF32, which is no more exact and slower. On a GPU the networks that losses look through do so too."""
    threads: int | None = None
    """CPU threads. None: PyTorch's number, but no more than the CPUs that this process may take, as containers and
    Slurm limit them. On a machine that is busy with other work fewer are faster."""

    @property
    def how(self) -> dict[str, str | None]:
        """The keyword arguments backend and precision of a rollout."""
        return {"backend": self.backend, "precision": self.precision}

    def check_compute(self) -> None:
        """Raises ValueError for a backend or precision that is none, or a number of threads that cannot be."""
        self.check_choices(backend=BackendName, precision=PrecisionName)
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise ValueError(
                f"threads must be from 1 to {MOST_THREADS}, but got {self.threads}: one for a core is best."
            )

    def check_choices(self, **known: Any) -> None:
        """Raises ValueError for a field, not None, that is none of the values of its Literal type."""
        for name, choices in known.items():
            value = getattr(self, name)
            if value is not None and value not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, but got {value!r}.")

    def pick(self, *rules: "Rule") -> "torch.device":
        """Finds the device for automata of these rules. Raises ValueError as `devices.pick`."""
        from nca_fast.devices import pick

        return pick(self.device, rules, self.backend, self.precision)
