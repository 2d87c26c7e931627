"""Swin-Unet: a U of shifted-window transformer layers without convolutions between them; layers from MONAI.

Source: Cao et al., "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation", ECCV Workshops 2022; layers:
MONAI's ``BasicLayer`` and ``PatchMergingV2`` (Swin UNETR's). Shapes: maps (B, C, h, w) at strides 4, 8, 16, 32, widths
w, 2w, 4w, 8w; logits (B, K, H, W).

stated: 4x4 patches, two layers a level, patch merging down, patch expanding up, skips joined by a linear layer, a last
expansion by 4, then 1x1.
deviates: windows of 8 (7 divides no power of two), no ImageNet weights unless a run is given to start from, ``width``
may be smaller than 96; so tables call it Swin-Unet-style.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossmask.blocks import PyramidSegmenter, from_monai

HEAD = 32  # channels a head
WINDOW = (8, 8)


def layers(width: int, depth: int, dropout: float) -> nn.Module:
    """``depth`` transformer layers, every second one with shifted windows: (B, C, h, w) -> (B, C, h, w)."""
    make: Any = from_monai("networks.nets.swin_unetr", "BasicLayer")
    return make(width, depth, max(1, width // HEAD), WINDOW, [0.0] * depth, qkv_bias=True, drop=dropout)


class Expand(nn.Module):
    """Patch expanding: (B, C, h, w) -> (B, outputs, factor * h, factor * w) by a linear layer and a rearrangement."""

    def __init__(self, inputs: int, outputs: int, factor: int = 2) -> None:
        super().__init__()
        self.widen = nn.Conv2d(inputs, outputs * factor**2, 1, bias=False)
        self.place = nn.PixelShuffle(factor)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.place(self.widen(x))
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class Encoder(nn.Module):
    """(B, C, H, W) in [0, 1] -> four maps at strides 4, 8, 16, 32."""

    def __init__(self, channels: int, widths: Sequence[int], depth: int, dropout: float) -> None:
        super().__init__()
        merging: Any = from_monai("networks.nets.swin_unetr", "PatchMergingV2")
        self.embed = nn.Conv2d(channels, widths[0], 4, 4)
        self.norm = nn.LayerNorm(widths[0])
        self.levels = nn.ModuleList(layers(w, depth, dropout) for w in widths)
        self.merge = nn.ModuleList(merging(w, spatial_dims=2) for w in widths[:-1])

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.norm(self.embed(2 * image - 1).movedim(1, -1)).movedim(-1, 1)
        maps = []
        for n, level in enumerate(self.levels):
            x = level(self.merge[n - 1](x.movedim(1, -1)).movedim(-1, 1) if n else x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """Strides 32 -> 16 -> 8 -> 4 with skips, -> 1, then 1x1."""

    def __init__(self, widths: Sequence[int], classes: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.ModuleList(Expand(2 * w, w) for w in widths[-2::-1])
        self.join = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths[-2::-1])
        self.levels = nn.ModuleList(layers(w, depth, dropout) for w in widths[-2::-1])
        self.last = Expand(widths[0], widths[0], 4)
        self.classify = nn.Conv2d(widths[0], classes, 1)

    def forward(self, maps: Sequence[Tensor], text: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """text and text_mask: taken as every decoder takes them, and not looked at."""
        x = maps[-1]
        for expand, join, level, skip in zip(self.expand, self.join, self.levels, maps[-2::-1], strict=True):
            x = level(join(torch.cat([expand(x), skip], 1)))
        return self.classify(self.last(x))


def build(
    *,
    channels: tuple[int, ...],
    classes: int,
    text_dim: int | None = None,
    dropout: float = 0.0,
    width: int = 96,
    depth: int = 2,
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. text_dim: not used. width: channels at stride 4.
    depth: layers a level."""
    widths = [width * s for s in (1, 2, 4, 8)]
    return PyramidSegmenter(
        Encoder(sum(channels), widths, depth, dropout),
        Decoder(widths, classes, depth, dropout),
        channels=channels,
        uses_text=False,
    )
