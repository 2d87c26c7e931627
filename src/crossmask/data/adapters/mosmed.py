"""MosMedData+: chest CT slices with masks of COVID-19 lesions and a sentence.

Layouts: Kaggle's ``frames/`` and ``masks/`` (same names), or LViT's ``{Train,Val,Test}_Folder/{img,labelcol}``;
with tables called after their part, ``Train_text_MosMedData+ 1.xlsx`` or the like, columns Image and
Description (or text).

Source: Kaggle ``maedemaftouni/covid19-ct-scan-lesion-segmentation-dataset`` (terms there); sentences: Li et
al., LViT, IEEE TMI 2023. Known faults: the published split (``split:official``) is by slice, so most test
slices come from a scan that is also in train; ``split:grouped`` deals whole scans (80/10/10). The group is
the scan as the name says it; ``bjorke_<n>`` says none. Few distinct sentences; LEFT is the left of the picture.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from crossmask.data.layouts import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    Part,
    Sheets,
    between,
    child,
    find_parts,
    find_tree,
    given,
    has_parts,
    needed,
    pictures,
    tables_in,
)
from crossmask.data.manifest import Case
from crossmask.data.split import draw
from crossmask.data.tables import Losses

SOURCE = "MosMedData+"
LOOKED_FOR = (
    "'frames' and 'masks' (Kaggle) or 'Train_Folder', 'Val_Folder', 'Test_Folder' with 'img' and 'labelcol' (LViT)"
)
TABLES = {
    "train": "Train_text_MosMedData+ 1.xlsx",
    "valid": "Val_text_MosMedData+ 1.xlsx",
    "test": "Test_text_MosMedData+.xlsx",
}
OFFICIAL, GROUPED = "official", "grouped"
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


def scan(root: str | Path, *, seed: int = 0) -> list[Case]:
    """All cases below ``root``; ``seed`` deals the scans of ``split:grouped``."""
    losses = Losses(SOURCE)
    top = given(root)
    tree = find_tree(top, lambda f: has_parts(f) or has_pair(f), LOOKED_FOR)
    if has_parts(tree):
        parts = find_parts(tree, LOOKED_FOR)[1]
    else:
        parts = [Part("", needed(tree, "image", IMAGE_FOLDERS), needed(tree, "mask", MASK_FOLDERS))]
    sheets = Sheets(pictures(parts, losses), losses)
    sheets.read_parts(tables_in(between(top, tree)), OFFICIAL, TABLES)
    if len(parts) > 1 or parts[0].name:
        sheets.place_by_folder(OFFICIAL)
    spelling: dict[str, str] = {}  # one scan, one group, however its slices are spelt
    cases = sheets.cases(SOURCE, lambda name: spelled(scan_of(name), spelling))
    dealt = draw(cases, SHARES, seed)
    cases = [replace(c, splits={**c.splits, GROUPED: dealt[c.id]}) for c in cases]
    losses.add("cases without a scan in their name (no group)", *(c.id for c in cases if c.group is None))
    note_overlap(cases, losses)
    losses.log()
    return cases


def has_pair(folder: Path) -> bool:
    return bool(child(folder, ("frames",)) or child(folder, ("masks",)))


def scan_of(name: str) -> str | None:
    """'Morozov_study_0003_24' -> 'Morozov_study_0003', 'Jun_x_case7_75' -> 'Jun_x_case7', else None."""
    match = re.search(r"(?:^|_)(morozov_study_\d+|jun_[\w-]*?case_?\d+)(?:_|$)", name, re.IGNORECASE)
    return match[1] if match else None


def spelled(scan_name: str | None, spelling: dict[str, str]) -> str | None:
    return spelling.setdefault(scan_name.casefold(), scan_name) if scan_name else None


def note_overlap(cases: list[Case], losses: Losses) -> None:
    """How many test slices of the published split come from a scan that is also in train."""
    test = [c for c in cases if c.splits.get(OFFICIAL) == "test"]
    learnt = {c.group for c in cases if c.group and c.splits.get(OFFICIAL) == "train"}
    kind = f"of {len(test)} official test images come from a scan that is also in train (split:grouped has none)"
    losses.add(kind, *(c.id for c in test if c.group in learnt))


def fake(root: str | Path) -> Path:
    """Four slices of three scans in Kaggle's layout, with tables; returns what to scan."""
    import numpy as np
    import openpyxl
    from PIL import Image

    tree = Path(root) / "MosMedData+"
    names = {
        "Train_text_MosMedData+ 1": ("Jun_coronacases_case7_75", "Morozov_study_0255_18"),
        "Val_text_MosMedData+ 1": ("bjorke_8",),
        "Test_text_MosMedData+": ("Morozov_study_0255_21",),
    }
    for folder in ("frames", "masks"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for table, rows in names.items():
        book = openpyxl.Workbook()
        book.active.append(["Image", "Description"])
        for name in rows:
            grid = np.add.outer(np.arange(48) * 3, np.arange(40) * 2) + len(name)
            Image.fromarray(grid.astype(np.uint8)).save(tree / "frames" / f"{name}.png")
            mask = np.zeros((48, 40), np.uint8)
            mask[20:30, len(name) % 7 + 5 : 20] = 255
            Image.fromarray(mask).save(tree / "masks" / f"{name}.png")
            sentence = "Unilateral pulmonary infection, one infected area, lower left lung."
            book.active.append([f"{name}.png", sentence])
        book.save(tree / f"{table}.xlsx")
    return Path(root)
