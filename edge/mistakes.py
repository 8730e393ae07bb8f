"""The tables of a TOML file and the model that they must fit in; the model, or every mistake in plain words at once, out."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kernels.findings import ConfigError

Where = tuple[str | int, ...]
Tables = Mapping[str, Any]
Model = TypeVar("Model", bound=BaseModel)

NAME_PATTERN = r"^([A-Za-z0-9_-][A-Za-z0-9_.-]*)?$"

_PLAIN = {
    "string_type": "must be a text, in quotes",
    "string_pattern_mismatch": "may hold only letters, digits, _ - and . (not first)",
    "string_too_short": "must not be empty",
    "string_too_long": "may have at most {max_length} letters",
    "int_type": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false, without quotes",
    "path_type": "must be a path, in quotes",
    "tuple_type": "must be a list, in brackets",
    "model_type": "must be a table",
    "literal_error": "must be {expected}",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_short": "must not be empty",
    "value_error": "{error}",
}
_SECRETS = ("password", "passwd", "passphrase", "pass", "pwd", "secret", "token")
_NO_SECRET = "secrets never stand in this file; give {0}_env (the name of a variable) or {0}_file instead"


@dataclass(frozen=True, slots=True)
class Mistake:
    """What the operator must mend, and where."""

    where: Where
    """Keys and indices from the top to the key at fault; of a missing key, too."""
    words: str

    def touches(self, other: Where) -> bool:
        """Whether one of the two places holds the other."""
        shorter = min(len(self.where), len(other))
        return self.where[:shorter] == other[:shorter]


def fit(model: type[Model], tables: Tables, path: Path, rules: Callable[[Model], Iterable[Mistake]]) -> Model:
    """The tables as a model; `rules` tell what its keys, each sound, get wrong together.

    A key at fault is taken out and the rest is read again, so that no mistake hides another. Relative paths
    start at the folder of `path`. Raises ConfigError with one line a mistake; no line holds a secret's value.
    """
    mistakes: list[Mistake] = []
    told: set[Where] = set()
    rest = dict(tables)
    while True:
        fitted, found = _try(model, rest, path.absolute().parent, rules)
        mistakes += [mistake for mistake in found if not any(mistake.touches(where) for where in told)]
        culprits = {_culprit(rest, mistake.where) for mistake in found} - {()}
        if fitted is not None or not culprits:
            break
        told |= culprits | {where for mistake in found for where in _meant(model, mistake)}
        for where in culprits:
            rest = _without(rest, where)
    if mistakes or fitted is None:
        raise ConfigError("\n".join(f"{path}: {_label(mistake.where, tables)}{mistake.words}" for mistake in mistakes))
    return fitted


def _try(
    model: type[Model], tables: Tables, folder: Path, rules: Callable[[Model], Iterable[Mistake]]
) -> tuple[Model | None, list[Mistake]]:
    try:
        fitted = model.model_validate(tables, context={"folder": folder})
    except ValidationError as error:
        details = error.errors(include_url=False)
        inner = [d for d in details if not any(len(o["loc"]) > len(d["loc"]) and o["loc"][: len(d["loc"])] == d["loc"] for o in details)]
        return None, [Mistake(detail["loc"], _words(model, detail)) for detail in inner]
    return fitted, list(rules(fitted))


def _words(model: type[BaseModel], detail: ErrorDetails) -> str:
    """What is wrong with one key. The value is never repeated: it may be a secret in the wrong place."""
    kind, where = detail["type"], detail["loc"]
    if kind == "extra_forbidden":
        return _unknown(model, where)
    if kind == "missing":
        return f"missing: {_table(model, where[:-1]).model_fields[str(where[-1])].description}"
    if kind == "tuple_type" and isinstance(detail["input"], dict):
        return f"must be a list of tables: write [[{where[-1]}]] with two brackets"
    return _PLAIN[kind].format(**detail.get("ctx", {})) if kind in _PLAIN else detail["msg"]


def _unknown(model: type[BaseModel], where: Where) -> str:
    key = str(where[-1])
    allowed = list(_table(model, where[:-1]).model_fields)
    if key.lower() in _SECRETS:
        return _NO_SECRET.format("token" if "token_env" in allowed else "password")
    homes = [table for table, keys in _tables(model) if key in keys]
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f"did you mean {near[0]}? " if near else f"it belongs to {homes[0]}. " if homes else ""
    return f"unknown key; {hint}Allowed are {', '.join(allowed)}"


def _meant(model: type[BaseModel], mistake: Mistake) -> Iterator[Where]:
    """The right key that a misspelt one stands for, so that it is not told to be missing as well."""
    if not mistake.words.startswith("unknown key"):
        return
    *way, key = mistake.where
    for near in difflib.get_close_matches(str(key), _table(model, tuple(way)).model_fields, n=1):
        yield (*way, near)


def _table(model: type[BaseModel], where: Where) -> type[BaseModel]:
    """The model of the table at this place."""
    for key in where:
        inner = _inner(model.model_fields[key].annotation) if isinstance(key, str) else None
        model = inner or model
    return model


def _tables(model: type[BaseModel]) -> Iterator[tuple[str, Iterable[str]]]:
    for name, field in model.model_fields.items():
        inner = _inner(field.annotation)
        if inner:
            yield f"[[{name}]]" if get_origin(field.annotation) is tuple else f"[{name}]", inner.model_fields


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The model inside `Model | None` or `tuple[Model, ...]`."""
    if get_args(annotation):
        return next(filter(None, map(_inner, get_args(annotation))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _culprit(tables: Tables, where: Where) -> Where:
    """The last key on this way that stands in the tables; empty where none does."""
    node: Any = tables
    last: Where = ()
    for i, key in enumerate(where):
        if isinstance(node, dict) and key in node:
            last = where[: i + 1]
        elif not isinstance(node, list) or not isinstance(key, int):
            break
        node = node[key]
    return last


def _without(node: Any, where: Where) -> Any:
    """A copy without the key at this place, if it is still there."""
    key, *deeper = where
    if isinstance(node, list):
        return [_without(value, tuple(deeper)) if i == key else value for i, value in enumerate(node)]
    if deeper and key in node:
        return node | {key: _without(node[key], tuple(deeper))}
    return {name: value for name, value in node.items() if name != key}


def _label(where: Where, tables: Tables) -> str:
    """`source "bed1": baud: `, or by place, counted from 1, where it has no name: `source.2.baud: `."""
    keys = [str(key + 1) if isinstance(key, int) else _bare(key) for key in where]
    name = _name(where, tables)
    if name:
        return ": ".join([f'{keys[0]} "{name}"', *filter(None, [".".join(keys[2:])]), ""])
    return ".".join(keys) + ": "


def _name(where: Where, tables: Tables) -> str:
    """The name that the table in an array gives itself, where it is fit to print."""
    if len(where) < 2 or not isinstance(where[1], int):
        return ""
    table = tables[str(where[0])][where[1]]
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) and re.fullmatch(NAME_PATTERN, name) else ""


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
