"""Sentence states on disk: encoded once, complete or absent, counted."""

from __future__ import annotations

import numpy as np
import pytest

from crossmask import rooms
from crossmask.errors import DataError
from crossmask.text import features
from crossmask.text.features import table

SENTENCES = ["left lung", "right lung, upper", "left lung", "", "双侧 🫁"]


class Counting:
    """A text encoder that counts what it is asked."""

    def __init__(self, **options):
        self.inner = rooms.door("text encoder", "tiny")(width=6, **options)
        self.seen: list[str] = []

    @property
    def fingerprint(self):
        return self.inner.fingerprint

    @property
    def width(self):
        return self.inner.width

    def overflow(self, sentence):
        return self.inner.overflow(sentence)

    def encode(self, sentences):
        self.seen += sentences
        return self.inner.encode(sentences)


def same(a, b):
    assert a.index == b.index
    assert np.array_equal(a.tokens, b.tokens)
    assert np.array_equal(a.mask, b.mask)
    assert a.truncated == b.truncated


def shards(folder):
    return sorted(folder.rglob("*.safetensors"))


def test_rows_are_the_states():
    encoder = Counting()
    found = table(encoder, SENTENCES, None)
    assert len(found.index) == 4
    assert found.tokens.dtype == np.float32
    assert found.width == 6
    assert found.lookup(None) == -1
    for sentence in SENTENCES:
        row = found.lookup(sentence)
        (state,) = encoder.inner.encode([sentence])
        assert np.array_equal(found.tokens[row][found.mask[row]], state)
        assert not found.tokens[row][~found.mask[row]].any()
        assert found.mask[row].any()
    assert sorted(encoder.seen) == sorted(set(SENTENCES))  # once a distinct sentence
    with pytest.raises(KeyError):
        found.lookup("never seen")


def test_the_second_call_encodes_nothing(tmp_path):
    first, second = Counting(), Counting()
    made = table(first, SENTENCES, tmp_path)
    assert len(first.seen) == 4
    assert len(shards(tmp_path)) == 1
    assert shards(tmp_path)[0].parent.parent == tmp_path
    again = table(second, SENTENCES[::-1], tmp_path)
    assert second.seen == []
    same(made, again)
    same(made, table(Counting(), SENTENCES, None))


def test_a_sentences_states_do_not_depend_on_the_others(tmp_path):
    """In a batch the last bits of a transformer's states depend on what stands beside; so each is encoded alone."""

    class Beside(Counting):
        def encode(self, sentences):
            return [state + len(sentences) for state in self.inner.encode(sentences)]

    few = table(Beside(), SENTENCES[:1], tmp_path / "few")
    many = table(Beside(), SENTENCES, tmp_path / "many")
    row = many.lookup(SENTENCES[0])
    assert np.array_equal(few.tokens[0][few.mask[0]], many.tokens[row][many.mask[row]])


def test_only_new_sentences_are_encoded(tmp_path):
    table(Counting(), SENTENCES, tmp_path)
    encoder = Counting()
    found = table(encoder, [*SENTENCES, "middle"], tmp_path)
    assert encoder.seen == ["middle"]
    assert len(shards(tmp_path)) == 2
    same(found, table(Counting(), [*SENTENCES, "middle"], None))
    few = table(encoder, ["left lung"], tmp_path)
    assert few.tokens.shape == (1, 2, 6)
    assert encoder.seen == ["middle"]


def test_many_shards_and_their_ticks(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD", 3)
    many, ticks = [f"case {i}" for i in range(8)], []
    table(Counting(), many, tmp_path, tick=lambda done, total: ticks.append((done, total)))
    assert ticks == [(3, 8), (6, 8), (8, 8)]
    assert len(shards(tmp_path)) == 3
    encoder = Counting()
    same(table(encoder, many, tmp_path), table(Counting(), many, None))
    assert encoder.seen == []


def test_another_encoder_has_its_own_folder(tmp_path):
    table(Counting(), SENTENCES, tmp_path)
    other = Counting(max_length=2)
    table(other, SENTENCES, tmp_path)
    assert len(other.seen) == 4
    assert len(list(tmp_path.iterdir())) == 2


def test_a_corrupt_shard_is_named(tmp_path):
    table(Counting(), SENTENCES, tmp_path)
    (path,) = shards(tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"not a shard", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="delete it and run again") as caught:
            table(Counting(), SENTENCES, tmp_path)
        assert str(path) in str(caught.value)
    path.unlink()
    encoder = Counting()
    table(encoder, SENTENCES, tmp_path)
    assert len(encoder.seen) == 4


def test_truncation_is_counted_also_from_disk(tmp_path):
    long = "one two three four five"
    for _ in range(2):
        found = table(Counting(max_length=3), [long, "short"], tmp_path)
        assert found.truncated == (long,)
        assert found.mask[found.lookup(long)].sum() == 3


def test_a_failed_write_leaves_nothing(tmp_path):
    class Breaking(Counting):
        def encode(self, sentences):
            raise MemoryError

    with pytest.raises(MemoryError):
        table(Breaking(), SENTENCES, tmp_path)
    assert shards(tmp_path) == []
    assert len(table(Counting(), SENTENCES, tmp_path).index) == 4


def test_no_sentences(tmp_path):
    for folder in (None, tmp_path):
        found = table(Counting(), [], folder)
        assert found.tokens.shape == (0, 1, 6)
        assert found.lookup(None) == -1
