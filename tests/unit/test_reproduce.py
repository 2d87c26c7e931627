"""Tables: what is finished is not done again, tries are chosen on the selection part, numbers come from run folders."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from crossmask import paper_check
from crossmask import recipe as recipes
from crossmask import reproduce as tables
from crossmask.cli import app
from crossmask.comparison import cost, gather
from crossmask.comparison_text import describe, deviations, leaks, markdown, signed, told
from crossmask.data import manifest, phantom
from crossmask.errors import CallError, CrossmaskError, DataError, RunError
from crossmask.evaluate import evaluate
from crossmask.files import read_json, write_json
from crossmask.predict import Predictor
from crossmask.run import Run
from crossmask.table import load, runs_of, slug

TINY = {
    "data": {"size": 64, "modalities": {"image": 1}, "selection": 0.2, "labelled": 0.4},
    "text": {"encoder": "tiny"},
    "model": {"network": "hcfnet", "encoder": "tiny", "weights": "none"},
    "method": {"name": "supervised"},
    "train": {"images": 16, "batch": 8},
    "evaluate": {"strata": ["size"]},
}
ROWS = {
    "alone": {"tries": [{}, {"train.lr": 1e-3}], "seeds": [0, 1]},
    "with a teacher": {
        "set": {"method": {"name": "mean-teacher"}, "train.batch": 4, "train.unlabelled": 4},
        "seeds": [0, 1],
    },
    "a weaker teacher": {
        "set": {"method": {"name": "mean-teacher", "ema": 0.5}, "train.batch": 4, "train.unlabelled": 4}
    },
    "without a teacher": {"like": "alone", "set": {"method.auxiliary": 0.0}, "seeds": [1], "ranked": False},
    "alone, no sentence": {"of": "alone", "variant": "none"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list]:
    folder = tmp_path_factory.mktemp("table")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    table = {
        "title": "Tiny",
        "about": "Nothing is proven.",
        "recipe": str(folder / "tiny.yaml"),
        "split": "test",
        "scores": ["dice_mean", "dice_pooled"],
        "compare": {"column": "dice", "with": "alone", "holm": True},
        "cost": True,
        "rows": ROWS,
        "figure": {"cases": 3, "rows": ["with a teacher", "alone"]},
    }
    (folder / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    cases = manifest.read(phantom.make(folder / "phantom", cases=30, size=64))
    return folder / "table.yaml", folder / "out", cases


def test_a_table_is_made_once_and_reused(made: tuple) -> None:
    path, out, cases = made
    text = tables.reproduce(str(path), cases, out, device="cpu")
    assert "## Tiny" in text
    assert "Nothing is proven." in text
    above, below = text.split("| row |", 1)
    assert "A run sees 16 images of 64 x 64 px in batches of 8, drawn from train, 20 % of its cases" in above
    assert "with the masks of 40 % of its cases (whole patients), unless its row says otherwise" in above
    assert "A run sees" not in below
    head = {"table": "table", "title": "Tiny", "split": "test", "column": "dice", "reference": "alone"}
    assert head.items() <= read_json(out / "table.json").items()
    result = (out / "table.json").read_text()
    runs = sorted(p.parent for p in out.rglob(tables.DONE))
    assert len(runs) == 7  # two tries, one of which is seed 0; seed 1; two of the second row, one each of the others
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.parent != out}
    assert tables.reproduce(str(path), cases, out, device="cpu") == text
    assert (out / "table.json").read_text() == result
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.parent != out} == before


def test_runs_made_beside_each_other_give_the_same_table(made: tuple, tmp_path: Path) -> None:
    path, _, cases = made
    plain = yaml.safe_load(path.read_text()) | {"cost": False, "figure": {}}  # milliseconds are no score
    plain["rows"]["taught"] = {"teacher": "alone", "tries": [{}, {"train.lr": 1e-3}]}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # what each of two processes has: sums differ otherwise
    try:
        alone = tables.reproduce(str(tmp_path / "table.yaml"), cases, tmp_path / "alone", device="cpu")
    finally:
        torch.set_num_threads(threads)
    both = tables.reproduce(str(tmp_path / "table.yaml"), cases, tmp_path / "both", device="cpu", beside=2)
    assert [re.sub(r"[\d.]+ min", "", line) for line in both.splitlines()] == [
        re.sub(r"[\d.]+ min", "", line) for line in alone.splitlines()
    ]
    assert "scoring with-a-teacher-seed1" in (tmp_path / "both" / "jobs.log").read_text()


def test_the_figure_shows_the_same_cases(made: tuple) -> None:
    path, out, cases = made
    tables.reproduce(str(path), cases, out, device="cpu")
    with Image.open(out / "table.png") as picture:
        assert picture.width > 600  # the picture, the truth and two rows
        assert picture.height > 400


def test_a_table_without_its_data_says_what_is_missing(made: tuple) -> None:
    _, out, cases = made
    with pytest.raises(DataError, match=r"cmgnet-table2 cannot be made .*Missing is ISIC 2018: .*data import isic2018"):
        tables.reproduce("cmgnet-table2", cases, out, device="cpu")


@pytest.mark.parametrize(("name", "broken", "total"), [("1", 5, 5), ("2", 5, 5), ("3", 6, 6)])
def test_the_papers_tables_contradict_themselves(name: str, broken: int, total: int) -> None:
    text = paper_check.check(load(f"cmgnet-table{name}"))
    assert f"{broken} of {total} rows contradict themselves" in text
    if name == "1":
        assert text.count("one quantity and differ") == total
        assert text.count("is above recall") == total


def test_all_papers_tables_are_checked_where_none_is_named() -> None:
    done = CliRunner().invoke(app, ["reproduce", "--check-paper"])
    assert done.exit_code == 0, done.output
    for name in ("1", "2", "3"):
        assert paper_check.check(load(f"cmgnet-table{name}")) in done.output
    assert "This table quotes no numbers" not in done.output


def test_a_table_to_make_has_to_be_named() -> None:
    error = CliRunner().invoke(app, ["reproduce", "--data", "cases.csv"]).exception
    assert isinstance(error, CallError)
    assert str(error).startswith("which table? There are: ")


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=30))
def test_numbers_that_follow_the_formulas_are_no_contradiction(counts: list[tuple[int, int, int]]) -> None:
    tp, fp, fn = np.array(counts, float).T
    scores = {
        "IoU": tp / (tp + fp + fn),
        "Dice": 2 * tp / (2 * tp + fp + fn),
        "Precision": tp / (tp + fp),
        "Recall": tp / (tp + fn),
    }
    printed = {name: round(float(values.mean()), 2) for name, values in scores.items()}
    assert paper_check.contradictions(printed | {"F1": printed["Dice"]}) == []


def test_what_stopped_is_taken_up(made: tuple) -> None:
    path, out, cases = made
    text = tables.reproduce(str(path), cases, out, device="cpu")
    run = Run(out / "with-a-teacher-seed1")
    (run.folder / tables.DONE).unlink()
    run.scores_path("test", ".json").unlink()
    run.scores_path("test", ".csv").unlink()
    again = tables.reproduce(str(path), cases, out, device="cpu")
    assert again.replace(" min", "") == text.replace(" min", "")


def test_numbers_are_those_of_the_runs(made: tuple) -> None:
    path, out, cases = made
    tables.reproduce(str(path), cases, out, device="cpu")
    table = load(str(path))
    result = gather(table, out)["rows"]
    runs = [Run(out / f"with-a-teacher-seed{seed}") for seed in (0, 1)]
    means = [run.cases("test").query("variant == 'right'").dice.mean() for run in runs]
    one = result["with a teacher"]
    assert one["estimates"]["dice_mean"]["value"] == pytest.approx(sum(means) / 2, abs=1e-6)
    assert list(one["by_seed"].values()) == pytest.approx(means, abs=1e-4)
    alone = result["alone"]["estimates"]["dice_mean"]["value"]
    assert one["difference"]["value"] == pytest.approx(sum(means) / 2 - alone, abs=1e-6)
    others = result["alone"]["by_seed"].values()
    apart = [mean - other for mean, other in zip(means, others, strict=True)]
    assert [*one["difference"]["by_seed"].values()] == pytest.approx(apart, abs=2e-4)
    kept = result["alone"]["tries"]["kept"]
    assert result["alone"]["tries"]["scores"][kept] == max(result["alone"]["tries"]["scores"])


def test_a_row_of_one_seed_is_compared_with_that_seed(made: tuple) -> None:
    path, out, cases = made
    text = tables.reproduce(str(path), cases, out, device="cpu")
    result = gather(load(str(path)), out)["rows"]
    own, seed = (Run(out / name).cases("test") for name in ("without-a-teacher-seed1", "alone-seed1"))
    mean, other = (frame[frame.variant == "right"].dice.mean() for frame in (own, seed))
    assert result["without a teacher"]["difference"]["value"] == pytest.approx(mean - other, abs=1e-6)
    assert "| one seed |" in text


def test_only_the_seeds_of_both_are_compared(made: tuple) -> None:
    path, out, _ = made
    plain = yaml.safe_load(path.read_text())
    plain["rows"]["with a teacher"]["against"] = "a weaker teacher"  # seeds 0 and 1 against seed 0
    other = path.with_name("against.yaml")
    other.write_text(yaml.safe_dump(plain, sort_keys=False))
    one = gather(load(str(other)), out)["rows"]["with a teacher"]
    mean, weaker = (
        (frame := Run(out / f"{name}-seed0").cases("test"))[frame.variant == "right"].dice.mean()
        for name in ("with-a-teacher", "a-weaker-teacher")
    )
    assert one["to_parent"]["value"] == pytest.approx(mean - weaker, abs=1e-6)
    plain["rows"]["a weaker teacher"]["folds"] = ["", "fold2"]  # trained on another split: no difference at all
    other.write_text(yaml.safe_dump(plain, sort_keys=False))
    assert "to_parent" not in gather(load(str(other)), out)["rows"]["with a teacher"]


def test_a_variant_is_compared_with_its_own_row(made: tuple) -> None:
    path, out, _ = made
    plain = yaml.safe_load(path.read_text())
    plain["compare"]["with"] = "with a teacher"
    other = path.with_name("other.yaml")
    other.write_text(yaml.safe_dump(plain, sort_keys=False))
    whole = gather(load(str(other)), out)
    result = whole["rows"]
    silent, right = (
        pd.concat(frame[frame.variant == variant] for frame in both).groupby("id").dice.mean()
        for variant, both in (
            (v, [run.cases("test") for run in runs_of(load(str(path)).rows[0], out)]) for v in ("none", "right")
        )
    )
    expected = (silent - right[silent.index]).mean()
    assert result["alone, no sentence"]["to_parent"]["value"] == pytest.approx(expected, abs=1e-6)
    text = markdown(load(str(other)), whole)
    assert f"{signed(result['alone, no sentence']['to_parent'])} (alone) |" in text
    fewer = result["alone, no sentence"]["cases"]
    assert fewer < result["alone"]["cases"]
    assert f"| alone, no sentence ({fewer} cases) |" in text


def test_a_table_on_another_split_is_refused(made: tuple) -> None:
    path, out, cases = made
    tables.reproduce(str(path), cases, out, device="cpu")
    moved = next(n for n, c in enumerate(cases) if Run(out / "alone-seed1").parts()[c.id] == "test")
    changed = [*cases[:moved], replace(cases[moved], splits={"": "train"}), *cases[moved + 1 :]]
    with pytest.raises(RunError, match=r"another split of the manifest \('phantom_"):
        tables.reproduce(str(path), changed, out, device="cpu")


def test_kinds_of_case_have_a_table_of_their_own(made: tuple) -> None:
    path, out, cases = made
    text = tables.reproduce(str(path), cases, out, device="cpu")
    result = gather(load(str(path)), out)["rows"]
    for name, one in result.items():
        thirds = one["kinds"]["size"]
        assert sum(kind["cases"] for kind in thirds) == one["cases"], name
        assert all(("difference" in kind) == (name != "alone") for kind in thirds)
    weighed = sum(k["cases"] * k["difference"]["value"] for k in result["with a teacher"]["kinds"]["size"])
    whole = result["with a teacher"]
    assert weighed / whole["cases"] == pytest.approx(whole["difference"]["value"], abs=1e-6)
    assert "dice by size, in brackets minus alone on the same cases:" in text
    assert text.count("lowest third") == 1


def test_differences_are_tested_and_costs_stand_beside(made: tuple) -> None:
    path, out, cases = made
    text = tables.reproduce(str(path), cases, out, device="cpu")
    result = gather(load(str(path)), out)["rows"]
    asked = {name: one["p"] for name, one in result.items() if "p" in one}
    assert set(asked) == {"with a teacher", "a weaker teacher"}  # not the variant, nor what is not ranked
    assert all(p <= result[name]["p_holm"] <= min(1, 2 * p) + 1e-12 for name, p in asked.items())
    assert "corrected for the table's 2 questions" in text
    assert text.count("GFLOPs") == 2  # a column and what it means
    assert result["alone"]["cost"]["trainable"] == result["alone"]["parameters"]
    assert "cost" not in result["alone, no sentence"]


def test_another_recipe_in_the_folder_is_refused(made: tuple) -> None:
    path, out, cases = made
    tables.reproduce(str(path), cases, out, device="cpu")
    with pytest.raises(CallError, match="another recipe"):
        tables.reproduce(str(path), cases, out, overrides=["train.images=32"], device="cpu")


def test_other_sentences_are_refused(made: tuple) -> None:
    path, out, cases = made
    tables.reproduce(str(path), cases, out, device="cpu")
    place = next(n for n, c in enumerate(cases) if c.texts)
    changed = [*cases[:place], cases[place].with_text("", "Something else."), *cases[place + 1 :]]
    with pytest.raises(RunError, match="was begun when the manifest had other sentences, files, groups or sides"):
        tables.reproduce(str(path), changed, out, device="cpu")


def test_scores_made_in_another_way_are_made_anew(made: tuple, tmp_path: Path) -> None:
    path, out, cases = made
    text = tables.reproduce(str(path), cases, out, device="cpu")
    shutil.copytree(out, tmp_path / "out")
    run = Run(tmp_path / "out" / "alone-seed1")
    before = run.scores_path("test", ".csv").read_text()
    evaluate(Predictor(run), cases, "test", seed=1)  # other sentences for the variant 'other'
    assert run.scores_path("test", ".csv").read_text() != before
    assert tables.reproduce(str(path), cases, tmp_path / "out", device="cpu") == text
    assert run.scores_path("test", ".csv").read_text() == before


def test_rows_made_with_other_settings_are_not_compared(made: tuple, tmp_path: Path) -> None:
    path, _, cases = made
    plain = yaml.safe_load(path.read_text()) | {"cost": False, "figure": {}}
    plain["rows"] = {"a": {}, "b": {"set": {"method.auxiliary": 0.0}}, "a, no sentence": {"of": "a", "variant": "none"}}
    plain["compare"] = {"column": "dice", "with": "a"}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    table = str(tmp_path / "table.yaml")
    tables.reproduce(table, cases, tmp_path / "out", only=["a"], device="cpu")
    text = tables.reproduce(table, cases, tmp_path / "out", only=["b"], overrides=["train.images=32"], device="cpu")
    assert text.count("made with other settings") == 2  # the row and its variant
    made_now = read_json(tmp_path / "out" / "table.json")["rows"]
    assert set(made_now) == {"b"}
    assert "difference" not in made_now["b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [("rows: [", "is not readable YAML"), (b"\xff\xfe\xff", "bad.yaml"), ("title: x", "is no table: KeyError 'rows'")],
)
def test_a_table_that_cannot_be_read_is_a_sentence(tmp_path: Path, text: str | bytes, told: str) -> None:
    (tmp_path / "bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CrossmaskError, match=told):
        load(str(tmp_path / "bad.yaml"))


def test_unknown_tables_and_rows_are_named(made: tuple) -> None:
    path, out, cases = made
    with pytest.raises(CallError, match="did you mean 'semi-cml-table'"):
        load("semi-cml-tabel")
    with pytest.raises(CallError, match="no row 'nobody'"):
        tables.reproduce(str(path), cases, out, only=["nobody"], device="cpu")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"folds": ["grouped"]}, "no column 'split:grouped'"),
        ({"evaluate": {"text_variants": ["lies"]}}, "no column 'text:lies', which is a variant"),
        ({"set": {"model.depth": 3}}, "depth"),
        ({"figure": {"cases": 3, "rows": ["alnoe"]}}, r"the row 'alnoe' is named but not there"),
        ({"asks": {"train.init": "a run to start from"}}, r"table late needs train.init=...: a run to start from"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_trained(
    made: tuple, tmp_path: Path, change: dict, told: str
) -> None:
    path, _, cases = made
    (tmp_path / "late.yaml").write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change, sort_keys=False))
    with pytest.raises(CallError, match=told):
        tables.reproduce(str(tmp_path / "late.yaml"), cases, tmp_path / "out", device="cpu")
    assert not list(tmp_path.rglob("recipe.yaml"))


def test_rows_on_other_splits_are_compared_unpaired_where_a_table_asks(made: tuple, tmp_path: Path) -> None:
    path, _, cases = made
    other = {"train": "test", "test": "train"}
    turned = [replace(c, splits={"one": c.splits[""], "two": other.get(c.splits[""], c.splits[""])}) for c in cases]
    rows = {
        "alone": {"folds": ["one"]},
        "elsewhere": {"folds": ["two"], "against": "alone"},
        "elsewhere, not asked": {"folds": ["two"], "set": {"train.lr": 1e-4}},
    }
    plain = yaml.safe_load(path.read_text()) | {"rows": rows, "cost": False, "figure": {}}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    more = ["train.lr=2e-3"]
    text = tables.reproduce(str(tmp_path / "table.yaml"), turned, tmp_path / "out", device="cpu", overrides=more)
    assert "Made with other settings than the table's own: train.lr=2e-3." in text
    found = read_json(tmp_path / "out" / "table.json")["rows"]
    own = {name: one["estimates"]["dice_mean"]["value"] for name, one in found.items()}
    assert found["elsewhere"]["to_parent"]["value"] == pytest.approx(own["elsewhere"] - own["alone"])
    assert "(alone, other cases)" in text
    assert "difference" not in found["elsewhere"]
    assert "to_parent" not in found["elsewhere, not asked"]


def test_an_ablation_starts_from_the_kept_setting(made: tuple, tmp_path: Path) -> None:
    path, _, _ = made
    plain = yaml.safe_load(path.read_text())
    plain["rows"]["slower"] = {"like": "alone", "set": {"train.warmup": 0.5}}
    plain["rows"]["another rate"] = {"like": "alone", "set": {"train.lr": 5e-4}}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    table = load(str(tmp_path / "table.yaml"))
    work = tables.Work(table, [], tmp_path, (), "cpu", "")
    alone, *_, slower, another = table.rows
    with pytest.raises(CallError, match="the row 'alone' has to be made first"):
        tables.recipe_of(work, slower, {}, 0, "")
    write_json(tables.tries_path(tmp_path, alone), {"scores": [0.1, 0.2], "kept": 1, "setting": {"train.lr": 1e-3}})
    found = tables.recipe_of(work, slower, {}, 0, "").train
    assert (found.lr, found.warmup) == (1e-3, 0.5)
    assert tables.recipe_of(work, another, {}, 0, "").train.lr == 5e-4
    plain["rows"]["slower"]["like"] = "with a teacher"
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    with pytest.raises(CallError, match="'with a teacher', which has no tries"):
        load(str(tmp_path / "table.yaml"))


def test_a_try_leaves_the_row_as_it_was(made: tuple, tmp_path: Path) -> None:
    plain = yaml.safe_load(made[0].read_text())
    plain["rows"]["with a teacher"]["tries"] = [{}, {"method.ema": 0.5}]
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    table = load(str(tmp_path / "table.yaml"))
    work = tables.Work(table, [], tmp_path, (), "cpu", "")
    row = table.rows[1]
    first, second, again = (tables.recipe_of(work, row, setting, 0, "") for setting in (*row.tries, {}))
    assert first == again != second


@pytest.mark.parametrize("name", sorted(recipes.shipped("tables")))
def test_every_row_of_a_shipped_table_is_a_sound_recipe(name: str, tmp_path: Path) -> None:
    table = load(name)
    work = tables.Work(table, [], tmp_path, (), "cpu", "")
    budget = tables.recipe_of(work, table.rows[0], {}, 0, "").train.images
    for row in table.rows:
        if row.tries:
            write_json(tables.tries_path(tmp_path, row), {"scores": [], "kept": 1, "setting": row.tries[1]})
        for setting in ({}, *row.tries) if row.of is None else ():
            images = tables.recipe_of(work, row, setting, 0, row.folds[0]).train.images
            assert images == (budget / 2 if "half the images" in row.name else budget)
    own = [row.name for row in table.rows if row.of is None]
    assert len({slug(name) for name in own}) == len(own), "two rows have one folder"
    assert len({len(row.tries) for row in table.rows if row.tries}) <= 1, "some rows had more settings to choose from"
    said = recipes.shipped("tables")[name].read_text(encoding="utf-8").partition("title:")[0]
    assert f"crossmask reproduce {name}" in said
    if table.figure:
        assert set(table.figure["rows"]) <= {row.name for row in table.rows}


def test_what_failed_throughout_and_what_chose_is_said() -> None:
    nothing = {"value": None, "low": None, "high": None, "failed": 3}
    assert told(nothing) == "–, all 3 answers failed"
    some = nothing | {"value": 4.0, "low": 3.0, "high": 5.0, "failed": 1, "n": 8}
    assert told(some) == "4.0 [3.0, 5.0], 1 of 9 answers failed"
    assert signed(nothing) == "–"
    chosen = {"by": "dice_both", "cases": 286, "part": "selection"}
    assert describe(chosen | {"keep": "best"}) == "chosen by dice_both on 286 cases (selection)"
    assert (
        describe(chosen | {"keep": "last"})
        == "the last weights, threshold chosen by dice_both on 286 cases (selection)"
    )


def test_deviations_stand_under_the_row_that_is_called_so() -> None:
    rows = {n: {"network": w} for n, w in (("U-Net", "cmgnet"), ("CMG-Net", "cmgnet"), ("LAVT-style", "lavt"))}
    told = deviations(rows)
    assert [text.partition(" against")[0] for text in told] == ["CMG-Net", "LAVT-style"]
    assert "formula 2" in told[0]
    assert "in place of Swin" in told[1]


def test_leaking_cases_are_counted_over_all_folds() -> None:
    def run(shared: int) -> SimpleNamespace:
        training = {"minutes": 2.0, "parameters": 1, "images": 8, "device": "cpu"}
        groups = {"cases_whose_group_is_in_train": shared}
        return SimpleNamespace(summary=lambda _: {"training": training, "groups": groups, "selection": {}})

    found = cost([run(5), run(5), run(20), run(20)], "test", seeds=2)  # two folds, two seeds
    assert (found["shared"], found["minutes"]) == (25, 2.0)


def test_a_split_that_leaks_is_named() -> None:
    rows = {"clean": {"cases": 9, "shared": 0}, "copied": {"cases": 9, "shared": 8}, "variant": {"cases": 9}}
    assert leaks(rows) == [
        "The split leaks: 8 of 9 cases are of patients (or copies of pictures) of which the run learnt others (copied)."
    ]
    assert leaks({"clean": rows["clean"]}) == []
