"""The README's results, from the score files and tables beside this script.

    cp RUN/scores/valid.json docs/results/NAME.json      # after 'crossmask evaluate RUN --data cases.csv --split valid'
    cp FOLDER/TABLE.md FOLDER/TABLE.json docs/results/   # after 'crossmask reproduce TABLE ... -o FOLDER'
    python docs/results/table.py --write                 # README.md, between the markers; TABLE.md anew from TABLE.json

``rows.txt``: a score file's name and the title of its rows. ``tables.txt``: a table's name and which of its rows the
README shows; all of them stand in TABLE.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from crossmask.comparison_text import markdown, over_seeds, told
from crossmask.table import load

HERE = Path(__file__).parent
README = HERE.parent.parent / "README.md"
RESULTS, TABLES = "results", "tables"  # names of the README's markers
WORDS = {"right": "its own", "none": "none", "other": "another case's", "swapped": "sides swapped"}


def titles(file: str) -> dict[str, str]:
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if line.strip() and not line.startswith("#"))


def rows(name: str, title: str) -> list[str]:
    """One row a variant of the sentence, then the cases whose patient is not in train."""
    scores = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    made = scores["training"]
    cost = f"{made['images']:,} images, {made['minutes']:.0f} min"
    found = []
    for variant, words in WORDS.items():
        if variant in scores["variants"]:
            found.append((title, words if made["text"] else "not read", cost, scores["variants"][variant]))
            title = cost = ""
    if "disjoint" in scores:
        found.append(
            (
                "",
                "its own, patient not in train" if made["text"] else "not read, patient not in train",
                "",
                scores["disjoint"],
            )
        )
    return [
        f"| {head} | {words} | {one['cases']:,} | {told(one['dice_pooled'])} | {told(one['dice_mean'])} "
        f"| {told(one['iou_pooled'])} | {told(one['iou_mean'])} | {cost} |"
        for head, words, cost, one in found
    ]


def table() -> str:
    head = [
        "| run | sentence | cases | `dice_pooled` | `dice_mean` | `iou_pooled` | `iou_mean` | trained |",
        "|---|---|---|---|---|---|---|---|",
    ]
    body = [row for name, title in titles("rows.txt").items() for row in rows(name, title)]
    return "\n".join([*head, *body])


def shortened(name: str, shown: str) -> str:
    """Some rows of a table, folded: both families and the paired difference, over the seeds that both rows have."""
    made = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    command = " ".join(["crossmask reproduce", made["table"], "--data cases.csv", *made.get("overrides", ())])
    lines = [
        "<details>",
        f"<summary>{made['title']}; {made['rows'][made['reference']]['images']:,} images a run</summary>",
        "",
        f"[All rows, settings and distances](docs/results/{name}.md), `{command}`:",
        "",
        f"| row | seeds | cases | `dice_mean` | `dice_pooled` | `{made['column']}` a case, minus {made['reference']} |",
        "|---|---|---|---|---|---|",
    ]
    for row in shown.split("; "):
        one = made["rows"][row]
        both = " | ".join(told(one["estimates"][score]) for score in ("dice_mean", "dice_pooled"))
        difference = over_seeds(one["difference"]) if "difference" in one else ""
        seeds = ", ".join(one["by_seed"])
        lines.append(f"| {row} | {seeds} | {one['cases']:,} | {both} | {difference} |")
    return "\n".join([*lines, "", "</details>"])


def tables() -> str:
    return "\n\n".join(shortened(name, shown) for name, shown in titles("tables.txt").items())


def pages() -> dict[Path, str]:
    """Each table's own page."""
    found = {}
    for name in titles("tables.txt"):
        made = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
        found[HERE / f"{name}.md"] = markdown(load(made["table"]), made)
    return found


def between(readme: str, name: str, text: str) -> str:
    before, _, rest = readme.partition(f"<!-- {name} -->")
    _, _, after = rest.partition(f"<!-- end of {name} -->")
    return f"{before}<!-- {name} -->\n{text}\n<!-- end of {name} -->{after}"


def filled(readme: str) -> str:
    return between(between(readme, RESULTS, table()), TABLES, tables())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    if parser.parse_args().write:
        README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
        for page, text in pages().items():
            page.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(f"{table()}\n\n{tables()}\n")


if __name__ == "__main__":
    main()
