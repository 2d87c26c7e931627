"""CHAOS: abdominal CT with masks of the liver, and MR of other people with masks of four organs, as DICOM and PNG.

Layout: ``Train_Sets/CT/<id>/{DICOM_anon,Ground}`` and ``Train_Sets/MR/<id>/{T1DUAL,T2SPIR}/{DICOM_anon,Ground}``,
T1DUAL with ``DICOM_anon/{InPhase,OutPhase}``; ``Test_Sets`` likewise, without ``Ground`` and so unlabelled. A manifest
holds one ``part``: 't1dual' (the aligned pair ``image:in_phase``, ``image:out_phase``), 't2spir' or 'ct'. An image is a
folder of DICOM files, a mask the ``Ground`` folder: its PNG slices belong to the DICOM files in the order of the
sorted file names, not of the slices' positions.

Source: Kavur et al., Zenodo 2019, doi 10.5281/zenodo.3431873 (terms there); Medical Image Analysis 2021. Known faults:
CT and MR are different people, who share numbers and are no pairs; organs are ranges of a mask's grey values
(``labels``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from crossmask.data.layouts import UNLABELLED, child, entries, find_tree, folders, given, present
from crossmask.data.manifest import Case
from crossmask.data.tables import Losses
from crossmask.errors import DataError, name_list

SOURCE = "CHAOS"
LOOKED_FOR = "'CT' or 'MR' (in Train_Sets) with <id>/DICOM_anon, <id>/T1DUAL/DICOM_anon or <id>/T2SPIR/DICOM_anon"
DICOM = "DICOM_anon"
ANY_SLICE = ("", ".dcm", ".dicom", ".ima")
ORGANS = "liver 55-70 (63), right kidney 110-135 (126), left kidney 175-200 (189), spleen 240-255 (252)"

Part = Literal["ct", "t1dual", "t2spir"]
KIND: dict[str, str] = {"ct": "CT", "t1dual": "MR", "t2spir": "MR"}
IMAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "ct": {"ct": (DICOM,)},
    "t1dual": {"in_phase": ("T1DUAL", DICOM, "InPhase"), "out_phase": ("T1DUAL", DICOM, "OutPhase")},
    "t2spir": {"t2spir": ("T2SPIR", DICOM)},
}
GROUND: dict[str, tuple[str, ...]] = {"ct": ("Ground",), "t1dual": ("T1DUAL", "Ground"), "t2spir": ("T2SPIR", "Ground")}
LABELS: dict[str, str] = {"ct": "liver above 0", "t1dual": ORGANS, "t2spir": ORGANS}


def scan(root: str | Path, *, part: Part = "t1dual") -> list[Case]:
    """All people of one part below ``root``."""
    losses = Losses(SOURCE)
    tree = find_tree(given(root), has_people, LOOKED_FOR)
    kind = child(tree, (KIND[part],))
    if kind is None:
        what = f"the folder '{KIND[part]}' is missing, which part '{part}' lies in (parts: {name_list(KIND)})"
        raise DataError(f"{tree}: {what}; {present(tree)}.")
    cases = []
    for person in sorted(folders(kind), key=lambda f: (len(f.name), f.name)):
        case = to_case(person, part, losses)
        cases += [case] if case else []
    if not cases:
        where = name_list("/".join(("<id>", *names)) for names in IMAGES[part].values())
        raise DataError(f"{kind}: no image is there (looked for DICOM files in {where}); {present(kind)}.")
    losses.add(UNLABELLED, *(c.id for c in cases if c.mask is None))
    losses.log()
    return cases


def has_people(folder: Path) -> bool:
    kinds = [kind for name in ("CT", "MR") if (kind := child(folder, (name,)))]
    inside = (DICOM, "T1DUAL", "T2SPIR")
    return any(child(person, (name,)) for kind in kinds for person in folders(kind) for name in inside)


def below(folder: Path, names: tuple[str, ...]) -> Path | None:
    found: Path | None = folder
    for name in names:
        found = child(found, (name,)) if found else None
    return found


def slices(folder: Path | None, suffixes: tuple[str, ...]) -> int:
    return sum(f.suffix.casefold() in suffixes and f.is_file() for f in entries(folder)) if folder else 0


def to_case(person: Path, part: Part, losses: Losses) -> Case | None:
    """The folders of one person, or None without a single image."""
    images: dict[str, str] = {}
    lengths: dict[str, int] = {}
    for column, names in IMAGES[part].items():
        folder = below(person, names)
        lengths[column] = slices(folder, ANY_SLICE)
        if folder and lengths[column]:
            images[column] = str(folder)
        else:
            losses.add("image folders missing or empty", "/".join((person.parent.name, person.name, *names)))
    group = f"{KIND[part]}-{person.name}"
    name = group if part == "ct" else f"{group}-{part}"  # T1DUAL and T2SPIR of a person may meet in one manifest
    ground = below(person, GROUND[part])
    lengths["mask"] = slices(ground, (".png",))
    if not lengths["mask"]:
        losses.add("mask folders missing or empty", "/".join((person.parent.name, person.name, *GROUND[part])))
    if not images:
        losses.add("people without an image (left out)", group)
        return None
    if len({n for n in lengths.values() if n}) > 1:
        told = ", ".join(f"{column} {n}" for column, n in lengths.items() if n)
        losses.add("cases whose folders differ in their number of slices (they cannot be paired)", f"{name} ({told})")
    return Case(
        id=name,
        images=images,
        group=group,
        mask=str(ground) if ground and lengths["mask"] else None,
        source=SOURCE,
        free={"labels": LABELS[part]},
    )


def fake(root: str | Path) -> Path:
    """Four people in each part, 12 x 10 pixels in 8 slices; returns what to scan."""
    import numpy as np
    from PIL import Image

    top = Path(root) / "Train_Sets"
    for n, number in enumerate(("1", "2", "5", "10")):
        mask = np.zeros((8, 12, 10), np.uint8)
        mask[1:7, 2:6, 1:5], mask[2:5, 7:9, 2:4], mask[2:5, 7:9, 6 : 8 + n % 2], mask[2:5, 2:5, 7:9] = 63, 126, 189, 252
        liver = np.where(mask == 63, 255, 0).astype(np.uint8)
        grid = np.add.outer(np.arange(12) * 7, np.arange(10) * 4).astype(np.uint16) + 60
        picture = grid + mask + 5 * n
        places = {
            ("MR", "T1DUAL"): ({"InPhase": picture, "OutPhase": picture // 2 + 30}, mask, "IMG-0004-{:05}"),
            ("MR", "T2SPIR"): ({"": 500 - picture}, mask, "IMG-0002-{:05}"),
            ("CT", ""): ({"": grid + liver + 900}, liver, "i{:04},0000b"),
        }
        for (kind, sequence), (images, masks, name) in places.items():
            folder = top / kind / number / sequence
            (folder / "Ground").mkdir(parents=True)
            for k, (phase, voxels) in enumerate(images.items()):
                # In phase and out of phase take turns in one series: even and odd numbers.
                names = [name.format(len(images) * z + len(images) - k) for z in range(8)]
                write_series(folder / DICOM / phase, names, voxels, f"{n + 1}.{len(kind + sequence)}")
            for z in range(8):
                own = f"liver_GT_{z:03}" if kind == "CT" else name.format(len(images) * (z + 1))
                Image.fromarray(masks[z]).save(folder / "Ground" / f"{own}.png")
    return Path(root)


def write_series(folder: Path, names: list[str], voxels: Any, uid: str) -> None:
    """(8, 12, 10) as DICOM files; ``names`` run from head to feet, against the slices' positions."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

    folder.mkdir(parents=True)
    kind = "CT" if "CT" in folder.parts else "MR"
    for z, name in enumerate(names):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = CTImageStorage if kind == "CT" else MRImageStorage
        one.SOPInstanceUID = f"1.2.3.{uid}.{len(folder.name)}.{z + 1}"
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = (f"1.2.{k}.{uid}" for k in (4, 5, 6))
        one.Modality, one.PatientID, one.PatientName = kind, "anonymous", "anonymous"
        one.InstanceNumber = z + 1
        one.ImagePositionPatient = [-9.0, -7.5, 16.0 - 2 * z]
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.SliceThickness = [1.5, 1.5], 2.0
        one.Rows, one.Columns, one.SamplesPerPixel = 12, 10, 1
        one.PhotometricInterpretation, one.PixelRepresentation = "MONOCHROME2", 0
        one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
        one.RescaleSlope, one.RescaleIntercept = 1, -1024 if kind == "CT" else 0
        one.PixelData = voxels[z].astype(np.uint16).tobytes()
        one.save_as(folder / f"{name}.dcm", enforce_file_format=True)
