"""BiomedVLP-CXR-BERT-specialized (768 wide), HCFNet's text encoder.

Source: Boecking et al., ECCV 2022. Loaded into a stock BERT: its remote code is not run, and its projection and
masked-language heads, which token states do not need, are dropped.
"""

from __future__ import annotations

from crossmask.text.transformer import TransformerText, refuse_no_weights

HUB = "microsoft/BiomedVLP-CXR-BERT-specialized"


def build(*, weights: str = "auto", max_length: int = 128, layers: tuple[int, ...] = (-1,)) -> TransformerText:
    """weights: a hub id (fetched once, unless HF_HUB_OFFLINE is set) or a local folder; "auto" is refused:
    no package holds them."""
    refuse_no_weights("cxr-bert", weights, HUB)
    return TransformerText(weights, max_length=max_length, layers=layers, bert=True)
