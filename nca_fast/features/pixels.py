"""What all extractors share: pixels brought to mean 0 and variance 1 over natural pictures, and the torus."""

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


class _WrapPad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, pad):
        ctx.pad = pad
        batch, channels, height, width = x.shape
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        shape = (batch, channels, height + 2 * pad, width + 2 * pad)
        padded = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        middle = padded[:, :, pad:-pad]
        middle[..., pad:-pad] = x
        middle[..., :pad] = x[..., -pad:]
        middle[..., -pad:] = x[..., :pad]
        padded[:, :, :pad] = padded[:, :, height : height + pad]
        padded[:, :, -pad:] = padded[:, :, pad : 2 * pad]
        return padded

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_padded):
        pad = ctx.pad
        height, width = grad_padded.shape[2] - 2 * pad, grad_padded.shape[3] - 2 * pad
        grad = grad_padded.clone(memory_format=torch.preserve_format)
        grad[:, :, pad : 2 * pad] += grad[:, :, -pad:]
        grad[:, :, height : height + pad] += grad[:, :, :pad]
        grad[..., pad : 2 * pad] += grad[..., -pad:]
        grad[..., width : width + pad] += grad[..., :pad]
        return grad[:, :, pad:-pad, pad:-pad], None


def wrap_pad(x: torch.Tensor, pad: int) -> torch.Tensor:
    """Pad a torus by its own opposite edges: `F.pad(x, (pad,) * 4, mode="circular")`, values and gradients alike.

    F.pad's backward builds a full-size gradient per edge; with this the random features take 0.7 times the time.

    Args:
        x: [B, C, H, W], H and W at least `pad`.
        pad: cells added on each side, at least 1.

    Returns:
        [B, C, H + 2 pad, W + 2 pad].
    """
    return _WrapPad.apply(x, pad)


def pink_noise(generator: torch.Generator, batch: int, size: int) -> torch.Tensor:
    """Noise [batch, 3, size, size], variance 1, amplitude 1 / frequency; channels correlate by 0.8, as in nature."""
    rows, columns = torch.fft.fftfreq(size), torch.fft.rfftfreq(size)
    frequency = torch.hypot(rows[:, None], columns[None, :]).clamp(min=1 / size)
    white = torch.randn(batch, 3, size, size, generator=generator)
    white = white + 2 * torch.randn(batch, 1, size, size, generator=generator)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(size, size))
    return noise / noise.std()
