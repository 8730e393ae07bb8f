"""deploy/README.md names nothing that is not there: files, commands, options, config keys, users, metrics, and what the program says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from edge.__main__ import app
from edge.config import Config
from edge.homeassistant import DISCOVERY_PREFIX
from edge.mistakes import _inner
from kernels.findings import read_toml

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)

INSTALLED = {
    "/opt/cardiogloss",
    "/etc/cardiogloss",
    "/var/lib/cardiogloss",
    "/var/cache/cardiogloss",
    "/dev/cardiogloss",
    "/run/credentials/cardiogloss.service",
}
"""What install.sh, or systemd for the unit, makes."""


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


def _code() -> list[str]:
    """Everything between backticks outside of blocks."""
    return [code.replace("\\|", "|") for code in re.findall(r"`([^`\n]+)`", PROSE)]


def _commands() -> Iterator[list[str]]:
    """The words of every command line: of blocks, of what stands behind a $ in a text block, and of code in the text."""
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    lines += [line[2:] for block in _blocks("text") for line in block.splitlines() if line.startswith("$ ")]
    for line in [*lines, *_code()]:
        for part in re.split(r" && | \| |; ", re.sub(r"\s+#.*$", "", line)):
            words = _words(part)
            if words:
                yield words[1:] if words[0] == "sudo" else words


def _words(part: str) -> list[str]:
    try:
        return shlex.split(part)
    except ValueError:
        return []


COMMANDS = sorted({tuple(words) for words in _commands()})


@cache
def _own_command(name: str) -> Any:
    group: Any = typer.main.get_command(app)
    return group.get_command(None, name)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "cardiogloss" and len(words) > 1], ids=" ".join)
def test_a_command_of_ours_parses(words: tuple[str, ...]) -> None:
    command = _own_command(words[1])
    assert command is not None, f"cardiogloss has no command {words[1]}"
    options = {option: parameter for parameter in command.params for option in parameter.opts}
    given = iter(words[2:])
    places = 0
    for word in given:
        if word.startswith("-"):
            assert word in options, f"cardiogloss {words[1]} has no option {word}; it has {', '.join(sorted(options))}"
            if not options[word].is_flag:
                next(given, None)
        else:
            places += 1
    room = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    # A command is often named alone.
    assert places <= sum(1 if parameter.nargs == 1 else 100 for parameter in room), words


SCRIPTS = sorted(words for words in COMMANDS if words[0].startswith("deploy/") and words[0].endswith(".sh"))


@pytest.mark.parametrize("words", SCRIPTS, ids=" ".join)
def test_a_script_is_there_and_knows_the_options(words: tuple[str, ...]) -> None:
    script = ROOT / words[0]
    told = subprocess.run(["bash", str(script), "--help"], capture_output=True, text=True, timeout=30)
    assert told.returncode == 0, told
    for option in (word for word in words[1:] if word.startswith("--")):
        assert re.search(rf"{option}\b", told.stdout), f"{words[0]} --help does not tell {option}"


def test_every_link_leads_somewhere() -> None:
    places = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", TEXT, flags=re.MULTILINE)}
    links = re.findall(r"\]\(([^)\s]+)\)", PROSE)
    assert len(links) > 20
    for link in (link for link in links if not link.startswith("http")):
        path, _, place = link.partition("#")
        assert (DEPLOY / path).exists(), link
        assert not place or place in (places if not path else _places(DEPLOY / path)), link


def _places(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_file_of_the_tree_that_is_named_exists() -> None:
    words = {word for line in [*_code(), *(line for block in _blocks("sh") for line in block.splitlines())] for word in line.split()}
    named = {word.rstrip(",;") for word in words if re.match(r"(deploy|tests|kernels|edge|trainer)/", word)}
    assert len(named) > 10
    made = ("deploy/compose/secrets",)
    for path in sorted(named):
        stem = ROOT / path
        assert path.startswith(made) or stem.exists() or stem.with_suffix(".hea").exists(), path


def test_every_place_on_the_machine_is_one_that_is_made() -> None:
    named = set(re.findall(r"(?<![\w.])(/(?:opt|etc|var|run|dev)/[\w./-]*cardiogloss[\w.-]*)", TEXT))
    named = {path.removesuffix(".before-restore") for path in named}
    assert ".before-restore" in (DEPLOY / "backup.sh").read_text()
    others = ("/etc/mosquitto/", "/etc/systemd/system/cardiogloss")
    scripts = "".join(path.read_text() for path in (DEPLOY / "install.sh", DEPLOY / "cardiogloss.service", DEPLOY / "99-cardiogloss.rules"))
    assert named & INSTALLED
    for path in sorted(named):
        assert path.startswith(others) or path in INSTALLED, path
    for path in INSTALLED:
        name = path.removeprefix("/dev/").removeprefix("/var/lib/").removeprefix("/var/cache/")
        assert name.replace("/cardiogloss", "/") in scripts.replace("/$name", "/") or name in scripts, path


def _fields(model: type[BaseModel], table: dict[str, Any], where: str) -> None:
    for key, value in table.items():
        assert key in model.model_fields, f"{where}{key}"
        inner = _inner(model.model_fields[key].annotation)
        for one in value if isinstance(value, list) else [value]:
            if inner and isinstance(one, dict):
                _fields(inner, one, f"{where}{key}.")


@pytest.mark.parametrize("block", _blocks("toml"), ids=lambda block: block.splitlines()[0])
def test_a_piece_of_config_has_only_keys_that_there_are_and_values_of_their_type(block: str, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(block)
    tables = read_toml(tmp_path / "edge.toml")
    _fields(Config, tables, "")
    Config.model_validate({"source": [{"name": "x", "device": "frame", "stdin": True}], **tables}, context={"folder": tmp_path})


def test_every_table_and_key_that_the_text_names_exists() -> None:
    tables = {name: _inner(field.annotation) for name, field in Config.model_fields.items()}
    for name in re.findall(r"`\[{1,2}(\w+)\]{1,2}`", PROSE):
        assert tables.get(name), f"[{name}]"
    keys = set(Config.model_fields) | {key for model in tables.values() if model for key in model.model_fields}
    finding_keys = set(re.findall(r"^# (\w+) ", (ROOT / "kernels/shipped/findings.toml").read_text(), flags=re.MULTILINE))
    for key, table in re.findall(r"`(\w+)` (?:and `\w+` )?of `\[(\w+)\]`", PROSE):
        model = tables[table]
        assert model and key in model.model_fields, f"{key} of [{table}]"
    for key in (code.partition(" = ")[0] for code in _code() if re.match(r"[a-z_]+ = ", code)):
        assert key in keys | finding_keys, key


def test_the_credentials_are_those_of_the_unit() -> None:
    unit = (DEPLOY / "cardiogloss.service").read_text()
    known = set(re.findall(r"^LoadCredential=([\w-]+):", unit, flags=re.MULTILINE))
    named = set(re.findall(r"/(?:etc/cardiogloss/credentials|run/credentials/cardiogloss\.service)/([\w-]+)", TEXT))
    assert named and named <= known, named - known


def test_the_users_of_the_access_list_are_those_of_the_table() -> None:
    users = set(re.findall(r"^user (\S+)", (DEPLOY / "acl").read_text(), flags=re.MULTILINE))
    told = set(re.findall(r"^\| `(\w+)`", TEXT.partition("| user | may |")[2].partition("\n\n")[0], flags=re.MULTILINE))
    assert told - {"bed7"} == users


@cache
def _sources() -> str:
    """What the program can say, as it stands in its files, with every blank and quote alike."""
    kinds = ("edge/**/*.py", "kernels/**/*.py", "edge/**/*.html", "edge/**/*.js")
    return _plain("\n".join(path.read_text(encoding="utf-8") for kind in kinds for path in ROOT.glob(kind)))


def _plain(text: str) -> str:
    """Of a condition inside of an f-string the first word."""
    return re.sub(r"\s+", " ", re.sub(r"\{'([^']*)' if [^{}]* else '[^']*'\}", r"\1", text.replace('\\"', '"')))


def _symptoms() -> list[str]:
    text = TEXT.partition("## When something is wrong")[2]
    return [row for row in re.findall(r"^\| (.+?) \|", text, flags=re.MULTILINE) if row not in ("you see", "---")]


def test_there_are_many_symptoms() -> None:
    assert len(_symptoms()) >= 40


def _said() -> list[str]:
    """What is put in the program's mouth: code in the first column with a blank in it."""
    quoted = [code for row in _symptoms() for code in re.findall(r"`([^`]+)`", row)]
    return [code for code in quoted if " " in code and not code.startswith(("systemctl", "journalctl"))]


@pytest.mark.parametrize("words", _said())
def test_the_program_says_what_it_is_told_to_say(words: str) -> None:
    """Each stretch between the places where names, numbers and other words stand is in its source."""
    for part in re.split(r"…|[;:] |\[Errno \d+\] [\w ]+", words):
        part = part.strip(" :;,")
        assert len(part) < 4 or part in _sources() or f'"{part.replace(" ", "_")}"' in _sources(), part


def test_metrics_that_are_named_are_exported() -> None:
    source = (ROOT / "edge" / "health.py").read_text()
    for line in (code for code in _code() if "/metrics |" in code):
        for name in re.split(r"\|", re.findall(r"grep -E '([^']+)'", line)[0]):
            assert name.removeprefix("outbox_") in source, name


def test_what_else_is_counted_on() -> None:
    assert DISCOVERY_PREFIX == "homeassistant"
    assert json.loads((DEPLOY / "schema" / "edge.json").read_text())["properties"].keys() == Config.model_fields.keys()
