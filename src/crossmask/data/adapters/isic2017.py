"""ISIC 2017: dermoscopic pictures with lesion masks, age, sex and diagnosis, and sentences where they lie beside them.

Layout: ``ISIC-2017_Training_Data/`` with ``ISIC_*.jpg``, ``ISIC_*_superpixels.png`` (skipped) and, inside or beside it,
``ISIC-2017_Training_Data_metadata.csv``; ``ISIC-2017_Training_Part1_GroundTruth/ISIC_*_segmentation.png``;
``ISIC-2017_Training_Part3_GroundTruth.csv``, where neither melanoma nor seborrheic keratosis means a nevus; likewise
``ISIC-2017_Validation_*`` and ``ISIC-2017_Test_v2_*``. ``Prompts_Folder`` holds MedCLIPSeg's sheets, if there are any.
``metadata`` is a CSV of ISIC's archive, which fills what the challenge's tables leave open.

Source: Codella et al., ISBI 2018 (arXiv:1710.05006; challenge terms CC-0); sentences: Koleilat et al., MedCLIPSeg,
arXiv:2602.20423 (Apache-2.0). Known faults: no patient is told, so there is no group; MedCLIPSeg's sentences say
"melanoma" of benign lesions too, which is no diagnosis. LEFT is the left of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from crossmask.data import isic
from crossmask.data.layouts import given
from crossmask.data.manifest import Case
from crossmask.data.tables import Losses, Table, read_table

SOURCE = "ISIC 2017"
TASK = isic.Task(
    SOURCE,
    images="ISIC-2017_{}_Data",
    masks="ISIC-2017_{}_Part1_GroundTruth",
    parts={"train": "Training", "valid": "Validation", "test": "Test_v2"},
)
METADATA, DIAGNOSES = "ISIC-2017_{}_Data_metadata", "ISIC-2017_{}_Part3_GroundTruth"
MEANING = {("0", "0"): "nevus", ("1", "0"): "melanoma", ("0", "1"): "seborrheic keratosis"}


def scan(root: str | Path, *, metadata: str | None = None) -> list[Case]:
    """All cases below ``root``; ``metadata`` is a table exported from ISIC's archive."""
    losses = Losses(SOURCE)
    tree = isic.find(given(root), TASK, losses)
    facts = isic.Facts(isic.pictures(tree, losses), losses)
    readers: dict[str, Callable[[Table], None]] = {METADATA: facts.read, DIAGNOSES: partial(read_diagnoses, facts)}
    for published, read in readers.items():
        tables = tree.take(published)
        absent = [TASK.named(published, p.name) + ".csv" for p in tree.parts if p.name not in tables]
        losses.add("tables missing (what they say is left empty)", *absent)
        for file in tables.values():
            read(read_table(file))
    isic.join_archive(metadata, tree, facts)
    return isic.cases(tree, facts)


def read_diagnoses(facts: isic.Facts, table: Table) -> None:
    """Part 3: two columns of 0.0 and 1.0."""
    image = table.needed("image's id", isic.ID_NAMES)
    columns = [table.needed("diagnosis", (name,)) for name in ("melanoma", "seborrheic_keratosis")]
    for _, row in table.rows:
        melanoma, keratosis = (row[column].removesuffix(".0") for column in columns)
        told = MEANING.get((melanoma, keratosis), "")
        if not told:
            kind = f"rows of {table.path.name} that are not 0 and 0, 1 and 0 or 0 and 1 (diagnosis left empty)"
            facts.losses.add(kind, row[image])
        facts.add(row[image], {"diagnosis": told}, table.path)


def fake(root: str | Path) -> Path:
    """Four cases of the training part with all its tables and sentences; returns what to scan."""
    import csv

    from crossmask.data.adapters.prompts import fake_pair, fake_sheet

    tree = Path(root) / "ISIC-2017"
    part = {what: TASK.named(what, "train") for what in (TASK.images, TASK.masks, METADATA, DIAGNOSES)}
    images, masks = tree / part[TASK.images], tree / part[TASK.masks]
    told = [
        ("ISIC_0000000", "55", "female", "0.0", "0.0"),
        ("ISIC_0000002", "60", "female", "1.0", "0.0"),
        ("ISIC_0000010", "unknown", "unknown", "0.0", "1.0"),
        ("ISIC_0000013", "30", "male", "0.0", "0.0"),
    ]
    for n, (name, *_) in enumerate(told):
        fake_pair(images / f"{name}.jpg", masks / f"{name}_segmentation.png", n)
        fake_pair(images / f"{name}_superpixels.png", masks / f"{name}_segmentation.png", n)
    (images / "LICENSE.txt").write_text("CC-0", encoding="utf-8")
    metadata = [("image_id", "age_approximate", "sex"), *(row[:3] for row in told)]
    diagnoses = [("image_id", "melanoma", "seborrheic_keratosis"), *((row[0], *row[3:]) for row in told)]
    for file, rows in ((images / part[METADATA], metadata), (tree / part[DIAGNOSES], diagnoses)):
        with open(f"{file}.csv", "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    sentence = "one large brown oval skin melanoma located in center of the image"
    lines = [(f"{name}.png", sentence, f"{name}_Segmentation.png") for name, *_ in told]
    for sheet, some in (("Train_text", lines[:3]), ("Test_text_original", lines[3:])):
        fake_sheet(tree / "Prompts_Folder" / f"{sheet}.xlsx", some)
    return Path(root)
