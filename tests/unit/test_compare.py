"""Runs compared case by case, from their folders alone."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from crossmask.cli import app
from crossmask.compare import compare, text
from crossmask.errors import CallError, RunError
from crossmask.run import Run

SUMMARY = {"cases": 3, "groups": {"cases_whose_group_is_in_train": 0}}


def run(folder: Path, dice: list[float], split: str = "test", first: int = 0, leaking: int = 0) -> Path:
    made = Run(folder)
    made.start({"data": {}}, {}, {}, {})
    rows = []
    for n, value in enumerate(dice, first):
        tp = round(100 * value)
        for variant, scored in (("right", tp), ("none", tp // 2)):
            fp = fn = 100 - scored
            rows.append(
                {"id": f"c{n}", "group": f"p{n // 2}", "variant": variant, "tp": scored, "fp": fp, "fn": fn}
                | {"dice": scored / 100, "iou": scored / (200 - scored)}
            )
    made.write_scores(split, rows, {"cases": len(dice), "groups": {"cases_whose_group_is_in_train": leaking}})
    return folder


def test_differences_are_paired(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [0.5, 0.6, 0.7, 0.8])
    b = run(tmp_path / "b", [0.9, 0.7, 0.8, 0.9, 0.1], first=1)  # c1 ... c5
    found = compare([a, b])
    assert found["split"] == "test"
    assert found["cases"] == 3
    assert found["left_out"] == {"a": 1, "b": 2}
    (pair,) = found["differences"]
    assert pair["value"] == pytest.approx((0.3 + 0.0 + 0.0) / 3)
    assert pair["low"] <= pair["value"] <= pair["high"]
    assert pair["unit"] == "groups"
    assert found["scores"]["a"]["dice_mean"]["value"] == pytest.approx(0.7)
    assert compare([b, a])["differences"][0]["value"] == pytest.approx(-0.1)
    assert compare([a, b], variant="none")["scores"]["a"]["dice_mean"]["value"] == pytest.approx(0.35)
    assert compare([a, b], column="dice_pooled")["differences"][0]["value"] > 0


def test_distances_are_compared_and_none_is_told(tmp_path: Path) -> None:
    a, b, c = (run(tmp_path / name, [0.5, 0.6, 0.7]) for name in "abc")
    for folder, values in ((a, [1.0, 2.0, 4.0]), (b, [2.0, 3.0, 5.0]), (c, [float("inf")] * 3)):
        table = pd.read_csv(Run(folder).scores_path("test", ".csv"))
        table["hd95_pooled"] = [v for v in values for _ in range(2)]
        Run(folder).write_scores("test", table.to_dict("records"), SUMMARY)
    (pair,) = compare([a, b], column="hd95_pooled")["differences"]
    assert pair["value"] == pytest.approx(1.0)
    assert text(compare([a, c], column="hd95_pooled")).endswith("c minus a: –")


def test_what_a_manifest_calls_none_is_no_missing_value(tmp_path: Path) -> None:
    made = run(tmp_path / "a", [0.5, 0.6])
    table = pd.read_csv(Run(made).scores_path("test", ".csv"))
    table["id"], table["stratum:site"] = table["id"].replace({"c0": "NA", "c1": "null"}), "None"
    table.loc[0, "dice"] = float("nan")
    Run(made).write_scores("test", table.to_dict("records"), SUMMARY)
    read = Run(made).cases("test")
    assert set(read.id) == {"NA", "null"}
    assert set(read["stratum:site"]) == {"None"}
    assert read.dice.isna().tolist() == [True, False, False, False]


def test_three_runs_give_three_pairs_and_names_of_their_own(tmp_path: Path) -> None:
    folders = [run(tmp_path / where / "run", [0.5, 0.6, x]) for where, x in (("x", 0.1), ("y", 0.2), ("z", 0.3))]
    found = compare(folders)
    assert list(found["scores"]) == ["x/run", "y/run", "z/run"]
    pairs = [(p["first"], p["second"]) for p in found["differences"]]
    assert pairs == [("x/run", "y/run"), ("x/run", "z/run"), ("y/run", "z/run")]


def test_what_cannot_be_compared_is_a_sentence(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", [0.5, 0.6]), run(tmp_path / "b", [0.5, 0.6], first=7)
    with pytest.raises(CallError, match="share no case"):
        compare([a, b])
    with pytest.raises(CallError, match="two or more"):
        compare([a])
    with pytest.raises(CallError, match="stands twice"):
        compare([a, a])
    with pytest.raises(CallError, match="no scores of 'swapped'"):
        compare([a, run(tmp_path / "c", [0.5])], variant="swapped")
    other = run(tmp_path / "d", [0.5], split="valid")
    with pytest.raises(CallError, match=r"no part was scored by all runs \(a: test; d: valid\)"):
        compare([a, other])
    run(other, [0.5])
    run(a, [0.5], split="valid")
    with pytest.raises(CallError, match="all runs have scored test, valid; say which"):
        compare([a, other])
    with pytest.raises(RunError, match="no run folder"):
        compare([a, tmp_path])


def test_a_leaking_split_is_told(tmp_path: Path) -> None:
    clean, leaking = run(tmp_path / "clean", [0.5, 0.6]), run(tmp_path / "leaking", [0.7, 0.8], leaking=2)
    told = text(compare([clean, leaking])).splitlines()
    (line,) = [line for line in told if "leaks" in line]
    assert line.startswith("The split leaks: 2 of 2 cases are of patients")
    assert line.endswith(" (leaking).")


def test_the_command(tmp_path: Path) -> None:
    folders = [str(run(tmp_path / name, [0.5, 0.6, x])) for name, x in (("a", 0.3), ("b", 0.6))]
    told = CliRunner().invoke(app, ["compare", *folders])
    assert told.exit_code == 0, told.output
    assert "b minus a: +0.100" in told.output
    result = json.loads(CliRunner().invoke(app, ["compare", *folders, "--json"]).output)
    assert pd.DataFrame(result["differences"]).value[0] == pytest.approx(0.1)
