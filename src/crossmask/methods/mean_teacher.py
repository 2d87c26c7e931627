"""Mean Teacher: the student's answer to a strong view follows its averaged copy's answer to the weak one.

Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017; for segmentation as in the SSL4MIS
collection. stated: mean squared error of the probabilities, exponential average of the weights, sigmoid ramp.
deviates: the average is over the whole state, normalisation statistics too; two views in place of two noises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from crossmask.core import Batch, Progress
from crossmask.errors import CallError
from crossmask.losses import Over, consistency, probabilities, ramp
from crossmask.methods.supervised import Supervised


class MeanTeacher(Supervised):
    """``averaged`` is the teacher, and answers."""

    needs_unlabelled = True

    def __init__(self, network: nn.Module, *, consistency: float, warmup: float, **supervised: float | str) -> None:
        super().__init__(network, **supervised)  # type: ignore[arg-type]
        if self.averaged is None:
            raise CallError("method 'mean-teacher' needs its averaged teacher; give method.ema a value such as 0.99.")
        self.consistency, self.warmup = consistency, warmup

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms = self.labelled_terms(batch.labelled)
        other = batch.unlabelled
        if other is None:
            return terms
        teacher: Any = self.averaged
        with torch.no_grad():
            target = probabilities(teacher(other.weak, other.text, other.text_mask, other.present))
        guess = probabilities(self.network(other.strong, other.text, other.text_mask, other.present))
        weight = self.consistency * ramp(progress.fraction, self.warmup)
        return terms | {"consistency": weight * consistency(guess, target)}


def build(
    make: Callable[..., nn.Module],
    *,
    teacher: nn.Module | None = None,
    consistency: float = 1.0,
    warmup: float = 0.33,
    dice: float = 1.0,
    ce: float = 1.0,
    auxiliary: float = 0.1,
    over: Over = "case",
    ema: float = 0.99,
) -> MeanTeacher:
    """consistency: weight of the squared difference. warmup: share of the run until it counts whole. teacher: not used.
    The rest as in 'supervised'."""
    options = {"dice": dice, "ce": ce, "auxiliary": auxiliary, "over": over, "ema": ema}
    return MeanTeacher(make(), consistency=consistency, warmup=warmup, **options)
