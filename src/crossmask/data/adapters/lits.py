"""LiTS: abdominal CT with masks of the liver and its tumours, each CT seen through one or two windows.

Layouts: ``volume-N.nii`` and ``segmentation-N.nii`` (or .nii.gz) together, as ``Training Batch 1`` and ``2``, as
``ct/`` and ``seg/`` (the masks there may keep the name of the volume), or Kaggle's ``volume_pt1`` ... with
``segmentations``; ``test-volume-N.nii`` has no mask and is unlabelled. Labels: 1 liver, 2 tumour.

With ``windows`` the same file stands in ``image:ct`` and ``image:ct_narrow``: one CT through two windows takes the
place of two modalities, which ``modality_note`` says of each case; LiTS has no MR.

Source: CodaLab competition 17094 (terms there); Bilic et al., Medical Image Analysis 2023. Known faults: volumes
28 to 47 (3D-IRCADb) came without geometry, so that millimetres mean nothing (``geometry`` says it, by the header, so
mended copies pass); orientations differ between batches; no patient numbers.
"""

from __future__ import annotations

import re
from pathlib import Path

from crossmask.data.layouts import UNLABELLED, given, present
from crossmask.data.manifest import Case
from crossmask.data.tables import Losses, plain
from crossmask.data.volume_layouts import volume_stem, volumes_below
from crossmask.data.volumes import read_grid
from crossmask.errors import DataError

SOURCE = "LiTS"
LOOKED_FOR = "volume-N.nii and segmentation-N.nii (or .nii.gz) beside each other, in 'ct' and 'seg' or the like"
MASK_FOLDERS = ("seg", "segs", "segmentation", "segmentations", "label", "labels", "mask", "masks")
NAME = re.compile(r"(?P<test>test-)?(?P<what>volume|segmentation)-(?P<number>\d+)", re.IGNORECASE)
NO_GEOMETRY = "identity (no millimetre scores)"
NOTE = "ct_narrow is a second window of the same CT, a substitute for a second scan"
LABELS = "background 0, liver 1, tumour 2"

Key = tuple[bool, int]  # whether it is a test volume, its number


def scan(root: str | Path, *, windows: bool = True) -> list[Case]:
    """All volumes below ``root``; ``windows``: each a second time, as the column for a narrower window."""
    losses = Losses(SOURCE)
    top = given(root)
    scans, masks = collect(top, losses)
    if not scans:
        raise DataError(f"{top}: no image is there; looked for {LOOKED_FOR}; {present(top)}.")
    if not masks:
        where = ", ".join(f"'{name}'" for name in ("segmentations", "seg"))
        losses.add(f"folders of masks missing (looked for segmentation-N beside the volumes, in {where})", top)
    losses.add("masks without an image", *(m.name for k, m in masks.items() if k not in scans))
    cases = []
    for key, file in sorted(scans.items()):
        mask = masks.get(key)
        free = {"geometry": geometry(file, losses), "labels": LABELS}
        cases.append(
            Case(
                id=f"{'test-' * key[0]}volume-{key[1]}",
                images={"ct": str(file)} | ({"ct_narrow": str(file)} if windows else {}),
                mask=str(mask) if mask else None,
                source=SOURCE,
                free=free | ({"modality_note": NOTE} if windows else {}),
            )
        )
    losses.add(UNLABELLED, *(c.id for c in cases if c.mask is None))
    lost = "volumes with the identity as geometry (distances in mm are not scored)"
    losses.add(lost, *(c.id for c in cases if c.free["geometry"] == NO_GEOMETRY))
    losses.add("cases without a patient number (no group)", *(c.id for c in cases))
    losses.log()
    return cases


def collect(top: Path, losses: Losses) -> tuple[dict[Key, Path], dict[Key, Path]]:
    """Volumes and masks by number."""
    scans: dict[Key, Path] = {}
    masks: dict[Key, Path] = {}
    for file in volumes_below(top):
        match = NAME.fullmatch(volume_stem(file.name) or "")
        if not match:
            losses.add("volumes of another name (left out)", file.name)
            continue
        is_mask = match["what"].casefold() == "segmentation" or plain(file.parent.name) in MASK_FOLDERS
        kept = masks if is_mask else scans
        if kept.setdefault((bool(match["test"]), int(match["number"])), file) != file:
            losses.add("further files of one number (the first is kept)", file.relative_to(top))
    return scans, masks


def geometry(file: Path, losses: Losses) -> str:
    """Whether the header says where voxels lie; not at all if it cannot be read, which is counted."""
    import numpy as np

    try:
        affine = read_grid(file).affine
    except DataError:
        losses.add("volumes whose header cannot be read", file.name)
        return ""
    # Signs aside: a program that counts L-P-S writes its identity into NIfTI with two of them turned.
    return NO_GEOMETRY if np.allclose(np.abs(affine), np.eye(4)) else "header"


def fake(root: str | Path) -> Path:
    """Four volumes in Kaggle's layout, number 28 without geometry; returns what to scan."""
    import nibabel as nib
    import numpy as np

    top = Path(root)
    (top / "segmentations").mkdir(parents=True, exist_ok=True)
    for n, number in enumerate((0, 1, 28, 2)):
        folder = top / f"volume_pt{1 + n // 2}"
        folder.mkdir(exist_ok=True)
        affine = np.eye(4) if number == 28 else np.diag([-0.7, -0.7, 2.5, 1.0])
        body = np.full((12, 10, 8), -1000, np.int16)
        body[1:11, 1:9] = 40
        body[2:8, 2:7, 1:7] = 100 + n
        labels = np.zeros((12, 10, 8), np.uint8)
        labels[2:8, 2:7, 1:7] = 1
        labels[4:6, 3:5, 2 + n // 2 : 5] = 2
        body[labels == 2] = 60
        nib.save(nib.Nifti1Image(body, affine), folder / f"volume-{number}.nii")
        nib.save(nib.Nifti1Image(labels, affine), top / "segmentations" / f"segmentation-{number}.nii")
    return top
