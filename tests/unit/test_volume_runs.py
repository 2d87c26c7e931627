"""Two scans, few labels: the whole way from NIfTI files to a scored run, and what each part of it promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from crossmask import recipe as recipes
from crossmask.cli import app
from crossmask.data import manifest
from crossmask.data.cache import Settings, prepare
from crossmask.data.grid import Grid
from crossmask.data.manifest import Case
from crossmask.errors import CallError, DataError
from crossmask.evaluate import evaluate
from crossmask.predict import Predictor, Query
from crossmask.predict_folder import predict_to_folder
from crossmask.predict_volumes import along_columns, open_case, segment
from crossmask.scoring import Ask, answers
from crossmask.train import train

SHAPE = (22, 26, 7)  # x, y, z
RECIPE: dict[str, Any] = {
    "data": {
        "text": None,
        "size": 32,
        "fit": "pad",
        "modalities": {"flair": 1, "t1": 1},
        "selection": 1,
        "labelled": 1,
    },
    "text": {"encoder": None},
    "model": {"network": "dual-branch", "encoder": "tiny", "weights": "none", "dropout": 0.1},
    "method": {"name": "semi-cml"},
    "train": {"images": 96, "batch": 4, "unlabelled": 4, "lr": 3e-3},
}


def write(
    folder: Path, name: str, seed: int, *, modalities: tuple[str, ...] = ("flair", "t1"), codes: str = "LPS"
) -> Case:
    """A bright ball in a grey head, fainter in t1; anisotropic and turned."""
    random = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    centre = np.array([8 + random.integers(5), 10 + random.integers(6), 3])
    ball = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (2 * (z - centre[2])) ** 2) < 20
    head = ((x - 11) ** 2 + (y - 13) ** 2) < 100
    head[:, :, 0] = False  # a slice that shows nothing
    ball &= head
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )

    def save(kind: str, array: np.ndarray) -> str:
        path = folder / f"{name}_{kind}.nii.gz"
        nib.save(nib.Nifti1Image(array, affine).as_reoriented(turn), path)
        return str(path)

    images = {}
    for m, modality in enumerate(("flair", "t1")):
        values = 100 * head + (80 - 30 * m) * ball + head * random.normal(0, 4, SHAPE)
        images[modality] = save(modality, np.round(values.clip(0)).astype(np.int16))
    part = "test" if seed >= 4 else "train"
    mask = save("seg", ball.astype(np.uint8))
    return Case(name, images, group=name, mask=mask, splits={"": part})


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("scans")
    return [write(folder, f"case{n}", n, codes=("LPS", "RAS")[n % 2]) for n in range(6)]


def recipe(**sections: Any) -> Any:
    plain = {name: dict(value) for name, value in RECIPE.items()}
    for key, value in sections.items():
        recipes.put(plain, key.replace("__", "."), value)
    return recipes.check(plain, "tiny")


@pytest.fixture(scope="module")
def run(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(recipe(), cases, tmp_path_factory.mktemp("run") / "run", device="cpu")


def test_slices_stand_in_the_store_as_in_the_file(cases: list[Case], tmp_path: Path) -> None:
    store = prepare(cases, Settings(Grid((32, 32), "pad"), {"flair": 1, "t1": 1}), tmp_path)
    assert store.images.shape == (6 * 7, 2, 32, 32)
    assert store.case.tolist() == [n for n in range(6) for _ in range(7)]
    assert store.slices.tolist() == list(range(7)) * 6
    assert store.busy.tolist() == ([False] + [True] * 6) * 6
    assert store.shapes[0] == (7, 26, 22)
    assert store.spacings[0] == pytest.approx((3.0, 1.5, 1.5))
    truth = np.asarray(nib.as_closest_canonical(nib.load(cases[1].mask)).dataobj)  # type: ignore[arg-type]
    assert store.masks[7:14].sum() == pytest.approx(truth.sum() * (32 / 26) ** 2, rel=0.15)


def test_context_is_the_slices_beside(cases: list[Case], tmp_path: Path) -> None:
    store = prepare(cases[:2], Settings(Grid((32, 32), "pad"), {"flair": 1, "t1": 1}, context=1), tmp_path)
    rows = np.array([0, 3, 6, 7])
    found = store.read(rows, 1)
    assert found.shape == (4, 6, 32, 32)
    for place, (before, own, after) in enumerate([(0, 0, 1), (2, 3, 4), (5, 6, 6), (7, 7, 8)]):
        for modality in (0, 1):
            wanted = [store.images[r, modality] for r in (before, own, after)]
            assert np.array_equal(found[place, 3 * modality : 3 * modality + 3], wanted)


def test_it_learns_and_scores(run: Any, cases: list[Case]) -> None:
    entries = run.entries("step")
    assert entries[-1]["images"] == 96
    assert {"pseudo_kept", "intra", "inter", "pseudo", "branches"} <= set(entries[-1])
    parts = run.parts()
    assert sorted(parts.values()) == ["selection", "test", "test", "train", "unlabelled", "unlabelled"]
    summary = evaluate(Predictor(run), cases, "test", shifts=(1.5,))
    assert summary["variants"]["right"]["hd95_mean"]["failed"] >= 0
    assert set(summary["modalities"]) == {
        "modalities: flair",
        "modalities: t1",
        "branch: flair",
        "branch: t1",
        "shift: 1.5 mm",
    }
    table = run.cases("test")
    assert set(table.variant) >= {"right", "modalities: t1", "branch: t1", "shift: 1.5 mm"}
    assert summary["selection"]["cases"] == 1
    row = table[table.variant == "right"].iloc[0]
    assert row.tp + row.fn == np.asarray(nib.load(cases[4].mask).dataobj).sum()  # type: ignore[arg-type]


def test_resumed_is_the_same_to_the_last_bit(cases: list[Case], tmp_path: Path) -> None:
    straight = train(recipe(), cases, tmp_path / "straight", device="cpu")
    half = recipe(train__images=96)
    from crossmask import train as module

    class Stop(Exception):
        pass

    before = module.checkpoint.save_state
    calls = []

    def stop_after(*given: Any) -> None:
        before(*given)
        calls.append(given)
        if len(calls) == 2:
            raise Stop

    module.checkpoint.save_state = stop_after
    try:
        with pytest.raises(Stop):
            train(half, cases, tmp_path / "half", device="cpu")
    finally:
        module.checkpoint.save_state = before
    resumed = train(half, cases, tmp_path / "half", resume=True, device="cpu")
    first, second = (r.checkpoint("last").read_bytes() for r in (straight, resumed))
    from safetensors.torch import load

    one, other = load(first), load(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_hidden_masks_change_nothing(cases: list[Case], tmp_path: Path) -> None:
    """Every hidden mask is replaced by a full one: the weights are the same to the last bit."""
    from safetensors.torch import load

    short = recipe(train__images=32)
    honest = train(short, cases, tmp_path / "honest", device="cpu")
    hidden = [c for c in cases if honest.parts()[c.id] == "unlabelled"]
    assert len(hidden) == 2
    for case in hidden:
        image = nib.load(str(case.mask))
        full = nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine)  # type: ignore[attr-defined]
        nib.save(full, tmp_path / f"{case.id}_poisoned.nii.gz")
    swapped = [replace(c, mask=str(tmp_path / f"{c.id}_poisoned.nii.gz")) if c in hidden else c for c in cases]
    poisoned = train(short, swapped, tmp_path / "poisoned", device="cpu")
    one, other = (load(r.checkpoint("last").read_bytes()) for r in (honest, poisoned))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_prediction_lies_on_the_source(run: Any, cases: list[Case], tmp_path: Path) -> None:
    predictor = Predictor(run)
    case = cases[5]
    prediction = predictor.predict(dict(case.images), id="case5", probability=True)
    source = nib.load(case.images["flair"])
    assert prediction.mask.shape == source.shape  # type: ignore[attr-defined]
    assert prediction.probability is not None
    assert prediction.probability.shape == prediction.mask.shape
    written = nib.load(prediction.save(tmp_path / "case5.nii.gz"))
    assert np.array_equal(written.affine, source.affine)  # type: ignore[attr-defined]
    opened = open_case(predictor, case.images)
    labels, _ = segment(predictor, opened)
    assert np.array_equal(opened.grid.as_in_file(labels), prediction.mask)
    assert not labels[0].any()  # nothing is to be seen there


def test_slabs_do_not_matter(run: Any, cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    from crossmask import predict_volumes

    predictor = Predictor(run)
    opened = open_case(predictor, cases[4].images)
    whole, _ = segment(predictor, opened)
    monkeypatch.setattr(predict_volumes, "slab_size", lambda *_: 2)
    assert np.array_equal(segment(predictor, opened)[0], whole)


def test_windows_at_the_size_of_training(run: Any, cases: list[Case], tmp_path: Path) -> None:
    pytest.importorskip("monai")
    wide = {}
    for name, path in cases[4].images.items():
        image = nib.load(path)
        array = np.asarray(image.dataobj)  # type: ignore[attr-defined]
        nib.save(nib.Nifti1Image(np.tile(array, (2, 2, 1)), image.affine), tmp_path / f"{name}.nii.gz")  # type: ignore[attr-defined]
        wide[name] = str(tmp_path / f"{name}.nii.gz")
    predictor = Predictor(run)
    assert predictor.manifest["pixel_mm"] == pytest.approx([1.5 * 26 / 32, 1.5 * 22 / 27], abs=1e-3)
    sections = predictor.recipe.to_dict()
    sections["evaluate"]["window"] = True
    predictor.recipe = recipes.check(sections, "windowed")
    mask, _ = segment(predictor, open_case(predictor, wide))
    assert mask.shape == (7, 52, 44)
    single, _ = segment(Predictor(run), open_case(predictor, cases[4].images))
    quarters = [mask[:, y : y + 26, x : x + 22] for y in (0, 26) for x in (0, 22)]
    for quarter in quarters:  # each quarter shows the same head; what lies beside it may matter a little
        assert 2 * (quarter & single).sum() / max(quarter.sum() + single.sum(), 1) > 0.5


def test_an_absent_modality_is_not_looked_at(run: Any, cases: list[Case], tmp_path: Path) -> None:
    predictor = Predictor(run)
    without, _ = segment(predictor, open_case(predictor, cases[4].images), without=("t1",))
    alone, _ = segment(predictor, open_case(predictor, {"flair": cases[4].images["flair"]}))
    assert np.array_equal(without, alone)
    with pytest.raises(CallError, match="'t2' is no modality"):
        segment(predictor, open_case(predictor, cases[4].images), without=("t2",))
    rows, faults = predict_to_folder(
        predictor, [Query("a", {"flair": cases[4].images["flair"]}), Query("b", {"flair": "no.nii.gz"})], tmp_path
    )
    assert len(rows) == 1
    assert "modality 't1' is not there" in rows[0]["warnings"]
    assert rows[0]["volume_ml"] == pytest.approx(rows[0]["voxels"] * 6.75 / 1000, abs=1e-4)
    assert len(faults) == 1
    assert "no such file" in faults[0]


def test_files_beside_the_masks_of_volumes(run: Any, cases: list[Case], tmp_path: Path) -> None:
    query = Query("a", dict(cases[4].images))
    rows, faults = predict_to_folder(Predictor(run), [query], tmp_path, probability=True)
    assert (len(rows), faults) == (1, [])
    source = nib.load(cases[4].images["flair"])
    share = nib.load(tmp_path / "probabilities" / "a.nii.gz")
    for code in ("qform_code", "sform_code"):
        assert share.header[code] == source.header[code]  # type: ignore[attr-defined]
    assert np.array_equal(share.affine, source.affine)  # type: ignore[attr-defined]
    with Image.open(tmp_path / "overlays" / "a.png") as overlay:
        assert overlay.size == (SHAPE[0], SHAPE[1])


def test_scoring_goes_on_after_a_bad_volume(run: Any, cases: list[Case], tmp_path: Path) -> None:
    good = write(tmp_path, "good", 11)
    cut = write(tmp_path, "cut", 12)
    whole = Path(cut.images["t1"]).read_bytes()
    Path(cut.images["t1"]).write_bytes(whole[: len(whole) // 2])
    holed = write(tmp_path, "holed", 13)
    stored = nib.load(holed.images["flair"])
    values = stored.get_fdata(dtype=np.float32)
    values[0, 0, -1] = np.nan  # noticed when its slice is reached
    nib.save(nib.Nifti1Image(values, stored.affine), holed.images["flair"])
    summary = evaluate(Predictor(run), [replace(c, splits={"": "outside"}) for c in (cut, holed, good)], "outside")
    assert summary["left_out"] == {"not readable": 2}
    assert set(summary["faults"]) == {"cut", "holed"}
    assert set(run.cases("outside").id) == {"good"}


def test_a_case_without_a_rows_modality_takes_no_part_in_it(run: Any, tmp_path: Path) -> None:
    whole, lacking = write(tmp_path, "whole", 21), write(tmp_path, "lacking", 22)
    lacking = replace(lacking, images={"flair": lacking.images["flair"]})
    evaluate(Predictor(run), [replace(c, splits={"": "lacking"}) for c in (whole, lacking)], "lacking")
    cases = run.cases("lacking")
    by_variant = {name: set(rows.id) for name, rows in cases.groupby("variant")}
    assert by_variant["right"] == by_variant["modalities: flair"] == by_variant["branch: flair"] == {"whole", "lacking"}
    assert by_variant["modalities: t1"] == by_variant["branch: t1"] == {"whole"}


@pytest.mark.parametrize(
    ("present", "ask", "there"),
    [
        ((True, True), Ask(), True),
        ((True, False), Ask(without=("flair",)), False),
        ((True, False), Ask(branch=1), False),
        ((False, True), Ask(branch=1), True),
    ],
)
def test_what_is_left_to_answer_from(run: Any, present: tuple[bool, bool], ask: Ask, there: bool) -> None:
    assert answers(Predictor(run), present, ask) == there


def test_shifts_move_by_millimetres() -> None:
    stored = np.zeros((2, 3, 10), np.int16)
    stored[:, :, 4] = 100
    assert along_columns(stored, 2.0)[0, 0].tolist() == [0, 0, 0, 0, 0, 0, 100, 0, 0, 0]
    assert along_columns(stored, 0.5)[0, 0].tolist() == [0, 0, 0, 0, 50, 50, 0, 0, 0, 0]


def test_grids_that_differ_are_told_case_by_case(cases: list[Case], tmp_path: Path) -> None:
    bad = write(tmp_path, "bad", 9)
    image = nib.load(bad.images["t1"])
    moved = image.affine.copy()  # type: ignore[attr-defined]
    moved[0, 3] += 9
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), bad.images["t1"])  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"case 'bad': .*modality 't1' lies up to .*data register"):
        prepare([*cases[:1], bad], Settings(Grid((32, 32)), {"flair": 1, "t1": 1}), tmp_path / "cache")


def test_methods_that_do_not_fit_say_so(cases: list[Case], tmp_path: Path) -> None:
    flat = recipe(model={"network": "unet", "encoder": "tiny", "weights": "none"})
    with pytest.raises(CallError, match="needs a network with one branch a modality"):
        train(flat, cases, tmp_path / "a", device="cpu")
    one = recipe(method={"name": "semi-cml-asc"}, data__modalities={"flair": 1})
    with pytest.raises(CallError, match="learns from two modalities"):
        train(one, cases, tmp_path / "b", device="cpu")
    with pytest.raises(DataError, match="every case of train shows its mask"):
        train(recipe(data__labelled="all"), cases, tmp_path / "c", device="cpu")
    with pytest.raises(CallError, match=r"train\.teacher=RUN"):
        train(recipe(method={"name": "distill"}), cases, tmp_path / "d", device="cpu")


@pytest.mark.parametrize("name", ["mean-teacher", "cct", "fixmatch", "semi-cml-asc"])
def test_every_method_goes_the_whole_way(name: str, cases: list[Case], tmp_path: Path) -> None:
    short = recipe(method={"name": name}, train__images=32)
    done = train(short, cases, tmp_path / "run", device="cpu")
    assert 0 <= evaluate(Predictor(done), cases, "test")["dice_mean"]["value"] <= 1


def test_distilling_halves_the_network(run: Any, cases: list[Case], tmp_path: Path) -> None:
    short = recipe(method={"name": "distill"}, train__images=32, train__teacher=str(run.folder))
    student = Predictor(train(short, cases, tmp_path / "student", device="cpu"))
    both = sum(p.numel() for p in Predictor(run).method.network.parameters())
    assert sum(p.numel() for p in student.method.network.parameters()) < 0.6 * both
    opened = open_case(student, cases[4].images)
    assert np.array_equal(segment(student, opened)[0], segment(student, opened, without=("t1",))[0])
    summary = evaluate(student, cases, "test")
    assert not any(name.startswith("branch") for name in summary["modalities"])
    assert summary["modalities"]["modalities: flair"]["dice_mean"] == summary["variants"]["right"]["dice_mean"]


def test_regions_are_unions(cases: list[Case], tmp_path: Path) -> None:
    several = recipe(
        data__labels={"background": 0, "ball": 1, "never": 2},
        evaluate={"regions": {"whole": ["ball", "never"], "ball": ["ball"]}},
        train__images=32,
        method={"name": "supervised"},
        train__unlabelled=0,
    )
    summary = evaluate(Predictor(train(several, cases, tmp_path / "run", device="cpu")), cases, "test")
    assert summary["scored"] == ["whole", "ball"]
    assert {"whole/dice_mean", "ball/dice_mean", "whole/hd95_mean"} <= set(summary["variants"]["right"])


def test_the_command_line_takes_volumes(run: Any, cases: list[Case], tmp_path: Path) -> None:
    table, folder = str(manifest.write(tmp_path / "cases.csv", cases)), str(run.folder)
    images = [f"{name}={path}" for name, path in cases[4].images.items()]
    for command in (
        ["predict", folder, *images, "-o", str(tmp_path / "one")],
        ["predict", folder, table, "-o", str(tmp_path / "all")],
        ["evaluate", folder, "--data", table],
    ):
        told = CliRunner().invoke(app, [*command, "--device", "cpu"])
        assert told.exit_code == 0, told.output
    assert (tmp_path / "one" / "predictions.csv").is_file()
    assert len(list((tmp_path / "all" / "masks").glob("*.nii.gz"))) == 6
    assert (run.folder / "report.html").is_file()
