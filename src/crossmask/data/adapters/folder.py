"""Your own folder: pictures, masks and, if you have one, a table with a sentence a picture.

Layouts: ``images/`` and ``masks/`` (with or without folders below), ``images/train/...``, or
``train/images/...``; folders called train, val or test become the split. A mask has the picture's name, with or
without one of the usual additions (``mask_``, ``_mask``, ``_segmentation``, ``_seg``, ``_label``, ``_gt``) or
``mask_suffix``. The table (csv, tsv, xlsx, jsonl) has one row a picture; columns that mean nothing here are
kept as metadata. Without a mask a picture is unlabelled, without a row it has no sentence: both are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossmask.core import SideConvention, TextOrigin
from crossmask.data import layouts, tables
from crossmask.data.images import IMAGE_SUFFIXES
from crossmask.data.manifest import FAMILIES, FIXED, Case
from crossmask.data.tables import Losses, part_of, stem
from crossmask.errors import DataError, name_list

GROUP_NAMES = ("group", "patient", "patient_id", "subject", "subject_id")


@dataclass(frozen=True)
class Picture:
    path: Path
    below: str  # its path below the image folder, the part in front, with '/'
    part: str  # train, valid, test or ''


@dataclass(frozen=True)
class Row:
    text: str
    group: str
    split: str
    free: dict[str, str]
    name: str = field(default="", compare=False)  # what the table calls the picture
    parts: int = field(default=0, compare=False)  # how many of its folders and name the picture's path has


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
    """All pictures below ``root/images`` with the mask and the table row that belong to them."""
    top = layouts.given(root)
    losses = Losses(top.name)
    tree, places = find_places(top, images, masks)
    found, paired = collect(places, masks, mask_suffix, losses)
    sheets = chosen_tables(top, tree, table)
    if not sheets:
        losses.add("folders without a table (looked for: one csv, tsv, xlsx or jsonl); no case has text", tree)
    rows: dict[Path, Row] = {}
    columns = {"image": image_column, "text": text_column, "group": group_column, "split": split_column}
    for one in sheets:
        read_rows(tables.read_table(one), columns, found, rows, losses)
    free = list(dict.fromkeys(column for row in rows.values() for column in row.free))
    cases = []
    for picture, name in zip(found, ids(found), strict=True):
        row = rows.get(picture.path, Row("", "", "", {}))
        split = part_of(row.split) or row.split or picture.part
        if picture.part and split != picture.part:
            losses.add(f"images in a {picture.part} folder though the table says {split} (as they are kept)", name)
        mask = paired.get(picture.path)
        cases.append(
            Case(
                id=name,
                images={"": str(picture.path)},
                group=row.group or None,
                splits={"": split} if split else {},
                mask=str(mask) if mask else None,
                texts={"": row.text} if row.text else {},
                text_origin=text_origin,
                side_convention=side_convention,
                source=top.name,
                free={column: row.free.get(column, "") for column in free},
            )
        )
    losses.add("images without a mask (kept as unlabelled)", *(c.id for c in cases if not c.mask))
    losses.add("images without a sentence", *(c.id for c in cases if sheets and not c.texts))
    losses.add("cases without a group (patient)", *(c.id for c in cases if c.group is None))
    losses.log()
    return cases


# -- pictures and masks ----------------------------------------------------------------------------------


def inside(folder: Path, name: str) -> Path | None:
    """A folder as the user wrote it, or one below whose name means the same."""
    return folder / name if (folder / name).is_dir() else layouts.child(folder, (name,))


def find_places(top: Path, images: str, masks: str) -> tuple[Path, list[tuple[str, Path, Path | None]]]:
    """The tree, and for each part ('' if the parts have no folders) where its pictures and masks lie."""

    def whole(folder: Path) -> bool:
        return bool(inside(folder, images) or inside(folder, masks))

    looked_for = f"the folders '{images}' and '{masks}' (or train, val, test with these)"
    tree = layouts.find_tree(
        top, lambda f: whole(f) or any(whole(part) for _, part in layouts.part_children(f)), looked_for
    )
    folders = [("", tree)] if whole(tree) else [(n, p) for n, p in layouts.part_children(tree) if whole(p)]
    places = []
    for part, folder in folders:
        pictures = inside(folder, images)
        if pictures is None:
            raise DataError(
                f"{folder}: the image folder is missing (looked for: '{images}'); {layouts.present(folder)}."
            )
        places.append((part, pictures, inside(folder, masks)))
    return tree, places


def collect(
    places: Sequence[tuple[str, Path, Path | None]], masks: str, mask_suffix: str, losses: Losses
) -> tuple[list[Picture], dict[Path, Path]]:
    """All pictures, and the mask of each that has one."""
    found: list[Picture] = []
    paired: dict[Path, Path] = {}
    for part, images, mask_folder in places:
        files = layouts.files_below(images, losses, without=mask_folder)
        mask_files: list[Path] = []
        if mask_folder is None:
            losses.add(f"mask folders missing ({layouts.present(images.parent)})", f"'{masks}' in {images.parent}")
        elif mask_folder == images:
            names = {f.with_name(stem(f.name).casefold()) for f in files}
            for file in files:
                bare = layouts.bare(stem(file.name).casefold(), mask_suffix.casefold())
                if any(file.with_name(n) in names for n in bare):
                    mask_files.append(file)
        else:
            mask_files = layouts.files_below(mask_folder, losses)
        taken = set(mask_files)
        files = [f for f in files if f not in taken]
        if mask_folder:
            paired |= layouts.pair(files, images, mask_files, mask_folder, mask_suffix, losses)
        for file in files:
            below = file.relative_to(images)
            by_folder = part_of(below.parts[0]) if len(below.parts) > 1 else None
            shown = f"{part}/{below.as_posix()}" if part else below.as_posix()
            found.append(Picture(file, shown, part or by_folder or ""))
    if not found:
        where = name_list(images for _, images, _ in places)
        raise DataError(f"{where}: no image is there (looked for: {name_list(IMAGE_SUFFIXES)}).")
    return found, paired


def ids(found: Sequence[Picture]) -> list[str]:
    """The picture's name; with its folders, then with its ending, where names alone are not unique."""
    names = [stem(p.path.name) for p in found]
    if len({n.casefold() for n in names}) < len(names):
        names = [p.below.removesuffix(p.path.suffix) for p in found]
    if len({n.casefold() for n in names}) < len(names):
        names = [p.below for p in found]
    seen: set[str] = set()
    for n, name in enumerate(names):
        tries = (name.replace("/", "_") + (f"_{count}" if count > 1 else "") for count in range(1, len(names) + 2))
        names[n] = next(t for t in tries if t.casefold() not in seen)
        seen.add(names[n].casefold())
    return names


# -- the table -------------------------------------------------------------------------------------------


def chosen_tables(top: Path, tree: Path, table: str | None) -> list[Path]:
    """The table the user named, or the one in the folder, or one in each part's folder."""
    if table is not None:
        return [next((p for p in (top / table, tree / table) if p.is_file()), top / table)]
    for folder in dict.fromkeys((tree, top)):
        files = layouts.tables_in([folder])
        if len(files) > 1:
            raise DataError(f"{folder}: holds several tables ({name_list(f.name for f in files)}); say which: table=.")
        if files:
            return files
    return [chosen[0] for _, part in layouts.part_children(tree) if (chosen := chosen_tables(part, part, None))]


def read_rows(
    table: tables.Table, columns: dict[str, str | None], found: Sequence[Picture], rows: dict[Path, Row], losses: Losses
) -> None:
    """The row of each picture into ``rows``; ``columns`` are those the user named."""

    def chosen(what: str, names: Sequence[str]) -> str | None:
        own = columns[what]
        return table.column(names) if own is None else table.needed(what, (own,))

    image = table.needed("image", tables.IMAGE_NAMES if columns["image"] is None else (columns["image"],))
    text, group, split = (
        chosen("text", tables.TEXT_NAMES),
        chosen("group", GROUP_NAMES),
        chosen("split", tables.SPLIT_NAMES),
    )
    if text is None:
        losses.add(f"tables without a text column (looked for: {name_list(tables.TEXT_NAMES)})", table.path.name)
    index, parts = layouts.by_path_end(p.path for p in found), {p.path: p.part for p in found}
    contested: dict[Path, list[str]] = {}
    for number, row in table.rows:
        tried = layouts.lookups(row[image])
        parts_left, fits = next(((n, index[name]) for n, name in tried if name in index), (0, set[Path]()))
        if len(fits) > 1 and split:
            fits = {p for p in fits if parts[p] == part_of(row[split])} or fits
        if len(fits) != 1:
            kind = "that fit several images (left out)" if fits else "without an image"
            losses.add(f"table rows {kind}", row[image] or f"row {number}")
            continue
        free = {
            f"table_{c}" if c in FIXED or c.partition(":")[0] in FAMILIES else c: v
            for c, v in row.items()
            if c not in (image, text, group, split)
        }
        told = row[text] if text else "", row[group] if group else "", row[split] if split else ""
        one = Row(*told, free, row[image], parts_left)
        picture = next(iter(fits))
        first = rows.setdefault(picture, one)
        if first is one:
            continue
        if first.parts != one.parts:  # the longer path is the picture's own
            longer = one.parts > first.parts
            lost = contested.pop(picture, [first.name]) if longer else [one.name]
            rows[picture] = one if longer else first
            losses.add("table rows without an image", *lost)
        elif folders_of(first.name) != folders_of(one.name):
            contested.setdefault(picture, [first.name]).append(one.name)
        else:
            same = "dropped as second copies" if first == one else "left out (the image has one already)"
            losses.add(f"table rows {same}", row[image])
    for picture, names in contested.items():
        del rows[picture]
        losses.add("table rows of several folders that fit one image (left out)", *names)


def folders_of(name: str) -> str:
    return name.replace("\\", "/").casefold().rpartition("/")[0]


def fake(root: str | Path) -> Path:
    """Four cases of three patients with a table; returns what to scan."""
    import csv

    import numpy as np
    from PIL import Image

    top = Path(root)
    rows = [["image", "text", "patient", "age"]]
    for n, name in enumerate(("p01_left", "p01_right", "p02_left", "p03_left")):
        for folder in ("images", "masks"):
            (top / folder).mkdir(parents=True, exist_ok=True)
        grid = np.add.outer(np.arange(48) * 3, np.arange(40) * 2) + 7 * n
        Image.fromarray(grid.astype(np.uint8)).save(top / "images" / f"{name}.png")
        mask = np.zeros((48, 40), np.uint8)
        mask[10:20, 8 + n : 20] = 255
        Image.fromarray(mask).save(top / "masks" / f"{name}_mask.png")
        rows.append([f"{name}.png", "One bright patch, in the upper part.", name[:3].upper(), str(50 + n)])
    with open(top / "cases.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return top
