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

from functools import partial

from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import GuidedDecoder, JoinSkip, NonLocalFusion, NoText, PyramidSegmenter


class GuideLayer(nn.Module):
    """x (B, C, h, w), text (B, L, D), skip (B, S, 2h, 2w) -> (B, O, 2h, 2w)."""

    def __init__(self, channels: int, skip: int, outputs: int, text_dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.guide = NonLocalFusion(channels, text_dim, heads=heads, dropout=dropout)
        self.join = JoinSkip(channels, skip, outputs)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor, skip: Tensor) -> Tensor:
        return self.dropout(self.join(self.guide(x, text, text_mask), skip))


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
    layer = partial(GuideLayer, text_dim=width, heads=heads, dropout=dropout)
    return PyramidSegmenter(
        pyramid,
        GuidedDecoder(pyramid.channels, decoder or pyramid.channels, classes, layer),
        channels=channels,
        no_text=NoText(width),
        uses_text=text_dim is not None,
    )
