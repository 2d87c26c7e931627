"""HCFNet: hybrid cross-modality fusion with a multi-stage cross-modality contrastive loss.

Source: "Hybrid cross-modality fusion network for medical image segmentation with contrastive learning", Eng.
Appl. Artif. Intell. 2025 (no code was published). Shapes: E_i (B, C_i, H/s, W/s), s = 4, 8, 16, 32; text (B, L, D).

stated: encoder pyramid and frozen text encoder; three hybrid layers of NLCFM (multi-head cross-attention), LCFM
(scale and shift modulation matrices from text) and fusion block (concatenate, up-sample); sub-pixel convolution
and 1x1; loss = cross entropy + Dice + MCCL, which pulls matching pairs together and pushes others apart.
reconstructed: the inside of NLCFM (blocks.NonLocalFusion), the form of LCFM (``lcfm``), the skip joins of the
fusion block, MCCL's projections (256), temperature (0.07, learned), stages (all four) and weight (0.1, the method's).
deviates: data sets here repeat sentences, and the paper's identity target (``mccl='identity'``) calls the other images
of an equal sentence negatives. The default (``'same-text'``) leaves those pairs out. (Sharing the target among equal
sentences instead would change nothing: their frozen states are equal, so the loss is the identity's but for rounding.)
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import (
    Alignment,
    Attention,
    GuidedDecoder,
    JoinSkip,
    NonLocalFusion,
    NoText,
    PyramidSegmenter,
    Targets,
    TextProjection,
    masked_mean,
    position_code,
)


def zero(layer: nn.Linear | nn.Conv2d) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class ChannelModulation(nn.Module):
    """LCFM, form ``channel`` (FiLM): gamma, beta (B, C, 1, 1) from the pooled words."""

    def __init__(self, channels: int, text_dim: int) -> None:
        super().__init__()
        self.project = TextProjection(text_dim, channels)
        self.modulate = nn.Linear(channels, 2 * channels)
        zero(self.modulate)  # identity at the start

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        gamma, beta = self.modulate(masked_mean(self.project(text), text_mask)).chunk(2, 1)
        return x * (1 + gamma[..., None, None]) + beta[..., None, None]


class SpatialModulation(nn.Module):
    """LCFM, form ``spatial``: gamma, beta (B, C, H, W) from each pixel's own mixture of words, then a depthwise
    3x3, so that the modulation is local in place, as the module's name says."""

    def __init__(self, channels: int, text_dim: int, heads: int) -> None:
        super().__init__()
        self.project = TextProjection(text_dim, channels)
        self.norm = nn.LayerNorm(channels)
        self.mix = Attention(channels, heads)
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.modulate = nn.Conv2d(channels, 2 * channels, 1)
        zero(self.modulate)  # identity at the start

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        pixels = x.flatten(2).transpose(1, 2)
        words = self.project(text)
        query = self.norm(pixels) + position_code(height, width, pixels.shape[-1], pixels)
        mixture = self.mix(query, words, words, text_mask).transpose(1, 2).unflatten(2, (height, width))
        gamma, beta = self.modulate(F.gelu(self.local(mixture))).chunk(2, 1)
        return x * (1 + gamma) + beta


class FusionBlock(JoinSkip):
    """N, G (B, C, h, w) and a skip (B, S, 2h, 2w) -> (B, O, 2h, 2w). ``form``: N and G side by side, or added."""

    def __init__(self, channels: int, skip: int, outputs: int, form: str, maps: int) -> None:
        super().__init__(channels * (maps if form == "concat" else 1), skip, outputs)
        self.form = form

    def forward(self, fused: list[Tensor], skip: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat(fused, 1) if self.form == "concat" else torch.stack(fused).sum(0), skip)


class HybridLayer(nn.Module):
    """NLCFM beside LCFM, joined by the fusion block; either may be switched off for the ablation."""

    def __init__(
        self,
        channels: int,
        skip: int,
        outputs: int,
        text_dim: int,
        *,
        nlcfm: bool,
        lcfm: str,
        fusion: str,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.non_local = NonLocalFusion(channels, text_dim, heads=heads, dropout=dropout) if nlcfm else None
        self.local: nn.Module | None = None
        if lcfm == "spatial":
            self.local = SpatialModulation(channels, text_dim, heads)
        elif lcfm == "channel":
            self.local = ChannelModulation(channels, text_dim)
        maps = max((self.non_local is not None) + (self.local is not None), 1)
        self.fuse = FusionBlock(channels, skip, outputs, fusion, maps)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor, skip: Tensor) -> Tensor:
        fused = [part(x, text, text_mask) for part in (self.non_local, self.local) if part is not None]
        return self.dropout(self.fuse(fused or [x], skip))


class HCFNet(PyramidSegmenter):
    def __init__(self, alignment: Alignment | None, **parts) -> None:
        super().__init__(**parts)
        self.alignment = alignment

    def auxiliary(
        self, features: dict, mask: Tensor, text: Tensor | None, text_mask: Tensor | None, text_id: Tensor
    ) -> dict[str, Tensor]:
        """MCCL of a batch. Pairs without a sentence are left out."""
        if self.alignment is None or text is None or text_mask is None:
            return {}
        return {"mccl": self.alignment(features["stages"], text, text_mask, text_id)}


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
    nlcfm: bool = True,
    lcfm: Literal["spatial", "channel", "off"] = "spatial",
    fusion: Literal["concat", "sum"] = "concat",
    mccl: Targets = "same-text",
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. decoder: widths at strides 4, 8, 16, 32
    (None: the encoder's own, as the paper has it). The switches are the paper's ablations; ``mccl='off'`` leaves
    out its weights as well, which ``method.auxiliary=0`` (the tables' row) keeps."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights)
    width = text_dim or 64
    layer = partial(HybridLayer, text_dim=width, nlcfm=nlcfm, lcfm=lcfm, fusion=fusion, heads=heads, dropout=dropout)
    return HCFNet(
        Alignment(pyramid.channels, width, mccl) if mccl != "off" and text_dim else None,
        encoder=pyramid,
        decoder=GuidedDecoder(pyramid.channels, decoder or pyramid.channels, classes, layer),
        channels=channels,
        no_text=NoText(width),
        uses_text=text_dim is not None,
    )
