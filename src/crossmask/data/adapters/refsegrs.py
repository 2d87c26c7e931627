"""RefSegRS: aerial pictures, each with a phrase that says which of its objects are the target.

Layout: ``images/<id>.tif``, ``masks/<id>.tif`` and ``output_phrase_{train,val,test}.txt``, one ``<id> <phrase>`` a line
without header. A case is a line: one picture may have several phrases and so be several cases (a further line of an id
is ``<id>-2`` ...). Cases whose pictures are equal, byte for byte, are one group, so that no split made here parts them;
the published parts are ``split``.

Source: Yuan, Mou, Hua, Zhu, "RRSIS: Referring Remote Sensing Image Segmentation", IEEE TGRS 2024 (arXiv:2306.08625;
CC-BY-4.0). Known faults: targets of many small objects; what readers take for target differs (over 0 or over 50 of
255; here over half). LEFT is the left of the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from crossmask.data.layouts import UNLABELLED, by_key, child, entries, find_tree, given, needed, present
from crossmask.data.manifest import Case
from crossmask.data.tables import PARTS, Losses, key, part_in
from crossmask.errors import DataError
from crossmask.files import file_digest, read_text

SOURCE = "RefSegRS"
IMAGES, MASKS = ("images",), ("masks",)
PHRASES = "output_phrase_"


def scan(root: str | Path) -> list[Case]:
    """All cases below ``root``, one a phrase."""
    losses = Losses(SOURCE)
    looked_for = f"'images', 'masks' and '{PHRASES}train.txt' (val, test)"
    tree = find_tree(given(root), lambda f: bool(child(f, IMAGES) and phrase_files(f)), looked_for)
    images = by_key(needed(tree, "image", IMAGES), losses)
    masks = by_key(needed(tree, "mask", MASKS), losses)
    files = phrase_files(tree)
    losses.add("lists of phrases missing", *(f"{PHRASES}{part}.txt" for part in PARTS if part not in files))
    cases: list[Case] = []
    seen: dict[str, int] = {}
    groups: dict[str, str] = {}  # what a picture holds -> the first case that has it
    for part in (p for p in PARTS if p in files):
        for name, phrase in lines(files[part], losses):
            image, mask = images.get(key(name)), masks.get(key(name))
            if image is None:
                losses.add("phrases without an image", name)
                continue
            seen[key(name)] = seen.get(key(name), 0) + 1
            one = name if seen[key(name)] == 1 else f"{name}-{seen[key(name)]}"
            cases.append(
                Case(
                    id=one,
                    images={"": str(image)},
                    group=groups.setdefault(file_digest(image), f"picture {one}"),
                    splits={"": part},
                    mask=str(mask) if mask else None,
                    texts={"": phrase},
                    text_origin="annotation",
                    side_convention="image",
                    source=SOURCE,
                )
            )
    if not cases:
        raise DataError(f"{tree}: no phrase names a picture that is there; {present(tree)}.")
    losses.add("images without a phrase (left out)", *(f.name for k, f in images.items() if k not in seen))
    losses.add(UNLABELLED, *(c.id for c in cases if c.mask is None))
    losses.log()
    return cases


def phrase_files(folder: Path) -> dict[str, Path]:
    """Part -> its list of phrases."""
    files = [f for f in entries(folder) if f.is_file() and f.name.casefold().startswith(PHRASES)]
    return {part: f for f in files if (part := part_in(f.stem.casefold().removeprefix(PHRASES)))}


def lines(file: Path, losses: Losses) -> Iterator[tuple[str, str]]:
    """(id, phrase) of each line, parted at the first blank."""
    for number, line in enumerate(read_text(file).splitlines(), 1):
        name, _, phrase = line.strip().partition(" ")
        if name and phrase.strip():
            yield name, phrase.strip()
        elif name:
            losses.add(f"lines of {file.name} without a phrase (left out)", f"line {number}")


def fake(root: str | Path) -> Path:
    """Four cases on three pictures: two ids share one, and an id has two phrases; returns what to scan."""
    import shutil

    from crossmask.data.adapters.prompts import fake_pair

    tree = Path(root) / "RefSegRS"
    for n, name in enumerate(("945", "2339", "3080")):
        fake_pair(tree / f"images/{name}.tif", tree / f"masks/{name}.tif", n)
    shutil.copy(tree / "images/945.tif", tree / "images/2339.tif")
    told = {
        "train": ["945 impervious surface", "2339 building along the road"],
        "val": ["3080 vehicle", "3080 van driving on the road"],
    }
    for part, rows in told.items():
        (tree / f"{PHRASES}{part}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return Path(root)
