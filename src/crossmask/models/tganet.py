"""TGANet-style: the network guesses how many targets there are and how large, and its own guess guides the decoder.

Source: Tomar et al., "TGANet: Text-guided Attention for Improved Polyp Segmentation", MICCAI 2022. The words are names
of attributes (one or many; small, medium, large), not a report: no sentence is read. Shapes: E_i (B, C_i, H/s, W/s), s
= 4, 8, 16, 32; logits (B, K, H, W).

stated: two classifiers on the encoder's last map tell number and size; the attributes' word vectors, weighed by what
they tell, guide the decoder by attention over channels; size from the mask: below 10 % of the picture small, from 30 %
large; the classifiers are trained with the segmentation (cross entropy).
deviates: the attention acts once, on the last map before the decoder, and not after each of the decoder's levels; it
looks at that map as well and scales by 1 to 2; learned vectors in place of byte-pair embeddings of the five attribute
names; size is the mask's share and not its box's; no feature enhancement module with dilated convolutions and no
multi-scale aggregation: U-Net's decoder on a pyramid of the house.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import PyramidSegmenter, UNetDecoder

SMALL, LARGE = 0.1, 0.3  # shares of the picture
WIDTH = 128


class Guide(nn.Module):
    """The last map (B, C, h, w) -> logits of number (B, 2) and size (B, 3), and the map weighed by what they tell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.number, self.size = nn.Linear(channels, 2), nn.Linear(channels, 3)
        self.names = nn.Parameter(torch.randn(5, WIDTH) * WIDTH**-0.5)
        self.attend = nn.Sequential(nn.Linear(WIDTH + channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = x.mean((2, 3))
        number, size = self.number(pooled), self.size(pooled)
        told = torch.cat([number.softmax(1), size.softmax(1)], 1) @ self.names
        gate = self.attend(torch.cat([told, pooled], 1)).sigmoid()
        return number, size, x * (1 + gate[..., None, None])


class Decoder(nn.Module):
    """U-Net's decoder on the guided last map."""

    def __init__(self, encoder_channels: Sequence[int], widths: Sequence[int], classes: int, dropout: float) -> None:
        super().__init__()
        self.guide = Guide(encoder_channels[-1])
        self.body = UNetDecoder(encoder_channels, widths, classes, dropout)

    def forward(self, maps: list[Tensor], text: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """text and text_mask: taken as every decoder takes them, and not looked at."""
        return self.body([*maps[:-1], self.guide(maps[-1])[2]])


def attributes(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Of masks (B, H, W): number (0 one, 1 many) and size (0 small, 1 medium, 2 large), each (B,) long; an empty mask
    counts as one small target."""
    from scipy import ndimage

    share = (mask > 0).flatten(1).float().mean(1)
    size = (share >= SMALL).long() + (share >= LARGE).long()
    counts = [ndimage.label(one)[1] for one in np.asarray((mask > 0).cpu())]
    return torch.tensor(counts, device=mask.device).gt(1).long(), size


class TGANetStyle(PyramidSegmenter):
    def auxiliary(
        self, features: dict, mask: Tensor, text: Tensor | None, text_mask: Tensor | None, text_id: Tensor
    ) -> dict[str, Tensor]:
        """Cross entropy of both classifiers."""
        guide: Any = self.decoder.guide
        number, size, _ = guide(features["stages"][-1])
        true_number, true_size = attributes(mask)
        return {"number": F.cross_entropy(number, true_number), "size": F.cross_entropy(size, true_size)}


def build(
    *,
    channels: tuple[int, ...],
    classes: int,
    text_dim: int | None = None,
    dropout: float = 0.0,
    encoder: str = "convnext-tiny",
    weights: str = "auto",
    decoder: tuple[int, int, int, int] | None = None,
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. text_dim: not used. decoder: widths at strides 4, 8,
    16, 32 (None: the encoder's own)."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights)
    return TGANetStyle(
        pyramid,
        Decoder(pyramid.channels, tuple(decoder or pyramid.channels), classes, dropout),
        channels=channels,
        uses_text=False,
    )
