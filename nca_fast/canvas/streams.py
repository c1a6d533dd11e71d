"""Strips on a GPU: while it computes one, the next is read and copied to it, and the one before is copied back.

Host memory of the copies is pinned, and they run on streams of their own. Two pairs of buffers on the device take
turns; a pair is free when the copy has ended that took its result away.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nca_fast.canvas.band import Band


class CopyStreams:
    """Copies that run beside the work of a CUDA or ROCm device, on a stream in each direction.

    Args:
        device: Of the colony.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def host(self, numbers: int) -> Tensor:
        """Allocates host memory for float32 numbers, from which and to which is copied."""
        return torch.empty(numbers, pin_memory=True)

    def upload(self, target: Tensor, source: Tensor, after: torch.cuda.Event | None) -> torch.cuda.Event:
        """Copies to the device when the event `after` has happened; returns the event of its end."""
        if after is not None:
            self._up.wait_event(after)
        with torch.cuda.stream(self._up):
            target.copy_(source, non_blocking=True)
        return self._up.record_event()

    def download(self, target: Tensor, source: Tensor) -> torch.cuda.Event:
        """Copies from the device when all work that it was given until now is done; returns the event of its end."""
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            target.copy_(source, non_blocking=True)
        return self._down.record_event()

    def work_after(self, event: torch.cuda.Event) -> None:
        """Makes work that the device is given from now on wait for the event."""
        torch.cuda.current_stream(self.device).wait_event(event)

    def wait(self, event: torch.cuda.Event) -> None:
        """Returns when the event has happened."""
        event.synchronize()


def run_pass(
    streams: CopyStreams,
    strips: Sequence,
    band: Band,
    advance: Callable,
    done: Callable,
) -> None:
    """Takes strips through a pass.

    Args:
        streams: To the device.
        strips: `strips.Strip`s from top to bottom.
        band: From which old rows are read and to which new ones are written.
        advance: (state, a buffer like it, strip) -> the state after the pass, and another buffer, on the device.
        done: Called with each strip whose new rows are in the band.
    """
    if not strips:
        return
    most = band.channels * band.width * max(strip.count for strip in strips)
    incoming, outgoing = [streams.host(most) for _ in "ab"], [streams.host(most) for _ in "ab"]
    buffers = [[torch.empty(most, device=streams.device) for _ in "ab"] for _ in "ab"]
    downloads: list = [None] * len(strips)
    results: list = [None, None]  # held until they are copied, or their memory would be given to others

    def view(buffer: Tensor, rows: int) -> Tensor:
        return buffer[: band.channels * rows * band.width].view(1, band.channels, rows, band.width)

    def bring(i: int) -> object:
        host = view(incoming[i % 2], strips[i].count)
        if uploads[i % 2] is not None:
            streams.wait(uploads[i % 2])  # the copy of strip i - 2 still reads from there
        band.read(strips[i].begin, strips[i].count, host[0])
        target = view(buffers[i % 2][0], strips[i].count)
        uploads[i % 2] = streams.upload(target, host, downloads[i - 2] if i >= 2 else None)

    def finish(i: int) -> None:
        streams.wait(downloads[i])
        strip = strips[i]
        band.write_next(strip.first, view(outgoing[i % 2], strip.rows)[0])
        results[i % 2] = None
        done(strip)

    uploads: list = [None, None]
    bring(0)
    for i, strip in enumerate(strips):
        streams.work_after(uploads[i % 2])
        x, spare = (view(buffer, strip.count) for buffer in buffers[i % 2])
        results[i % 2], _ = advance(x, spare, strip)
        downloads[i] = streams.download(view(outgoing[i % 2], strip.rows)[0], strip.inner(results[i % 2][0]))
        if i + 1 < len(strips):
            bring(i + 1)
        if i >= 1:
            finish(i - 1)
    finish(len(strips) - 1)
