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
