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

import torch
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import PyramidSegmenter, conv_norm_act, upsample


def pair(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    """Two 3x3 convolutions: (B, inputs, h, w) -> (B, outputs, h, w)."""
    return nn.Sequential(conv_norm_act(inputs, outputs), conv_norm_act(outputs, outputs), nn.Dropout2d(dropout))


class Decoder(nn.Module):
    """Three levels with skips (strides 32 -> 16 -> 8 -> 4), two without (4 -> 2 -> 1), then 1x1."""

    def __init__(
        self, encoder_channels: tuple[int, ...], widths: tuple[int, ...], classes: int, dropout: float
    ) -> None:
        super().__init__()
        top = encoder_channels[3]
        self.enter = nn.Identity() if top == widths[3] else nn.Conv2d(top, widths[3], 1)
        self.levels = nn.ModuleList(pair(widths[i + 1] + encoder_channels[i], widths[i], dropout) for i in (2, 1, 0))
        half, quarter = max(widths[0] // 2, 8), max(widths[0] // 4, 8)
        self.last = nn.ModuleList([pair(widths[0], half, 0.0), pair(half, quarter, 0.0)])
        self.classify = nn.Conv2d(quarter, classes, 1)

    def forward(self, maps: list[Tensor], text: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """text and text_mask: taken as every decoder takes them, and not looked at."""
        x = self.enter(maps[3])
        for level, skip in zip(self.levels, maps[2::-1], strict=True):
            x = level(torch.cat([upsample(x), skip], 1))
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
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. text_dim: not used. width: of a ResNet's first stage,
    from scratch. decoder: widths at strides 4, 8, 16, 32 (None: the encoder's own)."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights, width=width)
    return PyramidSegmenter(
        pyramid,
        Decoder(pyramid.channels, tuple(decoder or pyramid.channels), classes, dropout),
        channels=channels,
        uses_text=False,
    )
