"""The page a person reads about a run: ``report.html``, one self-contained file made from the run folder alone."""

from __future__ import annotations

import base64
import io
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from crossmask.errors import DataError
from crossmask.files import atomic, read_json
from crossmask.report import charts
from crossmask.report.sentences import (
    LEARNT_FROM,
    TOLD,
    Json,
    caveats,
    chosen_sentence,
    duration,
    estimate,
    known,
    many,
    numeric,
    same_manifest,
    spread_text,
    unit_sentence,
    value_text,
    verdict,
)
from crossmask.run import Run

HERE = Path(__file__).parent
FAMILIES = {"pooled": "pooled", "mean": "per case"}
SCORES = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall"}
PICTURE_SIDE = 480  # pixels; larger overlays are made smaller for the page
LOGGED = ("event", "step", "images", "loss", "lr", "gradient_norm", "seconds")  # what is no loss term in a step's line
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
        "main": split_facts(run, splits[0], main) if main else None,
        "others": [split_facts(run, split, summaries[split], drawn=False) for split in splits[1:]],
        "chosen": chosen_sentence(selection, main),
        "curves": curves(run, recipe, selection),
        "distribution": distribution(run, splits[0], main) if main else None,
        "pictures": pictures(run, main) if main else [],
        "legend": legend(recipe),
        "manifest": manifest,
        "same_manifest": same_manifest(main),
        "environment": environment,
        "seconds": duration(max((numeric(e.get("seconds")) for e in run.entries()), default=0.0)),
        "images": max((int(numeric(e.get("images"))) for e in run.entries("step")), default=0),
        "recipe": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        "commands": commands(run, manifest, splits),
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


def split_facts(run: Run, split: str, summary: Json, drawn: bool = True) -> dict[str, Any]:
    """Words, scores and caveats of one part."""
    try:
        return {
            "split": split,
            "headline": {k: summary[f"dice_{k}"] for k in FAMILIES},
            "cases": many(summary["cases"], "case"),
            "own_sentence": len(summary["variants"]) > 1,
            "unit": unit_sentence(summary),
            "words": words_rows(summary),
            "verdict": verdict(summary),
            "chart": words_chart(summary) if drawn and len(summary["variants"]) > 1 else "",
            "scores": scores_table(summary),
            "classes": class_rows(summary["variants"]["right"]),
            "caveats": caveats(summary),
        }
    except (KeyError, TypeError, AttributeError) as error:
        path = run.scores_path(split, ".json")
        raise DataError(
            f"{path}: is no summary as 'crossmask evaluate' writes it ({error!r}); score the part again."
        ) from error


def words_rows(summary: Json) -> list[dict[str, Any]]:
    rows = []
    for name, scores in summary["variants"].items():
        rows.append(
            {
                "name": name,
                "told": TOLD.get(name, f"the wording 'text:{name}'"),
                "cases": scores["cases"],
                "pooled": scores["dice_pooled"],
                "mean": scores["dice_mean"],
                "difference": (summary.get("text_use") or {}).get(name),
            }
        )
    return rows


def words_chart(summary: Json) -> str:
    rows = list(summary["variants"])
    series = {label: [summary["variants"][row][f"dice_{family}"] for row in rows] for family, label in FAMILIES.items()}
    return charts.intervals(f"words {summary['split']}", rows, series, xlabel="Dice with 95 % interval")


def scores_table(summary: Json) -> dict[str, Any]:
    """Rows: every score of both families; columns: all cases, the disjoint ones, those without a sentence."""
    right = summary["variants"]["right"]
    reads = len(summary["variants"]) > 1
    columns = [("cases with a sentence" if reads else "all cases", right)]
    if summary.get("disjoint"):
        columns.append(("disjoint: groups not in train", summary["disjoint"]))
    if summary.get("without_text") and reads:
        columns.append(("cases without a sentence", summary["without_text"]))
    rows = [
        (f"{title}, {label}", [column[f"{score}_{family}"] for _, column in columns])
        for score, title in SCORES.items()
        for family, label in FAMILIES.items()
        if f"{score}_{family}" in right
    ]
    return {"columns": [(title, many(column["cases"], "case")) for title, column in columns], "rows": rows}


def class_rows(right: Json) -> list[tuple[str, list[Json]]]:
    """Dice and IoU of each class, where there are several."""
    names = [key.removesuffix("/dice_pooled") for key in right if key.endswith("/dice_pooled")]
    wanted = ("dice_pooled", "dice_mean", "iou_pooled", "iou_mean")
    return [(name, [right[f"{name}/{score}"] for score in wanted]) for name in names]


# --- charts ----------------------------------------------------------------------------------------------------------


def curves(run: Run, recipe: Json, selection: Json | None) -> list[tuple[str, str]]:
    """(title, SVG) of loss terms, selection Dice and learning rate over images seen."""
    found = []
    steps, validations = run.entries("step"), run.entries("validation")
    settings = recipe.get("train") or {}
    per_step = int(numeric(settings.get("batch", 1)) or 1) * int(numeric(settings.get("accumulate", 1)) or 1)
    if steps:
        seen = [numeric(e.get("images")) or numeric(e.get("step")) * per_step for e in steps]
        terms = list(dict.fromkeys(k for e in steps for k in e if k not in LOGGED and known(e[k])))
        names = ["loss", *terms] if len(terms) != 1 else ["loss"]
        lines = {
            ("sum" if name == "loss" and terms else name): (seen, [e.get(name, math.nan) for e in steps])
            for name in names
        }
        whole = all(numeric(v) >= 0 for _, ys in lines.values() for v in ys)
        found.append(("Training loss", charts.curves("loss", lines, ylabel="loss", from_zero=whole)))
    seen_then = [numeric(e.get("step")) * per_step for e in validations]
    lines = {
        label: (seen_then, [e.get(f"dice_{family}", math.nan) for e in validations])
        for family, label in FAMILIES.items()
        if any(known(e.get(f"dice_{family}")) for e in validations)
    }
    if lines:
        step = (selection or {}).get("checkpoint_step")
        word = "chosen"
        if not known(step):
            step = max((e.get("step", 0) for e in validations if e.get("best")), default=None)
            word = "best so far"
        mark = (numeric(step) * per_step, f"{word}: step {step}") if known(step) else None
        svg = charts.curves("selection", lines, ylabel="Dice", mark=mark, dots=len(validations) <= 60)
        found.append(("Dice on the selection part", svg))
    if steps and any(known(e.get("lr")) for e in steps):
        lines = {"learning rate": (seen, [e.get("lr", math.nan) for e in steps])}
        found.append(
            ("Learning rate", charts.curves("rate", lines, ylabel="learning rate", height=2.2, from_zero=True))
        )
    return found


def distribution(run: Run, split: str, summary: Json) -> dict[str, Any]:
    """Histogram of the Dice per case, and Dice against the size of the truth."""
    if not run.scores_path(split, ".csv").is_file():
        return {"charts": [], "notes": [f"The per-case table scores/{split}.csv is missing."]}
    table = run.cases(split)
    rows = table[table["variant"] == "right"]
    if "has_text" in rows and len(summary["variants"]) > 1:
        rows = rows[rows["has_text"].astype(str) == "True"]
    dice = rows["dice"].to_numpy(dtype=float)
    counts = [c for c in rows.columns if str(c).split("/")[-1] in ("tp", "fn")]
    area = rows[counts].to_numpy(dtype=float).sum(1)
    scored = np.isfinite(dice)
    found, notes = [], []
    if scored.any():
        svg = charts.histogram("histogram", dice[scored], xlabel="Dice per case")
        found.append(("How the Dice is spread over the cases", svg))
        poor = int((dice[scored] < 0.5).sum())
        notes.append(f"{poor} of {many(int(scored.sum()), 'case')} have a Dice below 0.5.")
    sized = scored & (area > 0)
    if sized.any():
        svg = charts.scatter("size", area[sized], dice[sized], xlabel="area of the truth in pixels", ylabel="Dice")
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


# --- pictures --------------------------------------------------------------------------------------------------------


def pictures(run: Run, summary: Json) -> list[tuple[str, list[dict[str, Any]]]]:
    """(best | median | worst, its pictures) of the headline's part."""
    folder = (run.folder / "scores").resolve()
    kinds: dict[str, list[dict[str, Any]]] = {}
    for example in summary.get("examples") or []:
        path = (folder / str(example.get("file", ""))).resolve()
        data = picture(path) if path.is_relative_to(folder) else None
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


def picture(path: Path) -> str | None:
    """A PNG as a data address, made smaller where it is large; None if it is not there or no picture."""
    from PIL import Image

    try:
        raw = path.read_bytes()
        with Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
            if max(image.size) > PICTURE_SIDE:
                small = image.convert("RGB")
                small.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
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
    return {"classes": classes, "truth": hexadecimal(TRUTH_COLOUR)}


def hexadecimal(colour: Iterable[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def commands(run: Run, manifest: Json, splits: Sequence[str]) -> list[str]:
    name, table = shlex.quote(run.name), shlex.quote(str(manifest.get("file") or "cases.csv"))
    split = shlex.quote(splits[0]) if splits else "test"
    return [
        f"crossmask evaluate {name} --data {table} --split {split}",
        f'crossmask predict {name} picture.png --text "..." -o masks',
        f"crossmask train {name}/recipe.yaml --data {table} -o again",
    ]


# --- the terminal ----------------------------------------------------------------------------------------------------


def text_table(summary: dict[str, Any]) -> str:
    """The headline as plain text: a line a variant, then disjoint cases and those without text, then what to know."""
    rows: list[tuple[str, ...]] = [("words", "cases", "dice_pooled", "dice_mean", "iou_pooled", "iou_mean")]
    rows += [text_row(name, scores) for name, scores in summary["variants"].items()]
    if summary.get("disjoint"):
        rows.append(text_row("(disjoint)", summary["disjoint"]))
    if summary.get("without_text") and len(summary["variants"]) > 1:
        rows.append(text_row("(without text)", summary["without_text"]))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"{summary.get('run', 'run')}, part '{summary['split']}'. {unit_sentence(summary)}"]
    lines += ["  ".join(aligned(row, widths)).rstrip() for row in rows]
    if summary.get("disjoint"):
        lines.append("(disjoint): the cases of groups (patients) that the run did not learn from.")
    lines += [verdict(summary)[1], *caveats(summary), chosen_sentence(summary.get("selection"), summary)]
    plain = "\n".join(lines).replace("−", "-")
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in plain)


def text_row(name: str, scores: Json) -> tuple[str, ...]:
    name = " ".join(name.split())
    return (
        name if len(name) <= 24 else f"{name[:23]}…",
        str(scores["cases"]),
        estimate(scores["dice_pooled"]),
        estimate(scores["dice_mean"]),
        value_text(scores["iou_pooled"]),
        value_text(scores["iou_mean"]),
    )


def aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The count to the right, all else to the left."""
    return [cell.rjust(w) if i == 1 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
