"""From a picture's native grid to the model's and back, by exact inverses.

Pixel centres lie at half integers on both grids (the corners coincide), so a mask that is right on the model's grid
comes back right on the native one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The model's grid. ``fit='stretch'`` fills it; ``'pad'`` keeps the shape and leaves black below and right."""

    size: tuple[int, int]  # (H, W)
    fit: Literal["stretch", "pad"] = "stretch"

    def inner(self, native: tuple[int, int]) -> tuple[int, int]:
        """The part of the grid that a native (h, w) picture fills."""
        if self.fit == "stretch":
            return self.size
        scale = min(self.size[0] / native[0], self.size[1] / native[1])
        return max(1, round(native[0] * scale)), max(1, round(native[1] * scale))

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """(C, h, w) float32 -> (C, H, W) float32, smoothed where it shrinks."""
        height, width = self.inner(pixels.shape[-2:])
        out = np.zeros((pixels.shape[0], *self.size), np.float32)
        for channel, plane in enumerate(pixels):
            if plane.shape == (height, width):
                out[channel, :height, :width] = plane
            else:
                resized = Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
                out[channel, :height, :width] = np.asarray(resized)
        return out

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """(h, w) uint8 labels -> (H, W): two labels by area (a half counts), more by the nearest pixel."""
        height, width = self.inner(labels.shape)
        out = np.zeros(self.size, np.uint8)
        if labels.shape == (height, width):
            resized = labels
        elif labels.max(initial=0) <= 1:
            soft = Image.fromarray(labels.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
            resized = np.asarray(soft) >= 0.5
        else:
            resized = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
        out[:height, :width] = resized
        return out

    def back(self, values: Tensor, native: tuple[int, int]) -> Tensor:
        """(..., H, W) float -> (..., h, w): the inverse of :meth:`image` for probabilities."""
        import torch.nn.functional as F

        height, width = self.inner(native)
        values = values[..., :height, :width].float()
        if (height, width) == tuple(native):
            return values
        flat = values.reshape(-1, 1, height, width)
        shrinks = native[0] < height or native[1] < width
        flat = F.interpolate(flat, size=native, mode="bilinear", align_corners=False, antialias=shrinks)
        return flat.reshape(*values.shape[:-2], *native)
