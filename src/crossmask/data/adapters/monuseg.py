"""MoNuSeg: tissue sections with masks of nuclei and a sentence on their density and place.

Layout: ``{Train,Val,Test}_Folder/{img,labelcol}`` with ``{Train,Val,Test}_text.xlsx`` in each folder or
above, as LViT's repository ships it. The table names the mask (``.png``); test pictures are ``.tif``.

Source: Kumar et al., IEEE TMI 2017 and 2020 (challenge terms CC BY-NC-SA 4.0; tissue from TCGA); sentences:
Li et al., LViT, IEEE TMI 2023. Known faults: few and often equal sentences; several sections may come from
one TCGA patient, who is the group. LEFT is the left of the picture.
"""

from __future__ import annotations

import re
from pathlib import Path

from crossmask.data.layouts import Sheets, between, find_parts, given, pictures, tables_in
from crossmask.data.manifest import Case
from crossmask.data.tables import Losses

SOURCE = "MoNuSeg"
TABLES = {"train": "Train_text.xlsx", "valid": "Val_text.xlsx", "test": "Test_text.xlsx"}
LOOKED_FOR = "'Train_Folder', 'Val_Folder', 'Test_Folder' with 'img' and 'labelcol'"


def scan(root: str | Path) -> list[Case]:
    """All cases below ``root``; the folders are the split."""
    losses = Losses(SOURCE)
    top = given(root)
    tree, parts = find_parts(top, LOOKED_FOR)
    sheets = Sheets(pictures(parts, losses), losses)
    present = {part.name for part in parts}
    sheets.read_parts(tables_in(between(top, tree)), "", {p: t for p, t in TABLES.items() if p in present})
    sheets.place_by_folder("")
    cases = sheets.cases(SOURCE, patient)
    losses.add("cases without a TCGA number (no group)", *(c.id for c in cases if c.group is None))
    losses.log()
    return cases


def patient(name: str) -> str | None:
    """'TCGA-18-5592-01Z-00-DX1' -> 'TCGA-18-5592'."""
    match = re.match(r"TCGA-\w{2}-\w{4}(?!\w)", name, re.IGNORECASE)
    return match[0].upper() if match else None


def fake(root: str | Path) -> Path:
    """Four cases in LViT's layout, the test picture a TIFF; returns what to scan."""
    import numpy as np
    import openpyxl
    from PIL import Image

    names = {
        "Train": ("TCGA-21-5784-01Z-00-DX1", "TCGA-38-6178-01Z-00-DX1"),
        "Val": ("TCGA-18-5592-01Z-00-DX1",),
        "Test": ("TCGA-2Z-A9J9-01A-01-TS1",),
    }
    for part, rows in names.items():
        folder = Path(root) / "MoNuSeg" / f"{part}_Folder"
        (folder / "img").mkdir(parents=True, exist_ok=True)
        (folder / "labelcol").mkdir(exist_ok=True)
        book = openpyxl.Workbook()
        book.active.append(["Image", "Description"])
        for n, name in enumerate(rows):
            grid = np.add.outer(np.arange(48) * 3, np.arange(40) * 2) + 9 * n + len(part)
            picture = np.stack([grid, grid // 2 + 60, grid // 2 + 90], axis=2).astype(np.uint8)
            suffix = ".tif" if part == "Test" else ".png"
            Image.fromarray(picture).save(folder / "img" / f"{name}{suffix}")
            mask = np.zeros((48, 40), np.uint8)
            mask[6:12, 5:11] = mask[30:35, 20 + n : 28 + n] = 255
            Image.fromarray(mask).save(folder / "labelcol" / f"{name}.png")
            book.active.append([f"{name}.png", "The nuclei are evenly distributed."])
        book.save(folder / f"{part}_text.xlsx")
    return Path(root)
