"""Cross-consistency training: auxiliary decoders, fed disturbed features, follow the main decoder.

Source: Ouali, Hudelot and Tami, "Semi-Supervised Semantic Segmentation with Cross-Consistency Training", CVPR 2020.
stated: unlabelled cases alone; feature noise U(-0.3, 0.3) times the feature, feature dropout, dropping the most
active places (those above a random 0.7 to 0.9 of the largest mean activation); mean squared error to the main
decoder's answer, which gets no gradient. reconstructed: that answer is given without dropout (the source has none
there); one auxiliary decoder a disturbance (the source has up to 30 of seven kinds), a copy of the network's own
decoder, words included.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmask.core import Batch, Progress
from crossmask.errors import CallError
from crossmask.losses import Over, consistency, probabilities, ramp
from crossmask.methods.supervised import Supervised, dropout_switched


def noise(x: Tensor) -> Tensor:
    return x * (1 + torch.empty_like(x).uniform_(-0.3, 0.3))


def dropout(x: Tensor) -> Tensor:
    return F.dropout2d(x, 0.5)


def drop_most_active(x: Tensor) -> Tensor:
    """Places whose mean activation is near the largest become zero."""
    mean = x.mean(1, keepdim=True)
    limit = mean.amax((2, 3), keepdim=True) * torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(0.7, 0.9)
    return x * (mean < limit)


DISTURBANCES = (noise, dropout, drop_most_active)


class CrossConsistency(Supervised):
    needs_unlabelled = True

    def __init__(self, network: nn.Module, *, consistency: float, warmup: float, **supervised: float | str) -> None:
        super().__init__(network, **supervised)  # type: ignore[arg-type]
        if not all(hasattr(network, part) for part in ("encode", "decode", "decoder")):
            raise CallError(
                f"method 'cct' needs a network whose decoder stands apart (encode, decode, decoder); "
                f"{type(network).__name__} has none. Use another method, such as mean-teacher."
            )
        decoder: Any = network.decoder
        self.others = nn.ModuleList(copy.deepcopy(decoder) for _ in DISTURBANCES)
        self.consistency, self.warmup = consistency, warmup

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms = self.labelled_terms(batch.labelled)
        other = batch.unlabelled
        if other is None:
            return terms
        network: Any = self.network
        maps = network.encode(other.weak, other.text, other.text_mask, other.present)
        with torch.no_grad(), dropout_switched(network.decoder, False):
            target = probabilities(network.decode(maps, other.text, other.text_mask))
        found = []
        for disturb, decoder in zip(DISTURBANCES, self.others, strict=True):
            logits = network.decode([disturb(x) for x in maps], other.text, other.text_mask, decoder=decoder)
            found.append(consistency(probabilities(logits), target))
        weight = self.consistency * ramp(progress.fraction, self.warmup)
        return terms | {"consistency": weight * torch.stack(found).mean()}


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
) -> CrossConsistency:
    """consistency: weight of the squared difference. warmup: share of the run until it counts whole. ema: of the copy
    that answers in the end. teacher: not used. The rest as in 'supervised'."""
    options = {"dice": dice, "ce": ce, "auxiliary": auxiliary, "over": over, "ema": ema}
    return CrossConsistency(make(), consistency=consistency, warmup=warmup, **options)
