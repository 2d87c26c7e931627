"""QaTa-COV19-v2: chest X-rays with masks of COVID-19 infection and up to three wordings of a sentence.

Layouts: Kaggle's ``QaTa-COV19-v2/{Train Set,Test Set}/{Images,Ground-truths}``; LViT's
``{Train,Val,Test}_Folder/{img,labelcol}``; LanGuideMedSeg's ``{Train,Test}/{Images,GTs}`` with
``prompt/*.csv`` (the first 80 % of train.csv are train); SGSeg's ``images/{train,valid,test}/{images,masks}``
with one JSON. Tables lie at the top, in a prompt folder or in the part's folder:
``{Train,Val,Test}_text*.xlsx``, ``*_for_Covid19.xlsx`` with ``*_ID.xlsx``, ``*_lvit_form.csv``,
``sgseg_captions.csv``. Their Image column names the mask. Wordings become ``text:lvit``, ``text:medclipseg``,
``text:sgseg``, ``text:languide``, also where there is one alone, so that recipes can name it; splits likewise.

Source: Kaggle ``aysendegerli/qatacov19-dataset`` (terms there); sentences: Li et al., LViT, IEEE TMI 2023.
Known faults: LEFT is the left of the PICTURE; ``covid_*`` carry no patient number; LViT's split shares
patients between train and valid, SGSeg's does not but has all ``covid_*`` in train; wordings count regions
differently, never mix them; no picture is healthy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossmask.data.layouts import ASIDE, Sheets, between, find_parts, given, pictures, tables_in
from crossmask.data.manifest import Case
from crossmask.data.tables import (
    IMAGE_NAMES,
    SPLIT_NAMES,
    TABLE_SUFFIXES,
    TEXT_NAMES,
    Losses,
    key,
    part_in,
    part_of,
    plain,
    read_table,
)
from crossmask.files import read_json

SOURCE = "QaTa-COV19-v2"
LOOKED_FOR = (
    "'Train Set' and 'Test Set' with 'Images' and 'Ground-truths' (Kaggle), 'Train_Folder' ... with 'img' "
    "and 'labelcol' (LViT), 'Train' and 'Test' with 'Images' and 'GTs' (LanGuideMedSeg) or 'images/train' "
    "... with 'images' and 'masks' (SGSeg)"
)
TABLES = "{Train,Val,Test}_text*.xlsx, *_lvit_form.csv, sgseg_captions.csv, prompt/*.csv or a JSON"


def scan(root: str | Path) -> list[Case]:
    """All cases below ``root``, whichever of the four layouts it has."""
    losses = Losses(SOURCE)
    top = given(root)
    tree, parts = find_parts(top, LOOKED_FOR)
    sheets = Sheets(pictures(parts, losses), losses)
    files = tables_in(between(top, tree), (*TABLE_SUFFIXES, ".json"))
    for file in sorted(files, key=lambda f: ("lvitform" in plain(f.stem), plain(f.stem))):
        if file.suffix.casefold() == ".json":
            read_json_file(file, sheets)
        else:
            read_sheet(file, sheets)
    if not sheets.texts:
        losses.add(f"folders without a sentence table (looked for: {TABLES}); no case has text", tree)
    place(sheets)
    sheets.texts, sheets.splits = dict(sorted(sheets.texts.items())), dict(sorted(sheets.splits.items()))
    cases = sheets.cases(SOURCE, patient, lambda name: {"view": view(name)})
    losses.add("cases without a patient number (no group)", *(c.id for c in cases if c.group is None))
    losses.log()
    return cases


def patient(name: str) -> str | None:
    """'sub-S09340_ses-...' -> 'S09340'."""
    match = re.match(r"(?:.*_)?sub-(s\d+)", name, re.IGNORECASE)
    return match[1].upper() if match else None


def view(name: str) -> str:
    """'..._vp-ap_dx' -> 'ap'; '' where the name does not say."""
    match = re.search(r"_vp-([a-z]+)", name, re.IGNORECASE)
    return match[1].lower() if match else ""


def place(sheets: Sheets) -> None:
    """Folders say who is in test and, where there is one for valid or no table, who is in train and valid."""
    parts = {f.part for f in sheets.found}
    if "valid" in parts or not sheets.splits:
        sheets.place_by_folder("sgseg" if set(sheets.splits or sheets.texts) == {"sgseg"} else "lvit")
    for name, rows in sheets.splits.items():
        for f in sheets.found:
            if f.part == "test" and rows.get(f.key, "test") != "test":
                sheets.losses.add(f"images in the test folder though split {name} says otherwise", f.id)
            if f.part == "test":
                rows[f.key] = "test"


def read_sheet(file: Path, sheets: Sheets) -> None:
    """One table; its name and columns say which wording and split it holds."""
    name, part = plain(file.stem), part_in(file.stem)
    short = part is not None and part_of(file.stem) == part  # LanGuideMedSeg's train.csv, test.csv
    of_part = part is not None and not ASIDE.search(name) and (short or re.search("text|id$", name))
    if "sgseg" not in name and not of_part:
        sheets.losses.add("tables left aside", file.name)
        return
    table = read_table(file)
    if not table.columns:
        sheets.losses.add("tables that are empty", file.name)
        return
    if name.endswith("id"):
        column = table.column(IMAGE_NAMES) or table.columns[0]
        head = [column] if key(column) in sheets.known else []  # some sheets have no header
        for image in [*head, *(row[column] for _, row in table.rows)]:
            sheets.add(image, "", "", "lvit", part)
        return
    image, text = table.needed("image", IMAGE_NAMES), table.needed("sentence", TEXT_NAMES)
    by_row = table.column(SPLIT_NAMES) if "sgseg" in name else None
    if "sgseg" in name:
        wording = split = "sgseg"
    elif short:
        wording = split = "languide"
    else:
        wording, split = "medclipseg" if table.column(["Ground Truth"]) else "lvit", "lvit"
    whole = part == "train" and "forcovid19" in name  # train and valid together; the ID sheets part them
    cut = int(0.8 * len(table.rows)) if short and part == "train" else len(table.rows)
    for count, (_, row) in enumerate(table.rows):
        place = part_of(row[by_row]) if by_row else part if count < cut else "valid"
        if by_row and row[by_row] and place is None:
            sheets.losses.add(f"split values that are no part (column {by_row})", row[by_row])
        sheets.add(row[image], wording, row[text], split, None if whole else place)


def read_json_file(file: Path, sheets: Sheets) -> None:
    rows = list(json_rows(read_json(file), None, sheets.known))
    if not rows:
        sheets.losses.add("tables left aside", file.name)
    for name, text, part in rows:
        sheets.add(name, "sgseg", text, "sgseg", part)


def json_rows(value: Any, part: str | None, known: set[str]) -> Iterator[tuple[str, str, str | None]]:
    """(image, sentence, part) out of SGSeg's ``{part: [{image_path, caption}]}`` and its relatives."""
    if isinstance(value, list):
        for entry in value:
            yield from json_rows(entry, part, known)
    elif isinstance(value, dict):
        fields = {plain(str(k)): v for k, v in value.items()}
        image = next((fields[n] for n in ("imagepath", "path", *IMAGE_NAMES) if n in fields), None)
        text = next((fields[n] for n in TEXT_NAMES if n in fields), None)
        place = next((part_of(str(fields[n])) for n in SPLIT_NAMES if n in fields), None) or part
        if isinstance(image, str) and isinstance(text, str):
            yield image, " ".join(text.split()), place
            return
        for name, entry in value.items():
            if isinstance(entry, str) and key(name) in known:
                yield name, " ".join(entry.split()), part
            elif isinstance(entry, dict) and key(name) in known:
                yield from json_rows({"image": name, **entry}, part, known)
            elif isinstance(entry, list | dict):
                yield from json_rows(entry, part_of(name) or part, known)


def fake(root: str | Path) -> Path:
    """Four cases in Kaggle's layout with three wordings and two splits; returns what to scan."""
    import csv

    import numpy as np
    import openpyxl
    from PIL import Image

    tree = Path(root) / "QaTa-COV19-v2"
    scans = ("sub-S09340_ses-E17539_run-1_bp-chest_vp-ap_dx", "sub-S10064_ses-E20578_run-1_bp-chest_cr")
    names = ("covid_1", "covid_2", *scans)
    for folder in ("Images", "Ground-truths"):
        (tree / "Train Set" / folder).mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        grid = np.add.outer(np.arange(48) * 3, np.arange(40) * 2)
        Image.fromarray((grid + 7 * n).astype(np.uint8)).save(tree / "Train Set/Images" / f"{name}.png")
        mask = np.zeros((48, 40), np.uint8)
        mask[20:36, 4 + n : 14 + n] = 255
        Image.fromarray(mask).save(tree / "Train Set/Ground-truths" / f"mask_{name}.png")
    for part, rows in (("Train", names[:3]), ("Val", names[3:])):
        book = openpyxl.Workbook()
        book.active.append(["Image", "Description", "Ground Truth"])
        for name in rows:
            file, sentence = f"mask_{name}.png", "Unilateral infection of the lower left lung"
            book.active.append([file, sentence, file])
        book.save(tree / f"{part}_text.xlsx")
        with open(tree / f"{part}_text_lvit_form.csv", "w", newline="", encoding="utf-8") as stream:
            sentence = "Unilateral pulmonary infection, one infected area, lower left lung."
            lines = [[f"mask_{n}.png", sentence] for n in rows]
            csv.writer(stream).writerows([["Image", "Description"], *lines])
    with open(tree / "sgseg_captions.csv", "w", newline="", encoding="utf-8") as stream:
        caption = "unilateral pulmonary infection, one infected area, lower left lung."
        parts = ("train", "train", "train", "valid")
        lines = [[p, f"mask_{n}.png", caption] for p, n in zip(parts, names, strict=True)]
        csv.writer(stream).writerows([["split", "Image", "caption"], *lines])
    return Path(root)
