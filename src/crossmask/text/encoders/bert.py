"""bert-base-uncased (768 wide), or any other model of a hub id or local folder.

Source: Devlin et al., "BERT", NAACL 2019. CMG-Net's encoder; the paper freezes it.
"""

from __future__ import annotations

from crossmask.text.transformer import TransformerText, refuse_no_weights

HUB = "bert-base-uncased"


def build(*, weights: str = "auto", max_length: int = 128, layers: tuple[int, ...] = (-1,)) -> TransformerText:
    """weights: a hub id (fetched once, unless HF_HUB_OFFLINE is set) or a local folder; "auto" is refused:
    no package holds them."""
    refuse_no_weights("bert", weights, HUB)
    return TransformerText(weights, max_length=max_length, layers=layers)
