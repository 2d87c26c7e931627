"""Imports go downward only: every file's imports, those inside functions too, against the table of rooms."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import crossmask

SOURCE = Path(crossmask.__file__).parent
NUMERIC = {"numpy"}
ZERO = ("core", "errors", "rooms", "files", "progress")
ONE = ("losses", "blocks", "encoders", "efficientnet_lite", "metrics", "statistics", "data", "text")
TWO = ("models", "methods", "run", "recipe", "parts", "checkpoint")


@dataclass(frozen=True)
class Rule:
    """may: rooms (or dotted parts of rooms) that are imported from. never: packages that stay out, also inside
    functions. outside: the only packages beyond the standard library at import time (None: any)."""

    may: tuple[str, ...]
    never: tuple[str, ...] = ()
    outside: frozenset[str] | None = None


LOW = frozenset(NUMERIC)
MEASURE = frozenset({"numpy", "scipy"})
RULES: dict[str, Rule] = {
    # 0
    "core": Rule((), ("torch",), LOW),
    "errors": Rule((), ("torch",), frozenset()),
    "rooms": Rule(("errors",), ("torch",), LOW),
    "files": Rule(("errors",), ("torch",), LOW),
    "progress": Rule(("errors",), ("torch",), LOW),
    # 1
    "losses": Rule(("errors",)),
    "blocks": Rule(("errors", "losses")),
    "efficientnet_lite": Rule(("errors",)),
    "encoders": Rule(("errors", "rooms", "files", "efficientnet_lite")),
    "metrics": Rule(("core", "errors", "files", "metrics"), ("torch",), MEASURE),
    "bootstrap": Rule(("core", "errors"), ("torch",), MEASURE),
    "statistics": Rule(("core", "errors", "files", "bootstrap"), ("torch",), MEASURE),
    "stratified": Rule(("statistics",), ("torch",), MEASURE),
    "significance": Rule(("core", "errors", "statistics"), ("torch",), MEASURE),
    "data": Rule((*ZERO, "data")),
    "text": Rule((*ZERO, "text")),
    # 2
    "models": Rule(("blocks", "encoders", "losses", "errors")),
    "methods": Rule(("core", "losses", "blocks", "errors", "methods")),
    "run": Rule(("core", "errors", "files"), ("torch",)),
    "recipe": Rule(("rooms", "data.transforms", "errors", "files"), ("torch",)),
    "parts": Rule((*ZERO, *ONE, "models", "methods", "run", "recipe")),
    "checkpoint": Rule((*ZERO, "text", "run", "recipe", "parts")),
    # 3 to 7
    "predict": Rule((*ZERO, *ONE, *TWO, "predict_volumes")),
    "predict_volumes": Rule((*ZERO, *ONE, *TWO)),
    "predict_folder": Rule((*ZERO, *ONE, *TWO, "predict", "predict_volumes")),
    "scoring": Rule((*ZERO, *ONE, *TWO, "predict", "predict_volumes")),
    "strata": Rule((*ZERO, *ONE, *TWO, "predict", "scoring", "stratified")),
    "gates": Rule((*ZERO, *ONE, *TWO, "predict", "scoring")),
    "evaluate": Rule((*ZERO, *ONE, *TWO, "predict", "scoring", "strata", "stratified", "gates")),
    "joined": Rule((*ZERO, "data", "text", "run", "recipe", "parts")),
    "selection": Rule((*ZERO, *ONE, *TWO, "predict", "joined")),
    "train": Rule((*ZERO, *ONE, *TWO, "predict", "evaluate", "joined", "selection")),
    "report": Rule(("report", "core", "run", "metrics", "statistics", "errors", "files"), ("torch",)),
    "table": Rule((*ZERO, "run", "recipe"), ("torch",)),
    "comparison": Rule((*ZERO, "metrics", "statistics", "significance", "stratified", "run", "table"), ("torch",)),
    "comparison_text": Rule((*ZERO, "table"), ("torch",)),
    "compare": Rule((*ZERO, "statistics", "run", "comparison_text"), ("torch",)),
    "figures": Rule((*ZERO, *ONE, *TWO, "predict", "table")),
    "paper_check": Rule(("table",), ("torch",)),
    "cost": Rule((*ZERO, *ONE, *TWO)),
    "jobs": Rule(("errors", "progress")),
    "reproduce": Rule(
        (
            *ZERO,
            *ONE,
            *TWO,
            "predict",
            "evaluate",
            "train",
            "table",
            "comparison",
            "comparison_text",
            "figures",
            "cost",
            "jobs",
            "joined",
            "significance",
        )
    ),
    "doctor": Rule(ZERO, ("torch", "transformers", "pandas")),  # it looks at them from a process of its own
    "cli": Rule(("",)),
    "cli_data": Rule(("data", "rooms", "progress", "errors", "files")),
    "__init__": Rule(("",), ("torch",), frozenset()),  # the package's face: inside functions
    "__main__": Rule(("",)),
}
# One import that points upward, and why. A line that is no longer needed is a fault.
UPWARD = {
    ("core", "data.masks"): "Prediction.save, inside the function: the noun writes itself where files are written",
    ("core", "data.volumes"): "the same for volumes",
}
TORCH_IN_DATA = ("data.loader",)  # the others import torch inside functions, so that adapters and the cache need none


def room_of(module: str) -> str:
    """'data.images' -> 'data'."""
    return module.split(".")[0]


def modules(source: Path) -> Iterator[tuple[str, Path]]:
    """Every file with its name inside the package ('data.images', '__init__')."""
    for path in sorted(source.rglob("*.py")):
        parts = list(path.relative_to(source).with_suffix("").parts)
        if len(parts) > 1 and parts[-1] == "__init__":
            parts.pop()
        yield ".".join(parts), path


def imports(path: Path, name: str, known: set[str]) -> Iterator[tuple[str, bool, bool, int]]:
    """(module, at import time, for type checkers only, line); ours start with 'crossmask'."""

    def visit(node: ast.AST, late: bool, typing: bool) -> Iterator[tuple[str, bool, bool, int]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, not late, typing, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ["crossmask", *name.split(".")]
                if path.name == "__init__.py":
                    here = ["crossmask", *(name.split(".") if name != "__init__" else []), "__init__"]
                base = ".".join([*here[: len(here) - node.level], *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full.removeprefix("crossmask.") in known else base, not late, typing, node.lineno
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value), not late, typing, node.lineno
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, late, True)
            children: list[ast.AST] = list(node.orelse)
        else:
            children = list(ast.iter_child_nodes(node))
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in children:
            yield from visit(child, late, typing)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False, False)


def allowed(target: str, rule: Rule) -> bool:
    return any(may in ("", target) or target.startswith(f"{may}.") for may in rule.may)


def violations(source: Path) -> list[str]:
    """Every import that the table does not know, as 'file:line: why'."""
    faults, used = [], set()
    known = {name for name, _ in modules(source)}
    for name, path in modules(source):
        room = room_of(name)
        rule = RULES.get(room)
        where = path.relative_to(source)
        if rule is None:
            faults.append(f"{where}: '{room}' has no place in the table of levels")
            continue
        for target, early, typing, line in imports(path, name, known):
            first = target.split(".")[0]
            if first == "crossmask":
                ours = target.removeprefix("crossmask").lstrip(".")
                if not ours or ours == name or allowed(ours, rule):
                    continue
                if (name, ours) in UPWARD and not early:
                    used.add((name, ours))
                    continue
                faults.append(f"{where}:{line}: {room} may not import {ours}")
            elif typing or first in sys.stdlib_module_names:
                continue
            elif first in rule.never:
                faults.append(f"{where}:{line}: {room} may not import {first}")
            elif early and rule.outside is not None and first not in rule.outside:
                faults.append(f"{where}:{line}: {room} may import {first} inside functions only")
            elif early and first == "torch" and room == "data" and name not in TORCH_IN_DATA:
                faults.append(f"{where}:{line}: {name} may import torch inside functions only")
    faults += [f"UPWARD: {a} no longer imports {b}; take its line away" for a, b in UPWARD.keys() - used]
    return faults


def test_imports_go_downward():
    assert violations(SOURCE) == []


def test_room_inits_are_empty():
    full = [
        name
        for name, path in modules(SOURCE)
        if path.name == "__init__.py" and path.parent != SOURCE and path.read_text().strip()
    ]
    assert full == []


PLANTED = {
    "core.py": "from crossmask import losses",
    "errors.py": "import torch",
    "losses.py": "def f():\n    from crossmask.core import Batch",
    "blocks.py": "import crossmask.data.images",
    "metrics/overlap.py": "def f():\n    import torch",
    "statistics.py": "from crossmask.data import images",
    "data/sides.py": "from crossmask.text.features import table",
    "data/images.py": "import torch.nn.functional as F",
    "text/features.py": "from ..data import loader",
    "text/encoders/tiny.py": "from ...models import unet",
    "models/unet.py": "from crossmask.core import Batch",
    "models/ariadne.py": "from .hcfnet import Decoder",
    "methods/supervised.py": "import importlib\nimportlib.import_module('crossmask.models.unet')",
    "run.py": "class A:\n    def f(self):\n        from torch import load",
    "recipe.py": "from crossmask.data.images import read_image",
    "predict.py": "from crossmask import train",
    "helpers.py": "",
}


@pytest.mark.parametrize("file", PLANTED)
def test_a_planted_violation_is_caught(tmp_path, file):
    copy = tmp_path / "crossmask"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.yaml"))
    before = set(violations(copy))
    path = copy / file
    head = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{head}\n{PLANTED[file]}\n", encoding="utf-8")
    fresh = set(violations(copy)) - before
    assert len(fresh) == 1, fresh
    assert Path(fresh.pop().split(":")[0]) == Path(file)


def loaded(statement: str, *packages: str) -> list[str]:
    """Which of the packages a fresh Python has loaded after the statement."""
    code = f"import sys\n{statement}\nprint(*[p for p in {packages!r} if p in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-2].split()


def test_the_low_rooms_do_not_load_torch():
    low = ", ".join(f"crossmask.{n}" for n in (*ZERO, "run", "statistics", "metrics.overlap", "data.images", "recipe"))
    assert loaded(f"import crossmask, {low}", "torch", "transformers", "pandas") == []


needs_cli = pytest.mark.skipif(importlib.util.find_spec("crossmask.cli") is None, reason="cli.py is not there yet")


@needs_cli
def test_cli_loads_neither_torch_nor_pandas():
    assert loaded("import crossmask.cli", "torch", "pandas", "transformers") == []


@needs_cli
def test_help_loads_neither_torch_nor_pandas():
    call = (
        "import contextlib, crossmask.cli\nsys.argv = ['crossmask', '--help']\n"
        "with contextlib.suppress(SystemExit):\n    crossmask.cli.main()\nprint()"
    )
    assert loaded(call, "torch", "pandas", "transformers") == []
