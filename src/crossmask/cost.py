"""What a run's network costs: weights, operations, time and memory, for the table that ranks its scores."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from crossmask import checkpoint, parts
from crossmask.core import Batch, Labelled, Progress, Unlabelled
from crossmask.files import read_json, write_json
from crossmask.recipe import Recipe
from crossmask.run import Run

TOKENS = 24  # of the sentence that is read; comparison_text.CONVENTION says it to readers
MIB = 2**20


def of_run(run: Run, device: str) -> dict[str, Any]:
    """A run's costs, measured once and kept in its folder (``cost.json``)."""
    path = run.folder / "cost.json"
    if not path.is_file():
        write_json(path, measure(run, device=device))
    return read_json(path)


def measure(run: Run, *, device: str = "cpu", repeats: int = 15) -> dict[str, Any]:
    """``trainable`` and ``frozen`` (weights), ``gflops``, ``ms``, ``step_mib``; how: ``comparison_text.CONVENTION``."""
    device = parts.checked_device(device)
    recipe, method, encoder = checkpoint.trained(run, device=device)
    found = {
        "trainable": sum(p.numel() for p in method.network.parameters() if p.requires_grad),
        "frozen": sum(p.numel() for p in method.network.parameters() if not p.requires_grad),
    }
    model = getattr(encoder, "model", None)
    found["frozen"] += sum(p.numel() for p in model.parameters()) if model is not None else 0
    channels, size = sum(parts.settings(recipe).channels), recipe.data.grid_size
    text = None if encoder is None else torch.randn(1, TOKENS, encoder.width, device=device)
    mask = None if text is None else torch.ones(1, TOKENS, dtype=torch.bool, device=device)
    image = torch.rand(1, channels, *size, device=device).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        with counted() as counter:
            method.predict(image, text, mask)
        times = [seconds(lambda: method.predict(image, text, mask), device) for _ in range(repeats + 1)]
    found |= {"gflops": counter.get_total_flops() / 1e9, "ms": 1000 * statistics.median(times[1:])}
    width = encoder.width if encoder is not None else None
    learner = parts.method(recipe, width, pretrained=False, teacher=checkpoint.frozen_teacher(recipe))
    learner.to(device, memory_format=torch.channels_last).train()
    learning = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    batch = random_batch(recipe, width, device)
    kept = max(kept_bytes(learner, batch, Progress(0, 0, fraction)) for fraction in (0.0, 1.0))  # of either stage
    return found | {"step_mib": (kept + 16 * learning) / MIB}


@contextlib.contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count operations, with attention and torch's own transformer layers in their plain form: matrix products are
    counted, fused kernels are not."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def random_batch(recipe: Recipe, width: int | None, device: str) -> Batch:
    """A batch of the recipe's sizes that holds nothing."""
    channels = parts.settings(recipe).channels

    def half(count: int, *images: str) -> dict[str, Any]:
        shape = (count, sum(channels), *recipe.data.grid_size)
        pictures = {n: torch.rand(shape, device=device).to(memory_format=torch.channels_last) for n in images}
        return pictures | {
            "id": tuple(map(str, range(count))),
            "present": torch.ones(count, len(channels), dtype=torch.bool, device=device),
            "text": torch.randn(count, TOKENS, width or 1, device=device),
            "text_mask": torch.full((count, TOKENS), width is not None, device=device),
            "text_id": torch.arange(count, device=device) if width else torch.full((count,), -1, device=device),
        }

    size = (recipe.train.batch, *recipe.data.grid_size)
    mask = torch.randint(max(parts.classes(recipe), 2), size, device=device)
    own = Labelled(mask=mask, **half(recipe.train.batch, "image"))
    other = Unlabelled(**half(recipe.train.unlabelled, "weak", "strong")) if recipe.train.unlabelled else None
    return Batch(own, other)


def seconds(call: Any, device: str) -> float:
    began = time.perf_counter()
    call()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - began


def kept_bytes(module: Any, *inputs: Any, **options: Any) -> int:
    """What the backward pass of a module's call needs: the sizes of all distinct saved tensors that are no weights."""
    with saved(module) as sizes:
        answer = module(*inputs, **options)
    del answer
    return sum(sizes.values())


@contextlib.contextmanager
def saved(module: Any) -> Iterator[dict[int, int]]:
    """Address -> bytes of the storages that the backward pass of what is computed inside needs, weights aside. What is
    computed has to be kept alive meanwhile, so that no address is used twice."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()  # two slices of one tensor keep it once
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield sizes
