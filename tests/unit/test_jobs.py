"""Work in several processes: what fails is told and the rest goes on; Ctrl-C ends what is under way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from crossmask import jobs
from crossmask.errors import CasesError, Interrupted, ResourceError
from crossmask.train import interrupts


def write(path: Path) -> None:
    path.write_text(str(os.getpid()))


def refuse() -> None:
    raise CasesError({"a": "is not readable"})


def until_stopped(begun: Path, ended: Path) -> None:
    """As the training loop does: the signal is noted, the step is ended."""
    with interrupts() as stopped:
        begun.write_text(str(os.getpid()))
        while not stopped():
            time.sleep(0.02)
    ended.write_text("")
    raise Interrupted("stopped after step 3.")


def test_a_fault_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    places = {f"task {n}": tmp_path / str(n) for n in range(3)}
    tasks = {name: partial(write, place) for name, place in places.items()} | {"bad": refuse}
    assert jobs.run(tasks, 2, "tasks", tmp_path / "log") == {"bad": "case 'a': is not readable"}
    assert {int(place.read_text()) for place in places.values()}.isdisjoint({os.getpid()})


def test_nothing_to_do_is_well(tmp_path: Path) -> None:
    assert jobs.run({}, 4, "tasks", tmp_path / "log") == {}


def test_a_process_that_is_killed_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"one of 2 processes was killed.* fewer --jobs"):
        jobs.run({"a": partial(os._exit, 9)}, 2, "tasks", tmp_path / "log")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_what_is_under_way(tmp_path: Path, kind: signal.Signals) -> None:
    begun, ended, never = (tmp_path / name for name in ("begun", "ended", "never"))

    def stop() -> None:
        while not begun.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), kind)  # this process alone, as a kill does

    threading.Thread(target=stop, daemon=True).start()
    tasks = {"long": partial(until_stopped, begun, ended), "next": partial(write, never)}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a background shell has it
    try:
        with pytest.raises(Interrupted, match="the same command goes on"):
            jobs.run(tasks, 1, "tasks", tmp_path / "log")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.exists()
    assert not never.exists()


def test_a_killed_parent_takes_its_processes_along(tmp_path: Path) -> None:
    begun, ended, never = (tmp_path / name for name in ("begun", "ended", "never"))
    tasks = {"long": partial(until_stopped, begun, ended), "next": partial(write, never)}
    parent = multiprocessing.get_context("spawn").Process(target=jobs.run, args=(tasks, 1, "tasks", tmp_path / "log"))
    parent.start()
    within(60, lambda: begun.exists() and bool(begun.read_text()))
    worker = int(begun.read_text())
    parent.kill()
    within(60, ended.exists)
    within(60, lambda: gone(worker))
    assert not never.exists()


def within(seconds: float, true: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def gone(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"  # nobody has asked for its exit status yet
