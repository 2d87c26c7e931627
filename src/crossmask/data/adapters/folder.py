"""Your own folder: pictures, masks and, if you have one, a table with a sentence a picture.

Layouts: ``images/`` and ``masks/`` (with or without folders below), ``images/train/...``, or
``train/images/...``; folders called train, val or test become the split. A mask has the picture's name, with or
without one of the usual additions (``mask_``, ``_mask``, ``_segmentation``, ``_seg``, ``_label``, ``_gt``) or
``mask_suffix``. The table (csv, tsv, xlsx, jsonl) has one row a picture; columns that mean nothing here are
kept as metadata. Without a mask a picture is unlabelled, without a row it has no sentence: both are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crossmask.core import SideConvention, TextOrigin
from crossmask.data.images import IMAGE_SUFFIXES
from crossmask.data.manifest import Case
from crossmask.data.tables import (
    Losses,
    given,
    part_of,
    present,
    read_table,
)
from crossmask.errors import DataError, name_list

GROUP_NAMES = ("group", "patient", "patientid", "subject", "subjectid")
AFFIXES = (("mask_", ""), *(("", end) for end in ("_mask", "_segmentation", "_seg", "_label", "_gt")))


@dataclass(frozen=True)
class Picture:
    path: Path
    below: str  # its path below the image folder, with '/'
    part: str  # train, valid, test or ''


def scan(
    root: str | Path,
    *,
    images: str = "images",
    masks: str = "masks",
    table: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    side_convention: SideConvention = "unknown",
    text_origin: TextOrigin = "unknown",
    mask_suffix: str = "",
) -> list[Case]:
    """All pictures below ``root/images`` with what belongs to them; every option but ``root`` may be left out."""
    top = given(root)
    losses = Losses(top.name)
    tree, places = find_places(top, images, masks)
    found: list[Picture] = []
    paired: dict[Path, Path] = {}
    for part, image_folder, mask_folder in places:
        files = files_below(image_folder, losses)
        if mask_folder is None:
            losses.add(f"mask folders missing (looked for: '{masks}'); {present(image_folder.parent)}", masks)
            mask_files = []
        elif mask_folder == image_folder:
            mask_files = masks_among(files, mask_suffix)
        else:
            mask_files = files_below(mask_folder, losses)
        apart = set(mask_files)
        here = [to_picture(f, image_folder, part) for f in files if f not in apart]
        paired |= pair(here, mask_files, mask_folder, mask_suffix, losses)
        found += here
    if not found:
        where = name_list(image for _, image, _ in places)
        raise DataError(f"{where}: no image is there (looked for: {name_list(IMAGE_SUFFIXES)}).")
    losses.add("images without a mask (kept as unlabelled)", *(p.below for p in found if p.path not in paired))
    tables = chosen_tables(top, tree, table)
    if not tables:
        losses.add("folders without a table (looked for: one csv, tsv, xlsx or jsonl); no case has text", tree)
    rows: dict[Path, dict[str, str]] = {}
    columns = {"image": image_column, "text": text_column, "group": group_column, "split": split_column}
    for one in tables:
        read_rows(read_table(one), columns, found, rows, losses)
    free = list(dict.fromkeys(c for row in rows.values() for c in row if not c.startswith("\0")))
    cases = []
    for picture, name in zip(found, ids(found), strict=True):
        row = rows.get(picture.path, {})
        split = row.get("\0split", "")
        split = part_of(split) or split or picture.part
        if picture.part and split != picture.part:
            losses.add(f"images in a {picture.part} folder though the table says {split} (it holds)", name)
        mask = paired.get(picture.path)
        cases.append(
            Case(
                id=name,
                images={"": str(picture.path)},
                group=row.get("\0group") or None,
                splits={"": split} if split else {},
                mask=str(mask) if mask else None,
                texts={"": row["\0text"]} if row.get("\0text") else {},
                text_origin=text_origin,
                side_convention=side_convention,
                source=top.name,
                free={c: row.get(c, "") for c in free},
            )
        )
    losses.add("images without a sentence", *(c.id for c in cases if not c.texts and tables))
    losses.add("cases without a group (patient)", *(c.id for c in cases if c.group is None))
    losses.log()
    return cases
