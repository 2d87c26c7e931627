"""nnU-Net: a raw data set of nnU-Net (version 1 or 2), one file a channel, with its dataset.json.

Layout: ``DatasetXXX_Name/{imagesTr,labelsTr,imagesTs,labelsTs,dataset.json}`` (the last two folders if there are any);
``imagesTr/case_0000.nii.gz`` is channel 0, ``labelsTr/case.nii.gz`` the mask. ``channel_names`` (``modality`` in
version 1) become the image columns, ``file_ending`` is honoured; a colour PNG that holds all channels stands in the
plain column ``image``. imagesTr is train, imagesTs is test. ``labels`` are noted in a column of that name.

Known faults: patients are unknown to the format; regions (lists of labels) are refused, since masks hold disjoint
labels here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmask.data.images import IMAGE_SUFFIXES
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
)
from crossmask.data.volumes import SUFFIXES
from crossmask.errors import DataError, name_list

LOOKED_FOR = f"a folder DatasetXXX_Name with 'imagesTr', 'labelsTr' and '{DESCRIPTION}'"

Channels = dict[str, dict[int, Path]]  # case -> channel -> file


def scan(root: str | Path) -> list[Case]:
    """All cases of the one data set below ``root``; its folders are the split."""
    tree, info = described(given(root), LOOKED_FOR)
    losses = Losses(tree.name)
    columns = sequences(info, ("channel_names", "modality"), tree / DESCRIPTION)
    labels = label_note(info, tree / DESCRIPTION)
    ending = file_ending(info, tree / DESCRIPTION)
    found: list[tuple[Part, str, Mapping[str, str], Path | None]] = []
    for part in described_parts(tree, losses):
        files = channels(part.images, ending, losses)
        if part.name == "train":
            check_number(info, len(files), losses)
            if not files:
                raise DataError(
                    f"{part.images}: no image is there (looked for: <case>_0000{ending}; for files "
                    "without a channel's number there is the adapter 'decathlon')."
                )
        masks = masks_of(part, ending, set(files), losses)
        for name, images in in_columns(files, columns, ending, losses).items():
            found.append((part, name, images, masks.get(name)))
    cases = described_cases(found, labels, losses)
    losses.log()
    return cases


def file_ending(info: Mapping[str, Any], file: Path) -> str:
    ending = str(info.get("file_ending", ".nii.gz")).casefold()  # version 1 knew no other
    if ending not in (*SUFFIXES, *IMAGE_SUFFIXES):
        known = name_list((*SUFFIXES, *IMAGE_SUFFIXES), shown=20)
        raise DataError(f"{file}: file_ending is '{ending}', which cannot be read here (what can: {known}).")
    return ending


def channels(folder: Path, ending: str, losses: Losses) -> Channels:
    """The files of each case by their number."""
    files: Channels = {}
    for file in entries(folder):
        match = re.fullmatch(rf"(?P<case>.+)_(?P<number>\d{{4}}){re.escape(ending)}", file.name, re.IGNORECASE)
        if match:
            files.setdefault(match["case"], {})[int(match["number"])] = file
        elif file.suffix.casefold() != ".json":  # spacings of TIFF volumes lie beside them
            losses.add(f"files not called <case>_0000{ending} (left out)", f"{folder.name}/{file.name}")
    return files


def in_columns(files: Channels, columns: Sequence[str], ending: str, losses: Losses) -> dict[str, dict[str, str]]:
    """Case -> image column -> file; channels that are missing or too many are named."""
    if ending in IMAGE_SUFFIXES and len(columns) > 1 and all(set(numbers) == {0} for numbers in files.values()):
        return {name: {"": str(numbers[0])} for name, numbers in files.items()}  # colours in one file
    placed: dict[str, dict[str, str]] = {}
    for name, numbers in files.items():
        lost = [f"{name}_{n:04}{ending}" for n in range(len(columns)) if n not in numbers]
        losses.add("channel files missing (the case is kept without)", *lost)
        losses.add(
            f"channels that {DESCRIPTION} does not name (left out)",
            *(file.name for n, file in numbers.items() if n >= len(columns)),
        )
        images = {column: str(numbers[n]) for n, column in enumerate(columns) if n in numbers}
        if images:
            placed[name] = images
    return placed


def masks_of(part: Part, ending: str, known: set[str], losses: Losses) -> dict[str, Path]:
    masks: dict[str, Path] = {}
    for file in entries(part.masks) if part.masks.is_dir() else []:
        if file.name.casefold().endswith(ending):
            masks[file.name[: -len(ending)]] = file
        elif file.suffix.casefold() != ".json":
            losses.add(f"files not called <case>{ending} (left out)", f"{part.masks.name}/{file.name}")
    losses.add("masks without an image", *(file.name for name, file in masks.items() if name not in known))
    return masks


def fake(root: str | Path) -> Path:
    """Four cases of two channels, all in train; returns what to scan."""
    import json

    import nibabel as nib
    import numpy as np

    tree = Path(root) / "nnUNet_raw" / "Dataset005_Prostate"
    for folder in ("imagesTr", "labelsTr"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    affine = np.diag([-0.6, -0.6, 3.6, 1.0])
    for n, name in enumerate(("prostate_00", "prostate_01", "prostate_02", "prostate_04")):
        labels = np.zeros((12, 10, 8), np.uint8)
        labels[3:9, 3:7, 2:6] = 1
        labels[5:7, 4:6, 3 : 5 + n % 2] = 2
        grid = np.add.outer(np.arange(12) * 6, np.arange(10) * 4)[..., None] + 50 * labels + n
        for channel in range(2):
            image = nib.Nifti1Image((grid * (1 + channel)).astype(np.int16), affine)
            nib.save(image, tree / "imagesTr" / f"{name}_{channel:04}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), tree / "labelsTr" / f"{name}.nii.gz")
    info = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "PZ": 1, "TZ": 2},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (tree / DESCRIPTION).write_text(json.dumps(info), encoding="utf-8")
    return Path(root)
