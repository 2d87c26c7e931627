"""The page a person reads about a run: ``report.html``, one self-contained file made from the run folder alone."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from crossmask.errors import DataError
from crossmask.files import atomic, read_json
from crossmask.report import charts, distances
from crossmask.report.sentences import (
    LEARNT_FROM,
    Json,
    caveats,
    chosen_sentence,
    duration,
    estimate,
    known,
    last_sentence,
    many,
    many_classes,
    numeric,
    same_manifest,
    scored_sentence,
    share_sentence,
    spread_text,
    unit_sentence,
    value_text,
    verdict,
)
from crossmask.report.training import curves, ends_with_chosen, learnt_sentence
from crossmask.report.variants import FAMILIES, modality_chart, modality_groups, words_chart, words_rows
from crossmask.run import Run

HERE = Path(__file__).parent
SCORES = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall"}
PICTURE_SIDE = 480  # pixels; larger overlays are made smaller for the page
# As data.images.overlay paints (a test compares them): each predicted class, and the truth.
CLASS_COLOURS = ((230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0), (0, 114, 178))
TRUTH_COLOUR = (86, 180, 233)


def write(run: Run | str | Path) -> Path:
    """Write the run's page and return its path. The same folder gives the same bytes."""
    opened = Run.open(run.folder if isinstance(run, Run) else run)
    path = opened.folder / "report.html"
    html = render(opened)
    with atomic(path) as stream:
        stream.write(html)
    return path


def render(run: Run) -> str:
    """The page as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"estimate": estimate, "value": value_text, "spread": spread_text, "drawing": drawing}
    css = drawing((HERE / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(css=css, **facts(run))


def drawing(markup: str) -> Any:
    """Markup of our own making, which the template does not escape."""
    from markupsafe import Markup

    return Markup(markup)


def facts(run: Run) -> dict[str, Any]:
    """All that the template shows."""
    recipe = run.recipe()
    splits = by_weight(run)
    summaries = {split: run.summary(split) for split in splits}
    path = run.folder / "selection.json"
    selection = read_json(path) if path.is_file() else None
    main = summaries[splits[0]] if splits else None
    manifest, environment = run.manifest(), run.environment()
    network = str((recipe.get("model") or {}).get("network", "unknown network"))
    return {
        "name": run.name,
        "network": network,
        "method": str((recipe.get("method") or {}).get("name", "supervised")),
        "main": split_facts(run, recipe, splits[0], main) if main else None,
        "others": [split_facts(run, recipe, split, summaries[split], drawn=False) for split in splits[1:]],
        "chosen": chosen_sentence(selection, main, legend(recipe)["several"] or many_classes(main)),
        "last_chosen": main is not None and not main.get("last") and ends_with_chosen(run, selection),
        "learnt": learnt_sentence(manifest, recipe),
        "curves": curves(run, recipe, selection),
        "distribution": distribution(run, recipe, splits[0], main) if main else None,
        "pictures": pictures(run, main.get("examples")) if main else [],
        "gate": pictures(run, main.get("gate")) if main else [],
        "legend": legend(recipe),
        "manifest": manifest,
        "same_manifest": same_manifest(main),
        "environment": environment,
        "seconds": duration(max((numeric(e.get("seconds")) for e in run.entries()), default=0.0)),
        "images": max((int(numeric(e.get("images"))) for e in run.entries("step")), default=0),
        "recipe": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        "commands": commands(run, recipe, manifest, main),
    }


def by_weight(run: Run) -> list[str]:
    """The scored parts, the headline's first: test parts, then validation, then others, then what the run learnt from;
    among equals the one scored last."""

    def weight(split: str) -> tuple[int, float, str]:
        if split in LEARNT_FROM:
            kind = 3
        else:
            kind = 0 if split.startswith("test") else 1 if split.startswith("val") else 2
        return kind, -run.scores_path(split, ".json").stat().st_mtime, split

    return sorted(run.scored_splits(), key=weight)


# --- a scored part ---------------------------------------------------------------------------------------------------


def split_facts(run: Run, recipe: Json, split: str, summary: Json, drawn: bool = True) -> dict[str, Any]:
    """Words, modalities, scores and caveats of one part."""
    try:
        right = summary["variants"]["right"]
        groups = modality_groups(summary, recipe)
        columns = score_columns(summary)
        return {
            "split": split,
            "headline": {k: summary[f"dice_{k}"] for k in FAMILIES},
            "last": last_scores(summary),
            "last_sentence": last_sentence(summary),
            "cases": many(summary["cases"], "case"),
            "own_sentence": len(summary["variants"]) > 1,
            "unit": unit_sentence(summary),
            "words": words_rows(summary),
            "verdict": verdict(summary),
            "chart": words_chart(summary) if drawn and len(summary["variants"]) > 1 else "",
            "modalities": groups,
            "modality_chart": modality_chart(summary) if drawn and groups else "",
            "scores": scores_table(columns),
            "classes": class_rows(right),
            "strata": summary.get("strata") or {},
            "share": share_sentence(summary),
            "scored": scored_sentence(summary, recipe),
            "part": "Region" if (recipe.get("evaluate") or {}).get("regions") else "Class",
            "distances": distances.tables(columns),
            "caveats": caveats(summary),
        }
    except (KeyError, TypeError, AttributeError) as error:
        path = run.scores_path(split, ".json")
        raise DataError(
            f"{path}: is no summary as 'crossmask evaluate' writes it ({error!r}); score the part again."
        ) from error


def last_scores(summary: Json) -> dict[str, tuple[Json, Json]] | None:
    """The last weights' Dice of each family, and the chosen ones' minus it."""
    last = summary.get("last")
    return {k: (last[f"dice_{k}"], last["chosen_minus_last"][f"dice_{k}"]) for k in FAMILIES} if last else None


def score_columns(summary: Json) -> list[tuple[str, Json]]:
    """All cases, the disjoint ones, those without a sentence."""
    reads = len(summary["variants"]) > 1
    columns = [("cases with a sentence" if reads else "all cases", summary["variants"]["right"])]
    if summary.get("disjoint"):
        columns.append(("disjoint: groups not in train", summary["disjoint"]))
    if summary.get("without_text") and reads:
        columns.append(("cases without a sentence", summary["without_text"]))
    return columns


def scores_table(columns: Sequence[tuple[str, Json]]) -> dict[str, Any]:
    """Rows: every score of both families, and the shares of cases above an IoU."""
    rows = [
        (f"{title}, {label}", [column[f"{score}_{family}"] for _, column in columns])
        for score, title in SCORES.items()
        for family, label in FAMILIES.items()
        if f"{score}_{family}" in columns[0][1]
    ]
    hits = [name for name in columns[0][1] if name.startswith("p@")]
    rows += [(f"IoU above {name[2:]}, share of cases", [column[name] for _, column in columns]) for name in hits]
    return {"columns": [(title, many(column["cases"], "case")) for title, column in columns], "rows": rows}


def class_rows(right: Json) -> list[tuple[str, list[Json]]]:
    """Dice and IoU of each class, where there are several."""
    names = [key.removesuffix("/dice_pooled") for key in right if key.endswith("/dice_pooled")]
    wanted = ("dice_pooled", "dice_mean", "iou_pooled", "iou_mean")
    return [(name, [right[f"{name}/{score}"] for score in wanted]) for name in names]


# --- case by case -----------------------------------------------------------------------------------------------------


def distribution(run: Run, recipe: Json, split: str, summary: Json) -> dict[str, Any]:
    """Histogram of the Dice per case, and Dice against the size of the truth."""
    if not run.scores_path(split, ".csv").is_file():
        return {"charts": [], "notes": [f"The per-case table scores/{split}.csv is missing."]}
    table = run.cases(split)
    rows = table[table["variant"] == "right"]
    if "has_text" in rows and len(summary["variants"]) > 1:
        rows = rows[rows["has_text"].astype(str) == "True"]
    dice = rows["dice"].to_numpy(dtype=float)
    area, of_what = truth_sizes(rows, recipe)
    unit = "voxels" if distances.measured(summary["variants"]["right"]) else "pixels"
    scored = np.isfinite(dice)
    found, notes = [], []
    if scored.any():
        svg = charts.histogram("histogram", dice[scored], xlabel="Dice per case")
        found.append(("How the Dice is spread over the cases", svg))
        poor = int((dice[scored] < 0.5).sum())
        notes.append(f"{poor} of {many(int(scored.sum()), 'case')} have a Dice below 0.5.")
    sized = scored & (area > 0)
    if sized.any():
        svg = charts.scatter("size", area[sized], dice[sized], xlabel=f"{of_what} in {unit}", ylabel="Dice")
        found.append(("Dice against the size of the lesion", svg))
    empty = scored & (area == 0)
    if empty.any():
        clean = int((dice[empty] == 1).sum())
        notes.append(
            f"{many(int(empty.sum()), 'case')} with empty truth not shown by size; "
            f"in {clean} of them the prediction is empty too (Dice 1)."
        )
    if not scored.all():
        notes.append(f"{many(int((~scored).sum()), 'case')} without a defined Dice not shown.")
    return {"charts": found, "notes": notes}


def truth_sizes(rows: Any, recipe: Json) -> tuple[np.ndarray, str]:
    """Pixels of each case's truth: all classes together, or, as regions may overlap, the largest of the regions."""
    each = [
        rows[tp].to_numpy(dtype=float) + rows[f"{tp.removesuffix('tp')}fn"].to_numpy(dtype=float)
        for tp in map(str, rows.columns)
        if tp.split("/")[-1] == "tp"
    ]
    if (recipe.get("evaluate") or {}).get("regions") and len(each) > 1:
        return np.max(each, axis=0), "the truth's largest region"
    return np.sum(each, axis=0), "size of the truth"


# --- pictures --------------------------------------------------------------------------------------------------------


def pictures(run: Run, told: Sequence[Json] | None) -> list[tuple[str, list[dict[str, Any]]]]:
    """(best | median | worst, its pictures) of the headline's part; those of the gate are of one kind."""
    folder = (run.folder / "scores").resolve()
    kinds: dict[str, list[dict[str, Any]]] = {}
    for example in told or []:
        path = (folder / str(example.get("file", ""))).resolve()
        wide = "words" in example
        data = picture(path, 2 * PICTURE_SIDE if wide else PICTURE_SIDE) if path.is_relative_to(folder) else None
        dice = example.get("dice")
        kinds.setdefault(str(example.get("kind", "examples")), []).append(
            {
                "data": data,
                "id": str(example.get("id", "?")),
                "dice": f"{dice:.3f}" if known(dice) else "not defined",
                "text": str(example.get("text") or ""),
            }
        )
    return list(kinds.items())


def picture(path: Path, side: int = PICTURE_SIDE) -> str | None:
    """A PNG as a data address, made smaller where it is large; None if it is not there or no picture."""
    from PIL import Image

    try:
        raw = path.read_bytes()
        with Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
            if max(image.size) > side:
                small = image.convert("RGB")
                small.thumbnail((side, side), Image.Resampling.LANCZOS)
                stream = io.BytesIO()
                small.save(stream, format="PNG", optimize=True)
                raw = stream.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return f"data:image/png;base64,{base64.b64encode(raw).decode('ascii')}"


def legend(recipe: Json) -> dict[str, Any]:
    """The colours' meaning: (name, colour) of each predicted class, and the truth's colour."""
    labels = list((recipe.get("data") or {}).get("labels") or ())
    names = labels[1:] if len(labels) > 2 else ["prediction"]
    classes = [(str(n), hexadecimal(CLASS_COLOURS[i % len(CLASS_COLOURS)])) for i, n in enumerate(names)]
    return {"classes": classes, "several": len(names) > 1, "truth": hexadecimal(TRUTH_COLOUR)}


def hexadecimal(colour: Iterable[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def commands(run: Run, recipe: Json, manifest: Json, main: Json | None) -> list[str]:
    """How to score, use and train it again."""
    name, table = shlex.quote(run.name), shlex.quote(str(manifest.get("file") or "cases.csv"))
    split = shlex.quote(str(main["split"])) if main else "test"
    ending = "nii.gz" if main and distances.measured(main["variants"]["right"]) else "png"
    given = [str(m) for m in (recipe.get("data") or {}).get("modalities") or ("image",)]
    alone = "volume" if ending == "nii.gz" else "picture"
    images = [f"{alone}.{ending}"] if given == ["image"] else [shlex.quote(f"{m}={m}.{ending}") for m in given]
    reads = (recipe.get("text") or {}).get("encoder")
    return [
        f"crossmask evaluate {name} --data {table} --split {split}",
        " ".join(["crossmask predict", name, *images, *(['--text "..."'] if reads else []), "-o masks"]),
        f"crossmask train {name}/recipe.yaml --data {table} -o again",
    ]


# --- the terminal ----------------------------------------------------------------------------------------------------


def text_table(summary: dict[str, Any]) -> str:
    """The headline as plain text: a line a variant, then disjoint cases, those without text and the last weights, then
    distances and what to know."""
    last = summary.get("last")
    rows: list[tuple[str, ...]] = [("words", "cases", "dice_pooled", "dice_mean", "iou_pooled", "iou_mean")]
    rows += [text_row(name, scores) for name, scores in summary["variants"].items()]
    rows += [text_row(name, scores) for name, scores in (summary.get("modalities") or {}).items()]
    if summary.get("disjoint"):
        rows.append(text_row("(disjoint)", summary["disjoint"]))
    if summary.get("without_text") and len(summary["variants"]) > 1:
        rows.append(text_row("(without text)", summary["without_text"]))
    if last:
        rows.append(text_row("(last weights)", last))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"{summary.get('run', 'run')}, part '{summary['split']}'. {unit_sentence(summary)}"]
    lines += ["  ".join(aligned(row, widths)).rstrip() for row in rows]
    lines += distances.text_lines(summary["variants"]["right"])
    if summary.get("disjoint"):
        lines.append("(disjoint): the cases of groups (patients) that the run did not learn from.")
    if last:
        gain = last["chosen_minus_last"]
        shown = [f"{label} {estimate(gain[f'dice_{family}'], signed=True)}" for family, label in FAMILIES.items()]
        lines.append(f"{last_sentence(summary)} Chosen minus last: {', '.join(shown)}.")
    for name, strata in (summary.get("strata") or {}).items():
        told = [f"{row['stratum']} {estimate(row['dice_mean'])} ({many(row['cases'], 'case')})" for row in strata]
        lines.append(f"Dice per case by {name}: {'; '.join(told)}.")
    lines += [share_sentence(summary), scored_sentence(summary), verdict(summary)[1], *caveats(summary)]
    lines.append(chosen_sentence(summary.get("selection"), summary))
    plain = "\n".join(line for line in lines if line).replace("−", "-")
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in plain)


def text_row(name: str, scores: Json) -> tuple[str, ...]:
    name = " ".join(name.split())
    return (
        name if len(name) <= 32 else f"{name[:31]}…",
        str(scores["cases"]),
        estimate(scores["dice_pooled"]),
        estimate(scores["dice_mean"]),
        value_text(scores["iou_pooled"]),
        value_text(scores["iou_mean"]),
    )


def aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The count to the right, all else to the left."""
    return [cell.rjust(w) if i == 1 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
