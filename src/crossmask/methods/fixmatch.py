"""FixMatch: confident answers to the weak view are the labels of the strong one.

Source: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020,
pixel by pixel as in UniMatch (Yang et al., CVPR 2023). stated: threshold 0.95 on the largest class probability, weight
1, no teacher: the student labels itself. reconstructed: Dice beside the cross entropy, as the labelled term has it;
pseudo-labels come from the network as it answers (without dropout, with its running statistics).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask.core import Batch, Progress, Unlabelled
from crossmask.losses import Over, probabilities, soft_terms
from crossmask.methods.supervised import Supervised


class FixMatch(Supervised):
    needs_unlabelled = True

    def __init__(self, network: nn.Module, *, unlabelled: float, threshold: float, **supervised: float | str) -> None:
        super().__init__(network, **supervised)  # type: ignore[arg-type]
        self.unlabelled, self.threshold = unlabelled, threshold

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms = self.labelled_terms(batch.labelled)
        other = batch.unlabelled
        if other is None:
            return terms
        share = self.weak_answer(other)
        confidence, labels = share.max(1)
        kept = (confidence >= self.threshold).float()
        self.pseudo = labels, kept
        target = F.one_hot(labels, share.shape[1]).permute(0, 3, 1, 2).float()
        logits = self.network(other.strong, other.text, other.text_mask, other.present)
        # Its share scales the term, as the source's mean over all pixels does.
        return terms | {"pseudo": self.unlabelled * kept.mean() * soft_terms(logits, target, kept)}

    @torch.no_grad()
    def weak_answer(self, other: Unlabelled) -> Tensor:
        self.network.eval()
        share = probabilities(self.network(other.weak, other.text, other.text_mask, other.present))
        self.network.train()
        return share


def build(
    make: Callable[..., nn.Module],
    *,
    teacher: nn.Module | None = None,
    unlabelled: float = 1.0,
    threshold: float = 0.95,
    dice: float = 1.0,
    ce: float = 1.0,
    auxiliary: float = 0.1,
    over: Over = "case",
    ema: float = 0.99,
) -> FixMatch:
    """unlabelled: weight of the pseudo-label term. threshold: least probability of a pseudo-label. ema: of the copy
    that
    answers in the end (it labels nothing). teacher: not used. The rest as in 'supervised'."""
    options = {"dice": dice, "ce": ce, "auxiliary": auxiliary, "over": over, "ema": ema}
    return FixMatch(make(), unlabelled=unlabelled, threshold=threshold, **options)
