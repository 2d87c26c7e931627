"""LViT: a U of convolutions and a U of transformer layers side by side; words enter the transformer's first level.

Source: Li et al., "LViT: Language meets Vision Transformer in Medical Image Segmentation", IEEE TMI 2023. Shapes: E_i
(B, C_i, H/s, W/s), s = 4, 8, 16, 32; text (B, L, D); logits (B, K, H, W).

stated: at each level the convolutions' map is cut into patches on one grid for all levels; the first level's tokens
are joined by the words; down, each level's transformer takes its patches and the level's before it; up, the same
backwards; the answer is laid back onto the map of its level; pixel-level attention (global average and global maximum
over places, a gate of channels and one of places) on the skips; the convolutions' decoder answers.
reconstructed: the words join by cross-attention (the source's convolution over the tokens ties the network to one
length).
deviates: a pretrained pyramid of the house for the downward convolutions, strides 4 to 32, of which the deepest has no
transformer beside it (as the source's bottleneck); the common grid is stride 16; one transformer layer a level; the
pixel-level gates scale by 0.5 to 1.5, so that untrained ones leave a skip nearly as it is; Dice and cross entropy in
place of the source's balanced ones; its exponential pseudo-labels and language-vision loss belong to semi-supervised
training and are left out. The tables call it LViT-style.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import Attention, NoText, PyramidSegmenter, TextProjection, UNetDecoder, position_code, upsample


def transformer(width: int, heads: int, dropout: float) -> nn.Module:
    while width % heads:
        heads -= 1
    return nn.TransformerEncoderLayer(
        width, heads, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )


class TwinU(nn.Module):
    """The transformer's U over some maps, words at its first level: maps -> what is added to each of them."""

    def __init__(self, channels: Sequence[int], text_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        count = len(channels)
        self.factors = [2 ** (count - 1 - n) for n in range(count)]
        self.embed = nn.ModuleList(nn.Conv2d(c, c, f, f) for c, f in zip(channels, self.factors, strict=True))
        self.words = TextProjection(text_dim, channels[0])
        self.look = Attention(channels[0], heads, dropout)
        self.down = nn.ModuleList(transformer(c, heads, dropout) for c in channels)
        self.wider = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(channels))
        self.narrower = nn.ModuleList(nn.Linear(b, a) for a, b in pairwise(channels))
        self.up = nn.ModuleList(transformer(c, heads, dropout) for c in channels[:-1])
        self.back = nn.ModuleList(nn.Conv2d(c, c, 1) for c in channels)

    def forward(self, maps: Sequence[Tensor], text: Tensor, mask: Tensor) -> list[Tensor]:
        grids = [embed(x) for embed, x in zip(self.embed, maps, strict=True)]
        height, width = grids[0].shape[-2:]
        tokens = [g.flatten(2).transpose(1, 2) for g in grids]
        tokens = [t + position_code(height, width, t.shape[-1], t) for t in tokens]
        words = self.words(text)
        tokens[0] = tokens[0] + self.look(tokens[0], words, words, mask)
        for n, layer in enumerate(self.down):
            tokens[n] = layer(tokens[n] + (self.wider[n - 1](tokens[n - 1]) if n else 0))
        for n in range(len(tokens) - 2, -1, -1):
            tokens[n] = self.up[n](tokens[n] + self.narrower[n](tokens[n + 1]))
        laid = [
            back(t.transpose(1, 2).unflatten(2, (height, width))) for back, t in zip(self.back, tokens, strict=True)
        ]
        return [upsample(x, f) if f > 1 else x for x, f in zip(laid, self.factors, strict=True)]


class PixelAttention(nn.Module):
    """PLAM on a skip: (B, C, h, w) -> the same, gated by channel and by place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 8)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.place = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        gate = (self.channel(x.mean((2, 3))) + self.channel(x.amax((2, 3)))).sigmoid()
        x = x * (0.5 + gate[..., None, None])
        spread = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * (0.5 + self.place(spread).sigmoid())


class Decoder(nn.Module):
    """The twin U, pixel-level attention on the skips, U-Net's way up."""

    def __init__(
        self,
        encoder_channels: Sequence[int],
        widths: Sequence[int],
        classes: int,
        text_dim: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.twin = TwinU(encoder_channels[:-1], text_dim, heads, dropout)
        self.attend = nn.ModuleList(PixelAttention(c) for c in encoder_channels[:-1])
        self.body = UNetDecoder(encoder_channels, widths, classes, dropout)

    def forward(self, maps: list[Tensor], text: Tensor, text_mask: Tensor) -> Tensor:
        added = [x + more for x, more in zip(maps[:-1], self.twin(maps[:-1], text, text_mask), strict=True)]
        skips = [attend(x) for attend, x in zip(self.attend, added, strict=True)]
        return self.body([*skips, maps[-1]])


def build(
    *,
    channels: tuple[int, ...],
    classes: int,
    text_dim: int | None = None,
    dropout: float = 0.0,
    encoder: str = "convnext-tiny",
    weights: str = "auto",
    decoder: tuple[int, int, int, int] | None = None,
    heads: int = 4,
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. decoder: widths at strides 4, 8, 16, 32 (None: the
    encoder's own)."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights)
    words = text_dim or 64
    widths = tuple(decoder or pyramid.channels)
    return PyramidSegmenter(
        pyramid,
        Decoder(pyramid.channels, widths, classes, words, heads, dropout),
        channels=channels,
        no_text=NoText(words),
        uses_text=text_dim is not None,
    )
