"""Kvasir-SEG: colonoscopic pictures with masks of polyps, and sentences where they lie beside them.

Layout: ``Kvasir-SEG/images/<id>.jpg`` and ``Kvasir-SEG/masks/<id>.jpg`` of the same name; ``kavsir_bboxes.json`` (spelt
so) is left aside. ``train.txt`` and ``val.txt``, one id a line, as the authors published them later (880 and 120), are
the split where both are there. ``Prompts_Folder`` holds MedCLIPSeg's sheets, if there are any: ``text:medclipseg``,
``split:medclipseg``.

Source: Jha et al., MMM 2020 (research and education only); sentences: Koleilat et al., MedCLIPSeg, arXiv:2602.20423
(Apache-2.0). Known faults: masks are JPEG in three channels, so their values are smeared about 0 and 255 (cut at half);
a black or green inset covers a corner of some pictures; no patient is told, so there is no group. LEFT is the left of
the picture.
"""

from __future__ import annotations

from pathlib import Path

from crossmask.data.adapters.prompts import Sentences, fake_pair, fake_sheet, images_of, with_masks
from crossmask.data.layouts import Part, between, child, entries, find_tree, given, needed, tables_in
from crossmask.data.manifest import Case
from crossmask.data.tables import Losses, key, part_of
from crossmask.files import read_text

SOURCE = "Kvasir-SEG"
WORDING = "medclipseg"
IMAGES, MASKS = ("images",), ("masks",)
LISTS = {"train": "train.txt", "valid": "val.txt"}


def scan(root: str | Path) -> list[Case]:
    """All cases below ``root``."""
    losses = Losses(SOURCE)
    top = given(root)
    tree = find_tree(top, lambda f: bool(child(f, IMAGES) and child(f, MASKS)), "'images' and 'masks'")
    parts = [Part("train", needed(tree, "image", IMAGES), needed(tree, "mask", MASKS))]
    found = with_masks(images_of(parts, losses), parts, losses)
    told = Sentences(found, losses, WORDING)
    told.read(tables_in(between(top, tree)), split=WORDING)
    if not told.sheets:
        losses.add("folders without a table of sentences (MedCLIPSeg's Prompts_Folder); no case has text", tree.name)
    read_lists(tree, told)
    cases = told.cases(lambda _: {})
    losses.log()
    return cases


def read_lists(tree: Path, told: Sentences) -> None:
    """The split of the authors, where both its lists lie here."""
    files = {part_of(f.stem): f for f in entries(tree) if f.suffix.casefold() == ".txt" and part_of(f.stem)}
    if not set(LISTS) <= set(files):
        return
    for part in LISTS:
        for name in filter(None, map(str.strip, read_text(files[part]).splitlines())):
            if key(name) not in told.plain.known:
                told.losses.add(f"names in {files[part].name} without an image", name)
            elif told.plain.splits.setdefault("", {}).setdefault(key(name), part) != part:
                told.losses.add("images in both lists (train is kept)", name)


def fake(root: str | Path) -> Path:
    """Four cases with JPEG masks, sentences and the authors' lists; returns what to scan."""
    tree = Path(root) / "Kvasir-SEG"
    names = ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "cju0qx73cjw570799j4n5cjze", "cju0roawvklo0")
    for n, name in enumerate(names):
        fake_pair(tree / f"images/{name}.jpg", tree / f"masks/{name}.jpg", n)
    (tree / "kavsir_bboxes.json").write_text("{}", encoding="utf-8")
    (tree / "train.txt").write_text("\n".join(names[:3]) + "\n", encoding="utf-8")
    (tree / "val.txt").write_text(names[3] + "\n", encoding="utf-8")
    lines = [(f"{name}.png", "one medium pink round polyp in the center of the image", f"{name}.png") for name in names]
    for sheet, some in (("Train_text", lines[:3]), ("Test_text_original", lines[3:])):
        fake_sheet(tree / "Prompts_Folder" / f"{sheet}.xlsx", some)
    return Path(root)
