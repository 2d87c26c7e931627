"""Twenty-four copies of each picture, as CMG-Net's protocol has them: eight turns, each plain, blurred, colour-shifted.

Source: Su and Meng 2025, section 4.1 (stated: turns by 45 degrees, Gaussian blur, RGB shift, centre crop, 256 x 256;
then a random split of 8:1:1 into train, validation and test). reconstructed: the blur (sigma 1.5 pixels of 256), the
shift (each channel by up to 20 of 255, drawn once a copy), the crop (the square that no turn leaves, 1 / sqrt(2) of the
side).

**The split after the copying leaks**: copies of one lesion stand in train and in test. Here source and copies are one
group, so that every score of such a split says how many of its cases train has seen. ``split:by-source`` deals the
same copies in the same shares with each source in one part: what is between the two is the leak. Training proper turns,
blurs and shifts anew each time instead (``data.augment: {eighths: true, blur: ..., colour_shift: ...}``), after a split
by picture. A sentence that names a side or a place stays with the copies that are not turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from crossmask.core import rng
from crossmask.data import sides
from crossmask.data.folds import parts
from crossmask.data.images import read_image
from crossmask.data.manifest import Case
from crossmask.data.masks import read_mask
from crossmask.data.split import UNUSED, unit
from crossmask.errors import CasesError, DataError
from crossmask.files import sentence_for_write_errors

TURNS = tuple(range(0, 360, 45))  # degrees
KINDS = ("plain", "blurred", "shifted")
BLUR = 1.5 / 256  # standard deviation, of the copy's side
SHIFT = 20  # of 255, at most
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
SPLIT, CLEAN = "paper", "by-source"


def expand(
    cases: Sequence[Case],
    folder: str | Path,
    *,
    size: int = 256,
    together: Sequence[Sequence[str]] = (),
    seed: int = 0,
    tick: Callable[[int, int], None] | None = None,
) -> list[Case]:
    """Write the copies into ``folder/images`` and ``folder/masks``; returns the sources and the copies, with the copies
    in the leaking split ``split:paper`` and in ``split:by-source``, the sources in their own. together: ids of sources
    whose copies stay in one part of ``split:by-source`` (near-duplicates). Raises CasesError, which names what cannot
    be read."""
    copies: list[Case] = []
    faults: dict[str, str] = {}
    for done, case in enumerate(cases, 1):
        try:
            copies += copies_of(case, Path(folder), size, seed)
        except DataError as error:
            faults[case.id] = str(error)
        if tick:
            tick(done, len(cases))
    if faults:
        raise CasesError(faults)
    # each copy alone: the paper's split knows no sources
    alone = parts([replace(c, group=None) for c in copies], SHARES, name=SPLIT, seed=seed)
    first: dict[str, str] = {}
    for copy in copies:
        first.setdefault(copy.free["copy_of"], copy.id)  # the others of one source are joined by their group
    clean = parts(copies, SHARES, name=CLEAN, together=[[first[i] for i in ids] for ids in together], seed=seed)
    of_copies = {SPLIT: UNUSED, CLEAN: UNUSED}
    own = [replace(c, group=unit(c)[1], splits={**c.splits, **of_copies}) for c in cases]
    others = dict.fromkeys({name for case in cases for name in case.splits}, UNUSED)
    return own + [replace(c, splits={**others, **a.splits, **c.splits}) for c, a in zip(clean, alone, strict=True)]


def copies_of(case: Case, folder: Path, size: int, seed: int) -> list[Case]:
    """One picture's twenty-four copies."""
    if len(case.images) > 1:
        raise DataError(f"has {len(case.images)} pictures ({', '.join(case.images)}); copies are made of single ones.")
    pixels = read_image(next(iter(case.images.values())), channels=3).unit()
    picture = Image.fromarray(np.round(np.moveaxis(pixels, 0, -1) * 255).astype(np.uint8))
    mask = Image.fromarray(read_mask(case.mask)[0] * np.uint8(255)) if case.mask else None
    if mask is not None and mask.size != picture.size:
        of_mask, of_picture = (f"{one.size[0]}x{one.size[1]}" for one in (mask, picture))
        raise DataError(
            f"{case.mask}: the mask is {of_mask} pixels, its image {of_picture}; give the mask of this image in the "
            "image's size."
        )
    found = []
    for degrees in TURNS:
        turned = cropped(picture, degrees, size, Image.Resampling.BILINEAR)
        shape = cropped(mask, degrees, size, Image.Resampling.NEAREST) if mask is not None else None
        for kind in KINDS:
            name = f"{case.id}_{degrees:03d}_{kind}"
            image = altered(turned, kind, rng(seed, "copy", name))
            files = [(folder / "images" / f"{name}.png", image)]
            if shape is not None:
                files.append((folder / "masks" / f"{name}.png", shape.convert("1")))
            for path, drawn in files:
                with sentence_for_write_errors(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    drawn.save(path, compress_level=1)
            found.append(
                replace(
                    case,
                    id=name,
                    images={"": str(files[0][0])},
                    mask=str(files[1][0]) if shape is not None else None,
                    group=unit(case)[1],
                    splits={},
                    texts={w: t for w, t in case.texts.items() if not degrees or follows(t)},
                    free={**case.free, "copy_of": case.id},
                )
            )
    return found


def follows(sentence: str) -> bool:
    """Whether a sentence stays true when its picture is turned."""
    return not (sides.names_side(sentence) or sides.names_place(sentence))


def cropped(picture: Image.Image, degrees: int, size: int, how: Image.Resampling) -> Image.Image:
    """Turned about the centre, the inner square that every turn fills, at ``size``."""
    side = min(picture.size) / math.sqrt(2)
    left, top = (picture.size[0] - side) / 2, (picture.size[1] - side) / 2
    turned = picture.rotate(degrees, how) if degrees else picture
    return turned.resize((size, size), how, box=(left, top, left + side, top + side))


def altered(picture: Image.Image, kind: str, generator: np.random.Generator) -> Image.Image:
    if kind == "blurred":
        return picture.filter(ImageFilter.GaussianBlur(BLUR * picture.size[0]))
    if kind == "shifted":
        shift = generator.integers(-SHIFT, SHIFT + 1, 3)
        return Image.fromarray((np.asarray(picture, np.int16) + shift).clip(0, 255).astype(np.uint8))
    return picture
