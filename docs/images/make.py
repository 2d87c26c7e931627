"""The README's picture, from the demo's run: one picture, several sentences, each with its prediction.

make demo && python docs/images/make.py
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.figure import Figure

import crossmask
from crossmask.data import manifest
from crossmask.data.images import overlay, read_image

HERE = Path(__file__).parent
DEMO = HERE.parent.parent / "demo"


def main() -> None:
    cases = [c for c in manifest.read(DEMO / "data" / "cases.csv") if c.splits[""] == "test" and "" in c.texts]
    by_meaning = {c.free["meaning"]: c.texts[""] for c in reversed(cases)}
    predictor = crossmask.load(str(DEMO / "run"))
    figure = Figure(figsize=(9.6, 3.1), dpi=120)
    axes = figure.subplots(1, 4)
    file = cases[0].images[""]
    for axis, text in zip(axes, (by_meaning[m] for m in sorted(by_meaning)), strict=True):
        prediction = predictor.predict(file, text=text, side_convention="image")
        axis.imshow(overlay(read_image(file).unit(), prediction.mask))
        axis.set_title("\n".join(textwrap.wrap(f"“{text}”", 34)), fontsize=7.5, loc="left")
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(HERE / "phantom.png", bbox_inches="tight")


if __name__ == "__main__":
    main()
