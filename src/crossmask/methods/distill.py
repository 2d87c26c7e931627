"""Distillation: a network that sees one modality learns from a trained one that sees all.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015; the seed of Semi-CML (section
5.2) names it as the remedy for two branches' memory. stated: softened probabilities at a temperature T, beside the
labels; the term times T^2, so that its gradients do not shrink with T.
reconstructed: cross entropy to the teacher's softened answer on labelled and unlabelled cases alike, pixel by pixel;
the teacher sees the weak view, the student the strong one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from crossmask.core import Batch, Labelled, Progress, Unlabelled
from crossmask.errors import CallError
from crossmask.losses import Over, probabilities, soft_terms
from crossmask.methods.supervised import Supervised


class Distill(Supervised):
    """The student takes the channels of one modality; the others may be absent when it predicts."""

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module | None,
        own: slice,
        *,
        distill: float,
        temperature: float,
        **supervised: float | str,
    ) -> None:
        super().__init__(network, **supervised)  # type: ignore[arg-type]
        self.of_teacher = [teacher] if teacher is not None else []  # in a list: it is no part of this run's weights
        self.own, self.distill, self.temperature = own, distill, temperature

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        if not self.of_teacher:
            raise CallError("method 'distill' needs a trained run to learn from; give its folder as train.teacher=RUN.")
        own, other = batch.labelled, batch.unlabelled
        alone = torch.ones_like(own.present[:, :1])
        terms = self.labelled_terms(replace(own, image=own.image[:, self.own], present=alone))
        losses = [self.follow(own, own.image, own.image)]
        if other is not None:
            losses.append(self.follow(other, other.weak, other.strong))
        return terms | {"distill": self.distill * torch.stack(losses).mean()}

    def follow(self, given: Labelled | Unlabelled, seen: Tensor, learnt: Tensor) -> Tensor:
        teacher = self.of_teacher[0].to(seen.device).eval()
        answer = getattr(teacher, "predict", teacher)
        with torch.no_grad():
            target = probabilities(answer(seen, given.text, given.text_mask, given.present) / self.temperature)
        logits = self.network(learnt[:, self.own], given.text, given.text_mask, None)
        soft = soft_terms(logits / self.temperature, target, torch.ones_like(target[:, 0]), dice=0.0)
        return self.temperature**2 * soft

    def predict(
        self,
        image: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        present: Tensor | None = None,
        branch: int | None = None,
    ) -> Tensor:
        return super().predict(image[:, self.own], text, text_mask, None, branch)


def build(
    make: Callable[..., nn.Module],
    *,
    teacher: nn.Module | None = None,
    modality: int = 0,
    distill: float = 1.0,
    temperature: float = 2.0,
    dice: float = 1.0,
    ce: float = 1.0,
    auxiliary: float = 0.1,
    over: Over = "case",
    ema: float = 0.99,
) -> Distill:
    """teacher: the trained run (train.teacher). modality: which of data.modalities the student sees, from 0 (a switch,
    since which scan a hospital lacks is its own matter). distill: weight of the teacher's answer. temperature: how
    soft it is. The rest as in 'supervised'."""
    channels = tuple(make.channels)  # type: ignore[attr-defined]
    if not 0 <= modality < len(channels):
        raise CallError(f"method.modality={modality}: data.modalities names {len(channels)}, counted from 0.")
    first = sum(channels[:modality])
    options = {"dice": dice, "ce": ce, "auxiliary": auxiliary, "over": over, "ema": ema}
    student = make(channels=(channels[modality],))
    return Distill(
        student, teacher, slice(first, first + channels[modality]), distill=distill, temperature=temperature, **options
    )
