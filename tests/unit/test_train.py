"""The loop: resume bit for bit, kill and go on, fine-tuning, the guard, several processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crossmask import checkpoint, recipe
from crossmask.errors import CallError, ResourceError, RunError
from crossmask.run import Run
from crossmask.train import memory_errors, train


def weights(run: Run, which: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint.read(run.checkpoint(which))[0]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def losses(run: Run) -> list[tuple[int, float]]:
    return [(e["step"], e["loss"]) for e in run.entries("step")]


def command(recipe_file: Path, phantom: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "crossmask",
        "train",
        str(recipe_file),
        *more,
        "--data",
        str(phantom),
        "-o",
        str(out),
        "--device",
        "cpu",
        "--resume",
    ]


def test_same_seed_same_weights_other_seed_other(tiny_recipe: Path, cases: list, trained: Path, tmp_path: Path) -> None:
    again = train(recipe.load(tiny_recipe), cases, tmp_path / "again", device="cpu")
    assert_same(weights(Run(trained)), weights(again))
    other = train(recipe.load(tiny_recipe, ["train.seed=1"]), cases, tmp_path / "other", device="cpu")
    assert not torch.equal(
        weights(again)["method.network.decoder.head.classify.weight"],
        weights(other)["method.network.decoder.head.classify.weight"],
    )


@pytest.mark.parametrize("more", [[], ["train.optimizer=sgd", "train.lr=0.01"]], ids=["adamw", "sgd"])
def test_stopped_and_resumed_equals_straight(
    more: list[str], tiny_recipe: Path, cases: list, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies after a saved step goes on to the same weights, scores and log."""
    from crossmask import train as loop

    chosen = recipe.load(tiny_recipe, more)
    straight = train(chosen, cases, tmp_path / "straight", device="cpu") if more else Run(trained)
    calls = 0
    original = loop.refuse_nonfinite

    def dies(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise MemoryError
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "refuse_nonfinite", dies)
    with pytest.raises(ResourceError, match=r"train\.batch=4"):
        train(chosen, cases, tmp_path / "run", device="cpu")
    monkeypatch.undo()
    run = train(chosen, cases, tmp_path / "run", device="cpu", resume=True)
    assert_same(weights(run), weights(straight))
    assert_same(weights(run, "best"), weights(straight, "best"))
    assert losses(run) == losses(straight)
    assert json.loads((run.folder / "selection.json").read_text()) == json.loads(
        (straight.folder / "selection.json").read_text()
    )


def test_kill_in_training_then_the_same_command(tiny_recipe: Path, phantom: Path, cases: list, tmp_path: Path) -> None:
    """kill -9 in the middle: the same command again gives what a straight run gives."""
    more = ["train.images=160", "train.save_every=16"]
    straight = train(recipe.load(tiny_recipe, more), cases, tmp_path / "straight", device="cpu")
    call = command(tiny_recipe, phantom, tmp_path / "run", *more)
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = Run(tmp_path / "run")
    limit = time.monotonic() + 120
    while not run.checkpoint("last").is_file() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run.checkpoint("last").is_file()
    assert int(checkpoint.read(run.checkpoint("last"))[1]["step"]) < 20
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same(weights(run), weights(straight))
    assert losses(run) == losses(straight)


def test_interrupt_leaves_a_resumable_run(tiny_recipe: Path, phantom: Path, cases: list, tmp_path: Path) -> None:
    more = ["train.images=4000", "train.save_every=4000", "train.validate_every=4000"]
    call = command(tiny_recipe, phantom, tmp_path / "run", *more)
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    run = Run(tmp_path / "run")
    limit = time.monotonic() + 120
    while not run.entries("step") and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "--resume" in said
    assert "Traceback" not in said
    assert run.checkpoint("last").is_file()
    before = int(checkpoint.read(run.checkpoint("last"))[1]["step"])
    assert 20 <= before < 500


def test_another_recipe_in_the_folder_is_refused(tiny_recipe: Path, cases: list, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="another recipe"):
        train(recipe.load(tiny_recipe, ["train.lr=0.5"]), cases, trained, device="cpu", resume=True)
    with pytest.raises(RunError, match="--resume"):
        train(recipe.load(tiny_recipe), cases, trained, device="cpu")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        train(recipe.load(tiny_recipe), cases, tmp_path / "full", device="cpu")


def test_another_split_in_the_folder_is_refused(tiny_recipe: Path, cases: list, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    moved = [replace(c, splits={"": "train"}) if c.splits[""] == "test" else c for c in cases]
    with pytest.raises(RunError, match=r"another split of the manifest \('phantom_\d+' was in"):
        train(recipe.load(tiny_recipe), moved, tmp_path / "run", resume=True, device="cpu")
    with pytest.raises(
        RunError, match=rf"another split of the manifest \(it had {len(cases)} cases, now {len(cases) - 1}"
    ):
        train(recipe.load(tiny_recipe), cases[1:], tmp_path / "run", resume=True, device="cpu")
    aside = [replace(c, splits={"": "unused"}) if c.splits[""] == "test" else c for c in cases]
    with pytest.raises(RunError, match="another split of the manifest"):
        train(recipe.load(tiny_recipe), aside, tmp_path / "run", resume=True, device="cpu")


@pytest.mark.parametrize(("source", "own"), [(0, 0.9), (0.9, 0), (0.9, 0.9)])
def test_fine_tuning_starts_from_what_answers(
    tiny_recipe: Path, cases: list, tmp_path: Path, source: float, own: float
) -> None:
    still = ["train.images=8", "train.lr=1e-12", "train.lr_min=0", f"method.ema={own}"]
    before = train(recipe.load(tiny_recipe, [f"method.ema={source}"]), cases, tmp_path / "one", device="cpu")
    after = train(
        recipe.load(tiny_recipe, [*still, f"train.init={before.folder}"]), cases, tmp_path / "two", device="cpu"
    )
    name = "network.decoder.head.classify.weight"
    answering = weights(before, "best")[f"method.{name if source == 0 else name.replace('network', 'averaged')}"]
    for kind in ("network", *(["averaged"] if own else [])):
        torch.testing.assert_close(weights(after)[f"method.{name.replace('network', kind)}"], answering)


def test_a_loss_that_is_not_finite_is_refused(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"step \d+ the loss is not finite"):
        train(
            recipe.load(tiny_recipe, ["train.lr=1e30", "train.clip=1e30", "train.warmup=0"]),
            cases,
            tmp_path / "run",
            device="cpu",
        )


def test_memory_error_names_the_batch_to_try(tiny_recipe: Path) -> None:
    chosen = recipe.load(tiny_recipe)
    with pytest.raises(ResourceError, match=r"train.batch=4 train.accumulate=2"), memory_errors(chosen):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(chosen):
        raise RuntimeError("shapes do not match")


def test_accumulated_halves_see_the_same_images(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    run = train(
        recipe.load(tiny_recipe, ["train.batch=4", "train.accumulate=2"]), cases, tmp_path / "run", device="cpu"
    )
    assert run.entries("step")[-1]["images"] == 48


def test_early_stopping(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    """At a vanishing rate nothing improves after the first validation."""
    chosen = recipe.load(
        tiny_recipe,
        [
            "train.images=400",
            "train.lr=1e-12",
            "train.lr_min=0",
            "train.patience=2",
            "train.validate_every=8",
            "method.ema=0",
        ],
    )
    run = train(chosen, cases, tmp_path / "run", device="cpu")
    assert len(run.entries("validation")) < 40


def test_the_last_weights_are_kept_if_asked_for(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    """At a vanishing rate the first validation is the best; which weights stay is train.keep's choice alone."""
    steps = {}
    for keep in ("best", "last"):
        more = ["train.images=40", "train.validate_every=8", "train.lr=1e-12", "train.lr_min=0", "method.ema=0"]
        run = train(recipe.load(tiny_recipe, [*more, f"train.keep={keep}"]), cases, tmp_path / keep, device="cpu")
        selected = json.loads((run.folder / "selection.json").read_text())
        steps[keep] = selected["checkpoint_step"]
        assert selected["keep"] == keep
        assert run.entries("validation")[0]["best"]
    assert steps["last"] == run.entries("step")[-1]["step"] > steps["best"]
    assert_same(weights(run, "best"), {n: t for n, t in weights(run).items() if n.startswith("method.")})


def test_columns_that_are_not_there(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="text:lvit"):
        train(recipe.load(tiny_recipe, ["data.text=lvit"]), cases, tmp_path / "a", device="cpu")
    with pytest.raises(CallError, match="split:lvit"):
        train(recipe.load(tiny_recipe, ["data.split=lvit"]), cases, tmp_path / "b", device="cpu")
    with pytest.raises(CallError, match="image:flair"):
        train(recipe.load(tiny_recipe, ["data.modalities={flair: 1}"]), cases, tmp_path / "c", device="cpu")
    named = [replace(c, texts={"lvit": c.texts[""]} if c.texts else {}) for c in cases]
    with pytest.raises(CallError, match=r"no column 'text', did you mean 'text:lvit'\?"):
        train(recipe.load(tiny_recipe), named, tmp_path / "d", device="cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_learn_the_same(tiny_recipe: Path, phantom: Path, cases: list, tmp_path: Path) -> None:
    """Two gloo processes share each batch of one process and learn too. How near the scores are once a network has
    converged is measured on the demo (docs/log.md), since this short run is still on its steep part."""
    from crossmask.evaluate import evaluate
    from crossmask.predict import Predictor

    more = ["train.images=1600", "train.validate_every=1600", "method.ema=0", "data.augment={mirror: 0}"]
    call = command(tiny_recipe, phantom, tmp_path / "two", *more)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",  # accelerate's word for several processes; --device cpu makes them gloo's
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
        *call[2:],
    ]
    port = 20000 + os.getpid() % 20000
    launch[3:3] = ["--main_process_port", str(port)]
    done = subprocess.run(launch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one = train(recipe.load(tiny_recipe, more), cases, tmp_path / "one", device="cpu")
    assert Run(tmp_path / "two").environment()["processes"] == 2
    scores = [evaluate(Predictor(run), cases, "all")["dice_pooled"]["value"] for run in (one.folder, tmp_path / "two")]
    assert min(scores) > 0.45, scores  # an untrained network has some 0.1
    assert Run(tmp_path / "two").entries("step")[-1]["images"] == one.entries("step")[-1]["images"]
