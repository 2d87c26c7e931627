"""Decathlon: a task of the Medical Segmentation Decathlon, several MR sequences in one 4-D file taken apart.

Layout: ``TaskNN_Name/{imagesTr,labelsTr,imagesTs,dataset.json}``. ``modality`` gives the image columns: of several
sequences the k-th is ``file.nii.gz#k`` in ``image:<sequence>``, a single one is the plain file. imagesTr is train,
imagesTs is test and has no masks. ``labels`` are noted in a column of that name.

Source: medicaldecathlon.com (CC BY-SA 4.0); Antonelli et al., Nature Communications 2022. Known faults: archives hold
stray ``._*`` files; patients are unknown; Task01 is BraTS 2016/2017 and Task03 is LiTS under new numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossmask.data.layouts import Part, entries, given
from crossmask.data.manifest import Case
from crossmask.data.tables import Losses
from crossmask.data.volume_layouts import (
    DESCRIPTION,
    check_number,
    described,
    described_cases,
    described_parts,
    label_note,
    sequences,
    volume_stem,
)
from crossmask.errors import DataError

LOOKED_FOR = f"a folder TaskNN_Name with 'imagesTr', 'labelsTr' and '{DESCRIPTION}'"


def scan(root: str | Path) -> list[Case]:
    """All cases of the one task below ``root``; its folders are the split."""
    tree, info = described(given(root), LOOKED_FOR)
    losses = Losses(tree.name)
    columns = sequences(info, ("modality",), tree / DESCRIPTION)
    labels = label_note(info, tree / DESCRIPTION)
    found: list[tuple[Part, str, Mapping[str, str], Path | None]] = []
    for part in described_parts(tree, losses):
        files, masks = by_name(part.images, losses), by_name(part.masks, losses)
        if part.name == "train":
            check_number(info, len(files), losses)
            if not files:
                raise DataError(f"{part.images}: no image is there (looked for: volumes such as .nii.gz).")
        losses.add("masks without an image", *(m.name for name, m in masks.items() if name not in files))
        lost = [name for name in listed(info, part.name) if (volume_stem(name) or name) not in files]
        losses.add(f"images that {DESCRIPTION} names but {part.images.name} lacks", *lost)
        for name, file in files.items():
            several = {column: f"{file}#{k}" for k, column in enumerate(columns)}
            found.append((part, name, several if len(columns) > 1 else {columns[0]: str(file)}, masks.get(name)))
    cases = described_cases(found, labels, losses)
    losses.log()
    return cases


def by_name(folder: Path, losses: Losses) -> dict[str, Path]:
    """The volumes of a folder by name without ending; of ``a.nii`` and ``a.nii.gz`` the first."""
    kept: dict[str, Path] = {}
    for file in entries(folder) if folder.is_dir() else []:
        name = volume_stem(file.name)
        if name is None:
            losses.add("files that are no volumes (left out)", f"{folder.name}/{file.name}")
        elif kept.setdefault(name, file) != file:
            losses.add("files left out (one of that name, with another ending, is there already)", file.name)
    return kept


def listed(info: Mapping[str, Any], part: str) -> list[str]:
    """The file names dataset.json lists for a part: ``training`` holds pairs, ``test`` holds paths."""
    rows = info.get("training" if part == "train" else "test")
    names = [row.get("image", "") if isinstance(row, dict) else row for row in rows if row] if rows else []
    return [str(name).rpartition("/")[2] for name in names if name]


def fake(root: str | Path) -> Path:
    """Four cases of two sequences, all in train; returns what to scan."""
    import json

    import nibabel as nib
    import numpy as np

    tree = Path(root) / "Task05_Prostate"
    for folder in ("imagesTr", "labelsTr"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    affine = np.diag([0.6, 0.6, 3.6, 1.0])
    names = ("prostate_00", "prostate_01", "prostate_02", "prostate_04")
    for n, name in enumerate(names):
        labels = np.zeros((12, 10, 8), np.uint8)
        labels[3:9, 3:7, 2:6] = 1
        labels[5:7, 4:6, 3 : 5 + n % 2] = 2
        grid = np.add.outer(np.arange(12) * 6, np.arange(10) * 4)[..., None] + 50 * labels + n
        both = np.stack([grid, 2 * grid], axis=3).astype(np.int16)
        nib.save(nib.Nifti1Image(both, affine), tree / "imagesTr" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), tree / "labelsTr" / f"{name}.nii.gz")
    info = {
        "name": "PROSTATE",
        "tensorImageSize": "4D",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "numTraining": 4,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": [],
    }
    (tree / DESCRIPTION).write_text(json.dumps(info), encoding="utf-8")
    return Path(root)
