"""The README's tables are what the committed files say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_chosen_rows_are_those_of_the_table(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "docs" / "results" / "table.py"))

    def score(value: float) -> dict:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    rows = {
        name: {
            "cases": 1200,
            "images": 5600,
            "estimates": {"dice_mean": score(mean), "dice_pooled": score(0.8)},
            **more,
        }
        for name, mean, more in (
            ("plain", 0.7, {"by_seed": {"0": 0.7, "1": 0.7}}),
            ("hidden", 0.1, {"by_seed": {"0": 0.1}}),
            ("better", 0.75, {"by_seed": {"1": 0.75}, "difference": {"value": 0.05, "low": None, "high": None}}),
        )
    }
    made = {"table": "tiny", "title": "Tiny", "column": "dice", "reference": "plain", "rows": rows}
    (tmp_path / "tiny.json").write_text(json.dumps(made))
    script["shortened"].__globals__["HERE"] = tmp_path
    text = script["shortened"]("tiny", "better; plain")
    assert text.splitlines()[:5] == [
        "<details>",
        "<summary>Tiny; 5,600 images a run</summary>",
        "",
        "[All rows, settings and distances](docs/results/tiny.md), `crossmask reproduce tiny --data cases.csv`:",
        "",
    ]
    assert text.splitlines()[-4:] == [
        "| better | 1 | 1,200 | 0.750 [0.650, 0.850] | 0.800 [0.700, 0.900] | +0.050 |",
        "| plain | 0, 1 | 1,200 | 0.700 [0.600, 0.800] | 0.800 [0.700, 0.900] |  |",
        "",
        "</details>",
    ]


def test_readme_table_is_made_from_the_score_files() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "results" / "table.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script["filled"](readme) == readme
    for page, text in script["pages"]().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run docs/results/table.py --write"
        made = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
        seen = made["rows"][made["reference"]]["images"]  # a recipe that was changed since would tell another budget
        assert f"A run sees {seen:,} images" in text, page.name
    named = set(script["titles"]("rows.txt")) | set(script["titles"]("tables.txt"))
    assert named == {p.stem for p in (ROOT / "docs" / "results").glob("*.json")}
