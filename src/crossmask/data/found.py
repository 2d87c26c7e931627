"""What a check of a data set found, and how it is told as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from crossmask.errors import listed, name_list


@dataclass
class Found:
    """faults stop work, warnings want a look, facts are counts; each fault and warning is one sentence."""

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # label -> number, text, or {label: number}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        width = max(map(len, self.facts), default=0)
        lines = [f"{label:{width}}  {told(value)}" for label, value in self.facts.items()]
        for title, entries in (("warnings", self.warnings), ("faults", self.faults)):
            lines += ["", f"{title}: {len(entries) or 'none'}", *(f"  {e}" for e in listed(entries).splitlines())]
        return "\n".join(lines).strip()


def told(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{label} {told(entry)}" for label, entry in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def some(ids: Sequence[str]) -> str:
    """'3 (a, b, c)': a count and the first ids."""
    return f"{len(ids)} ({name_list(ids, shown=5)})" if ids else "0"


def wide(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"


def spread_of(values: np.ndarray, how: str) -> str:
    return " ".join(f"{v:{how}}" for v in (values.min(), float(np.median(values)), values.max()))
