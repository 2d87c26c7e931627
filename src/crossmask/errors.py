"""The error tree: every error a user can cause is one sentence saying what, where, and what to do.

``exit_code`` is what the command line returns: 1 the data or the result is bad, 2 the call is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class CrossmaskError(Exception):
    """Base of all errors that are reported as a sentence instead of a traceback."""

    exit_code = 1


class CallError(CrossmaskError):
    """The command, an option or the recipe is wrong."""

    exit_code = 2


class DataError(CrossmaskError):
    """A file, a table row or a folder's layout is wrong."""


class CasesError(DataError):
    """Some cases cannot be used. ``faults``: id -> what is wrong and what to do."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__(listed(f"case '{case}': {fault}" for case, fault in faults.items()))
        self.faults = dict(faults)


class WeightsError(CrossmaskError):
    """Pretrained weights cannot be had or do not fit."""


class RunError(CrossmaskError):
    """A run folder is missing, incomplete or does not fit what is asked of it."""


class ResourceError(CrossmaskError):
    """Memory or disk ran out."""


class Interrupted(CrossmaskError):
    """The user stopped a training; it can be resumed."""

    exit_code = 130


SHOWN_FAULTS = 20


def listed(faults: Iterable[str], *, shown: int = SHOWN_FAULTS) -> str:
    """All faults as lines: the first ``shown``, then a count of the rest.

    >>> print(listed(["a", "b", "c"], shown=2))
    a
    b
    ... and 1 more
    """
    faults = list(faults)
    lines = faults[:shown]
    if len(faults) > shown:
        lines.append(f"... and {len(faults) - shown} more")
    return "\n".join(lines)


def name_list(names: Iterable[object], *, shown: int = 8) -> str:
    """Names as they stand in a sentence: the first few, then a count."""
    words = [str(n) for n in names]
    text = ", ".join(words[:shown]) or "nothing"
    return text + (f" and {len(words) - shown} more" if len(words) > shown else "")
