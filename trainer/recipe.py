"""A recipe file (TOML) in; everything that decides what is learnt, checked, out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kernels.findings import ConfigError, read_toml
from kernels.language import DEFAULT_TEXT_ENCODER

RECIPES = Path(__file__).with_name("recipes")
DEFAULT_RECIPE = "cardiogloss"

Saying = Literal["codes", "machine", "report", "all"]
"""Who says what a recording shows: the cardiologist's codes in words, the machine's statements, the written report, all three."""


class Recipe(BaseModel):
    """The same recipe on the same data gives the same weights, whatever kills it on the way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_encoder: str = DEFAULT_TEXT_ENCODER
    """A packaged model, a folder, or any `transformers` name such as `emilyalsentzer/Bio_ClinicalBERT`."""

    width: int = Field(default=48, ge=1)
    """Channels after the stem; they double three times."""
    kernel: int = Field(default=5, ge=1)
    """Odd, so that it has a middle."""
    dim: int = Field(default=256, ge=1)
    """Of the space in which signal and text meet."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    pooling: Literal["mean", "mean-max"] = "mean-max"
    lead_aware: bool = True
    """Whether the encoder is told which leads it sees."""
    causal: bool = False
    """Whether no position looks ahead, so that a stream is encoded as it comes, each sample once."""

    captions: tuple[Saying, ...] = Field(default=("codes", "machine", "report", "all"), min_length=1)
    """One of these, at random, is a recording's caption each time."""
    concepts: tuple[Literal["codes", "machine", "report"], ...] = ("codes", "machine")
    """Whose single findings are learnt one by one."""
    caption_prompt: str = "{text}"
    class_prompt: str = "{text}"
    """What a class is asked as at evaluation; it travels in the bundle."""

    loss: Literal["sigmoid", "info-nce"] = "sigmoid"
    soft_targets: bool = True
    """Whether captions of recordings that show the same are positives of each other."""
    caption_weight: float = Field(default=0.3, ge=0)
    concept_weight: float = Field(default=1.0, ge=0)
    """Of the loss against every single concept."""

    lead_subsets: float = Field(default=0.5, ge=0, le=1)
    """The share of windows that keep only some leads."""
    electrode: bool = True
    """Noise, gain, loose contacts and reversed cables, as a real electrode makes them."""

    warmup_epochs: int = Field(default=0, ge=0)
    """Of self-supervision on the same and on unlabelled recordings, before any text is seen."""

    epochs: int = Field(default=50, ge=1)
    short_epochs: int = Field(default=0, ge=0)
    """The first of these see `short_s` of each window only: half the work, and another cut each time."""
    short_s: float = Field(default=5.0, ge=1, le=10)
    batch: int = Field(default=128, ge=2)
    """Over all ranks together."""
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.3, ge=0)
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    """Of the moving average of the weights that is shipped; 0 ships the last weights."""
    seed: int = 0

    @field_validator("caption_prompt", "class_prompt")
    @classmethod
    def _has_a_place_for_the_text(cls, prompt: str) -> str:
        if prompt.count("{text}") != 1 or set("{}") & set(prompt.replace("{text}", "")):
            raise ValueError("must hold {text} once, where the text goes, and no other braces")
        return prompt

    @model_validator(mode="after")
    def _learns_something(self) -> Recipe:
        if self.caption_weight == self.concept_weight == 0:
            raise ValueError("caption_weight and concept_weight must not both be 0")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, not {self.kernel}")
        if self.causal and (self.pooling != "mean-max" or self.kernel == 1 or not self.lead_aware):
            raise ValueError('causal needs pooling = "mean-max", a kernel above 1 and lead_aware = true: nothing else can take streams')
        if self.warmup_epochs and not (self.electrode or self.lead_subsets):
            raise ValueError("warmup_epochs needs electrode or lead_subsets: else both views of a window are the same")
        return self


def read_recipe(name: str = DEFAULT_RECIPE) -> Recipe:
    """One of the recipes that are shipped, by its name, or a file. Raises ConfigError naming the key and what is allowed."""
    shipped = RECIPES / f"{name}.toml"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ConfigError(f"there is no recipe {name!r}; give a file, or one of {known}")
    return check_recipe(read_toml(path), str(path))


def check_recipe(fields: dict[str, object], where: str) -> Recipe:
    """The recipe that these fields describe. Raises ConfigError as `read_recipe` does."""
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        allowed = f"; known keys are {', '.join(Recipe.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{where}: {key}: {first['msg']}{allowed}") from error
