"""What adapters share: data sets in folders as people have them; pictures, masks and table rows matched by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossmask.data.images import IMAGE_SUFFIXES
from crossmask.data.manifest import Case
from crossmask.data.tables import (
    IMAGE_NAMES,
    PARTS,
    TABLE_SUFFIXES,
    TEXT_NAMES,
    Losses,
    key,
    part_in,
    part_of,
    plain,
    read_table,
    stem,
)
from crossmask.errors import DataError, name_list
from crossmask.files import file_digest

IMAGE_FOLDERS = ("Images", "img", "imgs", "frames")
MASK_FOLDERS = ("Ground-truths", "labelcol", "label", "labels", "GTs", "masks")
MASK_BEFORE, MASK_AFTER = ("mask_",), ("_mask", "_segmentation", "_seg", "_label", "_gt")
# Versions of sheets with other sentences or fewer rows, as text-prompt benchmarks ship them.
ASIDE = re.compile(r"contradictory|missinglocation|overdescriptive|underdescriptive|text(10|25|50)$")
DEPTH = 3  # so many folders below the given one a data set is looked for
UNLABELLED = "images without a mask (kept as unlabelled)"


@dataclass(frozen=True)
class Part:
    """A part of a data set with its two folders; the name is '' where there is but one."""

    name: str
    images: Path
    masks: Path


@dataclass(frozen=True)
class Found:
    """A picture with what lies beside it."""

    key: str
    id: str
    image: str
    mask: str | None
    part: str


def given(root: str | Path) -> Path:
    """The folder the user named, absolute."""
    path = Path(os.path.abspath(root))
    if not path.is_dir():
        fix = "is a file; unpack it and give the folder" if path.exists() else "there is no such folder"
        raise DataError(f"{path}: {fix}.")
    return path


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden and archive leftovers."""
    try:
        return sorted(f for f in folder.iterdir() if not f.name.startswith((".", "__MACOSX")))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error}).") from error


def folders(folder: Path) -> list[Path]:
    return [f for f in entries(folder) if f.is_dir()]


def child(folder: Path, names: Iterable[str]) -> Path | None:
    """The folder below that has one of these names (case, spaces, signs aside), through a doubled folder."""
    wanted = {plain(n) for n in names}
    hits = [f for f in folders(folder) if plain(f.name) in wanted]
    if len(hits) > 1:
        raise DataError(f"{folder}: holds {name_list(h.name for h in hits)}, which mean the same; keep one of them.")
    if not hits:
        return None
    return through(hits[0])


def through(folder: Path) -> Path:
    """The folder of the same name inside, if that is all a folder holds (some archives unpack so)."""
    inside = entries(folder)
    doubled = len(inside) == 1 and inside[0].is_dir() and plain(inside[0].name) == plain(folder.name)
    return inside[0] if doubled else folder


def needed(folder: Path, what: str, names: Sequence[str]) -> Path:
    found = child(folder, names)
    if found is None:
        raise DataError(f"{folder}: the {what} folder is missing (looked for: {name_list(names)}); {present(folder)}.")
    return found


def present(folder: Path) -> str:
    return f"there is: {name_list((f.name + '/' * f.is_dir() for f in entries(folder)), shown=6)}"


def find_tree(root: Path, wanted: Callable[[Path], bool], looked_for: str) -> Path:
    """The folder, the given one or one to three below it, that has the layout."""
    level = [root]
    for _ in range(DEPTH + 1):
        hits = [f for f in level if wanted(f)]
        if len(hits) > 1:
            several = name_list(h.relative_to(root) for h in hits)
            raise DataError(f"{root}: holds several such data sets ({several}); give one of them.")
        if hits:
            return hits[0]
        level = [d for f in level for d in folders(f)]
    raise DataError(f"{root}: looked for {looked_for}, here and up to {DEPTH} folders below; {present(root)}.")


def part_children(folder: Path) -> list[tuple[str, Path]]:
    """The folders below that are called after a part, train first; through a doubled folder."""
    parts: dict[str, Path] = {}
    for one in folders(folder):
        name = part_of(one.name)
        if name and name in parts:
            raise DataError(f"{folder}: holds both '{parts[name].name}' and '{one.name}'; keep one of them.")
        if name:
            parts[name] = through(one)
    return [(name, parts[name]) for name in PARTS if name in parts]


def has_parts(folder: Path) -> bool:
    """Whether train, valid or test folders lie here that hold folders of pictures or masks."""
    return any(child(part, IMAGE_FOLDERS) or child(part, MASK_FOLDERS) for _, part in part_children(folder))


def find_parts(root: Path, looked_for: str) -> tuple[Path, list[Part]]:
    """The tree with folders for its parts, and these."""
    tree = find_tree(root, has_parts, looked_for)
    return tree, [
        Part(name, needed(folder, "image", IMAGE_FOLDERS), needed(folder, "mask", MASK_FOLDERS))
        for name, folder in part_children(tree)
    ]


def between(root: Path, tree: Path) -> list[Path]:
    """Where tables may lie: the tree, the folders above it up to the given one, prompt and part folders."""
    above = [tree, *(f for f in tree.parents if f == root or root in f.parents)]
    name = re.compile(r"(prompt|text|annotation)s?(folder)?$")
    below = [f for folder in above for f in folders(folder) if name.match(plain(f.name))]
    return above + below + [folder for _, folder in part_children(tree)]


def tables_in(folders: Iterable[Path], suffixes: Sequence[str] = TABLE_SUFFIXES) -> list[Path]:
    """The tables that lie in these folders (not below), without the lock files of spreadsheet programs."""
    files = [f for folder in dict.fromkeys(folders) for f in entries(folder) if f.is_file()]
    return [f for f in files if f.suffix.casefold() in suffixes and not f.name.startswith(("~", "."))]


def by_key(folder: Path, losses: Losses, key: Callable[[str], str] = key) -> dict[str, Path]:
    """The pictures of a folder. Of several under one key the first is kept, the others are counted."""
    kept: dict[str, Path] = {}
    for file in entries(folder):  # capitals sort first: of two spellings the published one is kept
        if file.suffix.casefold() not in IMAGE_SUFFIXES or not file.is_file():
            continue
        first = kept.setdefault(key(file.name), file)
        if first != file:
            same = file_digest(first) == file_digest(file)
            other = "files left out (one of that name, with other content, is there already)"
            losses.add("files dropped as second copies" if same else other, file.name)
    return kept


def pictures(parts: Sequence[Part], losses: Losses) -> list[Found]:
    """All pictures with their masks. What a former part has under the same name is left out and counted."""
    found: dict[str, Found] = {}
    for part in parts:
        images, masks = by_key(part.images, losses), by_key(part.masks, losses)
        losses.add("masks without an image", *(m.name for k, m in masks.items() if k not in images))
        if not images:
            losses.add("folders without an image", part.images)
        for name, image in images.items():
            mask = masks.get(name)
            one = Found(name, stem(image.name), str(image), str(mask) if mask else None, part.name)
            first = found.setdefault(name, one)
            if first is not one:
                same = "the same picture" if file_digest(first.image) == file_digest(image) else "that name"
                losses.add(f"images of {part.name} left out ({same} is in {first.part})", image.name)
            elif mask is None:
                losses.add("images without a mask (kept as unlabelled)", image.name)
    if not found:
        where = name_list(p.images for p in parts)
        raise DataError(f"{where}: no image is there (looked for: {name_list(IMAGE_SUFFIXES)}).")
    return list(found.values())


def walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files of a folder and of those below, linked ones too (large sets often lie on another disk)."""
    here = folder.resolve()
    if here in above:  # a link to a folder that holds it
        return
    for one in entries(folder):
        if one.is_dir():
            yield from walk(one, (*above, here))
        else:
            yield one


def files_below(folder: Path, losses: Losses, without: Path | None = None) -> list[Path]:
    """The pictures of a folder and of those below; second copies (case aside) are dropped and counted."""
    kept: list[Path] = []
    first: dict[str, Path] = {}
    for file in sorted(walk(folder)):
        below = file.relative_to(folder)
        if file.suffix.casefold() not in IMAGE_SUFFIXES or not file.is_file():
            continue
        if without in file.parents and without != folder:
            continue
        former = first.setdefault(str(below).casefold(), file)
        if former != file and file_digest(former) == file_digest(file):
            losses.add("files dropped as second copies", below)
        else:
            kept.append(file)
    return kept


def bare(name: str, *more_endings: str) -> list[str]:
    """The names a picture may have whose mask is called ``name`` (or is a further, numbered one).

    >>> bare("mask_a"), bare("a_seg"), bare("a_mask_1"), bare("a_1")
    (['a'], ['a'], ['a'], [])
    """
    names = [name.removeprefix(b) for b in MASK_BEFORE]
    for ending in (*more_endings, *MASK_AFTER):
        names += [name.removesuffix(ending), re.sub(rf"{re.escape(ending)}_\d+$", "", name) if ending else name]
    return [n for n in dict.fromkeys(names) if n and n != name]


def pair(
    files: Sequence[Path], images: Path, masks: Sequence[Path], folder: Path, suffix: str, losses: Losses
) -> dict[Path, Path]:
    """Picture -> mask: under the same folders below ``images`` and ``folder``, else under a name that only one mask has
    and only one picture without a mask of its own."""
    placed: dict[tuple[str, str], list[Path]] = {}
    named: dict[str, list[Path]] = {}
    for mask in masks:
        name = stem(mask.name).casefold()
        placed.setdefault((str(mask.parent.relative_to(folder)).casefold(), name), []).append(mask)
        named.setdefault(name, []).append(mask)
    paired: dict[Path, Path] = {}
    claimed: dict[Path, list[Path]] = {}  # masks in another folder, and the pictures that would take them
    for file in files:
        name, parent = stem(file.name).casefold(), str(file.parent.relative_to(images)).casefold()
        others = [name, *(b + name for b in MASK_BEFORE), *(name + a for a in MASK_AFTER)]
        for tried in ([name + suffix.casefold()] if suffix else [], others):
            near = [m for n in tried for m in placed.get((parent, n), [])]
            far = [m for n in tried for m in named.get(n, [])]
            if len(near) > 1:
                losses.add("images with several possible masks (the first is taken)", file.relative_to(images))
            elif not near and len(far) > 1:
                kind = "images with several possible masks, all in other folders (none is taken)"
                losses.add(kind, file.relative_to(images))
            if near:
                paired[file] = near[0]
                break
            if len(far) == 1:
                claimed.setdefault(far[0], []).append(file)
                break
    taken = set(paired.values())
    for mask, pictures in claimed.items():
        if len(pictures) == 1 and mask not in taken:
            paired[pictures[0]] = mask
        elif mask not in taken:
            kind = "images of one name in several folders, with one mask between them (none takes it)"
            losses.add(kind, *(file.relative_to(images) for file in pictures))
    used = set(paired.values())
    losses.add("masks without an image", *(m.relative_to(folder) for m in masks if m not in used))
    return paired


def by_path_end(files: Iterable[Path]) -> dict[str, set[Path]]:
    """Pictures by name and by the last folders of their path, with and without the file's ending."""
    index: dict[str, set[Path]] = {}
    for file in files:
        for depth in range(1, 5):
            path = "/".join(file.parts[-depth:]).casefold()
            index.setdefault(path, set()).add(file)
            index.setdefault(path.removesuffix(file.suffix.casefold()), set()).add(file)
    return index


def lookups(name: str) -> Iterator[tuple[int, str]]:
    """A name in a table as pictures may be called, with how many of its parts are left: ever fewer folders in front,
    then (0) without a mask's additions."""
    parts = name.replace("\\", "/").casefold().split("/")
    yield from ((len(parts) - i, "/".join(parts[i:])) for i in range(len(parts)))
    yield from ((0, one) for one in (stem(parts[-1]), *bare(stem(parts[-1]))))


class Sheets:
    """What tables say about pictures, by the picture's key."""

    def __init__(self, found: Sequence[Found], losses: Losses) -> None:
        self.found, self.losses = found, losses
        self.known = {f.key for f in found}
        self.texts: dict[str, dict[str, str]] = {}
        self.splits: dict[str, dict[str, str]] = {}

    def add(self, name: str, wording: str, text: str, split: str, part: str | None) -> None:
        """One row: a picture, its sentence, the part it is in."""
        picture = key(name)
        if picture not in self.known:
            self.losses.add("table rows without an image", name or "(empty)")
            return
        if text and self.texts.setdefault(wording, {}).setdefault(picture, text) != text:
            which = f"wording {wording}" if wording else "the table"
            self.losses.add(f"further sentences left out ({which} has one for that image)", name)
        if part and self.splits.setdefault(split, {}).setdefault(picture, part) != part:
            which = f"split {split}" if split else "the split"
            self.losses.add(f"rows in a second part of {which} (the first is kept)", name)

    def read_parts(self, files: Iterable[Path], split: str, wanted: Mapping[str, str]) -> None:
        """Tables with one sentence a picture, called after their part; ``wanted``: part -> its table's name."""
        absent = dict(wanted)
        for file in files:
            part = part_in(file.stem)
            if part is None or "text" not in plain(file.stem) or ASIDE.search(plain(file.stem)):
                self.losses.add("tables left aside", file.name)
                continue
            table = read_table(file)
            if not table.columns:
                self.losses.add("tables that are empty", file.name)
                continue
            image, text = table.needed("image", IMAGE_NAMES), table.needed("sentence", TEXT_NAMES)
            absent.pop(part, None)
            for _, row in table.rows:
                self.add(row[image], "", row[text], split, part)
        self.losses.add("sentence tables missing (what they name has no text)", *absent.values())

    def place_by_folder(self, split: str) -> None:
        """The folder a picture lies in says its part in a split, whatever a table says."""
        rows = self.splits.setdefault(split, {})
        for f in self.found:
            if rows.get(f.key, f.part) != f.part:
                self.losses.add(f"images in the {f.part} folder though a table says otherwise", f.id)
            rows[f.key] = f.part

    def cases(
        self,
        source: str,
        group: Callable[[str], str | None],
        free: Callable[[str], Mapping[str, str]] = lambda _: {},
    ) -> list[Case]:
        """One case a picture; ``group`` and ``free`` are functions of its id."""
        for wording, texts in self.texts.items():
            kind = f"images without a sentence ({wording})" if wording else "images without a sentence"
            self.losses.add(kind, *(f.id for f in self.found if f.key not in texts))
        for split, parts in self.splits.items():
            kind = f"images without a part in split {split}".rstrip()
            self.losses.add(kind, *(f.id for f in self.found if f.key not in parts))
        return [
            Case(
                id=f.id,
                images={"": f.image},
                group=group(f.id),
                splits={name: parts[f.key] for name, parts in self.splits.items() if f.key in parts},
                mask=f.mask,
                texts={name: texts[f.key] for name, texts in self.texts.items() if f.key in texts},
                text_origin="annotation",
                side_convention="image",
                source=source,
                free=free(f.id),
            )
            for f in self.found
        ]
