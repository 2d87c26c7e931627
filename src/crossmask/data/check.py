"""What single files show of a data set, before anything is trained on it: every fault at once, every oddity counted.

``check`` opens each picture and mask once and keeps only numbers, so that its memory does not grow with their count;
volumes and their masks are looked at in ``check_volumes.py``.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from crossmask.data.check_volumes import Volumes
from crossmask.data.found import Found, some, spread_of, wide
from crossmask.data.images import Picture, read_image
from crossmask.data.manifest import Case, mask_files, read_leniently, without_part
from crossmask.data.masks import read_mask
from crossmask.data.sides import names_side
from crossmask.data.volumes import is_volume
from crossmask.errors import DataError
from crossmask.files import file_digest
from crossmask.rooms import near_miss

PARTS = ("train", "valid", "test", "selection", "unused")
LONG = 2000  # characters; no sentence about one picture is as long
OTHER_SIDE = 0.6  # share of a mask on the side its sentence does not name, above which the two disagree
_LEFT, _RIGHT = (re.compile(rf"\b{word}\b", re.IGNORECASE) for word in ("left", "right"))
_BOTH = re.compile(r"\b(?:bilateral(?:ly)?|both)\b", re.IGNORECASE)


def check(
    manifest: str | Path,
    *,
    labels: Mapping[str, Any] | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> Found:
    """Read a manifest and every file it names. ``labels`` as in ``read_mask`` (pictures) or ``read_labels`` (volumes);
    None: masks are binary.

    Only a wrong ``labels`` or a missing library raises; all that is wrong with the data stands in the result.
    """
    path = Path(manifest)
    found = Found()
    cases, faults = read_leniently(path)
    found.faults += faults
    if not cases:
        return found
    found.facts["cases"] = len(cases)
    ids_and_groups(cases, found)
    splits(cases, found)
    pictures, volumes = Pictures(labels), Volumes(labels)
    flat, deep = [], []
    for count, case in enumerate(cases, 1):
        kinds = kinds_of(case)
        if len(kinds) > 1:
            told = " and ".join(f"{file} (a {kind})" for kind, file in kinds.items())
            found.faults.append(f"case '{case.id}': has images of two kinds, {told}; give it those of one kind.")
        elif "volume" in kinds:
            deep.append(case)
            volumes.add(case)
        else:
            flat.append(case)
            pictures.add(case)
        if tick:
            tick(count, len(cases))
    if flat:
        pictures.report(flat, found)
    if deep:
        volumes.report(deep, found)
        duplicates(volumes.contents, deep, found, what="volume", equal="of equal values")
    if flat and deep:
        found.warnings.append(
            f"pictures ({len(flat)} cases) and volumes ({len(deep)}) stand in one manifest; they are not scored "
            "together, so give each kind a manifest or a part of its own."
        )
    texts(cases, found)
    sides(cases, pictures.left | volumes.left, found)
    return found


def kinds_of(case: Case) -> dict[str, str]:
    """'picture', 'volume' -> the first such file of a case; files that are not there tell nothing if others are."""
    files = [*case.images.values()]
    there = [file for file in files if os.path.exists(without_part(file))]
    kinds: dict[str, str] = {}
    for file in there or [*files, *mask_files(case.mask)]:
        kinds.setdefault("volume" if is_volume(file) else "picture", file)
    if not there and "volume" in kinds:
        return {"volume": kinds["volume"]}
    return kinds


def ids_and_groups(cases: Sequence[Case], found: Found) -> None:
    alike: dict[str, set[str]] = {}
    for case in cases:
        alike.setdefault(unicodedata.normalize("NFKC", case.id).casefold(), set()).add(case.id)
    pairs = [" / ".join(sorted(names)) for names in alike.values() if len(names) > 1]
    if pairs:
        found.warnings.append(f"ids that differ in case or spelling alone: {some(pairs)}; rename one of each.")
    groups = Counter(case.group for case in cases if case.group)
    lone = [case.id for case in cases if not case.group]
    found.facts["groups"] = len(groups)
    found.facts["largest group"] = max(groups.values(), default=0)
    found.facts["cases without a group"] = len(lone)
    if lone:
        found.warnings.append(
            f"cases without a group: {some(lone)}; they are split by image, so fill 'group' if patients recur."
        )


def columns(cases: Iterable[Case], family: str) -> list[str]:
    return sorted({name for case in cases for name in getattr(case, family)})


def titled(family: str, name: str) -> str:
    return f"{family}:{name}" if name else family


def splits(cases: Sequence[Case], found: Found) -> None:
    for name in columns(cases, "splits"):
        title = titled("split", name)
        counts = Counter(case.splits.get(name, "none") for case in cases)
        found.facts[title] = dict(sorted(counts.items()))
        for part in sorted(set(counts) - {*PARTS, "none"}):
            found.warnings.append(
                f"{title}: '{part}' ({counts[part]} cases) is no usual part{near_miss(part, PARTS)} "
                f"Usual are {', '.join(PARTS)}."
            )
        if "train" not in counts:
            found.warnings.append(f"{title}: no case is in train; write 'train' into some rows.")
        torn = straddling(((case.group, case) for case in cases if case.group), name)
        if torn:
            found.warnings.append(
                f"{title}: groups in several parts: {some(torn)}; scores of patients seen in training are too good, "
                "so keep each group in one part."
            )


def straddling(keyed: Iterable[tuple[str, Case]], split: str) -> list[str]:
    """The keys whose cases lie in more than one part; train and the selection set aside from it count as one."""
    parts: dict[str, set[str]] = {}
    for one, case in keyed:
        part = case.splits.get(split, "unused")
        if part != "unused":
            parts.setdefault(one, set()).add("train" if part == "selection" else part)
    return sorted(one for one, there in parts.items() if len(there) > 1)


class Pictures:
    """Numbers of all pictures and masks, gathered one case at a time."""

    def __init__(self, labels: Mapping[str, Any] | None) -> None:
        self.labels = labels
        self.faults: list[str] = []
        self.sizes: Counter[tuple[int, int]] = Counter()  # (H, W) -> pictures
        self.bits: Counter[int] = Counter()
        self.channels: Counter[int] = Counter()
        self.notes: Counter[str] = Counter()
        self.mask_notes: Counter[str] = Counter()
        self.modalities: Counter[str] = Counter()
        self.contents: dict[str, list[Case]] = {}  # digest of a picture file -> cases
        self.spaced = 0  # pictures whose header says a spacing
        self.unreadable = 0
        self.labelled = 0
        self.empty: list[str] = []
        self.full: list[str] = []
        self.shares: list[float] = []  # of the picture under the mask
        self.left: dict[int, float] = {}  # id() of a case -> share of its mask in the picture's left half
        self.classes: Counter[str] = Counter()  # name -> masks that hold it

    def add(self, case: Case) -> None:
        first: tuple[str, tuple[int, int]] | None = None
        for modality, file in case.images.items():
            if not os.path.exists(file):
                continue  # the manifest's faults name it
            picture = self.picture(case, file)
            if picture is None:
                continue
            self.modalities[titled("image", modality)] += 1
            size = (int(picture.pixels.shape[1]), int(picture.pixels.shape[2]))
            self.sizes[size] += 1
            if first is None:
                first = (modality, size)
            elif size != first[1]:
                self.faults.append(
                    f"case '{case.id}': {file}: {titled('image', modality)} is {wide(size)} pixels, "
                    f"{titled('image', first[0])} is {wide(first[1])}; bring them to one grid."
                )
        if case.mask and all(map(os.path.exists, mask_files(case.mask))):
            self.mask(case, case.mask, first[1] if first else None)

    def picture(self, case: Case, file: str) -> Picture | None:
        try:
            picture = read_image(file)
            content = file_digest(file)
        except (DataError, OSError) as error:
            self.unreadable += 1
            self.faults.append(f"case '{case.id}': {error}")
            return None
        self.contents.setdefault(content, []).append(case)
        self.bits[picture.bits] += 1
        self.channels[len(picture.pixels)] += 1
        self.notes.update(picture.notes)
        self.spaced += picture.spacing_mm is not None
        return picture

    def mask(self, case: Case, file: str, size: tuple[int, int] | None) -> None:
        if set(mask_files(file)) & set(case.images.values()):
            self.faults.append(f"case '{case.id}': {file}: is both image and mask; name the mask's own file.")
            return
        try:
            mask, notes = read_mask(file, labels=self.labels)
        except DataError as error:
            self.unreadable += 1
            self.faults.append(f"case '{case.id}': {error}")
            return
        self.labelled += 1
        self.mask_notes.update(notes)
        if size is not None and mask.shape != size:
            self.faults.append(
                f"case '{case.id}': {file}: the mask is {wide(mask.shape)} pixels, its image {wide(size)}; "
                "give the mask of this image in the image's size."
            )
        there = mask > 0
        pixels = int(there.sum())
        self.shares.append(pixels / mask.size)
        if pixels == 0:
            self.empty.append(case.id)
        elif pixels == mask.size:
            self.full.append(case.id)
        if self.labels is not None:
            names = list(self.labels)
            self.classes.update(names[value] for value in np.unique(mask[there]))
        elif pixels:
            by_column = there.sum(0)
            half = mask.shape[1] // 2
            left, right = int(by_column[:half].sum()), int(by_column[-half:].sum()) if half else 0
            if left + right:  # a middle column is on neither side
                self.left[id(case)] = left / (left + right)

    def report(self, cases: Sequence[Case], found: Found) -> None:
        found.faults += self.faults
        facts = found.facts
        facts["pictures read"] = dict(self.modalities)
        if self.unreadable:
            facts["files not readable"] = self.unreadable
        if self.sizes:
            facts["distinct sizes"] = len(self.sizes)
            for axis, name in ((1, "width"), (0, "height")):
                spread = np.repeat([size[axis] for size in self.sizes], list(self.sizes.values()))
                facts[f"{name} (min median max)"] = spread_of(spread, "g")
            facts["bits"] = {str(b): n for b, n in sorted(self.bits.items())}
            facts["channels"] = {str(c): n for c, n in sorted(self.channels.items())}
            facts["conversions"] = dict(self.notes.most_common())
            facts["spacing known"] = {"manifest": sum(c.spacing is not None for c in cases), "headers": self.spaced}
        facts["masks read"] = self.labelled
        facts["cases without a mask"] = sum(case.mask is None for case in cases)
        if self.labelled:
            facts["mask conversions"] = dict(self.mask_notes.most_common())
            facts["mask share (min median max)"] = spread_of(np.array(self.shares), ".2%")
            facts["empty masks"] = len(self.empty)
            facts["full masks"] = len(self.full)
        if self.labels is not None:
            facts["masks with class"] = {name: self.classes[name] for name in list(self.labels)[1:]}
        if self.empty:
            found.warnings.append(f"empty masks: {some(self.empty)}; right only where there is nothing to find.")
        if self.full:
            found.warnings.append(
                f"masks that cover the whole picture: {some(self.full)}; look whether they are meant."
            )
        within = []
        for members in self.contents.values():
            times = Counter(id(case) for case in members)
            within += list(dict.fromkeys(case.id for case in members if times[id(case)] > 1))
        if within:
            found.warnings.append(f"cases two modalities of which are one picture: {some(within)}; correct the paths.")
        duplicates(self.contents, cases, found, what="picture", equal="that are equal byte for byte")


def duplicates(
    contents: Mapping[str, Sequence[Case]], cases: Sequence[Case], found: Found, *, what: str, equal: str
) -> None:
    """One picture or volume in several cases, and worse, in several parts. contents: its fingerprint -> cases."""
    same = {content: members for content, members in contents.items() if len({id(case) for case in members}) > 1}
    names = {content: " = ".join(dict.fromkeys(case.id for case in members)) for content, members in same.items()}
    found.facts[f"{what} files that occur again"] = sum(len({id(c) for c in m}) - 1 for m in same.values())
    if same:
        found.warnings.append(f"{what}s {equal} under several ids: {some(list(dict.fromkeys(names.values())))}.")
    keyed = [(content, case) for content, members in same.items() for case in members]
    for split in columns(cases, "splits"):
        torn = list(dict.fromkeys(names[content] for content in straddling(keyed, split)))
        if torn:
            found.warnings.insert(
                0,
                f"{titled('split', split)}: LEAK: the same {what} stands in several parts: {some(torn)}; "
                "scores are too good until each is kept in one part.",
            )


def texts(cases: Sequence[Case], found: Found) -> None:
    for name in columns(cases, "texts"):
        title = titled("text", name)
        sentences = {case.id: case.texts[name] for case in cases if name in case.texts}
        counts = Counter(sentences.values())
        commonest, times = counts.most_common(1)[0]
        found.facts[title] = {
            "cases with": len(sentences),
            "without": len(cases) - len(sentences),
            "distinct": len(counts),
            "longest (characters)": max(map(len, counts)),
            "share of the commonest": f"{times / len(sentences):.1%}",
        }
        if times > 1 and times * 2 >= len(sentences):
            found.warnings.append(
                f"{title}: {times} of {len(sentences)} sentences are the same ('{commonest[:60]}'); "
                "a sentence that most cases share tells little."
            )
        for what, test in ODDITIES.items():
            odd = [case_id for case_id, sentence in sentences.items() if test(sentence)]
            if odd:
                found.warnings.append(f"{title}: sentences {what}: {some(odd)}; correct the source.")
    written = [case for case in cases if case.texts]
    if not written:
        return
    found.facts["text origin"] = dict(Counter(o for case in written for o in sorted(case.origins)).most_common())
    found.facts["side convention"] = dict(Counter(case.side_convention for case in written).most_common())
    orphans = [case.id for case in written if not any(os.path.exists(without_part(f)) for f in case.images.values())]
    if orphans:
        found.warnings.append(f"rows with a text whose picture is missing: {some(orphans)}; find the pictures.")
    from_masks = [case.id for case in written if "from-mask" in case.origins]
    if from_masks:
        found.warnings.append(
            f"text_origin is from-mask in {len(from_masks)} cases: the sentences were made from masks: "
            "their scores are no test of reading."
        )


ODDITIES: dict[str, Callable[[str], bool]] = {
    "with the replacement character U+FFFD (letters were lost)": lambda text: "\ufffd" in text,
    "with control characters": lambda text: any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in text),
    f"longer than {LONG:,} characters": lambda text: len(text) > LONG,
}


@lru_cache(maxsize=65536)
def one_side(sentence: str) -> str | None:
    """'left' or 'right' if the sentence names that side only.

    >>> one_side("Opacity of the left lung."), one_side("Left untreated."), one_side("Left and right.")
    ('left', None, None)
    """
    left, right = bool(_LEFT.search(sentence)), bool(_RIGHT.search(sentence))
    if left == right or _BOTH.search(sentence) or not names_side(sentence):
        return None
    return "left" if left else "right"


def sides(cases: Sequence[Case], lefts: Mapping[int, float], found: Found) -> None:
    """Sentences that name a side, against the stated convention and against the masks (``Pictures.left``)."""
    for name in columns(cases, "texts"):
        title = titled("text", name)
        unsure, judged, other = [], 0, []
        for case in cases:
            sentence = case.texts.get(name)
            if not sentence:
                continue
            if case.side_convention == "unknown":
                if names_side(sentence):
                    unsure.append(case.id)
                continue
            side, left = one_side(sentence), lefts.get(id(case))
            if side is None or left is None or case.side_convention not in ("image", "patient"):
                continue
            judged += 1
            on_left = (side == "left") == (case.side_convention == "image")
            if (1 - left if on_left else left) > OTHER_SIDE:
                other.append(case.id)
        if unsure:
            found.warnings.append(
                f"{title}: sentences name a side but side_convention is unknown: {some(unsure)}; write image or "
                "patient, or these cases are never mirrored."
            )
        if judged:
            found.facts[f"{title}, one side named"] = {"cases": judged, "mask mostly on the other": len(other)}
        if other:
            found.warnings.append(
                f"{title}: the mask lies mostly (> {OTHER_SIDE:.0%}) on the side the sentence does not name in "
                f"{some(other)} of {judged} one-sided cases; "
                + ("most likely side_convention is the wrong one." if len(other) * 2 > judged else "look at them.")
            )
