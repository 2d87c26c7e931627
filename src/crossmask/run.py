"""The run folder: the one truth about a run. NumPy and JSON; what is written is complete or absent.

recipe.yaml  resolved recipe            manifest.json  hash, counts
split.csv    id, part                   environment.json  versions, device
log.jsonl    one line a step or event   checkpoints/{last,best}.safetensors
scores/<split>.csv, .json               report.html
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from crossmask.errors import RunError
from crossmask.files import atomic, read_json, write_json


class Run:
    """A folder. Reading what is not there is an error in a sentence."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        run = cls(folder)
        if not (run.folder / "recipe.yaml").is_file():
            raise RunError(f"{folder}: is no run folder (recipe.yaml is missing); 'crossmask train' makes one.")
        return run

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    # --- what a run is ---------------------------------------------------------------------------------------
    def start(
        self,
        recipe: Mapping[str, Any],
        parts: Mapping[str, str],
        manifest: Mapping[str, Any],
        environment: Mapping[str, Any],
    ) -> None:
        """Write what stays fixed. The recipe comes last: with it the folder is a run."""
        with atomic(self.folder / "split.csv") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["id", "part"])
            writer.writerows(parts.items())
        write_json(self.folder / "manifest.json", manifest)
        write_json(self.folder / "environment.json", environment)
        with atomic(self.folder / "recipe.yaml") as stream:
            yaml.safe_dump(dict(recipe), stream, sort_keys=False, allow_unicode=True)

    def recipe(self) -> dict[str, Any]:
        try:
            return yaml.safe_load((self.folder / "recipe.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise RunError(f"{self.folder}/recipe.yaml: cannot be read ({error}).") from error

    def manifest(self) -> dict[str, Any]:
        return read_json(self.folder / "manifest.json")

    def environment(self) -> dict[str, Any]:
        return read_json(self.folder / "environment.json")

    def parts(self) -> dict[str, str]:
        with open(self.folder / "split.csv", encoding="utf-8", newline="") as stream:
            return {row["id"]: row["part"] for row in csv.DictReader(stream)}

    # --- the log ---------------------------------------------------------------------------------------------
    def log(self, **entry: Any) -> None:
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def entries(self, event: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / "log.jsonl"
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the last line of a killed process
                continue
            if event is None or entry.get("event") == event:
                found.append(entry)
        return found

    def rewind(self, step: int) -> None:
        """Forget what was logged after a step, so that a resumed run's log is that of a straight one."""
        kept = [e for e in self.entries() if e.get("step", 0) <= step]
        with atomic(self.folder / "log.jsonl") as stream:
            stream.writelines(json.dumps(e) + "\n" for e in kept)

    # --- checkpoints and scores ------------------------------------------------------------------------------
    def checkpoint(self, which: str = "best") -> Path:
        return self.folder / "checkpoints" / f"{which}.safetensors"

    def step_of(self, which: str) -> int | None:
        """The step at which a checkpoint's weights stood; None if there is none."""
        path = self.checkpoint(which)
        if not path.is_file():
            return None
        with open(path, "rb") as stream:  # safetensors: eight bytes of length, then JSON
            head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return int(head["__metadata__"]["step"])

    def scores_path(self, split: str, ending: str) -> Path:
        return self.folder / "scores" / f"{split}{ending}"

    def write_scores(self, split: str, cases: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
        columns = list(dict.fromkeys(name for case in cases for name in case))
        with atomic(self.scores_path(split, ".csv")) as stream:
            writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(cases)
        write_json(self.scores_path(split, ".json"), summary)

    def scored_splits(self) -> list[str]:
        return sorted(p.stem for p in (self.folder / "scores").glob("*.json"))

    def summary(self, split: str) -> dict[str, Any]:
        return read_json(self.scores_path(split, ".json"))

    def cases(self, split: str) -> Any:
        """The per-case table as a pandas DataFrame."""
        import pandas as pd

        path = self.scores_path(split, ".csv")
        if not path.is_file():
            raise RunError(f"{path}: there are no scores; run 'crossmask evaluate {self.folder} --split {split}'.")
        return pd.read_csv(path, dtype={"id": str, "group": str}, keep_default_na=False, na_values=["", "nan"])
