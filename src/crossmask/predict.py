"""Prediction: from pictures and sentences to masks on the source's own grid."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from crossmask.recipe import Recipe


def probabilities(logits: Tensor) -> Tensor:
    """(B, 1, H, W) -> foreground (B, H, W); (B, K, H, W) -> (B, K, H, W), background first. float32."""
    logits = logits.float()
    return logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def inference(recipe: Recipe, device: Any) -> contextlib.AbstractContextManager[Any]:
    """The precision that the run was trained in."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=recipe.train.precision == "bf16")
