"""The README's results table, from the score files beside this script.

    cp RUN/scores/valid.json docs/results/NAME.json      # after 'crossmask evaluate RUN --data cases.csv --split valid'
    python docs/results/table.py --write                 # README.md, between the markers

A file's name orders the rows; the first line of ``rows.txt`` that begins with the name gives the row's title.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent.parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
WORDS = {"right": "its own", "none": "none", "other": "another case's", "swapped": "sides swapped"}


def number(estimate: dict) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def titles() -> dict[str, str]:
    lines = (HERE / "rows.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if line.strip() and not line.startswith("#"))


def rows(name: str, title: str) -> list[str]:
    """One row a variant of the sentence, then the cases whose patient is not in train."""
    scores = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    made = scores["training"]
    cost = f"{made['images']:,} images, {made['minutes']:.0f} min"
    found = []
    for variant, told in WORDS.items():
        if variant in scores["variants"]:
            found.append((title, told if made["text"] else "not read", cost, scores["variants"][variant]))
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
        f"| {head} | {told} | {one['cases']:,} | {number(one['dice_pooled'])} | {number(one['dice_mean'])} "
        f"| {number(one['iou_pooled'])} | {number(one['iou_mean'])} | {cost} |"
        for head, told, cost, one in found
    ]


def table() -> str:
    head = [
        "| run | sentence | cases | `dice_pooled` | `dice_mean` | `iou_pooled` | `iou_mean` | trained |",
        "|---|---|---|---|---|---|---|---|",
    ]
    body = [row for name, title in titles().items() for row in rows(name, title)]
    return "\n".join([*head, *body])


def with_table(readme: str) -> str:
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    if parser.parse_args().write:
        README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(table() + "\n")


if __name__ == "__main__":
    main()
