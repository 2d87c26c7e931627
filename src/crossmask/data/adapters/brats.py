"""BraTS: brain MR in up to four contrasts with masks of glioma parts, in the file names of every year from 2012 on.

Layouts: ``BRATS_HG0001/BRATS_HG0001_{FLAIR,T1,T1C,T2,truth}.mha`` (2012); ``HG/0001/VSD.Brain.XX.O.MR_Flair/*.mha``
with ``VSD.Brain_3more.XX.O.OT`` as mask (2013; with a number behind, 2015);
``BraTS20_Training_001/BraTS20_Training_001_{flair,t1,t1ce,t2,seg}.nii[.gz]`` (2017 to 2021; also in Kaggle's doubled
folders and where a file became a folder of its name); ``BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz`` (2023 on).
Columns ``image:flair``, ``image:t1``, ``image:t1ce``, ``image:t2``, whichever are there. Without a mask a case is
unlabelled. The group is the patient where names tell visits apart, else the case.

Source: challenge terms, on registration; Menze et al., IEEE TMI 2015; Bakas et al., Scientific Data 2017. Known faults:
the integers of a mask change their meaning with the year (``label_scheme``, in words ``labels``), guessed from the
names unless ``scheme`` says it; case 355 of 2020 has its mask under the name ``W39_1998.09.19_Segm.nii``; HGG and LGG
of 2015 share case numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from crossmask.data.layouts import UNLABELLED, given, present
from crossmask.data.manifest import Case
from crossmask.data.tables import Losses
from crossmask.data.volume_layouts import volume_stem, volumes_below
from crossmask.errors import DataError, name_list
from crossmask.files import file_digest

SOURCE = "BraTS"
LOOKED_FOR = (
    "volumes called <case>_flair, _t1, _t1ce, _t2 and _seg (2012 to 2021), <case>-t2f, -t1n, -t1c, -t2w and -seg (from "
    "2023) or VSD.Brain*MR_Flair, _T1, _T1c, _T2 and OT (2013, 2015), as .nii, .nii.gz or .mha"
)
Scheme = Literal["brats2012", "brats2013-2015", "brats2017-2021", "brats2023", "brats2024", "whole"]
LABELS: dict[str, str] = {
    "brats2012": "background 0, oedema 1, core 2",
    "brats2013-2015": "background 0, necrosis 1, oedema 2, non-enhancing 3, enhancing 4",
    "brats2017-2021": "background 0, necrosis and non-enhancing 1, oedema 2, enhancing 4",
    "brats2023": "background 0, necrosis and non-enhancing 1, oedema 2, enhancing 3",
    "brats2024": "background 0, non-enhancing 1, oedema 2, enhancing 3, resection cavity 4",
    "whole": "background 0, tumour 1",
}
# Children's tumours (BraTS-PED) are named alike in 2023 and 2024 but labelled otherwise: nothing is guessed for them.
BY_NAME: tuple[tuple[str, Scheme], ...] = (
    (r"brats-gli-\d+-[1-9]\d\d$", "brats2024"),  # visits after treatment count from 100
    (r"brats-(?!ped)[a-z]+-\d+-\d+$", "brats2023"),
    (r"brats(17|18|19|20)_((training|validation|testing)_\d+|[a-z0-9]+_[a-z0-9]+_\d+)$", "brats2017-2021"),
    (r"brats2021_\d+$", "brats2017-2021"),
    (r"brats_(2013|tcia)_pat\d+", "brats2013-2015"),
    (r"(sim)?brats_[hl]g\d+$", "brats2012"),
)
CONTRASTS = ("flair", "t1", "t1ce", "t2")
MASK = "mask"
COLUMN = {"t2f": "flair", "t1n": "t1", "t1c": "t1ce", "t1gd": "t1ce", "t2w": "t2"}  # what is called otherwise
COLUMN |= dict.fromkeys(("seg", "truth", "ot"), MASK)
NAMED = re.compile(r"(?P<case>.+)[_-](?P<what>flair|t2f|t1n|t1ce|t1c|t1gd|t1|t2w|t2|seg|truth)", re.IGNORECASE)
VSD = re.compile(r"VSD\.Brain.*?\.(MR_)?(?P<what>Flair|T1c|T1|T2|OT)([._].*)?", re.IGNORECASE)
VISIT = re.compile(r"(?P<patient>brats(-[a-z]+)+-\d+|brats_tcia_pat\d+)[-_]\d+", re.IGNORECASE)

Homes = dict[Path, dict[str, Path]]  # where a case lies -> column -> file


def scan(root: str | Path, *, scheme: Scheme | None = None) -> list[Case]:
    """All cases below ``root``; ``scheme`` says what the masks' integers mean instead of the file names."""
    losses = Losses(SOURCE)
    top = given(root)
    homes = one_place(collect(top, losses), losses)
    if not any(set(files) - {MASK} for files in homes.values()):
        raise DataError(f"{top}: no image is there; looked for {LOOKED_FOR}; {present(top)}.")
    cases = []
    for home, name in own_names(homes).items():
        files = homes[home]
        images = {c: str(files[c]) for c in CONTRASTS if c in files}
        if not images:
            losses.add("masks without an image", files[MASK].name)
            continue
        meaning = scheme or scheme_of(home.name, files.values())
        cases.append(
            Case(
                id=name,
                images=images,
                group=name[: len(name) - len(home.name)] + patient(home.name),
                mask=str(files[MASK]) if MASK in files else None,
                source=SOURCE,
                free={"label_scheme": meaning, "labels": LABELS.get(meaning, "")},
            )
        )
    for contrast in CONTRASTS:
        lone = [c.id for c in cases if contrast not in c.images]
        losses.add(f"cases without {contrast}", *(lone if len(lone) < len(cases) else ()))
    losses.add(UNLABELLED, *(c.id for c in cases if c.mask is None))
    unclear = [c.id for c in cases if c.mask and not c.free["label_scheme"]]
    known = name_list(get_args(Scheme))
    losses.add(f"masks whose names do not say what their integers mean (give one scheme= of {known})", *unclear)
    losses.log()
    return cases


def collect(top: Path, losses: Losses) -> Homes:
    """The files of each case by the folder it lies in, or would lie in had it one of its own."""
    homes: Homes = {}
    for file in volumes_below(top):
        found = place(file)
        if found is None:
            losses.add("volumes whose names say no contrast (left out)", file.name)
            continue
        home, column = found
        first = homes.setdefault(home, {}).setdefault(column, file)
        if first != file:
            losses.add("further files of a contrast (the first is kept)", file.name)
    return homes


def place(file: Path) -> tuple[Path, str] | None:
    """Where the case of a file lies, and the file's column.

    >>> home, column = place(Path("HG/0001/VSD.Brain.XX.O.MR_T1c/VSD.Brain.XX.O.MR_T1c.686.mha"))
    >>> home.as_posix(), column
    ('HG/0001', 't1ce')
    """
    above = file.parent
    # A folder that is called like a file says more than the file inside, which may have yet another name.
    one = above if VSD.fullmatch(above.name) or volume_stem(above.name) else file
    name = volume_stem(one.name) or one.name
    named = NAMED.fullmatch(name)
    match = VSD.fullmatch(name) or named
    if match:
        what = match["what"].casefold()
        apart = match is named and one.parent.name.casefold() != match["case"].casefold()
        return one.parent / match["case"] if apart else one.parent, COLUMN.get(what, what)
    return (one.parent, MASK) if name.casefold().endswith("_segm") else None


def one_place(homes: Homes, losses: Losses) -> Homes:
    """Cases of one name are one where no file of theirs speaks against it: second copies, a folder a contrast."""
    kept: Homes = {}
    by_name: dict[str, list[Path]] = {}
    for home, files in homes.items():
        named = by_name.setdefault(home.name.casefold(), [])
        for other in named:
            both = set(files) & set(kept[other])
            if all(alike(files[c], kept[other][c]) for c in both) and (both or not home.name.isdigit()):
                kept[other] = {**files, **kept[other]}
                losses.add("files dropped as second copies", *(files[c].name for c in sorted(both)))
                break
        else:
            kept[home] = files
            named.append(home)
    return kept


def alike(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and file_digest(one) == file_digest(other)


def own_names(homes: Iterable[Path]) -> dict[Path, str]:
    """Ids: the case's name, with folders in front where it is a mere number or several cases have it."""
    depth = {home: 1 + home.name.isdigit() for home in homes}
    names: dict[Path, str] = {}
    for _ in range(4):
        names = {home: "_".join(home.parts[-d:]) for home, d in depth.items()}
        count = Counter(name.casefold() for name in names.values())
        # All visits of a patient move together, or they would become several groups.
        shared = {patient(home.name).casefold() for home, name in names.items() if count[name.casefold()] > 1}
        if not shared:
            break
        depth = {home: d + (patient(home.name).casefold() in shared) for home, d in depth.items()}
    return names


def patient(name: str) -> str:
    """'BraTS-GLI-00000-001' -> 'BraTS-GLI-00000'; a name that tells no visit is the patient's."""
    match = VISIT.fullmatch(name)
    return match["patient"] if match else name


def scheme_of(name: str, files: Iterable[Path]) -> str:
    """What the masks' integers mean, as far as names tell; '' if they do not."""
    if any(VSD.fullmatch(f.name) or VSD.fullmatch(f.parent.name) for f in files):
        return "brats2013-2015"
    return next((meaning for pattern, meaning in BY_NAME if re.match(pattern, name, re.IGNORECASE)), "")


def fake(root: str | Path) -> Path:
    """Four cases in Kaggle's layout of 2020, one with the odd name of its mask; returns what to scan."""
    import nibabel as nib
    import numpy as np

    tree = Path(root) / "BraTS2020_TrainingData" / "MICCAI_BraTS2020_TrainingData"
    affine = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    for n, name in enumerate(f"BraTS20_Training_{number}" for number in ("001", "002", "003", "355")):
        (tree / name).mkdir(parents=True, exist_ok=True)
        brain = np.zeros((12, 10, 8), np.int16)
        brain[2:10, 2:8, 1:7] = np.add.outer(np.arange(8) * 9, np.arange(6) * 5)[..., None] + 100 + n
        tumour = np.zeros((12, 10, 8), np.uint8)
        tumour[3:7, 3:6, 2:6] = 2
        tumour[4:6, 3:5, 3:5] = 4
        tumour[4, 4, 3 + n // 2] = 1
        for k, contrast in enumerate(CONTRASTS):
            picture = brain + np.int16(10 * k + 40) * (tumour > 0)
            nib.save(nib.Nifti1Image(picture.astype(np.int16), affine), tree / name / f"{name}_{contrast}.nii")
        mask = "W39_1998.09.19_Segm.nii" if name.endswith("355") else f"{name}_seg.nii"
        nib.save(nib.Nifti1Image(tumour, affine), tree / name / mask)
    return Path(root)
