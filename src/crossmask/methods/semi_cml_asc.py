"""Semi-CML as published: two networks, one a modality, contrasted by area, then taught again by an average of the
second.

Source: Zhang et al., "Multi-modal contrastive mutual learning and pseudo-label re-learning for semi-supervised medical
image segmentation", Medical Image Analysis 83 (2023) 102656: abstract and public code.

stated (code): 10 CE + 7 Dice a branch on labelled cases, 3.5 area-similarity contrast on unlabelled ones, squared
difference of the two predictions under a ramp that has reached 0.06 when stage 1 ends (51 of 81 epochs); stage 2
without labelled term: 0.1 contrast + 0.9 (10 CE + 7 Dice) to a teacher, the second branch only from 80 % of the stage
on; teacher = average of the second network's weights, taken in when an epoch's validation score enters the best six,
keeping min(1 - relative gain, 0.99); soft label = mean of 4 passes with noise (sd 0.1, clamped to 0 ... 0.2).
deviates: all weights divided by ten (the optimiser is AdamW); the score is the pair's on the selection part, not the
second network's own, and what that part is stands in every output; with nothing set aside the teacher is the second
network of stage 1's last validation, and each later one enters with keeping 0.9. Any network takes the place of the
two U-Nets. The answer is the mean of the branches that are there (``answer``: or one of them). ``relearn_labelled``
keeps the labelled term in stage 2.

The teacher is the second network, so the modality that tells more belongs last in ``data.modalities``: on the glioma
sample 0.555 Dice with FLAIR last, 0.173 with T1 last (docs/results/semi-cml-brats-sample.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossmask.core import Batch, Labelled, Progress, Unlabelled
from crossmask.errors import CallError
from crossmask.losses import (
    Over,
    area_similarity,
    consistency,
    cross_entropy,
    dice_loss,
    probabilities,
    ramp,
    soft_terms,
)

STAGE_TWO = 51 / 81
SECOND_JOINS = 0.8  # of stage 2
POOL = 6


class AreaContrast(nn.Module):
    needs_unlabelled = True

    def __init__(
        self,
        networks: list[nn.Module],
        channels: tuple[int, ...],
        *,
        contrast: float,
        agreement: float,
        passes: int,
        relearn_labelled: bool,
        answer: str,
        over: Over,
    ) -> None:
        super().__init__()
        self.network = nn.ModuleList(networks)
        self.teacher = copy.deepcopy(networks[1]).requires_grad_(False)
        self.channels = channels
        self.contrast, self.agreement, self.passes = contrast, agreement, passes
        self.relearn_labelled, self.answer, self.over = relearn_labelled, answer, over
        self.pseudo: tuple[Tensor, Tensor] | None = None
        self.relearning = False
        self.pool: Tensor
        self.register_buffer("pool", torch.full((POOL,), -1.0))

    def train(self, mode: bool = True) -> AreaContrast:
        super().train(mode)
        self.teacher.eval()
        return self

    def logits(self, image: Tensor, given: Labelled | Unlabelled, networks: Any = None) -> list[Tensor]:
        """Each branch's (B, K, H, W) on its own modality's channels."""
        parts = image.split(self.channels, 1)
        return [
            network(part, given.text, given.text_mask, None)
            for network, part in zip(networks or self.network, parts, strict=True)
        ]

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        own, other = batch.labelled, batch.unlabelled
        stage_two = self.relearning = progress.fraction >= STAGE_TWO and other is not None
        terms: dict[str, Tensor] = {}
        if not stage_two or self.relearn_labelled:
            losses = []
            for m, logits in enumerate(self.logits(own.image, own)):
                weight = own.present[:, m].float().view(-1, 1, 1).expand(own.mask.shape)
                losses.append(cross_entropy(logits, own.mask, weight=weight))
                losses.append(0.7 * dice_loss(logits, own.mask, weight=weight, over=self.over))
            terms["labelled"] = torch.stack(losses).sum()
        if other is None:
            return terms
        both = other.present.all(1)
        of_both = self.logits(other.strong, other)
        one, two = (probabilities(x)[both] for x in of_both)
        if len(one):
            contrast = area_similarity(one, two)
            terms["contrast"] = (0.01 if stage_two else self.contrast) * contrast
        if stage_two:
            return terms | self.relearn(other, of_both, progress.fraction)
        if len(one):
            along = min(1.0, progress.fraction * 81 / 200)  # the code's ramp is 200 epochs long, its run 81
            terms["agreement"] = self.agreement * ramp(along, 1.0) * consistency(one, two)
        return terms

    def relearn(self, other: Unlabelled, logits: list[Tensor], fraction: float) -> dict[str, Tensor]:
        """Both branches learn the teacher's soft labels; the second from 80 % of the stage on."""
        with torch.no_grad():
            second = other.weak.split(self.channels, 1)[1]
            noisy = [
                second + (0.1 * torch.randn_like(second)).clamp(0, 0.2)  # upwards alone, as the code has it
                for _ in range(self.passes)
            ]
            target = torch.stack(
                [probabilities(self.teacher(x, other.text, other.text_mask, None)) for x in noisy]
            ).mean(0)
            there = other.present[:, 1].float().view(-1, 1, 1).expand(target.shape[0], *target.shape[-2:])
        self.pseudo = target.argmax(1), there
        joined = (fraction - STAGE_TWO) / (1 - STAGE_TWO) >= SECOND_JOINS
        both = there * other.present[:, 0].float().view(-1, 1, 1)
        terms = {"relearn": 0.9 * soft_terms(logits[0], target, both, dice=0.7)}
        if joined:
            terms["relearn_second"] = 0.9 * soft_terms(logits[1], target, there, dice=0.7)
        return terms

    def after_step(self) -> None:
        """The teacher follows validations, not steps."""

    @torch.no_grad()
    def after_validation(self, score: float | None) -> None:
        """Take the second network in, if its score is among the best six."""
        first = bool((self.pool < 0).all())
        if score is None:
            keep = 0.9 if self.relearning and not first else 0.0
            self.pool[0] = 0.0  # no score to keep, but a validation was seen
        else:
            worst = float(self.pool.min())
            if score <= worst:
                return
            gain = (score - worst) / max(worst, 1e-6) if worst >= 0 else 1.0
            keep = 0.0 if first else min(max(1 - gain, 0.0), 0.99)
            self.pool[int(self.pool.argmin())] = score
        for old, new in zip(self.teacher.state_dict().values(), self.network[1].state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, 1 - keep)
            else:
                old.copy_(new)

    def predict(
        self,
        image: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        present: Tensor | None = None,
        branch: int | None = None,
    ) -> Tensor:
        """Logits (B, K, H, W) of the branches' mean probability, or of one branch."""
        parts = image.split(self.channels, 1)
        found = [n(part, text, text_mask, None) for n, part in zip(self.network, parts, strict=True)]
        if branch is None and self.answer != "mean":
            branch = 0 if self.answer == "first" else 1
        if branch is not None:
            return found[branch]
        shares = torch.stack([probabilities(x) for x in found])
        if present is None:
            mean = shares.mean(0)
        else:
            weight = present.T.to(shares.dtype)[:, :, None, None, None]
            mean = (shares * weight).sum(0) / weight.sum(0).clamp_min(1e-6)
        mean = mean.clamp(1e-6, 1 - 1e-6)
        return torch.logit(mean[:, 1:]) if found[0].shape[1] == 1 else mean.log()


def build(
    make: Callable[..., nn.Module],
    *,
    teacher: nn.Module | None = None,
    contrast: float = 0.35,
    agreement: float = 0.1,
    passes: int = 4,
    relearn_labelled: bool = False,
    answer: Literal["mean", "first", "second"] = "mean",
    over: Over = "case",
) -> AreaContrast:
    """contrast, agreement: weights of the area contrast and the squared difference. passes: noisy repeats of a soft
    label. relearn_labelled: keep the labelled term in stage 2. answer: who predicts (the source reports both networks;
    no table asks for one of them alone). over: what a labelled Dice counts over. teacher: not used."""
    channels = tuple(make.channels)  # type: ignore[attr-defined]
    if len(channels) != 2:
        raise CallError(f"method 'semi-cml-asc' learns from two modalities, data.modalities names {len(channels)}.")
    return AreaContrast(
        [make(channels=(count,)) for count in channels],
        channels,
        contrast=contrast,
        agreement=agreement,
        passes=passes,
        relearn_labelled=relearn_labelled,
        answer=answer,
        over=over,
    )
