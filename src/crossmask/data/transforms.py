"""Transforms of whole batches. Geometry is drawn first, since it picks what the sentence has to say.

A mirrored or upside-down picture needs a sentence that says so; where there is none (sides of unknown convention), the
picture is not turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import StrictBool

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """Strengths of the random changes; 0 switches each off."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - a misspelt key of a recipe is a fault

    mirror: float = 0.5  # probability of left-right
    upside_down: float = 0.0  # probability of up-down
    rotate: float = 10.0  # degrees, at most
    zoom: float = 0.1  # relative, at most
    shift: float = 0.05  # of the side, at most
    brightness: float = 0.1  # of the range, at most
    contrast: float = 0.2  # relative, at most
    gamma: float = 0.2  # log2 of the exponent, at most
    noise: float = 0.02  # standard deviation, at most, of the range
    eighths: StrictBool = False  # also turned by a multiple of 45 degrees
    blur: float = 0.0  # standard deviation of a Gaussian blur, of the side; in a third of the pictures
    colour_shift: float = 0.0  # of each channel, at most, of the range; in another third
    cutout: float = 0.0  # side of a square that is blanked, at most, of the side (strong views only)


@dataclass(frozen=True)
class Draw:
    """What happens to each of B pictures; arrays of length B."""

    mirror: np.ndarray  # bool
    upside_down: np.ndarray  # bool
    angle: np.ndarray  # radians
    zoom: np.ndarray
    shift: np.ndarray  # (B, 2), in [-1, 1] coordinates
    brightness: np.ndarray
    contrast: np.ndarray
    gamma: np.ndarray
    noise: np.ndarray
    blur: np.ndarray  # standard deviation, of the picture's side; one value or 0
    colour_shift: np.ndarray  # (B, 3), of the range
    cutout: np.ndarray  # (B, 3): centre row, centre column, side; of the picture's side

    @property
    def turn(self) -> np.ndarray:
        """Index into ``sides.TURNS``: as is, mirrored, upside down, both."""
        return self.mirror.astype(int) + 2 * self.upside_down.astype(int)


def draw(
    generator: np.random.Generator, allowed: np.ndarray, strength: Augment, placeless: np.ndarray | None = None
) -> Draw:
    """allowed: (B, 4) bool, which of ``sides.TURNS`` each case's sentence can follow. placeless: (B,) bool, whose
    sentence names no side and no place, so that it follows any turn (None: all)."""
    count = len(allowed)
    mirror = generator.random(count) < strength.mirror
    upside_down = generator.random(count) < strength.upside_down
    rows = np.arange(count)
    fits = allowed[rows, mirror + 2 * upside_down]
    mirror, upside_down = mirror & fits, upside_down & fits

    def spread(amount: float, *more: int) -> np.ndarray:
        return generator.uniform(-amount, amount, (count, *more)).astype(np.float32)

    eighth = 45.0 * generator.integers(8, size=count) if strength.eighths else np.zeros(count)
    if placeless is not None:
        eighth = eighth * placeless
    return Draw(
        mirror=mirror,
        upside_down=upside_down,
        angle=np.radians(spread(strength.rotate) + eighth).astype(np.float32),
        zoom=1 + spread(strength.zoom),
        shift=2 * spread(strength.shift, 2),
        brightness=spread(strength.brightness),
        contrast=1 + spread(strength.contrast),
        gamma=np.exp2(spread(strength.gamma)),
        noise=np.abs(spread(strength.noise)),
        **tinted(generator, count, strength),
        cutout=squares(generator, count, strength.cutout),
    )


def tinted(generator: np.random.Generator, count: int, strength: Augment) -> dict[str, np.ndarray]:
    """Which pictures are blurred and which have their colours shifted; nothing is drawn where neither may be."""
    if not strength.blur and not strength.colour_shift:
        return {"blur": np.zeros(count, np.float32), "colour_shift": np.zeros((count, 3), np.float32)}
    kind = generator.integers(3, size=count)
    shift = generator.uniform(-strength.colour_shift, strength.colour_shift, (count, 3)).astype(np.float32)
    return {"blur": np.float32(strength.blur) * (kind == 1), "colour_shift": shift * (kind == 2)[:, None]}


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, H, W), sigma as a share of the height, the edge repeated."""
    import torch
    import torch.nn.functional as F

    pixels = sigma * image.shape[-2]
    reach = max(1, round(3 * pixels))
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / pixels) ** 2)
    bell = (bell / bell.sum()).to(image.dtype)
    flat = image.flatten(0, 1)[:, None]
    flat = F.pad(flat, (reach,) * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, bell.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))
    return flat.view(image.shape)


def squares(generator: np.random.Generator, count: int, side: float) -> np.ndarray:
    """(count, 3) centre row, centre column and side, as shares of the picture's side; nothing is drawn for 0."""
    if not side:
        return np.zeros((count, 3), np.float32)
    return generator.random((count, 3), np.float32) * np.array([1, 1, side], np.float32)


def warp(image: Tensor, mask: Tensor | None, drawn: Draw) -> tuple[Tensor, Tensor | None]:
    """Move image (B, C, H, W) float and mask (B, H, W) labels alike; what comes in from outside is black, label 0."""
    import torch
    import torch.nn.functional as F

    cos, sin = np.cos(drawn.angle) / drawn.zoom, np.sin(drawn.angle) / drawn.zoom
    across, down = np.where(drawn.mirror, -1.0, 1.0), np.where(drawn.upside_down, -1.0, 1.0)
    height, width = image.shape[-2:]
    ratio = height / width  # keeps a turn a turn on pictures that are not square
    theta = np.stack(
        [
            np.stack([cos * across, -sin * across * ratio, drawn.shift[:, 0]], -1),
            np.stack([sin * down / ratio, cos * down, drawn.shift[:, 1]], -1),
        ],
        1,
    )
    matrix = torch.from_numpy(theta.astype(np.float32)).to(image.device)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if mask is None:
        return moved, None
    labels = F.grid_sample(mask[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved, labels[:, 0].long()


def intensity(image: Tensor, drawn: Draw, seed: int) -> Tensor:
    """Brightness, contrast, gamma and noise of (B, C, H, W) in [0, 1]; stays in [0, 1]."""
    import torch

    def each(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(image.device).view(-1, 1, 1, 1)

    image = ((image - 0.5) * each(drawn.contrast) + 0.5 + each(drawn.brightness)).clamp(0, 1)
    image = image.clamp_min(1e-4).pow(each(drawn.gamma))
    if drawn.colour_shift.any():
        shift = torch.from_numpy(drawn.colour_shift[:, : image.shape[1]]).to(image.device)
        image = image + torch.nn.functional.pad(shift, (0, image.shape[1] - shift.shape[1]))[:, :, None, None]
    if drawn.blur.any():
        image = torch.where((each(drawn.blur) > 0), blurred(image, float(drawn.blur.max())), image)
    if drawn.noise.any():
        source = torch.Generator(image.device).manual_seed(seed)
        noise = torch.randn(image.shape, generator=source, device=image.device)
        image = image + noise * each(drawn.noise)
    return image.clamp(0, 1)


def cut_out(image: Tensor, drawn: Draw) -> Tensor:
    """Blank a square of each picture (B, C, H, W), where one was drawn."""
    import torch

    if not drawn.cutout[:, 2].any():
        return image
    height, width = image.shape[-2:]
    row, column, side = (torch.from_numpy(v).to(image.device).view(-1, 1, 1, 1) for v in drawn.cutout.T.copy())
    y = (torch.arange(height, device=image.device) + 0.5).view(1, 1, -1, 1) / height
    x = (torch.arange(width, device=image.device) + 0.5).view(1, 1, 1, -1) / width
    inside = ((y - row).abs() < side / 2) & ((x - column).abs() < side / 2)
    return image.masked_fill(inside, 0.0)
