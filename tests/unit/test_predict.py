"""Prediction and evaluation on the source's grid."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import crossmask
from crossmask import recipe as recipes
from crossmask import statistics
from crossmask.data import manifest
from crossmask.data.images import read_image
from crossmask.data.masks import read_mask
from crossmask.data.series import is_series
from crossmask.errors import CallError, RunError
from crossmask.evaluate import evaluate, others
from crossmask.predict import Predictor, Query, at_zooms, stem
from crossmask.predict_folder import files_of, predict_to_folder, queries_of
from crossmask.run import Run
from real_data import real


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return crossmask.load(str(trained))


def test_mask_has_the_source_size(predictor: Predictor, cases: list, tmp_path: Path) -> None:
    Image.open(cases[0].images[""]).resize((81, 57)).save(tmp_path / "odd.png")
    prediction = predictor.predict(tmp_path / "odd.png", text="Opacity in the left upper lung.", probability=True)
    assert prediction.mask.shape == (57, 81) == prediction.geometry.shape
    assert prediction.probability is not None
    assert 0 <= prediction.probability.min() <= prediction.probability.max() <= 1
    saved, _ = read_mask(prediction.save(tmp_path / "mask.png"))
    assert np.array_equal(saved, prediction.mask)


def test_path_array_and_pil_image_agree(predictor: Predictor, cases: list) -> None:
    file = cases[0].images[""]
    array = read_image(file, channels=1).pixels[0]
    masks = [
        predictor.predict(x, text="left upper").mask for x in (file, array, Image.open(file), array / np.float32(255))
    ]
    for mask in masks[1:]:
        assert np.array_equal(mask, masks[0])


def test_warnings(predictor: Predictor, cases: list) -> None:
    file = cases[0].images[""]
    assert any("no text" in w for w in predictor.predict(file).warnings)
    assert any("left" in w for w in predictor.predict(file, text="In the left lung.").warnings)
    assert not predictor.predict(file, text="In the left lung.", side_convention="image").warnings
    huge = np.zeros((400, 400), np.uint8)
    assert any("unlike training" in w for w in predictor.predict(huge, text="upper").warnings)
    with pytest.raises(CallError, match="divide"):
        predictor.predict(np.full((8, 8), 3.0))


def test_the_mean_of_several_sizes(predictor: Predictor, cases: list) -> None:
    image = torch.rand(2, 1, 32, 32)

    def answer(at: torch.Tensor) -> torch.Tensor:  # logits that tell the size they were asked at
        return torch.full((len(at), 1, *at.shape[-2:]), at.shape[-1] / 32 - 1)

    assert torch.equal(at_zooms(answer, image, [1.0]), torch.full((2, 32, 32), 0.5))
    both = at_zooms(answer, image, [1.0, 1.5])
    assert both.shape == (2, 32, 32)
    assert torch.allclose(both, torch.tensor((0.5 + 1 / (1 + np.exp(-0.5))) / 2, dtype=torch.float32))
    several = at_zooms(lambda at: at.repeat(1, 3, 1, 1), image, [0.5, 1.0])
    assert torch.allclose(several.sum(1), torch.ones(2, 32, 32))
    file, text = cases[0].images[""], "left upper"
    plain = predictor.predict(file, text=text, probability=True).probability
    sections = predictor.recipe.to_dict()
    sections["evaluate"]["zooms"] = [1.0, 1.25]
    zoomed = Predictor(predictor.run)
    zoomed.recipe = recipes.check(sections, "zoomed")
    other = zoomed.predict(file, text=text, probability=True).probability
    assert other is not None
    assert other.shape == plain.shape  # type: ignore[union-attr]
    assert not np.array_equal(other, plain)  # type: ignore[arg-type]


def test_a_folder_of_two_series_is_two_volumes(tmp_path: Path) -> None:
    series = [p for p in sorted(real("dicom-sample", "prostate_mr_t2_adc").iterdir()) if is_series(p)]
    assert len(series) == 2
    for number, folder in enumerate(series):
        shutil.copytree(folder, tmp_path / f"series{number}")
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    assert [p.name for p in files_of(tmp_path)] == ["series0", "series1", "x.png"]


def test_neighbours_do_not_matter(predictor: Predictor, cases: list) -> None:
    queries = [Query(c.id, c.images[""], c.texts.get("")) for c in cases[:5]]
    together = predictor.predict_many(queries, probability=True)
    for query, one in zip(queries, together, strict=True):
        alone = predictor.predict_many([query], probability=True)[0]
        assert alone.probability is not None
        assert one.probability is not None
        np.testing.assert_allclose(alone.probability, one.probability, atol=1e-5)


def test_patients_left_is_the_pictures_right(predictor: Predictor, cases: list) -> None:
    file = cases[0].images[""]
    a = predictor.predict(file, text="Opacity in the left lung.", side_convention="patient", probability=True)
    b = predictor.predict(file, text="Opacity in the right lung.", side_convention="image", probability=True)
    assert np.array_equal(a.probability, b.probability)  # type: ignore[arg-type]


def test_folder_with_a_bad_picture(predictor: Predictor, cases: list, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for case in cases[:3]:
        Image.open(case.images[""]).save(source / f"{case.id}.png")
    (source / "bad.png").write_bytes(b"no picture")
    rows, faults = predict_to_folder(predictor, queries_of([str(source)], "left upper", "image"), tmp_path / "out")
    assert len(rows) == 3
    assert len(faults) == 1
    assert "bad.png" in faults[0]
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert {r["id"] for r in table} == {c.id for c in cases[:3]}
    for row in table:
        mask, _ = read_mask(tmp_path / "out" / row["mask"])
        assert int(mask.sum()) == int(row["area_px"])
        assert (tmp_path / "out" / "overlays" / f"{row['id']}.png").is_file()
    rows, faults = predict_to_folder(predictor, [Query("bad", source / "bad.png", None, None)], tmp_path / "out")
    assert (rows, len(faults)) == ([], 1)
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_area_in_mm2_needs_spacing(predictor: Predictor, cases: list, tmp_path: Path) -> None:
    query = Query("a", cases[0].images[""], "left upper", "image", (0.5, 2.0))
    rows, _ = predict_to_folder(predictor, [query, Query("b", cases[0].images[""], "left upper", "image")], tmp_path)
    assert rows[0]["area_mm2"] == rows[0]["area_px"]
    assert rows[1]["area_mm2"] == ""


def test_same_stems_get_ids_of_their_own(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / folder / "x.png")
    assert [q.id for q in queries_of([str(tmp_path), str(tmp_path / "a" / "x.png")], None, None)] == ["a_x", "b_x"]
    Image.new("L", (8, 8)).save(tmp_path / "b" / "X.jpg")
    assert [q.id for q in queries_of([str(tmp_path)], None, None)] == ["x", "X_jpg", "x_png"]


def test_a_series_keeps_its_uid(tmp_path: Path) -> None:
    for uid in ("1.2.840.10.1", "1.2.840.10.2"):
        (tmp_path / uid).mkdir()
        assert stem(tmp_path / uid) == uid


def test_two_cases_of_one_file_name_are_refused(predictor: Predictor, cases: list, tmp_path: Path) -> None:
    image = cases[0].images[""]
    with pytest.raises(CallError, match="the masks of a/b, A_b would have one file name"):
        predict_to_folder(predictor, [Query("a/b", image, None, None), Query("A_b", image, None, None)], tmp_path)
    assert not list(tmp_path.iterdir())


def test_evaluate_writes_scores_that_recompute(predictor: Predictor, cases: list) -> None:
    summary = evaluate(predictor, cases, "test")
    run = Run(predictor.run.folder)
    table = run.cases("test")
    right = table[(table.variant == "right") & table.has_text]
    again = statistics.summarise(right)
    for name in ("dice_pooled", "dice_mean", "iou_pooled", "iou_mean"):
        assert summary[name]["value"] == pytest.approx(again[name].value, abs=1e-6)
        assert summary[name]["low"] <= summary[name]["value"] <= summary[name]["high"]
    assert set(summary["variants"]) >= {"right", "none", "other", "swapped"}
    assert summary == json.loads((run.folder / "scores" / "test.json").read_text())
    for one in summary["examples"]:
        assert (run.folder / "scores" / one["file"]).is_file()
    counts = right.tp + right.fp + right.fn + right.tn
    assert (counts == 64 * 64).all()  # the native grid, not the model's 32 x 32


def test_other_sentences_mean_something_else(cases: list) -> None:
    right = [c.texts.get("") for c in cases]
    told = others(cases, right, 0)
    meaning = {c.texts[""]: c.free["meaning"] for c in cases if "" in c.texts}
    for case, other in zip(cases, told, strict=True):
        if "" in case.texts:
            assert meaning[other] != case.free["meaning"]
        else:
            assert other is None


def test_unknown_part_and_unlabelled_part(predictor: Predictor, cases: list) -> None:
    with pytest.raises(CallError, match="'test'"):
        evaluate(predictor, cases, "tset")


def test_an_external_set_is_scored_by_its_own_column(predictor: Predictor, cases: list, tmp_path: Path) -> None:
    outside = [
        manifest.Case(f"x{c.id}", c.images, mask=c.mask, texts=c.texts, splits={"": "outside"}) for c in cases if c.mask
    ][:4]
    summary = evaluate(predictor, outside, "outside")
    assert summary["manifest"]["hash"] != summary["manifest"]["trained_on"]
    assert isinstance(Run(predictor.run.folder).cases("outside"), pd.DataFrame)


def test_no_run_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        crossmask.load(str(tmp_path))
