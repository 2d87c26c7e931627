"""Text-prompt benchmarks in MedCLIPSeg's layout: any set of pictures with sheets of sentences and test variants.

Layout: ``{Train,Val,Test}_Folder/{img,label}`` and ``Prompts_Folder`` with ``{Train,Val}_text.xlsx``,
``Test_text_original.xlsx``, ``Test_text_{contradictory,missing_location,overdescriptive,underdescriptive}.xlsx`` and
``Train_text_{10,25,50}.xlsx``; columns Image, Description and Ground Truth (or Mask). Rows are joined by the picture's
name, never by their number; the mask is the one that the row names, whatever its ending and case. The sentences become
``text``, the variants ``text:contradictory`` ...; the folders are ``split``, the sheets of fewer rows ``split:10`` ...,
in which the rest of train is unused and valid and test are whole.

Source: Koleilat et al., MedCLIPSeg, arXiv:2602.20423, whose repository has the sheets (Apache-2.0); pictures from each
set's own authors, on their terms. Known faults: ids that stand in two parts or twice; sheets that are empty; the holes
that ``missing_location`` leaves in a sentence; contradictory and overdescriptive sentences are drawn at random. No
patient is known, so there is no group. LEFT is the left of the picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from crossmask.data.images import IMAGE_SUFFIXES
from crossmask.data.layouts import (
    UNLABELLED,
    Found,
    Part,
    Sheets,
    bare,
    between,
    by_key,
    entries,
    find_parts,
    given,
    tables_in,
)
from crossmask.data.manifest import Case
from crossmask.data.split import UNUSED
from crossmask.data.tables import IMAGE_NAMES, PARTS, TEXT_NAMES, Losses, key, part_of, plain, read_table, stem
from crossmask.errors import DataError, name_list
from crossmask.files import file_digest

LOOKED_FOR = (
    "'Train_Folder', 'Val_Folder', 'Test_Folder' with 'img' and 'label' (the sheets, as in 'Prompts_Folder', hold no "
    "pictures)"
)
TABLES = {"train": "Train_text.xlsx", "valid": "Val_text.xlsx", "test": "Test_text_original.xlsx"}
MASK_NAMES = ("Ground Truth", "Mask")
VARIANTS = ("contradictory", "missing_location", "overdescriptive", "underdescriptive")
SUBSETS = ("10", "25", "50")
NAMED = re.compile(
    r"(?P<part>train(ing)?|val(id(ation)?)?|test)(folder|set)?text"
    rf"(original|(?P<variant>{'|'.join(map(plain, VARIANTS))})|(?P<subset>{'|'.join(SUBSETS)}))?"
)


def scan(root: str | Path) -> list[Case]:
    """All cases below ``root``; the folders are the split, the sheets of fewer rows further ones."""
    top = given(root)
    tree, parts = find_parts(top, LOOKED_FOR)
    losses = Losses(tree.name)
    found = images_of(parts, losses)
    told = Sentences(found, losses)
    told.read(tables_in(between(top, tree)), split="")
    absent = [TABLES[part.name] for part in parts if part.name not in told.sheets]
    losses.add("sentence tables missing (what they name has no text)", *absent)
    told.plain.found = with_masks(found, parts, losses, named=told.masks)
    told.plain.place_by_folder("")
    place_subsets(told.plain)
    cases = told.cases(lambda _: {})
    losses.log()
    return cases


def place_subsets(sheets: Sheets) -> None:
    """A subset is of train alone: its rows are train, the rest of train is unused, valid and test stay whole."""
    for split, rows in sheets.splits.items():
        if not split:
            continue
        astray = [f.id for f in sheets.found if f.key in rows and f.part != "train"]
        sheets.losses.add(f"rows of the {split} % of train whose image is in another folder (as it is kept)", *astray)
        for f in sheets.found:
            if f.part != "train":
                rows[f.key] = f.part
            rows.setdefault(f.key, UNUSED)


# -- pictures and masks ----------------------------------------------------------------------------------


def images_of(parts: Sequence[Part], losses: Losses, skip: str = "") -> list[Found]:
    """All pictures but those whose names end in ``skip``, masks not yet looked for. What a former part has under the
    same name is left out and counted."""
    found: dict[str, Found] = {}
    for part in parts:
        images = {k: f for k, f in by_key(part.images, losses).items() if not skip or not k.endswith(skip)}
        if not images:
            losses.add("folders without an image", part.images)
        for name, image in images.items():
            one = Found(name, stem(image.name), str(image), None, part.name)
            first = found.setdefault(name, one)
            if first is not one:
                same = "the same picture" if file_digest(first.image) == file_digest(image) else "that name"
                losses.add(f"images of {part.name} left out ({same} is in {first.part})", image.name)
    if not found:
        where = name_list((p.images for p in parts), shown=3)
        raise DataError(f"{where}: no image is there (looked for: {name_list(IMAGE_SUFFIXES)}).")
    return list(found.values())


def with_masks(
    found: Sequence[Found],
    parts: Sequence[Part],
    losses: Losses,
    *,
    named: Mapping[str, str] | None = None,
    endings: Sequence[str] = (),
) -> list[Found]:
    """The pictures with their masks: the one ``named`` for a picture's key, whatever its ending and case, else the one
    that is called after the picture, with one of the usual additions or ``endings``."""
    named = named or {}
    masks = {part.name: pictures_in(part.masks) for part in parts}
    index = {part: by_names(files, endings) for part, files in masks.items()}
    labelled: list[Found] = []
    used: set[Path] = set()
    for f in found:
        name = named.get(f.key)
        fits = index[f.part].get(stem(name or f.id).casefold(), [])
        if name:  # of 'a.png' and 'a.jpeg' the one that is written, and never one with an addition
            fits = [m for m in fits if stem(m.name).casefold() == stem(name).casefold()]
            fits.sort(key=lambda m: m.name != name.strip())
        if name and not fits:
            losses.add("masks named in a table that are not there", name)
        losses.add("further masks of an image (left out)", *(m.name for m in fits[1:]))
        used.update(fits)
        labelled.append(replace(f, mask=str(fits[0]) if fits else None))
    losses.add("masks without an image", *(m.name for files in masks.values() for m in files if m not in used))
    losses.add(UNLABELLED, *(f.id for f in labelled if f.mask is None))
    return labelled


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, which may be absent."""
    files = entries(folder) if folder.is_dir() else []
    return [f for f in files if f.suffix.casefold() in IMAGE_SUFFIXES and f.is_file()]


def by_names(masks: Iterable[Path], endings: Sequence[str]) -> dict[str, list[Path]]:
    """Masks by the names their pictures may have; those of the very name come first."""
    index: dict[str, list[Path]] = {}
    names = [(stem(mask.name).casefold(), mask) for mask in masks]
    for name, mask in names:
        index.setdefault(name, []).append(mask)
    for name, mask in names:
        for other in bare(name, *endings):
            index.setdefault(other, []).append(mask)
    return index


# -- sentences -------------------------------------------------------------------------------------------


class Sheet(NamedTuple):
    part: str
    variant: str  # '' for the sentences themselves
    subset: str  # '' for the whole part


def sheet_of(name: str) -> Sheet | None:
    """What a sheet's name says it holds; None for all else.

    >>> sheet_of("Test_text_missing_location"), sheet_of("Train_text_10")
    (Sheet(part='test', variant='missing_location', subset=''), Sheet(part='train', variant='', subset='10'))
    """
    match = NAMED.fullmatch(plain(name))
    if not match:
        return None
    variant = next((v for v in VARIANTS if plain(v) == match["variant"]), "")
    return Sheet(part_of(match["part"]) or "", variant, match["subset"] or "")


class Sentences:
    """What the sheets of a benchmark say: sentences, those of the test variants under wordings of their own, masks."""

    def __init__(self, found: Sequence[Found], losses: Losses, wording: str = "") -> None:
        self.losses, self.wording = losses, wording
        self.plain, self.variants = Sheets(found, losses), Sheets(found, losses)
        self.masks: dict[str, str] = {}  # picture -> the mask that its first row names
        self.sheets: dict[str, set[str]] = {}  # part -> the pictures that its whole sheet names
        self.parts: dict[str, set[str]] = {}  # wording of a variant -> the parts that have it

    def read(self, files: Iterable[Path], *, split: str | None) -> None:
        """All sheets, train first. ``split`` gets the parts that their names tell: '' is the data set's own, with the
        subsets of train as splits beside it; None: no split."""
        known: list[tuple[Sheet, Path]] = []
        for file in files:
            sheet = sheet_of(file.stem)
            if sheet is None or (sheet.subset and (split != "" or sheet.part != "train")):
                self.losses.add("tables left aside", file.name)
            else:
                known.append((sheet, file))
        order = list(PARTS)
        for sheet, file in sorted(known, key=lambda k: (order.index(k[0].part), *k[0][1:])):
            self.read_sheet(sheet, file, split)

    def read_sheet(self, sheet: Sheet, file: Path, split: str | None) -> None:
        wording = "_".join(w for w in (self.wording, sheet.variant) if w)
        if sheet.variant:
            self.parts.setdefault(wording, set()).add(sheet.part)
        named = self.sheets.setdefault(sheet.part, set()) if not sheet.variant and not sheet.subset else set()
        table = read_table(file)
        if not table.columns:
            self.losses.add("tables that are empty", file.name)
            return
        if not table.rows:
            self.losses.add("tables that hold a header only", file.name)
        image, text = table.needed("image", IMAGE_NAMES), table.needed("sentence", TEXT_NAMES)
        mask = table.column(MASK_NAMES)
        for _, row in table.rows:
            if sheet.variant:
                self.variants.add(row[image], wording, row[text], "", None)
            else:
                part = None if split is None else sheet.part
                self.plain.add(row[image], wording, row[text], sheet.subset or split or "", part)
                named.add(key(row[image]))
            own = row[mask] if mask else ""
            if own and stem(self.masks.setdefault(key(row[image]), own)).casefold() != stem(own).casefold():
                self.losses.add("rows that name another mask than a former one (that is kept)", row[image])

    def cases(self, free: Callable[[str], Mapping[str, str]]) -> list[Case]:
        """One case a picture, without a group; ``free`` is a function of its id."""
        found = self.plain.found
        cases = self.plain.cases(self.losses.source, lambda _: None, free)
        for wording, texts in self.variants.texts.items():
            asked = {k for part in self.parts[wording] for k in self.sheets.get(part, ())}
            lone = [f.id for f in found if f.key in asked and f.key not in texts]
            self.losses.add(f"images without a sentence ({wording})", *lone)
            pairs = zip(found, cases, strict=True)
            cases = [c.with_text(wording, texts[f.key]) if f.key in texts else c for f, c in pairs]
        self.losses.add("cases without a patient number (no group)", *(c.id for c in cases))
        return [c if c.texts else replace(c, text_origin="unknown") for c in cases]


# -- a fake set ------------------------------------------------------------------------------------------


def fake_pair(image: Path, mask: Path, n: int) -> None:
    """A picture in colour and its mask; ``n`` tells them from others."""
    import numpy as np
    from PIL import Image

    grid = np.add.outer(np.arange(48) * 3, np.arange(40) * 2) + 7 * n
    shape = np.zeros((48, 40), bool)
    shape[12:30, 6 + n : 20 + n] = True
    picture = np.stack([grid, grid // 2 + 60, grid // 2 + 40], axis=2).astype(np.uint8)
    picture[shape] //= 2
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(image)
    drawn = Image.fromarray(shape.astype(np.uint8) * 255)
    (drawn.convert("1") if mask.suffix == ".bmp" else drawn).save(mask)


def fake_sheet(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """A workbook as the benchmark has it, line ends behind the sentences included."""
    import openpyxl

    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    book.active.append(["Image", "Description", "Ground Truth"])
    for image, sentence, mask in rows:
        book.active.append([image, f"{sentence}\n", mask])
    book.save(path)


def fake(root: str | Path) -> Path:
    """Four cases with masks of other names, a subset of train and the test variants; returns what to scan."""
    tree = Path(root) / "ISIC"
    names = {"Train": ("ISIC_0000001", "ISIC_0000002"), "Val": ("ISIC_0000003",), "Test": ("ISIC_0000004",)}
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for part, ids in names.items():
        for n, name in enumerate(ids):
            image, mask = f"{name}.png", f"{name}_Segmentation.png"
            fake_pair(tree / f"{part}_Folder/img" / image, tree / f"{part}_Folder/label" / mask, n + len(part))
            rows.setdefault(part, []).append((image, "one brown oval lesion in the center of the image", mask))
    sheets = {"Train_text": rows["Train"], "Train_text_50": rows["Train"][:1], "Val_text": rows["Val"]}
    sheets |= {f"Test_text_{variant}": rows["Test"] for variant in ("original", *VARIANTS)}
    for sheet, lines in sheets.items():
        fake_sheet(tree / "Prompts_Folder" / f"{sheet}.xlsx", lines)
    return Path(root)
