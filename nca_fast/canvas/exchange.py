"""One canvas on several processes: each keeps and computes a band of its rows.

    torchrun --nproc-per-node 2 -m nca_fast render runs/brick --height 8192 --width 8192 --steps 200 --out brick.png

Before a pass of k steps a band needs the rows that k steps reach beyond it, which are the edges of the bands above and
below, on the torus in a ring. The cells that fire are a function of their place in the whole canvas, so that the bands
together are the canvas of one process, bit for bit.

The picture is written by the first process, to which the others send their rows in turn: in a PNG and in a TIFF every
byte lies behind all those before it, and in a pyramid the rows of two bands meet in one tile.
"""

import glob
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from nca_fast import processes
from nca_fast.canvas.band import Band, ring_rows
from nca_fast.canvas.canvas import Run
from nca_fast.canvas.memory import check_disk
from nca_fast.canvas.scene import CanvasConfig
from nca_fast.canvas.state_file import state_bytes, write_state
from nca_fast.media.formats import FORMATS, check_picture, write_picture
from nca_fast.nca import NCA
from nca_fast.rendering.show import progress_bar


def bands(height: int, count: int, halo: int) -> list[tuple[int, int]]:
    """Which rows each process has: the first, and the one after the last.

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


class Neighbours:
    """The processes that have the bands above and below; see `strips.Neighbours`.

    Args:
        circular: The first process is below the last. Otherwise nothing is.
    """

    def __init__(self, circular: bool):
        self._above, self._below = processes.rank() - 1, processes.rank() + 1
        if circular:
            self._above, self._below = self._above % processes.count(), self._below % processes.count()

    def exchange(self, band: Band, halo: int, meanwhile: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Sends the edges of this band and receives those of the neighbours; all four messages at once."""
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


def picture(
    nca: NCA,
    height: int,
    width: int,
    steps: int,
    path: Path,
    *,
    seed: int = 0,
    backend: str | None = None,
    image: Tensor | None = None,
    zoom: int = 1,
    config: CanvasConfig | None = None,
    save_state: Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> list[Path]:
    """As `show.picture`, of a canvas that all processes compute; each calls this with the same arguments.

    Every band lies in a file beside the picture, so that when a process is killed, all can begin again where it was; on
    GPUs, to which a disk is slow, only with `config.resumable`.

    Args:
        nca, height, width, steps, path, seed, backend, image, zoom, config, save_state: As in `show.picture`.
        resume: Go on with a run that was interrupted.
        progress: Show a progress bar on stderr, in the first process.

    Returns:
        The files, in every process; they are there then.

    Raises:
        ConnectionError: Another process has ended.
        ValueError, OSError: As `show.picture`; or a band would have no rows.
    """
    rank, count = processes.rank(), processes.count()
    size = (height * zoom, width * zoom)
    check_picture(path, *size)
    kind = FORMATS[path.suffix.lower()]
    first, end = bands(height, count, 1)[rank]
    _check_others(path)
    config = CanvasConfig() if config is None else config
    if next(nca.parameters()).device.type == "cpu":
        config = replace(config, resumable=True)
    with progress_bar(path, progress and rank == 0) as bar:
        share = (end - first) / height
        run = Run(
            nca,
            height,
            width,
            steps,
            config,
            seed=seed,
            backend=backend,
            image=image,
            path=band_path(path),
            keep=True,
            resume=resume,
            held_after=kind.bytes_held(*size) if rank == 0 else 0,
            on_cells=lambda cells: bar.update(cells / share),
            rows=(first, end),
            neighbours=Neighbours(nca.rule.padding == "circular"),
        )
        with run:
            if resume:
                _align(run)
            else:
                _agree(run)
                state = 0 if save_state is None else state_bytes(nca.rule.channels, height, width)
                _check_disk(run, kind.bytes_needed(*size) + state)
            bar.total, bar.initial = (cells / share for cells in run.cell_steps())
            bar.update(bar.initial)
            run.go()
            run.release()
            pixels = (torch.from_numpy(block) for block in run.pixels(zoom))
            files = together(lambda blocks: write_picture(path, *size, map(Tensor.numpy, blocks)), pixels)
            if save_state is not None:
                whole, about = (nca.rule.channels, height, width), {"step": run.position.step, "seed": seed}
                together(lambda blocks: write_state(save_state, *whole, blocks, about), run.blocks())
                files.append(save_state)
            return files


def band_path(path: Path) -> Path:
    """The name beside which this process keeps its band of a picture."""
    return path.with_name(f"{path.name}.{processes.rank() + 1}-of-{processes.count()}")


def together(write: Callable[[Iterator[Tensor]], Any], blocks: Iterable[Tensor]) -> Any:
    """Calls `write` in the first process with the blocks of all, in their order; the others send theirs.

    Args:
        write: Takes an iterator; returns what can be pickled.
        blocks: This process's tensors, of three dimensions and of one type in all processes; none of them empty.

    Returns:
        What `write` returned, in every process.
    """
    if processes.rank() == 0:
        return processes.broadcast(write(_from_all(blocks)))
    for block in blocks:
        _send(torch.tensor(block.shape))
        _send(block.contiguous())
    _send(torch.zeros(3, dtype=torch.int64))
    return processes.broadcast(None)


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


def _check_others(path: Path) -> None:
    """Refuses what another number of processes has left; nobody goes on before all have looked."""
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


def _agree(run: Run) -> None:
    """Makes the passes of all bands equally long: as short as that of the band whose machine has the least memory."""
    plan = run.plans[0]
    proposed = processes.all_gather_object((plan.steps_per_pass, plan.whole))
    if len({whole for _, whole in proposed}) > 1:
        raise ValueError("all bands must fit into their GPUs or none, but some do and some do not: use --resumable.")
    steps = min(steps for steps, _ in proposed)
    plan = replace(plan, steps_per_pass=steps, halo=plan.halo // plan.steps_per_pass * steps)
    bands(run.height, processes.count(), plan.halo)
    run.plans = [plan]


def _check_disk(run: Run, output: int) -> None:
    """Refuses states of all bands and an output for which the disk, which all share, has no room."""
    plan, channels, number = run.plans[0], run.nca.rule.channels, run.dtype.itemsize
    first, end = bands(run.height, processes.count(), 1)[processes.rank()]
    state = 0 if plan.in_memory else channels * ring_rows(end - first, plan.halo, plan.shift) * run.width * number
    check_disk(run.path.parent, sum(processes.all_gather_object(state)) + output, "the states and the output")


def _align(run: Run) -> None:
    """Makes bands that were left at different moments go on together.

    No band begins a pass before all have stored its halo. So those that are ahead of others have written nothing of
    their pass yet: they exchange its halo once more, with the others.
    """
    position = run.position
    all_of_them = processes.all_gather_object((position.step, position.pass_steps > 0))
    step = min(step for step, _ in all_of_them)
    if position.step > step or (step, False) in all_of_them:
        if position.pass_steps and position.row > 0:
            raise OSError(
                f"states of an interrupted run must go together, but {run.path}.state does not go with the others. "
                "Remove them and begin anew."
            )
        position.pass_steps = 0
