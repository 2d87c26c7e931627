"""UCTransNet: the skips of a U-Net fused across levels by attention between channels; it looks at no words.

Source: Wang et al., "UCTransNet: Rethinking the Skip Connections in U-Net from a Channel-wise Perspective with
Transformer", AAAI 2022. Shapes: E_i (B, C_i, H/s, W/s), s = 4, 8, 16, 32; logits (B, K, H, W).

stated: each level's map as tokens on one common grid; in each layer a level's channels look at the channels of all
levels (instance-normalised attention matrix), then an MLP; the answer is laid back onto the skip; in the decoder a
channel cross-attention (global means of skip and decoder map, linear, sigmoid) gates the skip before it is joined.
deviates: a pretrained pyramid of the house in place of the source's plain encoder, so its levels are strides 4 to 32
and not 1 to 8; the deepest of the four, fused with the others, is where the decoder starts (the source has a bottleneck
besides its four skips); the common grid is that of the deepest level; codes of place are fixed, for any size; one head
in place of four and two layers in place of four (``depth``, which stays to take the source's four).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import PyramidSegmenter, double_conv, position_code, upsample


class ChannelLayer(nn.Module):
    """One layer over all levels: tokens (B, N, C_i) each -> the same."""

    def __init__(self, channels: Sequence[int], dropout: float) -> None:
        super().__init__()
        whole = sum(channels)
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.norm = nn.LayerNorm(whole)
        self.query = nn.ModuleList(nn.Linear(c, c, bias=False) for c in channels)
        self.key, self.value = nn.Linear(whole, whole, bias=False), nn.Linear(whole, whole, bias=False)
        self.out = nn.ModuleList(nn.Linear(c, c, bias=False) for c in channels)
        self.think = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * c, c))
            for c in channels
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        everything = self.norm(torch.cat(levels, -1))
        key, value = self.key(everything), self.value(everything)
        found = []
        for x, norm, query, out, think in zip(levels, self.norms, self.query, self.out, self.think, strict=True):
            alike = query(norm(x)).transpose(1, 2) @ key / everything.shape[-1] ** 0.5  # (B, C_i, C)
            spread = alike.flatten(1).std(1, correction=0).clamp_min(1e-5)[:, None, None]
            alike = ((alike - alike.mean((1, 2), keepdim=True)) / spread).softmax(-1)
            x = x + out((alike @ value.transpose(1, 2)).transpose(1, 2))
            found.append(x + think(x))
        return found


class ChannelFusion(nn.Module):
    """The skips with what all levels' channels tell each other: four maps -> four maps."""

    def __init__(self, channels: Sequence[int], depth: int, dropout: float) -> None:
        super().__init__()
        self.factors = [2 ** (len(channels) - 1 - n) for n in range(len(channels))]
        self.embed = nn.ModuleList(nn.Conv2d(c, c, f, f) for c, f in zip(channels, self.factors, strict=True))
        self.layers = nn.ModuleList(ChannelLayer(channels, dropout) for _ in range(depth))
        self.back = nn.ModuleList(nn.Conv2d(c, c, 1) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        grids = [embed(x) for embed, x in zip(self.embed, maps, strict=True)]
        height, width = grids[0].shape[-2:]
        levels = [g.flatten(2).transpose(1, 2) for g in grids]
        levels = [t + position_code(height, width, t.shape[-1], t) for t in levels]
        for layer in self.layers:
            levels = layer(levels)
        found = []
        for x, tokens, factor, back in zip(maps, levels, self.factors, self.back, strict=True):
            laid = back(tokens.transpose(1, 2).unflatten(2, (height, width)))
            found.append(x + (upsample(laid, factor) if factor > 1 else laid))
        return found


class GatedJoin(nn.Module):
    """A skip (B, S, 2h, 2w) gated by itself and the decoder's map x (B, C, h, w), then joined: (B, O, 2h, 2w)."""

    def __init__(self, channels: int, skip: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.of_skip, self.of_map = nn.Linear(skip, skip), nn.Linear(channels, skip)
        self.join = double_conv(channels + skip, outputs, dropout)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        gate = (0.5 * (self.of_skip(skip.mean((2, 3))) + self.of_map(x.mean((2, 3))))).sigmoid()
        return self.join(torch.cat([upsample(x), F.relu(skip * gate[..., None, None])], 1))


class Decoder(nn.Module):
    """Fusion of the skips, three gated joins (strides 32 -> 4), two levels without (4 -> 1), then 1x1."""

    def __init__(
        self, encoder_channels: Sequence[int], widths: Sequence[int], classes: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        self.fusion = ChannelFusion(encoder_channels, depth, dropout)
        top = encoder_channels[3]
        self.enter = nn.Identity() if top == widths[3] else nn.Conv2d(top, widths[3], 1)
        self.joins = nn.ModuleList(GatedJoin(widths[i + 1], encoder_channels[i], widths[i], dropout) for i in (2, 1, 0))
        half, quarter = max(widths[0] // 2, 8), max(widths[0] // 4, 8)
        self.last = nn.ModuleList([double_conv(widths[0], half), double_conv(half, quarter)])
        self.classify = nn.Conv2d(quarter, classes, 1)

    def forward(self, maps: list[Tensor], text: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """text and text_mask: taken as every decoder takes them, and not looked at."""
        fused = self.fusion(maps)
        x = self.enter(fused[3])
        for join, skip in zip(self.joins, fused[2::-1], strict=True):
            x = join(x, skip)
        for level in self.last:
            x = level(upsample(x))
        return self.classify(x)


def build(
    *,
    channels: tuple[int, ...],
    classes: int,
    text_dim: int | None = None,
    dropout: float = 0.0,
    encoder: str = "convnext-tiny",
    weights: str = "auto",
    width: int | None = None,
    decoder: tuple[int, int, int, int] | None = None,
    depth: int = 2,
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. text_dim: not used. width: of a ResNet's first stage,
    from scratch. decoder: widths at strides 4, 8, 16, 32 (None: the encoder's own). depth: layers of the fusion."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights, width=width)
    return PyramidSegmenter(
        pyramid,
        Decoder(pyramid.channels, tuple(decoder or pyramid.channels), classes, depth, dropout),
        channels=channels,
        uses_text=False,
    )
