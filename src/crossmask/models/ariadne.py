"""Ariadne's Thread: words guide each level of the decoder by cross-attention.

Source: Zhong et al., "Ariadne's Thread: Using Text Prompts to Improve Segmentation of Infected Areas from Chest
X-ray Images", MICCAI 2023; written from the paper. Its public code (LanGuideMedSeg) is GPL and was not copied from.
Shapes: E_i (B, C_i, H/s, W/s), s = 4, 8, 16, 32; text (B, L, D); logits (B, K, H, W).

stated: ConvNeXt-Tiny pyramid and frozen text encoder; three GuideDecoder layers, each with self-attention over the
pixels, multi-head cross-attention from pixels to projected words, a residual with a learned scale, then up-sampling
and the skip; sub-pixel convolution at the end; Dice + cross entropy.
reconstructed: the inside of the GuideDecoder is blocks.NonLocalFusion and the up-sampling is HCFNet's (bilinear,
skip side by side, two 3x3), so that ``hcfnet`` differs from this network by its local fusion and its contrast alone.
deviates: the design, not the accidents of the public code. Left out: padding tokens that take part in the
attention; a 1x1 convolution over the token axis (24 -> 24, 12, 9), which ties the network to one sentence length;
position codes for 224 pixels only; projection heads that no loss uses; a sigmoid inside the network, with which
its cross entropy is identically zero (MONAI 1.0.1) or taken of twice squashed values (since 1.3); a 'frozen' text
encoder whose dropout stays on; one head of self-attention beside four of cross-attention (``heads`` is both).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import NonLocalFusion, NoText, PyramidSegmenter, SubPixelHead, conv_norm_act, upsample


class GuideLayer(nn.Module):
    """x (B, C, h, w), text (B, L, D), skip (B, S, 2h, 2w) -> (B, O, 2h, 2w)."""

    def __init__(self, channels: int, skip: int, outputs: int, text_dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.guide = NonLocalFusion(channels, text_dim, heads=heads, dropout=dropout)
        self.reduce = conv_norm_act(channels, outputs, 1)
        self.refine = nn.Sequential(conv_norm_act(outputs + skip, outputs), conv_norm_act(outputs, outputs))
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor, skip: Tensor) -> Tensor:
        x = upsample(self.reduce(self.guide(x, text, text_mask)))
        return self.dropout(self.refine(torch.cat([x, skip], 1)))


class Decoder(nn.Module):
    """Three guided layers (strides 32 -> 16 -> 8 -> 4), then the sub-pixel head."""

    def __init__(
        self,
        encoder_channels: tuple[int, ...],
        widths: tuple[int, ...],
        classes: int,
        text_dim: int,
        *,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        top = encoder_channels[3]
        self.enter = nn.Identity() if top == widths[3] else nn.Conv2d(top, widths[3], 1)
        self.layers = nn.ModuleList(
            GuideLayer(widths[i + 1], encoder_channels[i], widths[i], text_dim, heads=heads, dropout=dropout)
            for i in (2, 1, 0)
        )
        self.head = SubPixelHead(widths[0], classes)

    def forward(self, maps: list[Tensor], text: Tensor, text_mask: Tensor) -> Tensor:
        x = self.enter(maps[3])
        for layer, skip in zip(self.layers, maps[2::-1], strict=True):
            x = layer(x, text, text_mask, skip)
        return self.head(x)


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
    encoder's own, as the paper has it)."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights)
    width = text_dim or 64
    return PyramidSegmenter(
        pyramid,
        Decoder(pyramid.channels, tuple(decoder or pyramid.channels), classes, width, heads=heads, dropout=dropout),
        channels=channels,
        no_text=NoText(width),
        uses_text=text_dim is not None,
    )
