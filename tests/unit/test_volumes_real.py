"""Real scans: what is read, refused, trained on and written back (CROSSMASK_DATA names the folder that holds them)."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from crossmask import recipe as recipes
from crossmask.data import manifest
from crossmask.data.adapters import brats
from crossmask.data.manifest import Case
from crossmask.data.series import is_series
from crossmask.data.volumes import check_same_grid, read_grid, read_labels, read_volume
from crossmask.errors import DataError
from crossmask.evaluate import evaluate
from crossmask.predict import Predictor
from crossmask.train import train

DATA = Path(os.environ.get("CROSSMASK_DATA", "nowhere"))


def folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"CROSSMASK_DATA holds no {name}")
    return DATA / name


def test_t2_and_adc_on_different_grids_name_the_remedy() -> None:
    root = folder("dicom-sample") / "prostate_mr_t2_adc"
    with pytest.raises(DataError, match=r"modality 'adc' has .* voxels .* data register"):
        check_same_grid(read_grid(root / "T2_tse_tra"), read_grid(root / "ADC"), "modality 'adc'")


def test_jpeg2000_series_lies_where_its_nifti_does() -> None:
    root = folder("dicom-sample") / "ct_series_jpeg2000"
    slices = next(p for p in [root, *root.iterdir()] if p.is_dir() and is_series(p))
    labels = next(root.rglob("organs_auto.nii.gz"))
    volume = read_volume(slices)
    organs, _ = read_labels(labels, volume.grid)
    assert organs.shape == volume.shape == (20, 512, 512)
    tissue = volume.slab(0, 20)[organs > 0]
    assert -200 < tissue.mean() < 200  # organs are no air


def test_seg_of_the_liver() -> None:
    root = folder("dicom-sample") / "ct_with_seg"
    volume = read_volume(root / "CT")
    liver, _ = read_labels(root / "SEG" / "liver_seg.dcm", volume.grid)
    assert volume.shape == (3, 512, 512)
    assert volume.grid.spacing[0] == pytest.approx(1.0)
    assert 0 < volume.slab(0, 3)[liver > 0].mean() < 120


def test_brats_sample_whole_tumour() -> None:
    cases = brats.scan(folder("brats-sample"))
    assert len(cases) == 11
    assert sum({"flair", "t1"} <= set(c.images) for c in cases) == 7
    assert sum({"flair", "t1ce"} <= set(c.images) for c in cases) == 5
    for case in cases[:3]:
        volume = read_volume(case.images["flair"])
        tumour, _ = read_labels(str(case.mask), volume.grid)
        assert volume.slab(0, 999)[tumour > 0].mean() > volume.slab(0, 999)[volume.slab(0, 999) > 0].mean()


def test_ms_volumes_train_predict_and_score(tmp_path: Path) -> None:
    root = folder("ms-volumes") / "cross_sectional"
    cases = [
        Case(
            name,
            {"flair": str(root / name / "FLAIR.nii.gz"), "t1": str(root / name / "T1W.nii.gz")},
            group=name,
            mask=str(root / name / "consensus_gt.nii.gz"),
            splits={"": part},
        )
        for name, part in (("patient19", "train"), ("patient07", "test"))
    ]
    assert manifest.read(manifest.write(tmp_path / "ms.csv", cases)) == cases
    plain = {
        "data": {"text": None, "size": 64, "fit": "pad", "modalities": {"flair": 1, "t1": 1}, "selection": 0},
        "text": {"encoder": None},
        "model": {"network": "dual-branch", "encoder": "tiny", "weights": "none"},
        "train": {"images": 160, "batch": 8, "lr": 3e-3},
    }
    run = train(recipes.check(plain, "ms"), cases, tmp_path / "run", device="cpu")
    summary = evaluate(Predictor(run), cases, "test")
    assert summary["cases"] == 1
    source = nib.load(cases[1].images["flair"])
    prediction = Predictor(run).predict(dict(cases[1].images), id="patient07")
    written = nib.load(prediction.save(tmp_path / "patient07.nii.gz"))
    assert np.array_equal(written.affine, source.affine)
    assert written.shape == source.shape
    assert float(written.header["scl_slope"]) in (1.0, 0.0) or np.isnan(written.header["scl_slope"])
    truth = np.asarray(nib.load(str(cases[1].mask)).dataobj) > 0
    guess = np.asarray(written.dataobj) > 0
    row = run.cases("test").query("variant == 'right'").iloc[0]
    assert (guess & truth).sum() == row.tp
    assert (guess & ~truth).sum() == row.fp
