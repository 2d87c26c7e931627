"""Checkpoints: weights, optimiser and the loop's state in one safetensors file that is complete or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crossmask import parts
from crossmask.errors import RunError
from crossmask.files import atomic
from crossmask.progress import notice
from crossmask.recipe import Recipe
from crossmask.run import Run
from crossmask.text.features import TextEncoder


def save_weights(run: Run, which: str, method: Any, state: dict[str, Any], text_dim: int | None) -> None:
    write_tensors(run.checkpoint(which), {f"method.{k}": v for k, v in method.state_dict().items()}, state, text_dim)


def save_state(run: Run, method: Any, optimizer: Any, state: dict[str, Any], text_dim: int | None) -> None:
    """Everything that resuming needs, in one file. Random numbers need none: they follow from (seed, step)."""
    tensors = {f"method.{k}": v for k, v in method.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in entry.items() if v is not None}
    write_tensors(run.checkpoint("last"), tensors, state, text_dim)


def write_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, Any], text_dim: int | None) -> None:
    from safetensors.torch import save

    metadata = {"text_dim": str(text_dim or ""), "step": str(state["step"]), "state": json.dumps(state)}
    content = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, metadata)
    with atomic(path, "wb") as stream:
        stream.write(content)


def load_state(run: Run, method: Any, optimizer: Any, state: dict[str, Any]) -> None:
    tensors, metadata = read(run.checkpoint("last"))
    method.load_state_dict({k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")})
    fresh = optimizer.state_dict()
    saved: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            saved.setdefault(int(index), {})[name] = value
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for place, entry in saved.items():
        for name, value in entry.items():
            if value.shape == weights[place].shape:  # the fused step needs the weight's own memory layout
                entry[name] = torch.empty_like(weights[place]).copy_(value)
    optimizer.load_state_dict({"state": saved, "param_groups": fresh["param_groups"]})
    state |= json.loads(metadata["state"])


def frozen_teacher(recipe: Recipe) -> Any:
    if not recipe.train.teacher:
        return None
    _, method, _ = trained(Run.open(recipe.train.teacher))
    return method.requires_grad_(False)


COUNTED = ("updates", "pool")  # what a method counts while it learns: not another run's


def start_from(method: Any, run: Run) -> None:
    """The weights with which another run answers, wherever name and shape agree (fine-tuning): of its averaged copy, if
    it has one, for the network and the averaged copy here."""
    tensors, _ = read(run.checkpoint("best"))
    state = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
    answers = "averaged." if any(k.startswith("averaged.") for k in state) else "network."
    own = {name: value for name, value in method.state_dict().items() if name not in COUNTED}
    fitting = {}
    for name, value in own.items():
        part, _, rest = name.partition(".")
        told = state.get(answers + rest if part in ("network", "averaged") else name)
        if told is not None and told.shape == value.shape:
            fitting[name] = told
    if not fitting:
        raise RunError(f"train.init: no weight of {run.folder} fits this recipe's network; use the same network.")
    method.load_state_dict(fitting, strict=False)
    left = len(own) - len(fitting)
    notice(f"started from {run.folder}: {len(fitting)} of {len(own)} tensors taken" + (f", {left} new" if left else ""))


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint file."""
    try:
        with safe_open(path, framework="pt") as stream:
            return {key: stream.get_tensor(key) for key in stream.keys()}, stream.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such checkpoint; train the run first.") from error
    except SafetensorError as error:
        raise RunError(f"{path}: is no readable checkpoint ({error}); train the run anew.") from error


def trained(run: Run, *, which: str = "best", device: str = "cpu") -> tuple[Recipe, Any, TextEncoder | None]:
    """A run's recipe, its method in eval mode with the checkpoint's weights, and its text encoder."""
    from crossmask.recipe import check

    recipe = check(run.recipe(), str(run.folder / "recipe.yaml"))
    tensors, metadata = read(run.checkpoint(which))
    dim = metadata.get("text_dim", "")
    built = parts.method(recipe, int(dim) if dim else None, pretrained=False)
    state = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
    built.load_state_dict(state)
    return recipe, built.to(device, memory_format=torch.channels_last).eval(), parts.text_encoder(recipe)
