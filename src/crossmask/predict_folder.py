"""Prediction into a folder: masks, overlays and one table. What cannot be read is named, the others go on."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmask.core import Prediction
from crossmask.data.images import IMAGE_SUFFIXES, overlay, write_picture, write_probability
from crossmask.data.volumes import SUFFIXES, write_nifti
from crossmask.errors import CallError, CrossmaskError, name_list
from crossmask.files import atomic
from crossmask.predict import Opened, Predictor, Query, holds_volume, stem
from crossmask.predict_volumes import Opened3D, fullest
from crossmask.progress import Bar


def queries_of(
    paths: Sequence[str], text: str | None, side_convention: str | None, modalities: Sequence[str] = ()
) -> list[Query]:
    """Pictures, volumes, DICOM series and folders of them as queries with ids of their own.

    ``flair=a.nii.gz t1=b.nii.gz`` (names of ``modalities``) are the images of one case.
    """
    given = dict(path.split("=", 1) for path in paths if path.partition("=")[0] in modalities and "=" in path)
    if given:
        if len(given) != len(paths):
            raise CallError("either name every image's modality (flair=FILE t1=FILE: one case) or none.")
        return [Query(stem(next(iter(given.values()))), given, text, side_convention)]
    for path in paths:
        name, equals, _ = path.partition("=")
        if equals and name.isidentifier() and not Path(path).exists():
            raise CallError(f"'{name}' is no modality of this run; it has {', '.join(modalities)}.")
    files = list(dict.fromkeys(file for path in paths for file in files_of(Path(path))))
    return [Query(i, f, text, side_convention) for i, f in zip(ids_of(files), files, strict=True)]


def ids_of(files: Sequence[Path]) -> list[str]:
    """The files' names; where two are equal, with as many folders in front as part them (in one folder: the ending).

    >>> ids_of([Path("p1/img/01.png"), Path("p2/img/01.png"), Path("p2/img/02.png"), Path("p2/img/02.jpg")])
    ['p1_img_01', 'p2_img_01', '02_png', '02_jpg']
    """
    beside = Counter((file.parent, stem(file).casefold()) for file in files)
    names = [
        f"{stem(f)}_{f.suffix[1:]}" if beside[f.parent, stem(f).casefold()] > 1 and f.suffix else stem(f) for f in files
    ]
    ids = list(names)
    for depth in range(1, max((len(f.parts) for f in files), default=1)):
        counts = Counter(name.casefold() for name in ids)
        for n, file in enumerate(files):
            if counts[ids[n].casefold()] > 1:
                folders = [part.strip("/") for part in file.parts[-1 - depth : -1]]
                ids[n] = "_".join([*filter(None, folders), names[n]])
    return ids


def files_of(path: Path) -> list[Path]:
    """A file alone; a folder of one DICOM series alone; every picture, volume and series in any other folder."""
    if not path.is_dir():
        return [path]
    from crossmask.data.series import is_series

    if is_series(path):
        return [path]
    endings = (*IMAGE_SUFFIXES, *SUFFIXES)
    there = sorted(p for p in path.rglob("*") if not p.name.startswith("."))
    series = [p for p in there if p.is_dir() and is_series(p)]
    files = [p for p in there if p.name.lower().endswith(endings) and p.parent not in series]
    inside = sorted([*series, *files])
    if not inside:
        raise CallError(f"{path}: holds no picture and no volume ({', '.join(endings)}).")
    return inside


def predict_to_folder(
    predictor: Predictor,
    queries: Sequence[Query],
    out: str | Path,
    *,
    probability: bool = False,
    seg: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Masks (PNG, NIfTI; with ``seg`` also a DICOM SEG where the source is a DICOM series), overlays,
    ``predictions.csv``. Returns the table's rows and the faults.
    """
    out = Path(out)
    names = Counter(file_name(query.id).casefold() for query in queries)
    same = [query.id for query in queries if names[file_name(query.id).casefold()] > 1]
    if same:
        raise CallError(f"the masks of {name_list(same)} would have one file name; give these cases other ids.")
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    size = predictor.recipe.evaluate.batch
    predictor.learn([q.text for q in queries if q.text and q.text.strip()])
    with Bar("predicting", total=len(queries)) as bar:
        for start in range(0, len(queries), size):
            opened: list[Opened] = []
            asked: list[Query] = []  # those of ``opened``
            for place, query in enumerate(queries[start : start + size]):
                try:
                    if holds_volume(query):
                        volumes = predictor.open_volume(query)
                        prediction = predictor.segment_volume(query, volumes, probability=probability)
                        rows.append(write_volume(out, query, volumes, prediction, seg))
                    else:
                        opened.append(predictor.open(query))
                        asked.append(query)
                except CrossmaskError as error:
                    faults.append(f"case '{query.id}': {error}")
                bar.update(start + place + 1)
            if opened:
                for query, one, prediction in zip(asked, opened, predictor.segment(opened, True), strict=True):
                    rows.append(write(out, query, one, prediction, probability))
    if rows:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with atomic(out / "predictions.csv") as stream:
            writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    else:
        (out / "predictions.csv").unlink(missing_ok=True)  # an earlier call's would be taken for this one's
    return rows, faults


def file_name(case: str) -> str:
    return case.replace("/", "_")


def write(out: Path, query: Query, opened: Opened, prediction: Prediction, probability: bool) -> dict[str, Any]:
    """One picture's files, and its row in the table."""
    name = file_name(prediction.id)
    mask = prediction.save(out / "masks" / f"{name}.png")
    write_picture(out / "overlays" / f"{name}.png", overlay(opened.picture, prediction.mask))
    if probability and prediction.probability is not None and prediction.probability.ndim == 2:
        write_probability(out / "probabilities" / f"{name}.png", prediction.probability)
    area = int((prediction.mask > 0).sum())
    spacing = prediction.geometry.spacing_mm
    return row_of(prediction, query.text, mask, out) | {
        "area_px": area,
        "area_mm2": round(area * float(np.prod(spacing)), 3) if spacing else "",
        "components": components(prediction.mask),
        "warnings": "; ".join(prediction.warnings),
    }


def write_volume(out: Path, query: Query, volumes: Opened3D, prediction: Prediction, seg: bool) -> dict[str, Any]:
    """One volume's files (the overlay is the slice with most foreground), and its row in the table."""
    name = file_name(prediction.id)
    mask = prediction.save(out / "masks" / f"{name}.nii.gz")
    labels = volumes.grid.canonical(prediction.mask)
    place = fullest(labels)
    write_picture(out / "overlays" / f"{name}.png", overlay(volumes.picture(place), labels[place]))
    warnings = list(prediction.warnings)
    if seg:
        try:
            prediction.save(out / "masks" / f"{name}.dcm")
        except CrossmaskError as error:
            warnings.append(f"no DICOM SEG was written: {error}")
    if prediction.probability is not None:
        share = prediction.probability.astype(np.float32)
        write_nifti(out / "probabilities" / f"{name}.nii.gz", share, prediction.geometry)
    voxel = float(np.prod(prediction.geometry.spacing_mm or (1.0,)))
    count = int((prediction.mask > 0).sum())
    return row_of(prediction, query.text, mask, out) | {
        "voxels": count,
        "volume_ml": round(count * voxel / 1000, 4),
        "components": components(prediction.mask),
        "warnings": "; ".join(warnings),
    }


def row_of(prediction: Prediction, text: str | None, mask: Path, out: Path) -> dict[str, Any]:
    return {
        "id": prediction.id,
        "source": prediction.geometry.source,
        "text": text or "",
        "mask": str(mask.relative_to(out)),
    }


def components(mask: np.ndarray) -> int:
    from scipy import ndimage

    return int(ndimage.label(mask > 0)[1])
