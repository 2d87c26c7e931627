"""CrossVLT: image and words look at each other after every stage, early ones too.

Source: Cho, Yu and Kang, "Cross-aware Early Fusion with Stage-divided Vision and Language Transformer Encoders for
Referring Image Segmentation", IEEE TMM 2023. Shapes: E_i (B, C_i, H/s, W/s), s = 4, 8, 16, 32; text (B, L, D); logits
(B, K, H, W).

stated: both encoders are divided into stages; after each, the words take in the image (cross-attention) and the image
the words so refined (cross-attention, then a gate with tanh), and both go on to their next stage; a feature-based
alignment on every level draws the pixels of the target to the sentence.
deviates: the language encoder is frozen and outside the network, so a stage of it is a self-attention layer here; the
alignment is a pixel-text contrast within the image (cosine, temperature 0.07 learned, cross entropy with the mask's
share) of the levels' fused maps with the mean of the frozen states, a linear layer a level, and not with the refined
words; pyramids of the house in place of Swin; U-Net's decoder to full size. The tables call it CrossVLT-style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import Attention, NoText, PyramidSegmenter, UNetDecoder, masked_mean, pad_to_stride
from crossmask.errors import CallError

WIDTH = 256  # of the words


class Exchange(nn.Module):
    """After a stage: x (B, C, h, w), words (B, L, 256), mask (B, L) -> the fused map and the words."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_words, self.norm_talk, self.norm_image = (
            nn.LayerNorm(WIDTH),
            nn.LayerNorm(WIDTH),
            nn.LayerNorm(channels),
        )
        self.talk = Attention(WIDTH, heads, dropout)
        self.image_to_words = nn.Linear(channels, WIDTH)
        self.read_image = Attention(WIDTH, heads, dropout)
        self.words_to_image = nn.Linear(WIDTH, channels)
        self.read_words = Attention(channels, heads, dropout)
        self.gate = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.Tanh())

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        own = self.norm_talk(words)
        words = words + self.talk(own, own, own, mask)
        pixels = self.norm_image(x.flatten(2).transpose(1, 2))
        seen = self.image_to_words(pixels)
        words = words + self.read_image(self.norm_words(words), seen, seen)
        told = self.words_to_image(words)
        fused = self.read_words(pixels, told, told, mask)
        fused = (self.gate(fused) * fused).transpose(1, 2).unflatten(2, x.shape[-2:])
        return x + fused, words


class PixelTextAlignment(nn.Module):
    """Cross entropy of cosine logits between each pixel of a level and the pooled words, against the mask's share."""

    def __init__(self, channels: Sequence[int], text_dim: int) -> None:
        super().__init__()
        self.image = nn.ModuleList(nn.Linear(c, WIDTH) for c in channels)
        self.text = nn.ModuleList(nn.Linear(text_dim, WIDTH) for _ in channels)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, maps: Sequence[Tensor], mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        target = pad_to_stride((mask > 0).float()[:, None])  # as the picture whose maps these are
        told = text_mask.any(1).float()
        scale = self.log_scale.exp().clamp(max=100.0)
        pooled = masked_mean(text, text_mask)
        loss = scale.new_zeros(())
        for stage, image, words in zip(maps, self.image, self.text, strict=True):
            pixels = F.normalize(image(stage.movedim(1, -1)).float(), dim=-1)
            sentence = F.normalize(words(pooled).float(), dim=-1)
            logits = scale * (pixels * sentence[:, None, None]).sum(-1)
            share = F.interpolate(target, stage.shape[-2:], mode="area")[:, 0]
            each = F.binary_cross_entropy_with_logits(logits, share, reduction="none").mean((1, 2))
            loss = loss + (each * told).sum() / told.sum().clamp_min(1)
        return loss / len(maps)


class CrossVLT(PyramidSegmenter):
    def __init__(self, text_dim: int, heads: int, dropout: float, alignment: nn.Module | None, **parts: Any) -> None:
        super().__init__(**parts)
        self.project = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, WIDTH))
        self.exchange = nn.ModuleList(Exchange(c, heads, dropout) for c in parts["encoder"].channels)
        self.alignment = alignment

    def encode(
        self, image: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None, present: Tensor | None = None
    ) -> list[Tensor]:
        """The fused maps at strides 4, 8, 16, 32."""
        words, seen = self.words(text, text_mask, image.shape[0])
        words = self.project(words)
        pyramid: Any = self.encoder
        x = pyramid.stem(pyramid.normalise(pad_to_stride(self.absent(image, present))))
        fused = []
        for stage, norm, exchange in zip(pyramid.stages, pyramid.norms, self.exchange, strict=True):
            x, words = exchange(stage(x), words, seen)
            fused.append(norm(x))
        return fused

    def auxiliary(
        self, features: dict, mask: Tensor, text: Tensor | None, text_mask: Tensor | None, text_id: Tensor
    ) -> dict[str, Tensor]:
        """The alignment of each image's pixels with its own sentence."""
        if self.alignment is None or text is None or text_mask is None:
            return {}
        return {"alignment": self.alignment(features["stages"], mask, text, text_mask)}


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
    if encoder.startswith("timm:"):
        raise CallError(f"crossvlt fuses between an encoder's stages, which '{encoder}' does not show; choose another.")
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights)
    words = text_dim or 64
    return CrossVLT(
        words,
        heads,
        dropout,
        PixelTextAlignment(pyramid.channels, words) if text_dim else None,
        encoder=pyramid,
        decoder=UNetDecoder(pyramid.channels, tuple(decoder or pyramid.channels), classes, dropout),
        channels=channels,
        no_text=NoText(words),
        uses_text=text_dim is not None,
    )
