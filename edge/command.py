"""The bytes of a command, as a nurse's program sends them, in; a `Command`, or what is wrong with it, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .contract import AlertState

LONGEST_SILENCE_S = 24 * 3600.0


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable")
    return text


_Words = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    command_id: _Words | None = None
    """Comes back in the reply."""
    by: _Words = "somebody"
    """Who asks, for the record."""


class Acknowledge(_Command):
    """Somebody has seen an alert. It stays on, and says so."""

    command: Literal["acknowledge"]
    id: _Words
    """Of the alert."""


class Silence(_Command):
    """Do not sound a finding, or anything of this source, for a while. Alerts go on to be told, marked as silenced."""

    command: Literal["silence"]
    for_s: float = Field(ge=0, le=LONGEST_SILENCE_S)
    """0 ends it."""
    finding: _Words | None = None
    """All where it is left out."""


@dataclass(frozen=True, slots=True)
class Report:
    """The monitor itself has noticed that a technical fault began, or ended."""

    finding: str
    why: str | None
    """In words while it lasts; None for its end."""


@dataclass(frozen=True, slots=True)
class Close:
    """The source is no longer watched."""

    why: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Time goes on though no sample comes."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """What was on when the last monitor ended is on still."""

    states: tuple[AlertState, ...]


Command = Acknowledge | Silence | Report | Close | TakeOver | Wake


class _Asked(BaseModel):
    command_id: _Words | None = None


_ADAPTER: TypeAdapter[Acknowledge | Silence] = TypeAdapter(Annotated[Acknowledge | Silence, Field(discriminator="command")])


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a command."""

    source: str
    command_id: str | None
    ok: bool
    why: str | None = None


def read_command(payload: bytes) -> Acknowledge | Silence:
    """Raises ValueError that says what is wrong and what is allowed."""
    try:
        return _ADAPTER.validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def command_id_of(payload: bytes) -> str | None:
    """Whom to answer, of a command that cannot be obeyed."""
    try:
        return _Asked.model_validate_json(payload).command_id
    except ValidationError:
        return None


def schema() -> dict[str, object]:
    """The JSON Schema of the commands that are understood."""
    return _ADAPTER.json_schema()
