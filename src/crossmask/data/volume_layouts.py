"""What adapters of volumes share: scans below a folder; imagesTr, labelsTr, dataset.json (nnU-Net, the Decathlon)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmask.data import volumes
from crossmask.data.layouts import UNLABELLED, Part, child, entries, find_tree, needed, present
from crossmask.data.manifest import Case
from crossmask.data.tables import Losses
from crossmask.errors import DataError, name_list
from crossmask.files import read_json

DEPTH = 8  # so many folders below the given one: archives in archives, grade, case, a folder a file
DESCRIPTION = "dataset.json"


def volume_stem(name: str) -> str | None:
    """A volume's name without its ending; None for a file that is no volume.

    >>> volume_stem("a.1.NII.gz"), volume_stem("a.1.mha"), volume_stem("a.png")
    ('a.1', 'a.1', None)
    """
    ending = max((s for s in volumes.SUFFIXES if name.casefold().endswith(s)), key=len, default="")
    return name[: -len(ending)] if ending else None


def volumes_below(folder: Path, depth: int = DEPTH) -> list[Path]:
    """The volumes of a folder and of those below, linked ones too (large sets often lie on another disk)."""
    files: list[Path] = []
    for one in entries(folder):
        if one.is_dir():
            files += volumes_below(one, depth - 1) if depth else []
        elif volume_stem(one.name) is not None:
            files.append(one)
    return files


# -- imagesTr, labelsTr and dataset.json: nnU-Net and the Decathlon --------------------------------------


def described(top: Path, looked_for: str) -> tuple[Path, dict[str, Any]]:
    """The folder with imagesTr and dataset.json, and what the latter says."""

    def wanted(folder: Path) -> bool:  # nnU-Net's folders of prepared data and of results hold that table too
        told = (folder / DESCRIPTION).is_file() and child(folder, ("labelsTr",))
        return bool(told or child(folder, ("imagesTr",)))

    tree = find_tree(top, wanted, looked_for)
    if not (tree / DESCRIPTION).is_file():
        what = f"the table '{DESCRIPTION}' is missing (it names the image sequences and the labels)"
        raise DataError(f"{tree}: {what}; {present(tree)}.")
    info = read_json(tree / DESCRIPTION)
    if not isinstance(info, dict):
        raise DataError(f"{tree / DESCRIPTION}: is no JSON object; write it anew.")
    return tree, info


def described_parts(tree: Path, losses: Losses) -> list[Part]:
    """Train, and test where there is one; a folder of masks may be absent."""
    parts = [Part("train", needed(tree, "image", ("imagesTr",)), child(tree, ("labelsTr",)) or tree / "labelsTr")]
    if not parts[0].masks.is_dir():
        losses.add(f"mask folders missing ({present(tree)})", parts[0].masks)
    test = child(tree, ("imagesTs",))
    return parts + ([Part("test", test, child(tree, ("labelsTs",)) or tree / "labelsTs")] if test else [])


def sequences(info: Mapping[str, Any], keys: Sequence[str], file: Path) -> list[str]:
    """The image columns in the order of their numbers, of the first of ``keys`` that dataset.json has."""
    value = next((info[k] for k in keys if k in info), None)
    numbers = [str(k) for k in value] if isinstance(value, dict) else []
    if not isinstance(value, dict) or sorted(numbers) != sorted(map(str, range(len(value)))) or not value:
        raise DataError(f'{file}: needs "{keys[0]}", numbered from 0, such as {{"0": "FLAIR", "1": "T1"}}.')
    names: list[str] = []
    for number in range(len(value)):
        name = re.sub(r"[^a-z0-9]+", "_", str(value[str(number)]).casefold()).strip("_") or f"channel_{number}"
        names.append(f"{name}_{number}" if name in names else name)
    return names


def label_note(info: Mapping[str, Any], file: Path) -> str:
    """``{"background": 0, "liver": 1}`` or ``{"0": "background", "1": "liver"}`` -> 'background 0, liver 1'."""
    labels = info.get("labels")
    if not isinstance(labels, dict):
        raise DataError(f'{file}: needs "labels", such as {{"background": 0, "liver": 1}}.')
    told = []
    for name, value in labels.items():
        if str(name).isdigit() and isinstance(value, str):
            name, value = value, int(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, list):
            raise DataError(
                f"{file}: the label '{name}' is a region of several values ({name_list(value)}), but labels are "
                "disjoint here; give each value a name of its own, unions are formed when scoring."
            )
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(f"{file}: the label '{name}' is {value!r}; write a whole number.")
        told.append((value, f"{name} {value}"))
    return ", ".join(text for _, text in sorted(told))


def check_number(info: Mapping[str, Any], there: int, losses: Losses) -> None:
    """Say it if dataset.json speaks of another number of training cases than there is."""
    told = info.get("numTraining")
    if told is not None and told != there:
        losses.add(f"wrong numTraining in {DESCRIPTION}", f"it says {told}, imagesTr holds {there} cases")


def described_cases(
    found: Iterable[tuple[Part, str, Mapping[str, str], Path | None]], labels: str, losses: Losses
) -> list[Case]:
    """One case a (part, name, images, mask). Neither format knows patients, so there is no group."""
    cases: list[Case] = []
    taken: set[str] = set()
    for part, name, images, mask in found:
        one = f"{name}_{part.name}" if name.casefold() in taken else name  # test may count from 1 again
        taken.add(one.casefold())
        cases.append(
            Case(
                id=one,
                images=images,
                splits={"": part.name},
                mask=str(mask) if mask else None,
                source=losses.source,
                free={"labels": labels},
            )
        )
    losses.add(UNLABELLED, *(c.id for c in cases if c.mask is None))
    losses.add("cases without a patient number (no group)", *(c.id for c in cases))
    return cases
