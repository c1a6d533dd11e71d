"""Where the rows around a band come from: a canvas of one process from itself, of several from those that have them.

    torchrun --nproc-per-node 2 -m nca_fast render runs/brick --height 8192 --width 8192 --steps 200 --out brick.png

Before a pass of k steps a band needs the rows that k steps reach beyond it, which are the edges of the bands above and
below, on the torus in a ring. The cells that fire are a function of their place in the whole canvas, so that the bands
together are the canvas of one process, bit for bit.

The picture is written by the first process, to which the others send their rows in turn: in a PNG and in a TIFF every
byte lies behind all those before it, and in a pyramid the rows of two bands meet in one tile.
"""

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from nca_fast import processes
from nca_fast.canvas.band import Band, Position
from nca_fast.canvas.plan import Plan


class Alone:
    """What is around a band whose canvas nobody else computes: on a torus its own rows, otherwise nothing.

    Args:
        circular: Whether it is a torus.
        rows: First and end row of the band; None for all that there are.
    """

    def __init__(self, circular: bool, rows: tuple[int, int] | None = None):
        self.circular, self.rows = circular, rows

    def exchange(self, band: Band, halo: int, meanwhile: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Gives the `halo` rows above the band and those below, as they are between passes; none where the canvas ends.

        Each [C, halo or 0, width]; with more rows than the band they go around it more than once. Calls `meanwhile`,
        which needs none of them, while they are on their way.
        """
        meanwhile()
        if not self.circular:
            nothing = torch.empty(band.channels, 0, band.width)
            return nothing, nothing
        if halo <= band.rows:
            return band.read(band.rows - halo, halo), band.read(0, halo)
        rows = band.read(0, band.rows)
        return rows[:, torch.arange(-halo, 0) % band.rows], rows[:, torch.arange(halo) % band.rows]

    def barrier(self) -> None:
        """Returns when the halos of all bands of the canvas are stored: then old rows may give way to new ones."""

    def agree(self, plans: Sequence[Plan]) -> list[Plan]:
        """Makes the passes of all bands equally long."""
        return list(plans)

    def align(self, position: Position, path: Path) -> None:
        """Makes bands that were left at different moments, this one with its state beside `path`, go on together."""

    def total(self, number: int) -> int:
        """Adds up the numbers of all bands."""
        return number

    def together(self, write: Callable[[Iterator[Tensor]], Any], blocks: Iterable[Tensor]) -> Any:
        """Calls `write` with the blocks of all bands, in their order; returns what it returned."""
        return write(iter(blocks))


class BandExchange:
    """As `Alone`, for a band of a canvas that the processes of torchrun share; each makes one.

    Args:
        height: Rows of the canvas.
        circular: Whether it is a torus: the first process is below the last. Otherwise nothing is.

    Raises:
        ValueError: A band would have no rows.
    """

    def __init__(self, height: int, circular: bool):
        self.height, self.rows = height, bands(height, processes.count(), 1)[processes.rank()]
        self._above, self._below = processes.rank() - 1, processes.rank() + 1
        if circular:
            self._above, self._below = self._above % processes.count(), self._below % processes.count()

    def exchange(self, band: Band, halo: int, meanwhile: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Sends the edges of this band and receives those of the others; all four messages at once."""
        device = band.device if processes.have_gpus() else "cpu"
        top, bottom = (
            band.read(first, halo, torch.empty(band.channels, halo, band.width, device=device))
            for first in (0, band.rows - halo)
        )
        above, below = torch.empty_like(bottom), torch.empty_like(top)
        # Where both neighbours are one process, the first message from it is its top, which is below.
        messages = [
            (dist.isend, top, self._above),
            (dist.isend, bottom, self._below),
            (dist.irecv, below, self._below),
            (dist.irecv, above, self._above),
        ]
        exists = range(processes.count())
        with processes.peer_errors():
            works = dist.batch_isend_irecv([dist.P2POp(*message) for message in messages if message[2] in exists])
        meanwhile()
        with processes.peer_errors():
            for work in works:
                work.wait()
        above = above if self._above in exists else above[:, :0]
        below = below if self._below in exists else below[:, :0]
        return above.to(band.device), below.to(band.device)

    def barrier(self) -> None:
        """Waits until all processes are here."""
        processes.barrier()

    def agree(self, plans: Sequence[Plan]) -> list[Plan]:
        """Makes the passes of all bands as short as those of the band whose machine has the least memory.

        Raises:
            ValueError: Some bands fit into their GPUs and some do not; a pass needs more rows than a neighbour has.
        """
        (plan,) = plans
        proposed = processes.all_gather_object((plan.steps_per_pass, plan.whole))
        if len({whole for _, whole in proposed}) > 1:
            raise ValueError(
                "all bands must fit into their GPUs or none, but some do and some do not: use --resumable."
            )
        steps = min(steps for steps, _ in proposed)
        plan = replace(plan, steps_per_pass=steps, halo=plan.halo // plan.steps_per_pass * steps)
        bands(self.height, processes.count(), plan.halo)
        return [plan]

    def align(self, position: Position, path: Path) -> None:
        """Makes bands that were left at different moments go on together.

        No band begins a pass before all have stored its halo. So those that are ahead of others have written nothing of
        their pass yet: they exchange its halo once more, with the others.

        Raises:
            ValueError: The states cannot be of one run.
        """
        all_of_them = processes.all_gather_object((position.step, position.pass_steps > 0))
        step = min(step for step, _ in all_of_them)
        if position.step > step or (step, False) in all_of_them:
            if position.pass_steps and position.row > 0:
                raise ValueError(
                    f"states of an interrupted run must go together, but {path}.state does not go with the others. "
                    "Remove them and their journals, and begin anew without --resume."
                )
            position.pass_steps = 0

    def total(self, number: int) -> int:
        """Adds up the numbers of all processes."""
        return sum(processes.all_gather_object(number))

    def together(self, write: Callable[[Iterator[Tensor]], Any], blocks: Iterable[Tensor]) -> Any:
        """Calls `write` in the first process with the blocks of all, in their order; the others send theirs.

        Args:
            write: Takes an iterator; returns what can be pickled.
            blocks: This process's tensors, of three dimensions and of one type in all processes; none of them empty.

        Returns:
            What `write` returned, in every process.
        """
        if processes.rank() == 0:
            coming = _from_all(blocks)
            written = write(coming)
            for _ in coming:  # a writer may stop at its last row, while the others still say that it was theirs
                pass
            return processes.broadcast(written)
        for block in blocks:
            _send(torch.tensor(block.shape))
            _send(block.contiguous())
        _send(torch.zeros(3, dtype=torch.int64))
        return processes.broadcast(None)


Neighbours = Alone | BandExchange


def bands(height: int, count: int, halo: int) -> list[tuple[int, int]]:
    """Shares out the rows of a canvas: for each process the first, and the one after the last.

    Args:
        height: Rows of the canvas.
        count: Number of processes.
        halo: Rows beyond its band that a process needs for a pass.

    Raises:
        ValueError: A band would be smaller than the halo, which would then be rows of more than one neighbour.
    """
    smallest = height // count
    if smallest < max(halo, 1):
        raise ValueError(
            f"a band must have at least the {max(halo, 1)} rows that a pass needs of its neighbours, but {height} rows "
            f"for {count} processes leave {smallest}. Take fewer processes, or fewer steps per pass."
        )
    return [(height * rank // count, height * (rank + 1) // count) for rank in range(count)]


def band_path(path: Path) -> Path:
    """Names what this process keeps its band of a picture beside."""
    return path.with_name(f"{path.name}.{processes.rank() + 1}-of-{processes.count()}")


def check_other_counts(path: Path) -> None:
    """Refuses bands of a picture that another number of processes has left; nobody goes on before all have looked."""
    mine = f"-of-{processes.count()}.journal"
    journals = path.parent.glob(f"{glob.escape(path.name)}.*-of-*.journal")
    others = [journal for journal in journals if not journal.name.endswith(mine)]
    processes.barrier()
    if others:
        count = others[0].name.removesuffix(".journal").rpartition("-")[2]
        raise FileExistsError(
            f"{path} must not have an interrupted run of other processes, but {others[0].name} is one of {count}. "
            f"Start {count} processes with --resume, or remove what they left."
        )


def _from_all(blocks):
    for block in blocks:
        dtype = block.dtype
        yield block
    for peer in range(1, processes.count()):
        while (shape := _received(peer, (3,), torch.int64)).any():
            yield _received(peer, shape.tolist(), dtype)


def _send(tensor):
    with processes.peer_errors():
        dist.send(tensor, dst=0)


def _received(peer, shape, dtype):
    tensor = torch.empty(shape, dtype=dtype)
    with processes.peer_errors():
        dist.recv(tensor, src=peer)
    return tensor
