"""Scores by kind of case, and the words' share of a gate."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from crossmask import recipe as recipes
from crossmask import statistics, strata, stratified
from crossmask.evaluate import evaluate
from crossmask.predict import Predictor
from crossmask.report.page import text_table, write
from crossmask.run import Run
from crossmask.train import train


def disc(size: int = 64, radius: int = 16) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    return x**2 + y**2 < radius**2


@pytest.mark.parametrize("step", [0.0, 0.1, 0.5])
def test_the_contrast_of_a_border_is_its_step(step: float) -> None:
    truth = disc()
    picture = np.repeat((0.2 + step * truth)[None], 3, 0)
    assert strata.border_contrast(picture, truth) == pytest.approx(step)
    far = picture + 0.3 * disc(radius=4)  # what lies away from the border does not count
    assert strata.border_contrast(far, truth) == pytest.approx(step)


def test_a_soft_border_has_less_contrast() -> None:
    from scipy import ndimage

    truth = disc()
    hard, soft = (ndimage.gaussian_filter(truth.astype(float), s)[None] for s in (0, 4))
    assert strata.border_contrast(soft, truth) < 0.6 * strata.border_contrast(hard, truth)


def test_no_border_no_contrast() -> None:
    assert np.isnan(strata.border_contrast(np.ones((1, 8, 8)), np.ones((8, 8), bool)))
    assert np.isnan(strata.border_contrast(np.ones((1, 8, 8)), np.zeros((8, 8), bool)))


def table(n: int = 30) -> pd.DataFrame:
    random = np.random.default_rng(0)
    tp = random.integers(10, 50, n)
    frame = pd.DataFrame({"id": [f"c{i}" for i in range(n)], "tp": tp, "fp": 5, "fn": 5})
    frame["dice"] = 2 * tp / (2 * tp + 10)
    frame["iou"] = tp / (tp + 10)
    frame["stratum:size"] = np.linspace(0.01, 0.5, n)
    frame["stratum:diagnosis"] = ["nevus", "melanoma", ""] * (n // 3)
    return frame


def test_thirds_of_a_number_and_values_of_a_word() -> None:
    frame = table()
    found = stratified.summarise(frame)
    assert [row["cases"] for row in found["size"]] == [10, 10, 10]
    assert [row["stratum"] for row in found["diagnosis"]] == ["nevus", "melanoma", "not known"]
    assert sum(row["cases"] for row in found["diagnosis"]) == 30
    lowest = frame.sort_values("stratum:size")[:10]
    assert found["size"][0]["dice_mean"]["value"] == pytest.approx(lowest.dice.mean())


def test_correlation_is_scipys_with_an_interval() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=80)
    frame = pd.DataFrame({"id": map(str, range(80)), "x": x, "y": x + random.normal(size=80)})
    frame.loc[3, "y"] = np.nan
    frame.loc[10, "x"] = frame.loc[11, "x"]  # ties
    kept = frame.dropna()
    found = statistics.correlation(frame, "x", "y", resamples=500)
    assert found.value == pytest.approx(stats.spearmanr(kept.x, kept.y).statistic)
    assert found.n == 79
    assert -1 < found.low < found.value < found.high < 1
    assert statistics.correlation(frame, "x", "y", resamples=500) == found
    assert np.isnan(statistics.correlation(frame.assign(y=1.0), "x", "y", resamples=20).value)
    few = statistics.correlation(frame[:2], "x", "y", resamples=20)
    assert np.isnan(few.value)
    assert np.isnan(few.low)


def test_a_correlation_with_a_third_column_held() -> None:
    random = np.random.default_rng(2)
    z = random.normal(size=300)
    frame = pd.DataFrame({"id": map(str, range(300)), "z": z})
    frame["x"], frame["y"] = z + 0.5 * random.normal(size=300), -z + 0.5 * random.normal(size=300)
    r = stats.spearmanr(frame[["x", "y", "z"]]).statistic
    oracle = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    found = statistics.correlation(frame, "x", "y", given="z", resamples=200)
    assert found.value == pytest.approx(oracle)
    assert found.low < 0 < found.high  # x and y have nothing in common but z
    assert statistics.correlation(frame, "x", "y", resamples=200).high < -0.5
    assert np.isnan(statistics.correlation(frame.assign(x=frame.z), "x", "y", given="z", resamples=20).value)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory, cases: list) -> tuple[Run, list]:
    told = [replace(c, free={**c.free, "diagnosis": "nevus" if n % 2 else "melanoma"}) for n, c in enumerate(cases)]
    plain = {
        "data": {"size": 32, "selection": 0.2},
        "text": {"encoder": "tiny"},
        "model": {"network": "cmgnet", "width": 4},
        "train": {"images": 32, "batch": 8},
        "evaluate": {"strata": ["border_contrast", "size", "diagnosis"]},
    }
    run = train(recipes.check(plain, "gated"), told, tmp_path_factory.mktemp("gated") / "run", device="cpu")
    return run, told


def test_a_run_scores_its_strata(gated: tuple[Run, list]) -> None:
    run, told = gated
    summary = evaluate(Predictor(run), told, "test")
    frame = run.cases("test")
    right = frame[frame.variant == "right"]
    assert summary["strata"] == stratified.summarise(right)
    assert {row["stratum"] for row in summary["strata"]["diagnosis"]} == {"nevus", "melanoma"}
    assert right["stratum:border_contrast"].between(0, 1).all()
    share = summary["text_share"]
    assert 0 < share["mean"]["value"] < 1
    assert set(share["correlation"]) == {"border_contrast", "size"}
    assert set(share["size_held"]) == {"border_contrast"}
    assert len(summary["gate"]) == 6
    for one in summary["gate"]:
        assert (run.folder / "scores" / one["file"]).is_file()
        words = one["text"].lower()
        assert 1 <= len(one["words"]) <= 3
        assert all(w["word"] in words and w["lift"] >= 0 for w in one["words"])
    page = write(run).read_text(encoding="utf-8")
    for words in (
        "By border contrast",
        "By diagnosis",
        "rank correlation with border contrast",
        "with border contrast, size held, is",
        "Where the words weigh",
    ):
        assert words in page
    assert "Dice per case by diagnosis: " in text_table(summary)


def test_a_stratum_that_is_not_there(
    gated: tuple[Run, list], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, told = gated
    predictor = Predictor(Run(shutil.copytree(run.folder, tmp_path / "run")))
    sections = predictor.recipe.to_dict()
    sections["evaluate"]["strata"] = ["hair", "size", "diagnosos"]
    predictor.recipe = recipes.check(sections, "other")
    assert set(evaluate(predictor, told, "test")["strata"]) == {"size"}
    warned = capsys.readouterr().err
    assert "no column 'hair'. There are: " in warned
    assert "no column 'diagnosos', did you mean 'diagnosis'?" in warned


def test_words_move_the_share(gated: tuple[Run, list]) -> None:
    import torch

    predictor = Predictor(gated[0])
    image = torch.rand(2, 1, 32, 32)
    one = predictor.text_share(image, ["opacity in the left upper lung", None])
    other = predictor.text_share(image, ["right", None])
    assert one.shape == (2, 32, 32)
    assert bool(((one > 0) & (one < 1)).all())
    assert not torch.equal(one[0], other[0])
    torch.testing.assert_close(one[1], other[1])
