"""The one loop. A method states its losses; everything else about training stands here, once."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossmask import parts
from crossmask.core import Progress, number
from crossmask.data import manifest as manifests
from crossmask.data import split as splits
from crossmask.data.cache import Store, prepare
from crossmask.data.loader import Loader, pixels, says, variants
from crossmask.data.manifest import Case
from crossmask.errors import CallError, DataError, ResourceError, RunError
from crossmask.files import atomic, cache_folder, digest, write_json
from crossmask.predict import inference, probabilities
from crossmask.progress import Bar, notice
from crossmask.recipe import Recipe
from crossmask.run import Run

THRESHOLDS = np.round(np.arange(0.2, 0.81, 0.05), 2)
LOG_EVERY = 20


@dataclass
class Joined:
    """What training needs, joined from cache, text features and recipe."""

    recipe: Recipe
    store: Store
    split: splits.Split
    loader: Loader
    selection_rows: np.ndarray  # rows of the store
    selection_sentences: np.ndarray  # rows of the words
    text_dim: int | None


def train(
    recipe: Recipe,
    cases: Sequence[Case],
    folder: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    manifest: str = "",
) -> Run:
    """Train a recipe on a manifest's cases into a run folder. The same call with ``resume`` goes on from the last saved
    step; on the CPU it gives bit for bit what one straight run gives."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    run = Run(folder)
    check_folder(run, recipe, resume)
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if recipe.train.precision == "bf16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if recipe.train.batch % accelerator.num_processes:
        raise CallError(f"train.batch={recipe.train.batch} does not divide among {accelerator.num_processes} processes.")
    with accelerator.main_process_first():
        joined = join(recipe, cases, accelerator)
        if accelerator.is_main_process and not (run.folder / "recipe.yaml").is_file():
            describe(run, joined, cases, manifest, accelerator)
    torch.manual_seed(number(recipe.train.seed, "weights"))
    method = parts.method(recipe, joined.text_dim, teacher=frozen_teacher(recipe))
    if recipe.train.init:
        start_from(method, Run.open(recipe.train.init))
    method.to(accelerator.device, memory_format=torch.channels_last)
    with memory_errors(recipe):
        fit(run, joined, method, accelerator, resume)
        if accelerator.is_main_process:
            select_threshold(run, joined, method, accelerator.device)
    accelerator.wait_for_everyone()
    return run


# --- before the loop -------------------------------------------------------------------------------------------------


def check_folder(run: Run, recipe: Recipe, resume: bool) -> None:
    if (run.folder / "recipe.yaml").is_file():
        if not resume:
            raise RunError(f"{run.folder}: holds a run already; add --resume to go on with it or choose another folder.")
        if run.recipe() != recipe.to_dict():
            raise RunError(
                f"{run.folder}: was begun with another recipe; give the same recipe and overrides, or a new folder."
            )
    elif run.folder.is_dir() and any(p for p in run.folder.iterdir() if not p.name.startswith(".")) and not resume:
        raise RunError(f"{run.folder}: is not empty and holds no run; choose another folder.")


def join(recipe: Recipe, cases: Sequence[Case], accelerator: Any) -> Joined:
    data = recipe.data
    check_columns(recipe, cases)
    split = splits.make(cases, name=data.split, selection=data.selection, seed=recipe.train.seed)
    used = [c for c in cases if split.parts[c.id] in ("train", splits.SELECTION) and c.mask]
    if not any(split.parts[c.id] == "train" for c in used):
        raise DataError("no case of the part 'train' has a mask; a supervised method needs some.")
    with Bar("preparing images") as bar:
        store = prepare(used, parts.settings(recipe), cache_folder() / "images", tick=bar.tick)
    encoder = parts.text_encoder(recipe)
    wording = data.text if encoder is not None else None
    turned = [variants(case, wording, data.sides) for case in used]
    with Bar("encoding sentences") as bar:
        table = parts.text_table(encoder, [s for row in turned for s in row if s is not None], tick=bar.tick)
    sentences = np.stack([parts.sentence_rows(table, row) for row in turned])
    # A case without a sentence may be turned; one whose sentence cannot follow may not.
    silent = np.array([says(case, wording, data.sides) is None for case in used])
    allowed = (sentences >= 0) | silent[:, None]
    in_train = np.array([split.parts[c.id] == "train" for c in used])
    words = parts.words(table, accelerator.device)
    loader = Loader(
        store,
        np.flatnonzero(in_train),
        words=words,
        sentences=sentences[in_train],
        allowed=allowed[in_train],
        augment=data.augment,
        batch=recipe.train.batch // accelerator.num_processes,
        seed=recipe.train.seed,
        text_dropout=data.text_dropout,
        modality_dropout=data.modality_dropout,
        channels=parts.settings(recipe).channels,
        device=accelerator.device,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    if accelerator.is_main_process:
        tell(store, split, table, silent, allowed, wording)
    chosen = np.flatnonzero(~in_train)
    return Joined(recipe, store, split, loader, chosen, sentences[chosen, 0], table.width if table else None)


def check_columns(recipe: Recipe, cases: Sequence[Case]) -> None:
    """The columns that the recipe reads must be there."""
    from crossmask.errors import name_list
    from crossmask.rooms import near_miss

    wording = recipe.data.text
    known = sorted({n for c in cases for n in c.texts})
    if wording and wording not in known:
        shown = [f"text:{n}" if n else "text" for n in known]
        raise CallError(
            f"data.text: the manifest has no column 'text:{wording}'{near_miss(f'text:{wording}', shown)} "
            f"It has: {name_list(shown)}. Say data.text=null to train without sentences."
        )
    have = {n for c in cases for n in c.images}
    for name in recipe.data.modalities:
        if name not in have and not (name == "image" and "" in have):
            shown = [f"image:{n}" if n else "image" for n in sorted(have)]
            raise CallError(f"data.modalities: the manifest has no column 'image:{name}'. It has: {name_list(shown)}.")


def tell(store: Store, split: splits.Split, table: Any, silent: np.ndarray, allowed: np.ndarray, wording: Any) -> None:
    """Say once what was changed, cut or not known."""
    for note, count in sorted(store.notes.items()):
        notice(f"{count} of {len(store.ids)} cases: {note}")
    if split.ungrouped:
        notice(f"{split.ungrouped} of {len(split.parts)} cases name no group (patient) and were split by image")
    for part, count in split.shared_groups.items():
        if count:
            notice(f"{count} groups of '{part}' have other cases in train; scores are also given for the disjoint cases")
    if table is not None and table.truncated:
        notice(f"{len(table.truncated)} sentences (with their turned forms) were cut at text.max_length tokens")
    if wording is not None and silent.any():
        notice(f"{int(silent.sum())} of {len(silent)} cases have no sentence")
    stuck = int((~allowed[:, 1]).sum())
    if stuck:
        notice(f"{stuck} cases are never mirrored: their sentences name a side of unknown convention")


def describe(run: Run, joined: Joined, cases: Sequence[Case], manifest: str, accelerator: Any) -> None:
    """Write what stays fixed in the run folder."""
    import transformers

    import crossmask

    counts: dict[str, int] = {}
    for part in joined.split.parts.values():
        counts[part] = counts.get(part, 0) + 1
    facts = {
        "file": os.path.basename(manifest),
        "hash": manifests.fingerprint(cases),
        "parts": counts,
        "ungrouped": joined.split.ungrouped,
        "shared_groups": dict(joined.split.shared_groups),
        "native_sizes": size_range(joined.store),
        "notes": dict(joined.store.notes),
        "text_dim": joined.text_dim,
    }
    environment = {
        "crossmask": crossmask.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": str(accelerator.device),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
    }
    run.folder.mkdir(parents=True, exist_ok=True)
    run.start(joined.recipe.to_dict(), joined.split.parts, facts, environment)


def size_range(store: Store) -> list[list[int]]:
    shapes = np.array(store.shapes)
    return [shapes.min(0).tolist(), shapes.max(0).tolist()]


def frozen_teacher(recipe: Recipe) -> Any:
    if not recipe.train.teacher:
        return None
    _, method, _ = parts.trained(Run.open(recipe.train.teacher))
    return method.requires_grad_(False)


def start_from(method: Any, run: Run) -> None:
    """Another run's weights, wherever name and shape agree (fine-tuning)."""
    tensors, _ = parts.read_checkpoint(run.checkpoint("best"))
    state = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
    own = method.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape and k != "updates"}
    if not fitting:
        raise RunError(f"train.init: no weight of {run.folder} fits this recipe's network; use the same network.")
    method.load_state_dict(fitting, strict=False)
    left = len(own) - len(fitting)
    notice(f"started from {run.folder}: {len(fitting)} of {len(own)} tensors taken" + (f", {left} new" if left else ""))


# --- the loop --------------------------------------------------------------------------------------------------------


def fit(run: Run, joined: Joined, method: Any, accelerator: Any, resume: bool) -> None:
    settings = joined.recipe.train
    loader, main = joined.loader, accelerator.is_main_process
    per_step = settings.batch * settings.accumulate
    steps = math.ceil(settings.images / per_step)
    epoch = max(1, math.ceil(len(loader.rows) / per_step))
    validate_every = max(1, settings.validate_every // per_step) if settings.validate_every else epoch
    save_every = max(1, settings.save_every // per_step) if settings.save_every else validate_every
    optimizer = make_optimizer(method, joined.recipe)
    state = {"step": 0, "best": -1.0, "best_step": 0, "misses": 0, "seconds": 0.0, "dice": None}
    if resume and run.checkpoint("last").is_file():
        load_state(run, method, optimizer, state)
    if main:
        run.rewind(state["step"])
    wrapped = accelerator.prepare_model(method) if accelerator.num_processes > 1 else method
    forward = torch.compile(wrapped) if settings.compile else wrapped
    board = tensorboard(run) if settings.tensorboard and main else None
    began = time.monotonic() - state["seconds"]
    with Bar("training", total=steps, start=state["step"], shown=main) as bar, interrupts() as stopped:
        for step in range(state["step"], steps):
            if ended(state, settings.patience):
                break
            torch.manual_seed(number(settings.seed, "step", step, accelerator.process_index))
            set_rate(optimizer, settings, step / steps)
            progress = Progress(step, step // epoch, step / steps)
            wrapped.train()
            for part in range(settings.accumulate):
                batch = loader.batch(step * settings.accumulate + part)
                with accelerator.autocast():
                    terms = forward(batch, progress)
                total = sum(terms.values())
                refuse_nonfinite(run, step, terms, batch.labelled.id, total)
                (total / settings.accumulate).backward()
            norm = torch.nn.utils.clip_grad_norm_(method.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_step()
            done = step + 1
            state |= {"step": done, "seconds": time.monotonic() - began}
            if main and (done % LOG_EVERY == 0 or done == steps):
                log_step(run, board, state, terms, optimizer, norm, per_step)
            if done % validate_every == 0 or done == steps:
                validate(run, joined, method, accelerator, state, board)
            if done % save_every == 0 or done % validate_every == 0 or done == steps or stopped():
                save_state(run, method, optimizer, state, joined, main)
            bar.update(done, dice=state["dice"])
            if stopped():
                raise KeyboardInterrupt
    accelerator.wait_for_everyone()


def ended(state: dict[str, Any], patience: int | None) -> bool:
    return patience is not None and state["misses"] >= patience


def make_optimizer(method: Any, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; no decay on biases, norms and scales; the encoder at its own relative rate."""
    settings = recipe.train
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, weight in method.named_parameters():
        if weight.requires_grad:
            rate = settings.encoder_lr if ".encoder." in name else 1.0
            decay = settings.weight_decay if weight.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(weight)
    made = [{"params": p, "rate": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
    return torch.optim.AdamW(made, lr=settings.lr, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, settings: Any, fraction: float) -> None:
    """Linear warm-up, then a cosine from lr to lr_min: a function of the fraction alone."""
    if fraction < settings.warmup:
        rate = settings.lr * max(fraction / settings.warmup, 0.01)
    else:
        along = (fraction - settings.warmup) / max(1 - settings.warmup, 1e-9)
        rate = settings.lr_min + 0.5 * (settings.lr - settings.lr_min) * (1 + math.cos(math.pi * along))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]


def refuse_nonfinite(run: Run, step: int, terms: dict[str, Tensor], ids: Sequence[str], total: Tensor) -> None:
    if bool(torch.isfinite(total)):
        return
    bad = [name for name, value in terms.items() if not bool(torch.isfinite(value))]
    raise RunError(
        f"{run.folder}: at step {step} the loss is not finite ({', '.join(bad)}; cases {', '.join(ids[:4])}...). The last "
        "checkpoint is sound: lower train.lr or train.clip, or set train.precision=fp32, in a new run with train.init."
    )


def log_step(
    run: Run, board: Any, state: dict[str, Any], terms: dict[str, Tensor], optimizer: Any, norm: Tensor, per_step: int
) -> None:
    values = {name: round(float(value), 6) for name, value in terms.items()}
    rate = optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["rate"]
    images = state["step"] * per_step
    run.log(
        event="step", step=state["step"], images=images, loss=round(sum(values.values()), 6), **values,
        lr=rate, gradient_norm=round(float(norm), 4), seconds=round(state["seconds"], 1),
    )
    if board is not None:
        for name, value in values.items():
            board.add_scalar(f"train/{name}", value, images)
        board.add_scalar("train/lr", rate, images)


def validate(run: Run, joined: Joined, method: Any, accelerator: Any, state: dict[str, Any], board: Any) -> None:
    """Score the selection part on the model's grid, keep the best weights."""
    settings = joined.recipe.train
    if not len(joined.selection_rows):  # nothing set aside: the last weights are the answer, and the log says so
        state |= {"best_step": state["step"]}
        if accelerator.is_main_process:
            save_weights(run, "best", method, joined, state)
        return
    counts = selection_counts(joined, method, accelerator.device, mirror=False)
    threshold, scores = best_threshold(counts, settings.select_by)
    score = scores[settings.select_by]
    method.after_validation(score)
    better = score > state["best"]
    state |= {"dice": scores["dice_mean"], "misses": 0 if better else state["misses"] + 1}
    if better:
        state |= {"best": score, "best_step": state["step"]}
    if not accelerator.is_main_process:
        return
    if better:
        save_weights(run, "best", method, joined, state)
    run.log(event="validation", step=state["step"], threshold=threshold, best=better, **scores,
            seconds=round(state["seconds"], 1))
    if board is not None:
        for name, value in scores.items():
            board.add_scalar(f"selection/{name}", value, state["step"])
    notice(f"step {state['step']}: selection dice_mean {scores['dice_mean']:.4f}, dice_pooled {scores['dice_pooled']:.4f}"
           f" at threshold {threshold}" + (" (best so far)" if better else ""))


@torch.inference_mode()
def selection_counts(joined: Joined, method: Any, device: Any, *, mirror: bool) -> np.ndarray:
    """(T, N, K, 3) tp, fp, fn of the selection cases at each threshold (one for several classes), on the model's grid."""
    method.eval()
    rows, store = joined.selection_rows, joined.store
    size = joined.recipe.evaluate.batch
    found = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        image = pixels(store.images[some], device)
        present = torch.from_numpy(store.present[some]).to(device)
        text, text_mask, _ = joined.loader.words.rows(joined.selection_sentences[start : start + size])
        with inference(joined.recipe, device):
            share = probabilities(method.predict(image, text, text_mask, present))
        truth = torch.from_numpy(np.asarray(store.masks[some])).to(device)
        found.append(counts_at_thresholds(share, truth))
    return np.concatenate(found, 1)


def counts_at_thresholds(share: Tensor, truth: Tensor) -> np.ndarray:
    """share (B, H, W) binary or (B, K, H, W); truth (B, H, W) -> (T, B, K, 3)."""
    if share.ndim == 3:
        guesses = [(share > float(t))[:, None] for t in THRESHOLDS]
        truths = (truth == 1)[:, None]
    else:
        labels = torch.arange(1, share.shape[1], device=share.device).view(1, -1, 1, 1)
        guesses = [share.argmax(1, keepdim=True) == labels]
        truths = truth[:, None] == labels
    rows = []
    for guess in guesses:
        both = (guess & truths).sum((2, 3))
        rows.append(torch.stack([both, guess.sum((2, 3)) - both, truths.sum((2, 3)) - both], -1))
    return torch.stack(rows).cpu().numpy()


def best_threshold(counts: np.ndarray, by: str) -> tuple[float, dict[str, float]]:
    """The threshold with the best score, and both Dice scores there (mean over the classes)."""

    def dice(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
        total = 2 * tp + fp + fn
        return np.where(total == 0, 1.0, 2 * tp / np.maximum(total, 1))

    mean = dice(*np.moveaxis(counts, -1, 0)).mean((1, 2))
    pooled = dice(*np.moveaxis(counts.sum(1), -1, 0)).mean(1)
    scores = {"dice_mean": mean, "dice_pooled": pooled}
    place = int(scores[by].argmax())
    threshold = float(THRESHOLDS[place]) if len(mean) > 1 else 0.5
    return threshold, {name: float(values[place]) for name, values in scores.items()}


def select_threshold(run: Run, joined: Joined, method: Any, device: Any) -> None:
    """Choose the threshold of the best weights on the selection part and write how all was chosen."""
    if not run.checkpoint("best").is_file():
        raise RunError(f"{run.folder}: has no checkpoint yet; go on with --resume.")
    tensors, metadata = parts.read_checkpoint(run.checkpoint("best"))
    chosen = {"checkpoint_step": int(metadata["step"]), "cases": len(joined.selection_rows), "threshold": 0.5}
    if len(joined.selection_rows):
        method.load_state_dict({k.removeprefix("method."): v for k, v in tensors.items()})
        by = joined.recipe.train.select_by
        threshold, scores = best_threshold(selection_counts(joined, method, device, mirror=False), by)
        chosen |= {"threshold": threshold, "by": by, "part": "selection (set aside from train, by group)"} | scores
    write_json(run.folder / "selection.json", chosen)


# --- state -----------------------------------------------------------------------------------------------------------


def save_weights(run: Run, which: str, method: Any, joined: Joined, state: dict[str, Any]) -> None:
    write_tensors(run.checkpoint(which), {f"method.{k}": v for k, v in method.state_dict().items()}, joined, state)


def save_state(run: Run, method: Any, optimizer: Any, state: dict[str, Any], joined: Joined, main: bool) -> None:
    """Everything that resuming needs, in one file that is complete or absent."""
    if not main:
        return
    tensors = {f"method.{k}": v for k, v in method.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    write_tensors(run.checkpoint("last"), tensors, joined, state)


def write_tensors(path: Path, tensors: dict[str, Tensor], joined: Joined, state: dict[str, Any]) -> None:
    from safetensors.torch import save

    metadata = {
        "text_dim": str(joined.text_dim or ""),
        "step": str(state["step"]),
        "state": json.dumps(state),
        "order": digest(sorted(joined.store.ids)),
    }
    content = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, metadata)
    with atomic(path, "wb") as stream:
        stream.write(content)


def load_state(run: Run, method: Any, optimizer: Any, state: dict[str, Any]) -> None:
    tensors, metadata = parts.read_checkpoint(run.checkpoint("last"))
    method.load_state_dict({k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")})
    fresh = optimizer.state_dict()
    saved: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            saved.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": saved, "param_groups": fresh["param_groups"]})
    state |= json.loads(metadata["state"])


def tensorboard(run: Run) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise CallError("train.tensorboard needs TensorBoard: pip install 'crossmask[tensorboard]'.") from error
    return SummaryWriter(str(run.folder / "tensorboard"))


@contextlib.contextmanager
def interrupts() -> Iterator[Any]:
    """Ctrl-C and a polite kill are noted and obeyed after the current step."""
    seen: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(kind, lambda number, frame: seen.append(number)) for kind in kinds]
    except ValueError:  # not the main thread
        before = []
    try:
        yield lambda: bool(seen)
    finally:
        for kind, handler in zip(kinds, before, strict=False):
            signal.signal(kind, handler)


@contextlib.contextmanager
def memory_errors(recipe: Recipe) -> Iterator[None]:
    """Running out of memory names the batch size to try."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, RuntimeError) and "allocate memory" not in text and "out of memory" not in text:
            raise
        batch = recipe.train.batch
        less = max(1, batch // 2)
        remedy = (
            f"try train.batch={less} train.accumulate={recipe.train.accumulate * 2}"
            if batch > 1 else "try a smaller data.size"
        )
        raise ResourceError(f"memory ran out at train.batch={batch}, data.size={recipe.data.size}; {remedy}.") from error


