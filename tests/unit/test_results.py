"""The README's tables are what the committed files say."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_readme_table_is_made_from_the_score_files() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "results" / "table.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script["filled"](readme) == readme
    named = set(script["titles"]("rows.txt")) | set(script["titles"]("tables.txt"))
    assert named == {p.stem for p in (ROOT / "docs" / "results").glob("*.json")}
