"""Supervised training: Dice + cross entropy on labelled cases, plus the network's own losses.

HCFNet's source names the three terms without weights (1 / 1; MCCL 0.1 is reconstructed); CMG-Net's says 0.5 / 0.5.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crossmask.core import Batch, Labelled, Progress
from crossmask.losses import Over, cross_entropy, dice_loss


@contextmanager
def dropout_switched(module: nn.Module, active: bool) -> Iterator[None]:
    """Dropout on or off for a while, everything else as it is."""
    layers = [m for m in module.modules() if isinstance(m, nn.Dropout | nn.Dropout2d | nn.MultiheadAttention)]
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.train(active)
    try:
        yield
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.train(mode)


class Supervised(nn.Module):
    """``forward(batch, progress)`` -> named weighted terms. With ``ema`` > 0 an averaged copy of the whole state
    (weights and normalisation statistics) predicts; it gets no gradient. The methods that also learn from unlabelled
    cases build on this one: their teacher is that copy."""

    needs_unlabelled = False
    pseudo: tuple[Tensor, Tensor] | None = None  # the last pseudo-labels (B, H, W) and their weight, for the log

    def __init__(self, network: nn.Module, *, dice: float, ce: float, auxiliary: float, over: str, ema: float) -> None:
        super().__init__()
        self.network = network
        self.weights = (dice, ce, auxiliary)
        self.over, self.ema = over, ema
        self.averaged = copy.deepcopy(network).requires_grad_(False) if ema else None
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> Supervised:
        """The averaged copy always answers as it would in prediction."""
        super().train(mode)
        if self.averaged is not None:
            self.averaged.eval()
        return self

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return self.labelled_terms(batch.labelled)

    def labelled_terms(self, own: Labelled) -> dict[str, Tensor]:
        if not self.wants_own_losses:
            return self.terms_of(self.network(own.image, own.text, own.text_mask, own.present), {}, own)
        logits, features = self.network(own.image, own.text, own.text_mask, own.present, features=True)
        return self.terms_of(logits, features, own)

    @property
    def wants_own_losses(self) -> bool:
        return self.weights[2] > 0 and hasattr(self.network, "auxiliary")

    def terms_of(self, logits: Tensor, features: dict[str, Any], own: Labelled) -> dict[str, Tensor]:
        """The labelled loss of an answer that is there."""
        dice, ce, auxiliary = self.weights
        terms = {
            "dice": dice * dice_loss(logits, own.mask, over=self.over),  # type: ignore[arg-type]
            "ce": ce * cross_entropy(logits, own.mask),
        }
        if self.wants_own_losses:
            extra = self.network.auxiliary(features, own.mask, own.text, own.text_mask, own.text_id)  # type: ignore[operator]
            terms |= {name: auxiliary * value for name, value in extra.items()}
        return terms

    @torch.no_grad()
    def after_step(self) -> None:
        if self.averaged is None:
            return
        self.updates += 1
        keep = min(self.ema, 1 - 1 / (float(self.updates) + 1))  # warm start: the average of all so far
        for old, new in zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, 1 - keep)
            else:
                old.copy_(new)

    def after_validation(self, score: float | None) -> None:
        """Nothing to adapt. score: of the selection part; None where nothing is set aside."""

    @property
    def answering(self) -> nn.Module:
        return self.network if self.averaged is None else self.averaged

    def predict(
        self,
        image: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        present: Tensor | None = None,
        branch: int | None = None,
    ) -> Tensor:
        """Logits (B, K, H, W) of the network that answers, or of one of its branches."""
        if branch is None:
            return self.answering(image, text, text_mask, present)
        return self.answering(image, text, text_mask, present, features=True)[1]["branches"][branch]


def build(
    make: Callable[..., nn.Module],
    *,
    teacher: nn.Module | None = None,
    dice: float = 1.0,
    ce: float = 1.0,
    auxiliary: float = 0.1,
    over: Over = "case",
    ema: float = 0.0,
) -> Supervised:
    """dice, ce, auxiliary: weights of the terms. over: what a Dice counts over. ema: decay of the averaged copy
    (0: none). teacher: not used by this method."""
    return Supervised(make(), dice=dice, ce=ce, auxiliary=auxiliary, over=over, ema=ema)
