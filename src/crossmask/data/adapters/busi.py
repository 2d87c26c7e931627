"""BUSI: breast ultrasound, benign, malignant and normal, with masks of the lesions.

Layout: ``Dataset_BUSI_with_GT/{benign,malignant,normal}`` with ``benign (1).png``, ``benign (1)_mask.png`` and, for a
further lesion, ``benign (4)_mask_1.png``. All masks of a picture together are its target: the manifest names them all
(``a.png|b.png``). The folder is the free column ``diagnosis``. Normal pictures have empty masks.

Source: Al-Dhabyani et al., Data in Brief 28 (2020) 104863. Known faults: masks in several modes (1 bit, RGB, RGBA);
printed text and callipers in the pictures, which give lesions away; the same picture in both classes and twice in one
(``crossmask data check`` names equal files); no patient is told, so there is no group. LEFT is the left of the picture.
"""

from __future__ import annotations

import re
from pathlib import Path

from crossmask.data.adapters.prompts import pictures_in
from crossmask.data.images import IMAGE_SUFFIXES
from crossmask.data.layouts import UNLABELLED, child, find_tree, given
from crossmask.data.manifest import SEVERAL, Case
from crossmask.data.tables import Losses, stem
from crossmask.errors import DataError, name_list

SOURCE = "BUSI"
CLASSES = ("benign", "malignant", "normal")
MASK = re.compile(r"(?P<picture>.+)_mask(_\d+)?", re.IGNORECASE)


def scan(root: str | Path) -> list[Case]:
    """All cases below ``root``."""
    losses = Losses(SOURCE)
    tree = find_tree(given(root), lambda f: any(child(f, [c]) for c in CLASSES), "'benign', 'malignant', 'normal'")
    there = {name: folder for name in CLASSES if (folder := child(tree, [name]))}
    losses.add("folders missing", *(name for name in CLASSES if name not in there))
    cases = [case for name, folder in there.items() for case in cases_in(folder, name, losses)]
    if not cases:
        raise DataError(f"{tree}: no image is there (looked for: {name_list(IMAGE_SUFFIXES)}).")
    losses.add(UNLABELLED, *(case.id for case in cases if case.mask is None))
    several = [case.id for case in cases if SEVERAL in (case.mask or "")]
    losses.add("cases of several masks (their union is the target)", *several)
    losses.add("cases without a patient number (no group)", *(case.id for case in cases))
    losses.log()
    return cases


def cases_in(folder: Path, diagnosis: str, losses: Losses) -> list[Case]:
    """The pictures of a class in the order of their numbers, each with all its masks."""
    pictures: list[Path] = []
    masks: dict[str, list[Path]] = {}
    for file in pictures_in(folder):
        match = MASK.fullmatch(stem(file.name))
        if match:
            masks.setdefault(match["picture"].casefold(), []).append(file)
        else:
            pictures.append(file)
    pictures.sort(key=lambda f: (int("0" + "".join(re.findall(r"\d+", f.stem)[-1:])), f.name))
    cases = []
    for file in pictures:
        own = masks.pop(stem(file.name).casefold(), [])
        cases.append(
            Case(
                id=stem(file.name),
                images={"": str(file)},
                mask=SEVERAL.join(map(str, sorted(own, key=lambda f: (len(f.name), f.name)))) or None,
                side_convention="image",
                source=SOURCE,
                free={"diagnosis": diagnosis},
            )
        )
    losses.add("masks without an image", *(file.name for several in masks.values() for file in several))
    return cases


def fake(root: str | Path) -> Path:
    """Four cases: a benign one with two lesions, masks in three modes, a normal one; returns what to scan."""
    import numpy as np
    from PIL import Image

    tree = Path(root) / "Dataset_BUSI_with_GT"
    told = (("benign", 1, "1", 1), ("benign", 4, "RGB", 2), ("malignant", 1, "RGBA", 1), ("normal", 1, "L", 0))
    for n, (name, number, mode, lesions) in enumerate(told):
        (tree / name).mkdir(parents=True, exist_ok=True)
        grid = np.add.outer(np.arange(48) * 3, np.arange(40) * 2) + 9 * n
        Image.fromarray(grid.astype(np.uint8)).convert("RGB").save(tree / name / f"{name} ({number}).png")
        for lesion in range(max(lesions, 1)):
            mask = np.zeros((48, 40), np.uint8)
            if lesions:
                mask[6 + 20 * lesion : 16 + 20 * lesion, 5 + n : 15 + n] = 255
            more = f"_{lesion}" if lesion else ""
            Image.fromarray(mask).convert(mode).save(tree / name / f"{name} ({number})_mask{more}.png")
    return Path(root)
