"""Every shipped recipe runs in its tiny form, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from crossmask import recipe
from crossmask.cli import app

SHIPPED = recipe.shipped()


def test_enough_recipes_are_found() -> None:
    assert {"hcfnet/qata", "hcfnet/qata_cpu", "hcfnet/phantom"} <= set(SHIPPED)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_smoke(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", name, "--smoke", "-o", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "run" / "scores" / "test.json").is_file()


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_head_says_what_and_how(name: str) -> None:
    head = [line for line in SHIPPED[name].read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any("crossmask train" in line for line in head)
