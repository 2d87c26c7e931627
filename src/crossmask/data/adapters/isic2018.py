"""ISIC 2018, task 1: dermoscopic pictures with lesion masks; age, sex, site and diagnosis from ISIC's archive.

Layout: ``ISIC2018_Task1-2_Training_Input/ISIC_*.jpg`` and
``ISIC2018_Task1_Training_GroundTruth/ISIC_*_segmentation.png``, likewise Validation and Test, whose masks may be
absent; ``ATTRIBUTION.txt`` and ``LICENSE.txt`` inside. The task ships no table: ``metadata`` is a CSV of ISIC's
archive. ``Prompts_Folder`` holds MedCLIPSeg's sheets, if there are any.

Source: Codella et al., arXiv:1902.03368; Tschandl et al., Scientific Data 2018 (challenge terms CC BY-NC 4.0). Known
faults: no patient is told, so there is no group; most pictures are those of the challenges before. LEFT is the left of
the picture.
"""

from __future__ import annotations

from pathlib import Path

from crossmask.data import isic
from crossmask.data.layouts import given
from crossmask.data.manifest import Case
from crossmask.data.tables import Losses

SOURCE = "ISIC 2018"
TASK = isic.Task(
    SOURCE,
    images="ISIC2018_Task1-2_{}_Input",
    masks="ISIC2018_Task1_{}_GroundTruth",
    parts={"train": "Training", "valid": "Validation", "test": "Test"},
)


def scan(root: str | Path, *, metadata: str | None = None) -> list[Case]:
    """All cases below ``root``; ``metadata`` is a table exported from ISIC's archive."""
    losses = Losses(SOURCE)
    tree = isic.find(given(root), TASK, losses)
    facts = isic.Facts(isic.pictures(tree, losses), losses)
    isic.join_archive(metadata, tree, facts)
    return isic.cases(tree, facts)


def fake(root: str | Path) -> Path:
    """Four cases of the training part and their sentences; returns what to scan."""
    from crossmask.data.adapters.prompts import fake_pair, fake_sheet

    tree = Path(root) / "ISIC2018"
    images, masks = (tree / TASK.named(what, "train") for what in (TASK.images, TASK.masks))
    names = ("ISIC_0000000", "ISIC_0000001", "ISIC_0010001", "ISIC_0012255")
    for n, name in enumerate(names):
        fake_pair(images / f"{name}.jpg", masks / f"{name}_segmentation.png", n)
    for folder in (images, masks):
        for file in ("ATTRIBUTION.txt", "LICENSE.txt"):
            (folder / file).write_text("CC BY-NC 4.0", encoding="utf-8")
    sentence = "one small brown oval lesion located in center of the image"
    rows = [(f"{name}.png", sentence, f"{name}_Segmentation.png") for name in names]
    fake_sheet(tree / "Prompts_Folder" / "Train_text.xlsx", rows)
    return Path(root)
