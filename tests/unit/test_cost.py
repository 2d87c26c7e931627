"""Costs: operations against a count by hand, what the backward pass keeps, and a run's own file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from crossmask import cost
from crossmask.run import Run


def test_what_the_backward_pass_keeps() -> None:
    layer = nn.Linear(10, 20, bias=False)
    assert cost.kept_bytes(layer, torch.randn(4, 10)) == 4 * 10 * 4  # the input; the weight is not counted
    both = nn.Sequential(layer, nn.Sigmoid())
    assert cost.kept_bytes(both, torch.randn(4, 10)) == 4 * (10 + 20) * 4


def test_two_slices_of_one_tensor_keep_it_once() -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one, two = x.exp().split(5, 1)
            return one * two

    assert cost.kept_bytes(Halves(), torch.randn(4, 10, requires_grad=True)) == 4 * 10 * 4


def test_torchs_transformer_layers_are_counted() -> None:
    tokens, width, hidden = 6, 8, 16
    layer = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True).eval()
    with torch.inference_mode(), cost.counted() as counter:
        layer(torch.randn(1, tokens, width))
    products = 4 * tokens * width * width + 2 * tokens * tokens * width + 2 * tokens * width * hidden
    assert counter.get_total_flops() == 2 * products
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_runs_costs(trained: Path) -> None:
    run = Run(trained)
    found = cost.of_run(run, "cpu")
    assert found["trainable"] > 0
    assert found["frozen"] == 0  # the tiny text encoder has no weights
    assert found["gflops"] > 0
    assert found["ms"] > 0
    assert found["step_mib"] > 16 * found["trainable"] / cost.MIB
    assert cost.of_run(run, "cpu") == found
    again = cost.measure(run, repeats=1)
    assert again["gflops"] == found["gflops"]
    assert again["step_mib"] == pytest.approx(found["step_mib"], rel=1e-3)
