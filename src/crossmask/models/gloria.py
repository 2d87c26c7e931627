"""GLoRIA-style: image and report aligned as wholes and word by region; a U-Net decoder sees where they agree.

Source: Huang et al., "GLoRIA: A Multimodal Global-Local Representation Learning Framework for Label-efficient Medical
Image Recognition", ICCV 2021. GLoRIA pretrains encoders; the tables that list it as a segmenter put a decoder on them.
Shapes: E_i (B, C_i, H/s, W/s), s = 4, 8, 16, 32; text (B, L, D); logits (B, K, H, W).

stated: a global contrast of pooled image and pooled report (cosine times 10), both ways; a local one: each word
attends to the image's regions (temperature 4), the likeness of word and attended region is summed over the words
(log-sum-exp, temperature 5), and contrasted over the batch (temperature 10).
deviates: trained with the segmentation, not before it; the global contrast's scale is learned; regions are those of
the last map but one (stride 16); the text encoder is frozen, its states projected; padding and, in the contrast, other
images of an equal sentence are left out; each region's likeness with its nearest word stands beside every map, and
U-Net's decoder does the rest. The tables call it GLoRIA-style.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import Alignment, NoText, PyramidSegmenter, UNetDecoder, gathered, with_channel
from crossmask.losses import contrastive

WIDTH = 256
ATTEND, SUM, CONTRAST = 4.0, 5.0, 10.0  # the source's temperatures


class Regions(nn.Module):
    """Regions and words in one space, each of length 1: (B, C, h, w) and (B, L, D) -> (B, N, 256), (B, L, 256)."""

    def __init__(self, channels: int, text_dim: int) -> None:
        super().__init__()
        self.image = nn.Linear(channels, WIDTH)
        self.words = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, WIDTH))

    def forward(self, stage: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        regions = F.normalize(self.image(stage.flatten(2).transpose(1, 2)).float(), dim=-1)
        return regions, F.normalize(self.words(text).float(), dim=-1)


class Decoder(nn.Module):
    """U-Net's decoder with the map of agreement beside each of the pyramid's."""

    def __init__(
        self, encoder_channels: Sequence[int], widths: Sequence[int], classes: int, text_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.regions = Regions(encoder_channels[2], text_dim)
        self.scale = nn.Parameter(torch.tensor(ATTEND))
        self.body = UNetDecoder([c + 1 for c in encoder_channels], widths, classes, dropout)

    def forward(self, maps: list[Tensor], text: Tensor, text_mask: Tensor) -> Tensor:
        regions, words = self.regions(maps[2], text)
        alike = (regions @ words.transpose(1, 2)).masked_fill(~text_mask[:, None], -1.0)
        nearest = self.scale * alike.amax(2).unflatten(1, maps[2].shape[-2:])[:, None]
        return self.body(with_channel(maps, nearest))


def word_region_likeness(regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    """(A images, T texts): how well each text's words find themselves in each image. regions (A, N, 256), words (T, L,
    256), mask (T, L)."""
    found = []
    for own, seen in zip(words, mask, strict=True):  # one text at a time: (A, L, N) is held, not (A, T, L, N)
        alike = torch.einsum("ld,and->aln", own, regions)
        attended = (ATTEND * alike).softmax(2) @ regions  # (A, L, 256)
        match = F.cosine_similarity(attended, own[None], dim=-1)
        found.append((SUM * match).masked_fill(~seen[None], torch.finfo(match.dtype).min).logsumexp(1) / SUM)
    return torch.stack(found, 1)


def longest(length: int, device: torch.device) -> int:
    """The greatest of all processes' lengths."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return length
    most = torch.tensor(length, device=device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)


class GLoRIAStyle(PyramidSegmenter):
    def __init__(self, alignment: Alignment | None, **parts: Any) -> None:
        super().__init__(**parts)
        self.alignment = alignment

    def auxiliary(
        self, features: dict, mask: Tensor, text: Tensor | None, text_mask: Tensor | None, text_id: Tensor
    ) -> dict[str, Tensor]:
        """Global and local contrast of a batch. Pairs without a sentence are left out."""
        if self.alignment is None or text is None or text_mask is None:
            return {}
        decoder: Any = self.decoder
        regions, words = decoder.regions(features["stages"][2], text)
        told = text_mask | (
            torch.arange(text_mask.shape[1], device=text.device) == 0
        )  # a row of its own, left out below
        more = longest(told.shape[1], told.device) - told.shape[1]  # each process cuts to its own longest sentence
        words, told = F.pad(words, (0, 0, 0, more)), F.pad(told, (0, more))
        likeness = word_region_likeness(gathered(regions), gathered(words), gathered(told))
        same, valid = gathered(text_id), gathered(text_mask.any(1))
        own = torch.eye(len(same), device=text.device)
        neither = (same[:, None] == same[None]) & (own == 0)
        return {
            "global": self.alignment(features["stages"][-1:], text, text_mask, text_id),
            "local": contrastive(CONTRAST * likeness, own, valid, valid, neither),
        }


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
    """channels: one entry a modality. classes: K of the logits. decoder: widths at strides 4, 8, 16, 32 (None: the
    encoder's own)."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights)
    words = text_dim or 64
    return GLoRIAStyle(
        Alignment(pyramid.channels[-1:], words, "same-text") if text_dim else None,
        encoder=pyramid,
        decoder=Decoder(pyramid.channels, tuple(decoder or pyramid.channels), classes, words, dropout),
        channels=channels,
        no_text=NoText(words),
        uses_text=text_dim is not None,
    )
