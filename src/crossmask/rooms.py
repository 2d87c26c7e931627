"""A part is found by its file's name: name -> file -> door.

A room is a package whose files each hold one part behind a function of fixed name (its *door*). Nothing
is registered. Names that are no file of the room are refused, so a recipe cannot import arbitrary code.
The door's keyword-only signature is the option schema and the only home of defaults.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import itertools
import pkgutil
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from crossmask.errors import CallError, name_list

ROOMS: dict[str, tuple[str, str]] = {
    "network": ("crossmask.models", "build"),
    "method": ("crossmask.methods", "build"),
    "adapter": ("crossmask.data.adapters", "scan"),
    "text encoder": ("crossmask.text.encoders", "build"),
    "metric": ("crossmask.metrics", "score"),
}


def names(room: str) -> list[str]:
    """The parts of a room, as recipes spell them (``cxr-bert`` for ``cxr_bert.py``)."""
    package = importlib.import_module(ROOMS[room][0])
    return sorted(
        info.name.replace("_", "-") for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_")
    )


def near_miss(name: str, known: Iterable[str]) -> str:
    """', did you mean x?' or a full stop; the next sentence may follow."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean '{close[0]}'?" if close else "."


def module(room: str, name: str) -> Any:
    """The file of a part."""
    known = names(room)
    if str(name).replace("_", "-") not in known:
        raise CallError(
            f"no {room} is called '{name}'{near_miss(name, known)} There are: {name_list(known, shown=40)}."
        )
    return importlib.import_module(f"{ROOMS[room][0]}.{str(name).replace('-', '_')}")


def door(room: str, name: str) -> Callable[..., Any]:
    """The function behind which a part lives."""
    return getattr(module(room, name), ROOMS[room][1])


def summary(room: str, name: str) -> str:
    """The first line of a part's file, read without importing it."""
    return head(room, name).split("\n")[0].rstrip(".")


def deviations(room: str, name: str) -> str:
    """What the head of a part's file says after 'deviates:', as one line; empty where it says nothing."""
    _, found, rest = head(room, name).partition("\ndeviates: ")
    if not found:
        return ""
    lines = itertools.takewhile(
        lambda line: line and not line.startswith(("stated:", "reconstructed:")), rest.split("\n")
    )
    return " ".join(lines)


def head(room: str, name: str) -> str:
    """A part's docstring."""
    import ast
    from importlib.util import find_spec

    spec = find_spec(f"{ROOMS[room][0]}.{name.replace('-', '_')}")
    if spec is None or spec.origin is None:
        return ""
    with open(spec.origin, encoding="utf-8") as stream:
        return ast.get_docstring(ast.parse(stream.read())) or ""


def options(function: Callable[..., Any], *, given: Iterable[str] = ()) -> dict[str, inspect.Parameter]:
    """A door's keyword-only options but for those that the house itself hands in."""
    handed = set(given)
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in handed
    }


def option_faults(
    function: Callable[..., Any], chosen: Mapping[str, Any], *, where: str, given: Iterable[str] = ()
) -> list[str]:
    """All that is wrong with chosen options: unknown (with the near miss), missing, of a wrong type."""
    from pydantic import TypeAdapter, ValidationError

    known = options(function, given=given)
    hints = typing.get_type_hints(function)
    faults = []
    for name, value in chosen.items():
        if name not in known:
            faults.append(
                f"{where}.{name}: unknown option{near_miss(name, known)} Known: {name_list(known, shown=40)}."
            )
            continue
        if hints.get(name) is bool and not isinstance(value, bool):
            faults.append(f"{where}.{name}: {value!r} does not fit (input should be true or false).")
            continue
        try:
            TypeAdapter(hints.get(name, Any)).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            faults.append(f"{where}.{name}: {value!r} does not fit ({first['msg'].lower()}).")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in chosen:
            faults.append(f"{where}.{name}: missing; it has no default.")
    return faults
