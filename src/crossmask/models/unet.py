"""U-Net on the shared image pyramids: the comparator that looks at no words.

Source: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI
2015. Shapes: E_i (B, C_i, H/s, W/s), s = 4, 8, 16, 32; logits (B, K, H, W).

stated: contracting path, expanding path of up-sampling by 2, joining the skip side by side and two 3x3 convolutions
with ReLU a level, 1x1 at the end.
reconstructed: the last two levels (strides 2 and 1), for which the pyramids have no skip: up-sample and two 3x3,
each half as wide as the one before.
deviates: the contracting path is a pretrained pyramid of the house, so that networks differ in their decoders alone;
bilinear up-sampling, padded convolutions and batch normalisation, as is usual now; no elastic deformation and no
border weights, which are no part of a network.
"""

from __future__ import annotations

from torch import nn

from crossmask import encoders
from crossmask.blocks import PyramidSegmenter, UNetDecoder


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
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. text_dim: not used. width: of a ResNet's first stage,
    from scratch. decoder: widths at strides 4, 8, 16, 32 (None: the encoder's own)."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights, width=width)
    return PyramidSegmenter(
        pyramid,
        UNetDecoder(pyramid.channels, tuple(decoder or pyramid.channels), classes, dropout),
        channels=channels,
        uses_text=False,
    )
