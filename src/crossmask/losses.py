"""Losses as pure functions of logits. Binary (K = 1, sigmoid) and multi-class (softmax) alike.

``ignore`` is a label value that counts nowhere; ``weight`` (B, H, W) scales each pixel.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Over = Literal["case", "batch", "both"]  # what a Dice loss counts over


def pixel_weight(mask: Tensor, weight: Tensor | None, ignore: int | None) -> Tensor:
    """(B, H, W) float: the given weight, zero where the label is to be ignored."""
    result = torch.ones_like(mask, dtype=torch.float32) if weight is None else weight.float()
    return result if ignore is None else result * (mask != ignore)


def probabilities(logits: Tensor) -> Tensor:
    """(B, K, H, W) -> foreground and background probabilities (B, max(K, 2), H, W), background first.

    >>> probabilities(torch.zeros(1, 1, 1, 1)).flatten().tolist()
    [0.5, 0.5]
    """
    logits = logits.float()
    if logits.shape[1] == 1:
        foreground = logits.sigmoid()
        return torch.cat([1 - foreground, foreground], 1)
    return logits.softmax(1)


def cross_entropy(logits: Tensor, mask: Tensor, *, weight: Tensor | None = None, ignore: int | None = None) -> Tensor:
    """Mean over the counted pixels, weighted; 0 when none counts. Range [0, inf).

    logits: (B, K, H, W). mask: (B, H, W) long.
    """
    w = pixel_weight(mask, weight, ignore)
    target = mask if ignore is None else torch.where(mask == ignore, 0, mask)
    if logits.shape[1] == 1:
        pixel = F.binary_cross_entropy_with_logits(logits[:, 0].float(), target.float(), reduction="none")
    else:
        pixel = F.cross_entropy(logits.float(), target.long(), reduction="none")
    return (pixel * w).sum() / w.sum().clamp_min(1e-6)


def dice_loss(
    logits: Tensor,
    mask: Tensor,
    *,
    weight: Tensor | None = None,
    ignore: int | None = None,
    over: Over = "case",
    smooth: float = 1.0,
) -> Tensor:
    """1 - soft Dice, mean over the foreground classes and (``over='case'``) the cases. Range [0, 1].

    ``over='batch'`` sums the counts of the batch first, as pooled scores do; ``'both'`` is the mean of the two. A class
    that is neither in the mask nor predicted costs nothing, thanks to ``smooth`` (in pixels) above and below the line.

    logits: (B, K, H, W). mask: (B, H, W) long.
    """
    w = pixel_weight(mask, weight, ignore)[:, None]
    p = probabilities(logits)[:, 1:]
    classes = torch.arange(1, p.shape[1] + 1, device=mask.device).view(1, -1, 1, 1)
    truth = (mask[:, None] == classes).float()
    both = (w * p * truth).sum((2, 3))
    total = (w * p).sum((2, 3)) + (w * truth).sum((2, 3))
    of_case = (1 - (2 * both + smooth) / (total + smooth)).mean()
    of_batch = (1 - (2 * both.sum(0) + smooth) / (total.sum(0) + smooth)).mean()
    return {"case": of_case, "batch": of_batch, "both": 0.5 * (of_case + of_batch)}[over]


def contrastive(
    similarity: Tensor,
    targets: Tensor,
    valid_rows: Tensor,
    valid_columns: Tensor,
    neither: Tensor | None = None,
) -> Tensor:
    """Symmetric cross entropy between scaled similarities and target distributions (InfoNCE's general form).

    similarity: (N, M) logits, rows images, columns texts. targets: (N, M) >= 0, need not be normalised.
    valid_rows (N,), valid_columns (M,): bool; the others take no part. neither (N, M) bool: pairs that are no positives
    and no negatives. Fewer than two valid pairs give 0.
    """
    pairs = valid_rows[:, None] & valid_columns[None, :]
    if neither is not None:
        pairs = pairs & ~neither
    lowest = torch.finfo(similarity.dtype).min
    scores = similarity.masked_fill(~pairs, lowest)
    aims = targets * pairs
    loss = similarity.new_zeros(())
    for axis, valid in ((1, valid_rows), (0, valid_columns)):
        aim = aims / aims.sum(axis, keepdim=True).clamp_min(1e-12)
        log_share = scores.log_softmax(axis).masked_fill(~pairs, 0.0)
        loss = loss - (aim * log_share).sum() / valid.sum().clamp_min(1)
    enough = (valid_columns.sum() > 1).to(loss.dtype)
    return 0.5 * loss * enough


# --- without masks ---------------------------------------------------------------------------------------------------


def ramp(fraction: float, length: float) -> float:
    """The usual sigmoid ramp exp(-5 (1 - t)^2), t = fraction / length up to 1 (Laine and Aila 2017).

    >>> round(ramp(0.0, 0.5), 4), ramp(0.5, 0.5), ramp(1.0, 0.0)
    (0.0067, 1.0, 1.0)
    """
    along = 1.0 if length <= 0 else min(1.0, fraction / length)
    return math.exp(-5 * (1 - along) ** 2)


def consistency(guess: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared difference of two probability maps (B, K, H, W); weight (B, H, W). Range [0, 1]."""
    squared = (guess - target).square().mean(1)
    if weight is None:
        return squared.mean()
    return (squared * weight).sum() / weight.sum().clamp_min(1e-6)


def mutual_dice(one: Tensor, other: Tensor, counted: Tensor | None = None) -> Tensor:
    """1 - 2 |A n B| / (|A| + |B|) between two probability maps (B, K, H, W), background first and left out; each class
    summed over the counted cases (B,) bool, so that those without it cost nothing. Both empty gives 0. Range [0, 1].

    >>> a = torch.zeros(1, 2, 2, 2); mutual_dice(a, a).item()
    0.0
    """
    a, b = one[:, 1:].flatten(2), other[:, 1:].flatten(2)
    weight = torch.ones_like(a[:, :1, 0]) if counted is None else counted.to(a.dtype)[:, None]
    both, total = (weight * (a * b).sum(2)).sum(0), (weight * (a.sum(2) + b.sum(2))).sum(0)
    return torch.where(total > 1e-6, 1 - 2 * both / total.clamp_min(1e-6), torch.zeros_like(total)).mean()


def soft_terms(logits: Tensor, target: Tensor, weight: Tensor, *, dice: float = 1.0) -> Tensor:
    """Dice + cross entropy to a target distribution (B, max(K, 2), H, W), background first, pixels weighted (B, H, W).

    Equals dice_loss(over='batch') + cross_entropy where the target is a label's one-hot form. dice: weight of it.
    """
    p = probabilities(logits)
    if logits.shape[1] == 1:
        pixel = F.binary_cross_entropy_with_logits(logits[:, 0].float(), target[:, 1], reduction="none")
    else:
        pixel = -(target * logits.float().log_softmax(1)).sum(1)
    w = weight[:, None]
    both = (w * p * target)[:, 1:].sum((0, 2, 3))
    total = (w * p)[:, 1:].sum((0, 2, 3)) + (w * target)[:, 1:].sum((0, 2, 3))
    area = (1 - (2 * both + 1) / (total + 1)).mean()
    return dice * area + (pixel * weight).sum() / weight.sum().clamp_min(1e-6)


def area_similarity(one: Tensor, other: Tensor) -> Tensor:
    """Area-similarity contrast (Zhang et al., Medical Image Analysis 2023): InfoNCE over the pairwise soft Dice of
    the 2B
    probability maps of a batch; the positive is the same case in the other modality. one, other: (B, K, H, W),
    background first; several classes: the mean of their similarities. Range [0, inf).
    """
    maps = torch.cat([one, other])[:, 1:].flatten(2).transpose(0, 1)  # (K - 1, 2B, pixels)
    both = maps @ maps.transpose(1, 2)
    area = maps.square().sum(2)
    similarity = ((2 * both + 1e-6) / (area[:, :, None] + area[:, None, :] + 1e-6)).mean(0)
    count = similarity.shape[0]
    itself = torch.eye(count, dtype=torch.bool, device=similarity.device)
    partner = torch.arange(count, device=similarity.device).roll(count // 2)
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)
