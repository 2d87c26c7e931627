"""TMCA: words aligned with the target on every level of the pyramid, then used to bring the target forward.

Source: Li et al., "Language-guided Medical Image Segmentation with Target-informed Multi-level Contrastive Alignments",
arXiv:2412.13533 (no code was published). Shapes: E_i (B, C_i, H/s, W/s), s = 4, 8, 16, 32; text (B, L, D); logits
(B, K, H, W).

stated: a target-sensitive semantic distance for image-text alignment; alignment on several levels, down to low ones; a
language-guided enhancement in which the aligned text moves attention to critical places. All else is reconstructed:
- a level's pixels and words are projected to 256; the target's embedding g is the mask-weighted mean of the pixels
  (mask resized by area), the context's c the mean of the rest; the words are pooled by a learned query of the level: t.
- distance of image a and text b: 1 - cos(g_a, t_b) + max(0, 0.2 - cos(g_a, t_b) + cos(c_a, t_b)): a text lies nearer to
  the target than to the same image's context. Loss: symmetric InfoNCE over -distance / tau (0.07, learned); for each
  text the contexts of all images are further negatives. Negatives count by how different the targets are
  (``weigh_by='mask'``: 1 - soft Dice of the masks at 32x32; ``'text'``: all alike). Other images of an equal sentence
  are left out, as in HCFNet.
- enhancement: at each decoder level F * (1 + s), s the sigmoid of the scaled cosine between each pixel and the aligned
  text (pooled as the loss aligns it); then cross-attention (blocks.NonLocalFusion).
- an empty mask weighs zero, but its sentence ('no finding') is pushed away from the picture's mean.
The mask enters the loss alone: ``forward`` has no such input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask import encoders
from crossmask.blocks import (
    GuidedDecoder,
    JoinSkip,
    NonLocalFusion,
    NoText,
    PyramidSegmenter,
    gathered,
    pad_to_stride,
)

WIDTH = 256
MARGIN = 0.2
SIDE = 32  # of the masks whose likeness weighs the negatives
EPSILON = 1e-6


class WordPooling(nn.Module):
    """The words of a level in one vector of length 1: text (B, L, D), mask (B, L) -> (B, 256)."""

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.key, self.value = nn.Linear(text_dim, WIDTH), nn.Linear(text_dim, WIDTH)
        self.query = nn.Parameter(torch.randn(WIDTH) / WIDTH**0.5)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        words = self.norm(text)
        score = (self.key(words) @ self.query) / WIDTH**0.5
        score = score.masked_fill(~mask, torch.finfo(score.dtype).min)  # a row without words: any mean, left out later
        return F.normalize((score.softmax(1)[:, :, None] * self.value(words)).sum(1), dim=-1)


class Enhancement(nn.Module):
    """x (B, C, h, w), aligned text (B, 256) -> x * (1 + s), s in (0, 1) where pixel and text are alike."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, WIDTH)
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, aligned: Tensor) -> Tensor:
        pixels = F.normalize(self.project(x.movedim(1, -1)), dim=-1)
        likeness = (pixels * aligned[:, None, None]).sum(-1)
        return x * (1 + (self.scale * likeness + self.shift).sigmoid()[:, None])


class GuidedLayer(nn.Module):
    """Enhancement, cross-attention, join: x (B, C, h, w), text (B, L, D), skip (B, S, 2h, 2w) -> (B, O, 2h, 2w)."""

    def __init__(
        self, channels: int, skip: int, outputs: int, text_dim: int, *, enhance: bool, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.pool = WordPooling(text_dim) if enhance else None
        self.enhance = Enhancement(channels) if enhance else None
        self.guide = NonLocalFusion(channels, text_dim, heads=heads, dropout=dropout)
        self.join = JoinSkip(channels, skip, outputs)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor, skip: Tensor) -> Tensor:
        if self.enhance is not None and self.pool is not None:
            x = self.enhance(x, self.pool(text, text_mask))
        return self.dropout(self.join(self.guide(x, text, text_mask), skip))


class TargetAlignment(nn.Module):
    """The loss of the aligned levels. ``pools``: of the levels for which the decoder has none."""

    def __init__(
        self, channels: Sequence[int], pools: Sequence[nn.Module], *, distance: bool, weigh_by: Literal["mask", "text"]
    ) -> None:
        super().__init__()
        self.distance, self.weigh_by = distance, weigh_by
        self.image = nn.ModuleList(nn.Linear(c, WIDTH) for c in channels)
        self.pools = nn.ModuleList(pools)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self,
        maps: Sequence[Tensor],
        pools: Sequence[nn.Module],
        mask: Tensor,
        text: Tensor,
        text_mask: Tensor,
        text_id: Tensor,
    ) -> Tensor:
        """maps, pools: of the aligned levels. mask (B, H, W) labels: all foreground is the target."""
        target = (mask > 0).float()[:, None]
        padded = pad_to_stride(target)  # as the picture whose maps these are
        told = text_mask.any(1)
        whole = gathered(told & (target.flatten(1).sum(1) > 0))
        silent = told & (target.flatten(1).sum(1) == 0)
        same = gathered(text_id)
        others = (same[:, None] == same[None]) & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
        weight = self.negative_weight(gathered(F.adaptive_avg_pool2d(target, SIDE).flatten(1)))
        scale = self.log_scale.exp().clamp(max=100.0)
        loss = scale.new_zeros(())
        for stage, project, pool in zip(maps, self.image, pools, strict=True):
            goal, context = self.embeddings(stage, padded, project)
            words = pool(text, text_mask)
            near, far = (gathered(e) @ gathered(words).T for e in (goal, context))  # (N images, N texts)
            away = 1 - near + (F.relu(MARGIN - near + far) if self.distance else 0)
            loss = loss + info_nce(-scale * away, scale * (far - 1) if self.distance else None, weight, whole, others)
            empty = (context * words).sum(1).relu() * silent
            loss = loss + empty.sum() / silent.sum().clamp_min(1)
        return loss / len(maps)

    def embeddings(self, stage: Tensor, target: Tensor, project: nn.Module) -> tuple[Tensor, Tensor]:
        """Target's and context's (B, 256), length 1; without the distance module both are the picture's mean."""
        pixels = project(stage.movedim(1, -1)).float()
        inside = F.interpolate(target, stage.shape[-2:], mode="area")[:, 0, :, :, None]
        if not self.distance:
            inside = torch.full_like(inside, 0.5)
        means = [(pixels * w).sum((1, 2)) / w.sum((1, 2)).clamp_min(EPSILON) for w in (inside, 1 - inside)]
        return F.normalize(means[0], dim=-1), F.normalize(means[1], dim=-1)

    def negative_weight(self, masks: Tensor) -> Tensor:
        """(N, N) in [0, 1]: 1 - soft Dice of the masks (N, 32 * 32), or 1 throughout."""
        if self.weigh_by == "text":
            return torch.ones(len(masks), len(masks), device=masks.device)
        total = masks.sum(1)
        return 1 - 2 * (masks @ masks.T) / (total[:, None] + total[None]).clamp_min(EPSILON)


def info_nce(near: Tensor, far: Tensor | None, weight: Tensor, valid: Tensor, neither: Tensor) -> Tensor:
    """Symmetric InfoNCE, negatives weighted: near (N images, N texts) logits; far: of the contexts, further negatives
    of each text; neither: pairs that are no positives and no negatives. Fewer than two valid pairs give 0."""
    own = torch.eye(len(near), dtype=torch.bool, device=near.device)
    pairs = valid[:, None] & valid[None] & ~neither
    lowest = torch.finfo(near.dtype).min
    scores = near + torch.where(own, torch.ones_like(weight), weight.clamp_min(EPSILON)).log()
    scores = scores.masked_fill(~pairs, lowest)
    by_image = scores.log_softmax(1).diagonal()
    columns = scores if far is None else torch.cat([scores, far.masked_fill(~valid[:, None], lowest)])
    by_text = columns.log_softmax(0).diagonal()
    total = -0.5 * ((by_image + by_text).masked_fill(~valid, 0.0)).sum()
    return total / valid.sum().clamp_min(1) * (valid.sum() > 1)


class TMCA(PyramidSegmenter):
    def __init__(self, alignment: TargetAlignment | None, aligned: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.alignment, self.aligned = alignment, aligned

    def auxiliary(
        self, features: dict, mask: Tensor, text: Tensor | None, text_mask: Tensor | None, text_id: Tensor
    ) -> dict[str, Tensor]:
        """The alignment of a batch. Pairs without a sentence are left out."""
        if self.alignment is None or text is None or text_mask is None:
            return {}
        decoder: Any = self.decoder
        guiding = [layer.pool for layer in decoder.layers if layer.pool is not None]  # strides 32, 16, 8
        pools = [*guiding, *self.alignment.pools][::-1][-self.aligned :]
        maps = features["stages"][-self.aligned :]
        return {"alignment": self.alignment(maps, pools, mask, text, text_mask, text_id)}


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
    distance: bool = True,
    multilevel: bool = True,
    enhancement: bool = True,
    weigh_by: Literal["mask", "text"] = "mask",
) -> nn.Module:
    """channels: one entry a modality. classes: K of the logits. decoder: widths at strides 4, 8, 16, 32 (None: the
    encoder's own). distance, multilevel (else the top level alone), enhancement: the paper's ablations."""
    pyramid = encoders.build(encoder, channels=sum(channels), weights=weights)
    words = text_dim or 64
    layer = partial(GuidedLayer, text_dim=words, enhance=enhancement, heads=heads, dropout=dropout)
    body = GuidedDecoder(pyramid.channels, decoder or pyramid.channels, classes, layer)
    aligned = 4 if multilevel else 1
    alignment = None
    if text_dim:
        missing = max(0, aligned - 3) if enhancement else aligned  # the decoder pools at strides 32, 16, 8
        pools = [WordPooling(words) for _ in range(missing)]
        alignment = TargetAlignment(pyramid.channels[-aligned:], pools, distance=distance, weigh_by=weigh_by)
    return TMCA(
        alignment,
        aligned,
        encoder=pyramid,
        decoder=body,
        channels=channels,
        no_text=NoText(words),
        uses_text=text_dim is not None,
    )
