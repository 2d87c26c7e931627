"""LAVT: words join the image inside the encoder, after each of its stages.

Source: Yang et al., "LAVT: Language-Aware Vision Transformer for Referring Image Segmentation", CVPR 2022; written
from the paper (its public code is GPL and was not copied from). Shapes: E_i (B, C_i, H/s, W/s), s = 4, 8, 16, 32; text
(B, L, D); logits (B, K, H, W).

stated: after each stage a pixel-word attention module (each pixel's mixture of words, through a 1x1 convolution and
instance normalisation, times the projected pixel) gives the fused map F_i; a language gate (two 1x1 convolutions,
ReLU, tanh) says how much of F_i is added to the stage's map before the next stage; the decoder sees the F_i.
deviates: that normalisation is over channels and places together, since over places alone it erases a sentence of one
token, which is the same everywhere; any pyramid of the house with stages in place of Swin (the tables compare networks
on one encoder); the text encoder is frozen (the source trains BERT); U-Net's decoder to full size in place of the
source's to stride 4.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import Attention, NoText, PyramidSegmenter, TextProjection, UNetDecoder, pad_to_stride
from crossmask.errors import CallError


class PixelWordAttention(nn.Module):
    """x (B, C, h, w), text (B, L, D), mask (B, L) -> F (B, C, h, w)."""

    def __init__(self, channels: int, text_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.words = TextProjection(text_dim, channels)
        self.norm = nn.LayerNorm(channels)
        self.look = Attention(channels, heads)
        self.spread = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GroupNorm(1, channels))
        self.image = nn.Conv2d(channels, channels, 1)
        self.mix = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Dropout2d(dropout))

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        words = self.words(text)
        pixels = self.norm(x.flatten(2).transpose(1, 2))
        told = self.look(pixels, words, words, mask).transpose(1, 2).unflatten(2, x.shape[-2:])
        return self.mix(F.relu(self.image(x)) * self.spread(told))


class LanguageGate(nn.Module):
    """How much of the fused map goes on: (B, C, h, w) -> (B, C, h, w) in (-1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, fused: Tensor) -> Tensor:
        return self.layers(fused)


class LAVT(PyramidSegmenter):
    def __init__(self, text_dim: int, heads: int, dropout: float, **parts: Any) -> None:
        super().__init__(**parts)
        channels: tuple[int, ...] = parts["encoder"].channels
        self.fuse = nn.ModuleList(PixelWordAttention(c, text_dim, heads, dropout) for c in channels)
        self.gates = nn.ModuleList(LanguageGate(c) for c in channels[:-1])

    def encode(
        self, image: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None, present: Tensor | None = None
    ) -> list[Tensor]:
        """The fused maps F_i, at strides 4, 8, 16, 32."""
        words, seen = self.words(text, text_mask, image.shape[0])
        pyramid: Any = self.encoder
        x = pyramid.stem(pyramid.normalise(pad_to_stride(self.absent(image, present))))
        fused = []
        for n, (stage, norm) in enumerate(zip(pyramid.stages, pyramid.norms, strict=True)):
            x = stage(x)
            fused.append(self.fuse[n](norm(x), words, seen))
            if n < len(self.gates):
                x = x + self.gates[n](fused[-1]) * fused[-1]
        return fused


def build(
    *,
    channels: tuple[int, ...],
    classes: int,
    text_dim: int | None = None,
    dropout: float = 0.0,
    encoder: str = "convnext-tiny",
    weights: str = "auto",
    decoder: tuple[int, int, int, int] | None = None,
    heads: int = 1,
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. decoder: widths at strides 4, 8, 16, 32 (None: the
    encoder's own)."""
    if encoder.startswith("timm:"):
        raise CallError(
            f"lavt fuses between an encoder's stages, which '{encoder}' does not show; choose another encoder."
        )
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights)
    words = text_dim or 64
    return LAVT(
        words,
        heads,
        dropout,
        encoder=pyramid,
        decoder=UNetDecoder(pyramid.channels, tuple(decoder or pyramid.channels), classes, dropout),
        channels=channels,
        no_text=NoText(words),
        uses_text=text_dim is not None,
    )
