"""The models of all messages in; their JSON Schemas, one file a message, out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import command
from .contract import MESSAGES

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """By name: what goes out, what is asked of a monitor (`command`, `resend`) and what it answers. They allow keys that came later."""
    models = {name: model.model_json_schema() for name, model in MESSAGES.items()} | {"command": command.schema()}
    return {name: {"$schema": DIALECT, "$id": f"urn:cardiogloss:message:{name}", **body} for name, body in sorted(models.items())}


def write_schemas(folder: Path) -> list[Path]:
    """`NAME.json` for each. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, body in schemas().items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        written.append(path)
    return written
