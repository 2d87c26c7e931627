"""bert-base-uncased (768 wide), or any other model of a hub id or local folder.

Source: Devlin et al., "BERT", NAACL 2019. CMG-Net's encoder; the paper freezes it.
"""

from __future__ import annotations

from crossmask.text.transformer import TransformerText


def build(
    *, weights: str = "bert-base-uncased", max_length: int = 128, layers: tuple[int, ...] = (-1,)
) -> TransformerText:
    """weights: a hub id (fetched once, unless HF_HUB_OFFLINE is set) or a local folder."""
    return TransformerText(weights, max_length=max_length, layers=layers)
