"""What a trained VAE-NCA draws: reconstructions, samples, interpolations, growth, fusion, repair and outpainting.

`how` is always the keyword arguments seed, backend and precision, as in `nca_fast.rollout`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nca_fast.devices import moved
from nca_fast.files import check_writable
from nca_fast.media import datasets
from nca_fast.media.film import VideoWriter
from nca_fast.media.images import enlarged, image_grid, save_image
from nca_fast.systems.vae.model import VAENCA
from nca_fast.training.damage import check_circles, circles

COLUMNS = 12
ZOOM = 3  # pixels along the side of a cell


@torch.no_grad()
def reconstructed(vae: VAENCA, pictures: Tensor, **how: Any) -> Tensor:
    """What the model makes of pictures [B, 1 or 3, size, size], from the means of their latent vectors. [B, 3, ...]"""
    return vae.to_rgb(vae.grow(vae.weights(vae.encode(pictures)[0]), **how))


def reconstructions(vae: VAENCA, pictures: Tensor, path: Path, **how: Any) -> None:
    """Rows of pictures, below each row what the model makes of them."""
    made, columns, rows = reconstructed(vae, pictures, **how), min(COLUMNS, len(pictures)), []
    for begin in range(0, len(pictures), columns):
        for some in (pictures[begin : begin + columns].expand(-1, 3, -1, -1), made[begin : begin + columns]):
            rows += [*some, *[torch.ones_like(made[0])] * (columns - len(some))]  # the last row is filled with white
    _save(rows, path, columns)


@torch.no_grad()
def samples(vae: VAENCA, pictures: Tensor, count: int, path: Path, *, seed: int = 0, **how: Any) -> None:
    """Pictures of latent vectors that are drawn at random, spread as those of `pictures` [N, 1 or 3, size, size] are.

    They come from the normal distribution with the mean and the covariance of theirs. The prior is where the divergence
    has them after long trainings only: before, all lie to one side of it.

    Source: Ghosh et al., "From Variational to Deterministic Autoencoders" (2020).
    """
    mean, generator = vae.means(pictures), torch.Generator().manual_seed(seed)
    middle = mean.mean(0)
    drawn = moved(torch.randn(count, len(mean), generator=generator), vae.device) / len(mean) ** 0.5
    _save(list(vae.to_rgb(vae.grow(vae.weights(middle + drawn @ (mean - middle)), seed=seed, **how))), path)


@torch.no_grad()
def interpolation(vae: VAENCA, pictures: Tensor, path: Path, **how: Any) -> None:
    """From every picture to the one after it, along the straight line between the means of their latent vectors."""
    mean = vae.encode(pictures)[0]
    share = torch.linspace(0, 1, COLUMNS, device=mean.device)[:, None]
    lines = [a + share * (b - a) for a, b in zip(mean[:-1], mean[1:], strict=True)]
    _save(list(vae.to_rgb(vae.grow(vae.weights(torch.cat(lines)), **how))), path)


@torch.no_grad()
def growth(vae: VAENCA, pictures: Tensor, frames: Sequence[int], **how: Any) -> list[Tensor]:
    """What the model has grown of pictures after each number of steps in `frames`, from 0 up: [B, 3, H, W] each."""
    weights, state, done, seen = vae.weights(vae.encode(pictures)[0]), vae.initial_state(len(pictures)), 0, []
    for step in frames:
        if step > done:
            state = vae.grow(weights, state=state, steps=step - done, first_step=done, **how)
        done = step
        seen.append(vae.to_rgb(state))
    return seen


def growth_strip(vae: VAENCA, pictures: Tensor, path: Path, **how: Any) -> None:
    """How pictures grow: a row for each, from the living cell to the last step."""
    frames = [round(i * vae.architecture.steps / (COLUMNS - 1)) for i in range(COLUMNS)]
    seen = growth(vae, pictures, frames, **how)
    _save([frame[i] for i in range(len(pictures)) for frame in seen], path)


def growth_film(vae: VAENCA, pictures: Tensor, steps: int, path: Path, **how: Any) -> None:
    """A film of pictures that grow side by side, a step a frame."""
    with VideoWriter(path, fps=24) as video:
        for frame in growth(vae, pictures, range(steps + 1), **how):
            video.add(enlarged(image_grid(list(frame), columns=6), ZOOM))


@torch.no_grad()
def fused(vae: VAENCA, a: Tensor, b: Tensor, **how: Any) -> Tensor:
    """What grows when the rules of two pictures [1, 1 or 3, size, size] take turns, a step each. [3, H, W]"""
    rules = [vae.weights(vae.encode(picture)[0]) for picture in (a, b)]
    state = vae.initial_state(1)
    for n in range(vae.architecture.steps):
        state = vae.grow(rules[n % 2], state=state, steps=1, first_step=n, **how)
    return vae.to_rgb(state)[0]


@torch.no_grad()
def outpainted(vae: VAENCA, picture: Tensor, height: int, width: int, **how: Any) -> Tensor:
    """The rule of a picture on a larger canvas, in whose middle the picture is put back after every step. [3, H, W]

    Raises:
        ValueError: the canvas is smaller than the picture.
    """
    size = vae.architecture.size
    if height < size or width < size:
        raise ValueError(
            f"height and width must be at least the {size} cells of the picture, but got {height}, {width}."
        )
    weights, target = vae.weights(vae.encode(picture)[0]), vae.target(picture)
    state = vae.initial_state(1, height, width)
    top, left = (height - size) // 2, (width - size) // 2
    for n in range(vae.architecture.steps):
        state = vae.grow(weights, state=state, steps=1, first_step=n, **how)
        state[:, : target.shape[1], top : top + size, left : left + size] = target
    return vae.to_rgb(state)[0]


def named_picture(vae: VAENCA, name: str) -> Tensor:
    """A picture file, or DATASET:NUMBER for a test picture of a set, as the model takes it. [1, 1 or 3, size, size]

    Raises:
        ValueError: there is no such picture.
    """
    size, grey = vae.architecture.size, vae.architecture.grey
    dataset, _, number = name.rpartition(":")
    if not (dataset and number.isdecimal()):
        return moved(datasets.picture(name, size, grey), vae.device)
    test = datasets.load_pictures(dataset, size, grey).test
    if int(number) >= len(test):
        raise ValueError(
            f"the number of a test picture of {dataset} must be from 0 to {len(test) - 1}, but got {number}."
        )
    return moved(test[int(number)][None], vae.device)


def draw_fusion(vae: VAENCA, a: str, b: str, path: Path, **how: Any) -> None:
    """Two pictures, what the model makes of each, and what their rules grow together, in a row."""
    check_writable(path.parent)
    pair = torch.cat([named_picture(vae, name) for name in (a, b)])
    both = fused(vae, pair[:1], pair[1:], **how)
    made = reconstructed(vae, pair, **how)
    _save([*pair.expand(-1, 3, -1, -1), *made, both], path)


def draw_repair(vae: VAENCA, name: str, damage: int, path: Path, *, seed: int = 0, **how: Any) -> None:
    """A picture, the picture with so many circles erased if any, and what the model makes of that, in a row."""
    check_circles(damage)
    check_writable(path.parent)
    picture, generator = named_picture(vae, name), torch.Generator().manual_seed(seed)
    row = [picture]
    if damage:
        row.append(picture * moved(circles(*picture.shape[2:], damage, 0.1, 0.3, generator), vae.device))
    row.append(reconstructed(vae, row[-1], seed=seed, **how))
    _save([image.expand(-1, 3, -1, -1)[0] for image in row], path)


def draw_outpainting(vae: VAENCA, name: str, height: int, width: int, path: Path, **how: Any) -> None:
    """A picture continued beyond its edges."""
    check_writable(path.parent)
    picture = named_picture(vae, name)
    _save([outpainted(vae, picture, height, width, **how)], path)


def _save(images: Sequence[Tensor], path: Path, columns: int = COLUMNS) -> None:
    save_image(enlarged(image_grid(images, columns), ZOOM), path)
