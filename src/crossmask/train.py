"""The one loop. A method states its losses; everything else about training stands here, once."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossmask import checkpoint, parts, selection
from crossmask.core import Progress, number
from crossmask.data import manifest as manifests
from crossmask.data.manifest import Case
from crossmask.errors import CallError, Interrupted, ResourceError, RunError
from crossmask.joined import Joined, describe, join
from crossmask.predict import autocast
from crossmask.progress import Bar, notice
from crossmask.recipe import Recipe, same
from crossmask.run import Run

LOG_EVERY = 20


def train(
    recipe: Recipe,
    cases: Sequence[Case],
    folder: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    manifest: str = "",
    leave_out: bool = False,
) -> Run:
    """Train a recipe on a manifest's cases into a run folder. The same call with ``resume`` goes on from the last saved
    step; on the CPU it gives bit for bit what one straight run gives. leave_out: go on without the cases that cannot be
    read, each named; otherwise they are an error before anything is trained."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    flush_denormals()
    run = Run(folder)
    accelerator = Accelerator(
        cpu=parts.checked_device(device) == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.is_main_process:
        check_folder(run, recipe, resume)
    for name, count in (("batch", recipe.train.batch), ("unlabelled", recipe.train.unlabelled)):
        if count % accelerator.num_processes:
            raise CallError(f"train.{name}={count} does not divide among {accelerator.num_processes} processes.")
    with accelerator.main_process_first():
        joined = join(recipe, cases, accelerator, leave_out)
    if (run.folder / "split.csv").is_file():
        refuse_other_data(run, recipe, cases, joined.split.parts)
    torch.manual_seed(number(recipe.train.seed, "weights"))
    method = parts.method(recipe, joined.text_dim, teacher=checkpoint.frozen_teacher(recipe))
    refuse_idle_method(recipe, method)
    if accelerator.is_main_process and not (run.folder / "recipe.yaml").is_file():
        describe(run, joined, cases, manifest, accelerator)
    accelerator.wait_for_everyone()
    if recipe.train.init:
        checkpoint.start_from(method, Run.open(recipe.train.init))
    method.to(accelerator.device, memory_format=torch.channels_last)
    with memory_errors(recipe):
        fit(run, joined, method, accelerator, resume)
        if accelerator.is_main_process:
            selection.choose_threshold(run, joined, method)
    accelerator.wait_for_everyone()
    return run


def flush_denormals() -> None:
    """Numbers below 1e-38 count as 0: on a CPU, moments that decay into them cost a twentieth of a step. Threads take
    the setting over when they are made, so it comes before the first tensor."""
    torch.set_flush_denormal(True)


# --- before the loop -------------------------------------------------------------------------------------------------


def check_folder(run: Run, recipe: Recipe, resume: bool) -> None:
    if (run.folder / "recipe.yaml").is_file():
        if not resume:
            raise RunError(
                f"{run.folder}: holds a run already; add --resume to go on with it or choose another folder."
            )
        if not same(run.recipe(), recipe):
            raise RunError(
                f"{run.folder}: was begun with another recipe; give the same recipe and overrides, or a new folder."
            )
    elif run.folder.is_dir() and any(p for p in run.folder.iterdir() if not p.name.startswith(".")) and not resume:
        raise RunError(f"{run.folder}: is not empty and holds no run; choose another folder.")


def refuse_other_data(run: Run, recipe: Recipe, cases: Sequence[Case], parts: Mapping[str, str]) -> None:
    """A run goes on, and is compared, on the split and the sentences that it began with."""
    before = run.parts()
    moved = sorted(i for i, part in parts.items() if before.get(i, part) != part)
    what = f"it had {len(before)} cases, now {len(parts)}" if set(before) != set(parts) else ""
    if what or moved:
        what = what or f"'{moved[0]}' was in {before[moved[0]]}"
        raise RunError(
            f"{run.folder}: was begun on another split of the manifest ({what}); give that manifest, or another folder."
        )
    if run.manifest().get("read", "") not in ("", manifests.fingerprint(cases, recipe.wordings)):
        raise RunError(
            f"{run.folder}: was begun when the manifest had other sentences, files, groups or sides in some rows; give "
            "that manifest, or another folder."
        )


def refuse_idle_method(recipe: Recipe, method: Any) -> None:
    if getattr(method, "needs_unlabelled", False) and not recipe.train.unlabelled:
        raise CallError(
            f"method '{recipe.method['name']}' learns from unlabelled cases and train.unlabelled is 0: say how many "
            f"stand beside the labelled ones in a batch, such as train.batch={max(1, recipe.train.batch // 2)} "
            f"train.unlabelled={max(1, recipe.train.batch // 2)}, or use method.name=supervised."
        )


# --- the loop --------------------------------------------------------------------------------------------------------


def fit(run: Run, joined: Joined, method: Any, accelerator: Any, resume: bool) -> None:
    settings = joined.recipe.train
    loader, main = joined.loader, accelerator.is_main_process
    per_step = (settings.batch + settings.unlabelled) * settings.accumulate
    steps = math.ceil(settings.images / per_step)
    epoch = epoch_steps(loader, settings)
    validate_every = max(1, settings.validate_every // per_step) if settings.validate_every else epoch
    save_every = max(1, settings.save_every // per_step) if settings.save_every else validate_every
    optimizer = make_optimizer(method, joined.recipe)
    state: dict[str, Any] = {"step": 0, "best": -1.0, "misses": 0, "seconds": 0.0, "dice": None}
    if resume and run.checkpoint("last").is_file():
        checkpoint.load_state(run, method, optimizer, state)
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
                with autocast(joined.recipe, accelerator.device):
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
                held = pseudo_quality(method, loader, step * settings.accumulate + settings.accumulate - 1)
                log_step(run, board, state, terms, held, optimizer, norm, per_step)
            if done % validate_every == 0 or done == steps:
                validate(run, joined, method, accelerator, state, board)
            due = done % save_every == 0 or done % validate_every == 0 or done == steps or stopped()
            if due and main:
                checkpoint.save_state(run, method, optimizer, state, joined.text_dim)
            bar.update(done, dice=state["dice"])
            if stopped():
                raise Interrupted(
                    f"stopped after step {done} of {steps}; the same command with --resume goes on from there."
                )
    accelerator.wait_for_everyone()


def epoch_steps(loader: Any, settings: Any) -> int:
    """Steps until every case of the larger half was seen once."""
    passes = [len(loader.rows) / settings.batch]
    if settings.unlabelled:
        passes.append(len(loader.unlabelled_rows) / settings.unlabelled)
    return max(1, math.ceil(max(passes) / settings.accumulate))


@torch.no_grad()
def pseudo_quality(method: Any, loader: Any, index: int) -> dict[str, float]:
    """How much of the unlabelled half the method's pseudo-labels kept, and their Dice against the held masks: for the
    log alone. Empty where a method makes none."""
    pseudo = getattr(method, "pseudo", None)
    if pseudo is None:
        return {}
    labels, weight = pseudo
    kept = weight > 0
    masks, known = loader.held_masks(index)
    found = {"pseudo_kept": round(float(kept.float().mean()), 4)}
    counted = kept & known[:, None, None]
    classes = masks[counted].unique()
    scores = []
    for label in classes[classes > 0].tolist():
        guess, truth = (labels == label) & counted, (masks == label) & counted
        scores.append(2 * float((guess & truth).sum()) / max(float(guess.sum() + truth.sum()), 1.0))
    return found | ({"pseudo_dice": round(sum(scores) / len(scores), 4)} if scores else {})


def ended(state: dict[str, Any], patience: int | None) -> bool:
    return patience is not None and state["misses"] >= patience


def make_optimizer(method: Any, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW or SGD; no decay on biases, norms and scales; the encoder at its own relative rate."""
    settings = recipe.train
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, weight in method.named_parameters():
        if weight.requires_grad:
            rate = settings.encoder_lr if ".encoder." in name else 1.0
            decay = settings.weight_decay if weight.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(weight)
    made = [{"params": p, "rate": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(made, lr=settings.lr, momentum=settings.momentum, fused=True)
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
        f"{run.folder}: at step {step} the loss is not finite ({', '.join(bad)}; cases {', '.join(ids[:4])}...). The "
        "last checkpoint is sound: lower train.lr or train.clip, or set train.precision=fp32, in a new run."
    )


def log_step(
    run: Run,
    board: Any,
    state: dict[str, Any],
    terms: dict[str, Tensor],
    held: dict[str, float],
    optimizer: Any,
    norm: Tensor,
    per_step: int,
) -> None:
    values = {name: round(float(value.detach()), 6) for name, value in terms.items()}
    rate = optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["rate"]
    images = state["step"] * per_step
    run.log(
        event="step",
        step=state["step"],
        images=images,
        loss=round(sum(values.values()), 6),
        **values,
        **held,
        lr=rate,
        gradient_norm=round(float(norm), 4),
        seconds=round(state["seconds"], 1),
    )
    if board is not None:
        for name, value in values.items():
            board.add_scalar(f"train/{name}", value, images)
        board.add_scalar("train/lr", rate, images)


def validate(run: Run, joined: Joined, method: Any, accelerator: Any, state: dict[str, Any], board: Any) -> None:
    """Score the selection part on the model's grid, keep the weights that ``train.keep`` asks for."""
    settings = joined.recipe.train
    if not len(joined.selection_rows):  # nothing set aside: the last weights are the answer, and the log says so
        method.after_validation(None)
        if accelerator.is_main_process:
            checkpoint.save_weights(run, "best", method, state, joined.text_dim)
        return
    one_state(method, accelerator)
    counts = selection.counts(joined, method, whole=False)
    threshold, scores = of_first(selection.best_threshold(counts, settings.select_by), accelerator)
    score = scores[settings.select_by]
    method.after_validation(score)
    better = score > state["best"]
    state |= {"dice": scores["dice_mean"], "misses": 0 if better else state["misses"] + 1}
    if better:
        state |= {"best": score}
    if not accelerator.is_main_process:
        return
    if better or settings.keep == "last":
        checkpoint.save_weights(run, "best", method, state, joined.text_dim)
    run.log(
        event="validation",
        step=state["step"],
        threshold=threshold,
        best=better,
        **scores,
        seconds=round(state["seconds"], 1),
    )
    if board is not None:
        for name, value in scores.items():
            board.add_scalar(f"selection/{name}", value, state["step"])
    notice(
        f"step {state['step']}: selection dice_mean {scores['dice_mean']:.4f}, dice_pooled {scores['dice_pooled']:.4f}"
        f" at threshold {threshold}" + (" (best so far)" if better else "")
    )


def one_state(method: Any, accelerator: Any) -> None:
    """Each process counts normalisation statistics of its own; from here on all have the first one's."""
    if accelerator.num_processes > 1:
        for buffer in method.buffers():
            torch.distributed.broadcast(buffer, 0)


def of_first(found: Any, accelerator: Any) -> Any:
    """The first process's value, so that all stop at one step."""
    if accelerator.num_processes == 1:
        return found
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([found])[0]


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
            if batch > 1
            else "try a smaller data.size"
        )
        raise ResourceError(
            f"memory ran out at train.batch={batch}, data.size={recipe.data.size}; {remedy}."
        ) from error
