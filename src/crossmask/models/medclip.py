"""MedCLIP-style: image and sentence drawn into one space by soft targets; a U-Net decoder sees where they agree.

Source: Wang et al., "MedCLIP: Contrastive Learning from Unpaired Medical Images and Text", EMNLP 2022. MedCLIP is no
segmenter and the tables that list it as one describe no head; this is what such a row can mean. Shapes: E_i (B, C_i,
H/s, W/s), s = 4, 8, 16, 32; text (B, L, D); logits (B, K, H, W).

stated: an image encoder and a text encoder projected into one space; a semantic matching loss, whose targets are soft:
as alike as the meanings are, so that equal findings of other patients are no negatives.
reconstructed: the likeness of meanings is that of the frozen sentence states (the source counts clinical entities).
deviates: trained with the segmentation, not before it; paired data only; the cosine between the sentence and each place
of the deepest map stands beside every map, and U-Net's decoder does the rest. The tables call it MedCLIP-style.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import Alignment, NoText, PyramidSegmenter, UNetDecoder, masked_mean, with_channel


class Decoder(nn.Module):
    """U-Net's decoder with the map of agreement beside each of the pyramid's."""

    def __init__(
        self, encoder_channels: Sequence[int], widths: Sequence[int], classes: int, text_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.image = nn.Linear(encoder_channels[-1], widths[-1])
        self.sentence = nn.Linear(text_dim, widths[-1])
        self.scale = nn.Parameter(torch.tensor(10.0))  # of the cosines, as in CLIP
        self.body = UNetDecoder([c + 1 for c in encoder_channels], widths, classes, dropout)

    def forward(self, maps: list[Tensor], text: Tensor, text_mask: Tensor) -> Tensor:
        places = F.normalize(self.image(maps[-1].movedim(1, -1)), dim=-1)
        sentence = F.normalize(self.sentence(masked_mean(text, text_mask)), dim=-1)
        agreement = self.scale * (places * sentence[:, None, None]).sum(-1)[:, None]
        return self.body(with_channel(maps, agreement))


class MedCLIPStyle(PyramidSegmenter):
    def __init__(self, alignment: Alignment | None, **parts: Any) -> None:
        super().__init__(**parts)
        self.alignment = alignment

    def auxiliary(
        self, features: dict, mask: Tensor, text: Tensor | None, text_mask: Tensor | None, text_id: Tensor
    ) -> dict[str, Tensor]:
        """Semantic matching of a batch's images and sentences. Pairs without a sentence are left out."""
        if self.alignment is None or text is None or text_mask is None:
            return {}
        return {"matching": self.alignment(features["stages"][-1:], text, text_mask, text_id)}


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
    """channels: one entry a modality. classes: K of the logits. width: of a ResNet's first stage, from scratch.
    decoder: widths at strides 4, 8, 16, 32 (None: the encoder's own)."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights, width=width)
    words = text_dim or 64
    return MedCLIPStyle(
        Alignment(pyramid.channels[-1:], words, "soft") if text_dim else None,
        encoder=pyramid,
        decoder=Decoder(pyramid.channels, tuple(decoder or pyramid.channels), classes, words, dropout),
        channels=channels,
        no_text=NoText(words),
        uses_text=text_dim is not None,
    )
