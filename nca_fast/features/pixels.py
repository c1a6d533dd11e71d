"""What all extractors share: pixels brought to mean 0 and variance 1 over natural pictures."""

from __future__ import annotations

import torch
from torch import nn

# Per channel over ImageNet, in [0, 1] units; what torchvision's networks were trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """Checks a batch of pictures and normalises it: (rgb - mean) / std.

    Args:
        min_size: the least height and width that the extractor can look at.
    """

    def __init__(self, min_size: int):
        super().__init__()
        self.min_size = min_size
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        """Normalises pictures.

        Args:
            rgb: [B, 3, H, W] float, nominally in [0, 1].

        Returns:
            [B, 3, H, W], of the module's dtype; channels-last in memory on the CPU, where convolutions take a quarter
            less time that way.

        Raises:
            ValueError: wrong rank, channels, size or device.
            TypeError: an integer tensor.
        """
        if rgb.ndim != 4 or rgb.shape[0] < 1 or rgb.shape[1] != 3:
            raise ValueError(f"rgb must be [B, 3, H, W], but got {tuple(rgb.shape)}.")
        if not rgb.is_floating_point():
            raise TypeError(f"rgb must be floating point in [0, 1], but got {rgb.dtype}; divide bytes by 255.")
        if min(rgb.shape[2:]) < self.min_size:
            raise ValueError(
                f"rgb must be at least {self.min_size}x{self.min_size} for these features, but got "
                f"{tuple(rgb.shape[2:])}."
            )
        if rgb.device != self.mean.device:
            raise ValueError(
                f"rgb and features must be on one device, but got {rgb.device} and {self.mean.device}; use "
                "features.to()."
            )
        layout = torch.channels_last if rgb.device.type == "cpu" else torch.contiguous_format
        return ((rgb.to(self.mean.dtype) - self.mean) / self.std).contiguous(memory_format=layout)


def pink_noise(generator: torch.Generator, batch: int, size: int) -> torch.Tensor:
    """Noise [batch, 3, size, size], variance 1, amplitude 1 / frequency; channels correlate by 0.8, as in nature."""
    rows, columns = torch.fft.fftfreq(size), torch.fft.rfftfreq(size)
    frequency = torch.hypot(rows[:, None], columns[None, :]).clamp(min=1 / size)
    white = torch.randn(batch, 3, size, size, generator=generator)
    white = white + 2 * torch.randn(batch, 1, size, size, generator=generator)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(size, size))
    return noise / noise.std()
