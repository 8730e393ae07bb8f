"""`edge.toml`: what it may say, how its mistakes are told, and what `check` makes of it."""

from __future__ import annotations

import json
import os
import re
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub
from pydantic import BaseModel

from edge import wildcard
from edge.check import check
from edge.config import Config, HomeAssistant, Http, Log, Model, Mqtt, Outbox, Record, Source, Web, parse_config, read_config, schema
from edge.decode import devices
from edge.play import SLOWEST_SHARE
from kernels.bundle import SHIPPED_BUNDLE, Bundle, BundleError
from kernels.findings import ConfigError

DEPLOY = Path(__file__).parent.parent / "deploy"
EXAMPLE = DEPLOY / "edge.toml"
TABLES: tuple[type[BaseModel], ...] = (Model, Mqtt, Outbox, HomeAssistant, Http, Web, Log, Record, Source, Config)
SECRET = "hunter2-xyzzy"

BED1 = '[[source]]\nname = "bed1"\ndevice = "cyton"\nserial = "/dev/ttyX"\n'
BRIDGE = '[[source]]\nname = "bed1"\ndevice = "cyton"\ntcp = "a:1"\n'
WARD = '[mqtt]\n[[source]]\nmqtt = "ward/+/ecg"\n'


def broker(lines: str) -> str:
    """A source with wildcards, and these keys of its broker."""
    return WARD.replace("[mqtt]", f"[mqtt]\n{lines}")


def write(folder: Path, text: str) -> Path:
    path = folder / "edge.toml"
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str) -> Config:
    return read_config(write(folder, text))


def mistakes(folder: Path, text: str) -> list[str]:
    """Without the path that each line begins with."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def web(lines: str) -> str:
    """A dashboard for other machines."""
    return f'{BED1}[web]\nhost = "0.0.0.0"\n{lines}'


MISTAKES = {
    "unknown key": (BED1 + 'devcie = "x"', ['source "bed1": devcie: unknown key; did you mean device? Allowed are name, device, ']),
    "unknown key of a nameless source": ('[[source]]\nname = "a"\ndevice = "cyton"\nstdin = true\n[[source]]\ndevcie = "x"',
                                         ["source.2.devcie: unknown key; did you mean device? Allowed are"]),
    "unknown table": (BED1 + "[modle]\nhop_s = 1", ["modle: unknown key; did you mean model?"]),
    "key in the wrong table": ("hop_s = 1\n" + BED1, ["hop_s: unknown key; it belongs to [model]."]),
    "key of a source at the top": ("rate_hz = 1\n" + BED1, ["rate_hz: unknown key; it belongs to [[source]]."]),
    "unprintable key": ('"a\\nb" = 1\n' + BED1, ['"a\\nb": unknown key']),
    "no source": ('site = "x"', ["source: missing", ]),
    "empty sources": ("source = []", ["source: must not be empty"]),
    "one bracket": (BED1.replace("[[source]]", "[source]"), ["write [[source]] with two brackets"]),
    "not a table": ("model = 3\n" + BED1, ["model: must be a table"]),
    "text for a number": (BED1 + 'baud = "9600"', ['source "bed1": baud: must be a whole number, without quotes']),
    "number for a text": (BED1.replace('"cyton"', "3"), ['source "bed1": device: must be a text, in quotes']),
    "text for a switch": (BED1 + 'record = "yes"', ['source "bed1": record: must be true or false, without quotes']),
    "number that is none": (BED1 + "zero = nan", ['source "bed1": zero: must be a finite number']),
    "hop of nothing": (BED1 + "[model]\nhop_s = 0", ["model.hop_s: must be above 0"]),
    "short stall": (BED1 + "stall_s = 0.1", ['source "bed1": stall_s: must be at least 0.5']),
    "high port": (BED1 + "[http]\nport = 70000", ["http.port: must be at most 65535"]),
    "unknown version": (broker('version = "4"'), ["mqtt.version: must be 'auto', '5' or '3.1.1'"]),
    "number for a path": (BED1 + "[model]\nbundle = 3", ["model.bundle: must be a path, in quotes"]),
    "leads not in a list": (BED1 + 'leads = "I"', ['source "bed1": leads: must be a list, in brackets']),
    "odd name": (BED1.replace("bed1", "bed 1"), ["source.1.name: may hold only letters, digits"]),
    "name of a parent folder": (BED1.replace("bed1", ".."), ["source.1.name: may hold only letters, digits"]),
    "missing folder": (BED1 + "record = true\n[record]", ["record.folder: missing: A folder for WFDB records"]),
    "no transport": ('[[source]]\nname = "bed1"\ndevice = "cyton"', ['source "bed1": give one of serial, tcp, stdin, file or mqtt']),
    "two transports": (BED1 + 'tcp = "a:1"', ['source "bed1": serial and tcp are given; keep one of them']),
    "two on standard input": (
        "".join(f'[[source]]\nname = "{name}"\ndevice = "cyton"\nstdin = true\n' for name in "ab"),
        ['source "b": stdin: source 1 has the same; only one source can read standard input'],
    ),
    "one name twice": (BED1 + BED1.replace("ttyX", "ttyY"), ['source "bed1": name: source 1 has the same; give each its own']),
    "one port twice": (BED1 + BED1.replace("bed1", "bed2"), ['source "bed2": serial: source 1 has the same; one port serves one source']),
    "no name": (BED1.replace('name = "bed1"', ""), ["source.1.name: missing; only an MQTT filter with + or # names"]),
    "no name without wildcard": (WARD.replace("+", "x"), ["source.1.name: missing"]),
    "name with wildcard": (WARD + 'name = "bed1"', ['source "bed1": name: leave it out']),
    "# in the middle": (WARD.replace("+", "#"), ["source.1.mqtt: # must be the last level"]),
    "# after text": (WARD.replace("+/ecg", "bed#"), ["source.1.mqtt: # must be the last level"]),
    "+ after text": (WARD.replace("+", "bed+"), ["source.1.mqtt: + must stand alone in its level"]),
    "shared subscription": (WARD.replace("ward", "$share/g/ward"), ["source.1.mqtt: a shared subscription gives each worker only some"]),
    "own messages": (WARD.replace("ward/+/ecg", "cardiogloss/home/#"), ["source.1.mqtt: would take cardiogloss's own messages"]),
    "everything": (WARD.replace("ward/+/ecg", "#"), ["source.1.mqtt: would take cardiogloss's own messages"]),
    "one filter twice": (WARD + WARD.removeprefix("[mqtt]\n"), ["source.2.mqtt: source 1 has the same"]),
    "no port": (BRIDGE.replace("a:1", "bridge"), ['source "bed1": tcp: must read host:port']),
    "port 0": (BRIDGE.replace("a:1", "bridge:0"), ['source "bed1": tcp: must read host:port']),
    "unknown device": (BED1.replace('"cyton"', '"cytn"'), ['source "bed1": device:', "cyton"]),
    "no device": (BED1.replace('device = "cyton"', ""), ['source "bed1": device: missing. Allowed are', "cyton"]),
    "messages on a wire": (BED1.replace('"cyton"', '"json"'), ['source "bed1": device: json comes in whole messages', "cyton"]),
    "baud without a port": (
        BRIDGE + "baud = 9600", ['source "bed1": baud: only a serial port has one']
    ),
    "no broker": (WARD.replace("[mqtt]\n", ""), ["mqtt: missing, but a source has mqtt; add the table [mqtt]"]),
    "no place for records": (BED1 + "record = true", ["record: missing, but a source has record = true; add the table [record]"]),
    "certificate alone": (broker('tls = true\ncertificate = "c"'), ["mqtt.key: missing; the certificate needs its"]),
    "key alone": (broker('tls = true\nkey = "k"'), ["mqtt.certificate: missing; the key belongs to one"]),
    "authority without TLS": (broker('ca = "c"'), ["mqtt.tls: must be true where ca is given"]),
    "two passwords": (
        broker('user = "u"\npassword_env = "P"\npassword_file = "p"'),
        ["mqtt.password_file: password_env is given too; keep one of them"],
    ),
    "password without user": (broker('password_env = "P"'), ["mqtt.user: missing; a password belongs to a user"]),
    "password in the file": (
        broker('password = "P"'), ["mqtt.password: secrets never stand in this file", "password_file"]
    ),
    "address for a host": (broker('host = "mqtt://a"'), ["mqtt.host: must be the bare name or address of a host"]),
    "outbox of no size": (BED1 + "[outbox]\nlimit_mb = 0", ["outbox.limit_mb: must be at least 1"]),
    "outbox of no time": (BED1 + "[outbox]\nlimit_days = 0", ["outbox.limit_days: must be above 0"]),
    "wildcard in a prefix": (broker('prefix = "a/+"'), ["mqtt.prefix: must be one or more topic levels"]),
    "too few leads": (BED1 + 'leads = ["I"]', ['source "bed1": leads: names 1 leads, but']),
    "unknown lead": (BED1 + 'leads = ["X", "I", "-", "-", "-", "-", "-", "-"]', ['source "bed1": leads: unknown lead \'X\'']),
    "no shard": ('shard = "3/2"\n' + WARD, ["shard: must read i/n, from 1/n to n/n"]),
    "shard of a port": ('shard = "1/2"\n' + BED1, ['source "bed1": serial: with shard only sources over mqtt']),
    "remote without a broker": (BED1 + '[model]\nengine = "remote"', ["mqtt: missing, but engine is remote"]),
    "dashboard for all without a token": (web('certificate = "c"\nkey = "k"'), ["web.token_file: missing; whoever reaches 0.0.0.0"]),
    "dashboard for all without TLS": (web('token_env = "T"'), ["web.certificate: missing; other machines are served with TLS"]),
    "dashboard behind a proxy without a token": (BED1 + "[web]\nbehind_proxy = true", ["web.token_file: missing; whoever reaches"]),
    "two tokens": (web('token_env = "T"\ntoken_file = "t"\nbehind_proxy = true'), ["web.token_file: token_env is given too"]),
    "certificate of the dashboard alone": (web('token_env = "T"\ncertificate = "c"'), ["web.key: missing; the certificate needs"]),
    "token in the file": (
        web('token_env = "T"\nbehind_proxy = true\ntoken = "x"'), ["web.token: secrets never stand in this file; give token_env"]
    ),
    "history of no time": (BED1 + "[web]\nhistory_days = 0", ["web.history_days: must be above 0"]),
    "scale of nothing": (BED1 + "units_per_mv = 0", ['source "bed1": units_per_mv: 0 must be a number other than 0']),
    "rate beyond all": (BED1 + "rate_hz = 1e9", ['source "bed1": rate_hz: must be at most 100000']),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_once_with_its_key_and_what_is_allowed(mistake: str, tmp_path: Path) -> None:
    text, parts = MISTAKES[mistake]
    (line,) = mistakes(tmp_path, text)
    assert all(part in line for part in parts), line


def test_a_rate_that_the_device_does_not_say_must_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cyton = devices.DEVICES["cyton"]
    monkeypatch.setitem(devices.DEVICES, "cyton", replace(cyton, wiring=replace(cyton.wiring, rate_hz=0.0), baud=None))
    rate, baud = mistakes(tmp_path, BED1)
    assert rate.startswith('source "bed1": rate_hz: must be given')
    assert baud.startswith('source "bed1": baud: missing')
    assert read(tmp_path, BED1 + "rate_hz = 500\nbaud = 9600").source[0].wiring().rate_hz == 500


def test_all_mistakes_are_told_at_once_even_where_one_hides_another(tmp_path: Path) -> None:
    text = (
        'site = "a b"\n'
        '[[source]]\nname = "bed1"\ndevcie = "cyton"\nserial = 5\nbaud = "x"\n'
        '[[source]]\nname = "bed2"\ndevice = "cyton"\nserial = "/dev/a"\nleads = ["I"]\nunits_per_mv = 0\nrecord = true\n'
        '[[source]]\nname = "bed2"\ndevice = "cyton"\nstdin = true\nbaud = 9600\n'
        "[mqtt]\nport = 0\npassword_env = 'P'\n"
    )
    told = mistakes(tmp_path, text)
    keys = {match[0] for line in told if (match := re.match(r'(source "bed\d": )?[a-z_.]+(?=: )', line))}
    assert keys == {
        "site", 'source "bed1": devcie', 'source "bed1": serial', 'source "bed1": baud', "mqtt.port", 'source "bed2": leads',
        'source "bed2": units_per_mv', "record", 'source "bed2": name', 'source "bed2": baud', "mqtt.user",
    }  # fmt: skip
    assert len(told) == len(keys)


@pytest.mark.parametrize("text", ["a = ", "= 3", "[a\n", "a = 1\na = 2", "a = [" * 3000, "a = " + "9" * 5000, "a = 2020-13-45"])
def test_what_is_no_toml_is_told(text: str, tmp_path: Path) -> None:
    assert "is not TOML" in _refusal(write(tmp_path, text))


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in _refusal(write(tmp_path, 'site = "x"\nb = \n'))


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    assert "cannot read" in _refusal(tmp_path / "none.toml")


def _refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    return str(caught.value)


KEYS = sorted({key for table in TABLES for key in table.model_fields} | {"password", "devcie", "a\nb"})
SCALARS = st.one_of(
    st.text(max_size=8), st.integers(), st.integers(10**30, 10**400), st.floats(), st.booleans(), st.datetimes(), st.dates(), st.times(),
    st.sampled_from(["cyton", "json", "auto", "a:1", "[::1]:9", "a/+/b", "#", "bed1", "/dev/x", "I", "-", "5", "\0", "", "~"]),
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4))
SOURCES = st.lists(st.dictionaries(st.sampled_from(sorted(Source.model_fields)), VALUES, max_size=6), max_size=3)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES), SOURCES)
def test_no_tables_raise_anything_but_a_config_error(tables: dict[str, Any], sources: list[dict[str, Any]]) -> None:
    path = Path("somewhere/edge.toml")
    try:
        config = parse_config(tables | {"source": sources}, path)
    except ConfigError as error:
        assert all(line.startswith(f"{path}: ") and line.isprintable() for line in str(error).split("\n"))
    else:
        assert all(len(source.transports) == 1 and source.wiring() for source in config.source)


@given(st.sampled_from([key for key in Source.model_fields if key not in ("name", "device")]), VALUES)
def test_one_changed_key_is_sound_or_told(key: str, value: Any) -> None:
    try:
        parse_config({"source": [{"name": "bed1", "device": "cyton", "stdin": True} | {key: value}], "mqtt": {}}, Path("edge.toml"))
    except ConfigError as error:
        assert str(error).startswith("edge.toml: ")


@given(st.text())
def test_no_text_raises_anything_but_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    with pytest.raises(ConfigError):
        read_config(write(tmp_path_factory.getbasetemp(), text))


def test_the_example_is_sound_and_names_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(read_config(EXAMPLE).source) == 3
    for table in TABLES:
        for key in table.model_fields:
            assert re.search(rf"^#? ?(\[+{key}\]+|{key} = .*)$", text, re.MULTILINE), key


def test_what_the_example_says_in_comments_is_sound_too(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^# (?=\[\[|\w+ = )", "", EXAMPLE.read_text(encoding="utf-8"))
    config = read(tmp_path, re.sub(r"(?m)^(password|token)_env.*", "", text))
    assert len(config.source) == 5
    assert config.mqtt is not None and config.mqtt.tls


def test_the_example_says_the_defaults_and_reads_back_the_same(tmp_path: Path) -> None:
    config = read_config(EXAMPLE)
    assert (config.model, config.http, config.log, config.mqtt, config.outbox) == (Model(), Http(), Log(), Mqtt(), Outbox())
    said = config.model_dump(mode="json", exclude_none=True)
    assert parse_config(json.loads(json.dumps(said)), EXAMPLE) == config


def test_the_schema_on_disk_is_that_of_the_models() -> None:
    """Whatever the release of pydantic: the older ones wrap a reference in an allOf of one."""

    def unwrap(table: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in table.items() if key != "allOf"} | (table["allOf"][0] if "allOf" in table else {})

    on_disk = (DEPLOY / "schema" / "edge.json").read_text(encoding="utf-8")
    assert json.loads(on_disk) == json.loads(schema(), object_hook=unwrap)
    assert EXAMPLE.read_text(encoding="utf-8").startswith("#:schema ./schema/edge.json\n")


def test_the_schema_describes_every_key_and_allows_no_other() -> None:
    body = json.loads(schema())
    tables = [body, *body["$defs"].values()]
    assert len(tables) == len(TABLES)
    for table in tables:
        assert table["additionalProperties"] is False
        assert all(key.get("description") for key in table["properties"].values()), table
    assert str(SHIPPED_BUNDLE.parent) not in schema()


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    mqtt = '[mqtt]\ntls = true\nuser = "u"\nca = "ca.pem"\nkey = "/k"\ncertificate = "../c"\npassword_file = "p"\n'
    write(tmp_path / "conf", BED1.replace("serial", "file").replace("/dev/ttyX", "a.bin") + mqtt + '[record]\nfolder = "r"\n')
    monkeypatch.chdir(tmp_path)
    config = read_config(Path("conf/edge.toml"))
    folder = tmp_path / "conf"
    assert config.mqtt is not None and config.record is not None
    assert (config.mqtt.ca, config.mqtt.password_file, config.record.folder) == (folder / "ca.pem", folder / "p", folder / "r")
    assert (config.mqtt.key, config.mqtt.certificate, config.source[0].file) == (Path("/k"), folder / "../c", folder / "a.bin")
    assert config.model.bundle == SHIPPED_BUNDLE


@pytest.mark.parametrize(
    ("environment", "file"),
    [
        ({"STATE_DIRECTORY": "/var/lib/cardiogloss", "XDG_STATE_HOME": "/x"}, "/var/lib/cardiogloss/ward.db"),
        ({"STATE_DIRECTORY": "/var/lib/cardiogloss:/var/lib/more"}, "/var/lib/cardiogloss/ward.db"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/home/u"}, "/x/cardiogloss/ward.db"),
        ({"XDG_STATE_HOME": "", "HOME": "/home/u"}, "/home/u/.local/state/cardiogloss/ward.db"),
    ],
)
def test_the_outbox_lies_where_systemd_or_the_users_own_state_is(
    environment: dict[str, str], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd.exec(5) and the XDG Base Directory Specification have it."""
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert read(tmp_path, BED1).outbox.file_of("ward") == Path(file)
    assert read(tmp_path, BED1 + '[outbox]\nfile = "o.db"').outbox.file_of("ward") == tmp_path / "o.db"


def test_a_user_without_a_home_is_asked_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", _no_home)
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"outbox\.file: missing"):
        Outbox().file_of("ward")
    assert Outbox(file=Path("/o.db")).file_of("ward") == Path("/o.db")


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_two_configs_differ_only_in_the_tables_that_changed(tmp_path: Path) -> None:
    before = read(tmp_path, BED1 + WARD)
    assert read(tmp_path, "# a comment\n" + BED1 + WARD) == before
    after = read(tmp_path, BED1 + "stall_s = 9\n" + WARD)
    assert after != before
    assert (after.source[1], after.mqtt, after.model) == (before.source[1], before.mqtt, before.model)
    assert after.source[0] not in before.source
    assert hash(before) != hash(after)


def test_a_source_knows_its_device_wiring_and_transport(tmp_path: Path) -> None:
    leads = '["II", "-", "V1", "-", "-", "-", "-", "-"]'
    source = read(tmp_path, BED1 + f"leads = {leads}\nrate_hz = 500\nunits_per_mv = -10\nzero = 3\nbaud = 9600").source[0]
    assert (source.transport, source.place, source.line_baud, source.kind.name) == ("serial", "serial /dev/ttyX", 9600, "cyton")
    wiring = source.wiring()
    assert (wiring.kept, wiring.rate_hz, wiring.units_per_mv, wiring.zero) == (("II", "V1"), 500, -10, 3)


def test_a_device_is_auto_over_mqtt_and_a_stream_may_come_cut_in_messages(tmp_path: Path) -> None:
    assert read(tmp_path, WARD).source[0].kind.name == "auto"
    assert read(tmp_path, WARD + 'device = "cyton"').source[0].kind.name == "cyton"


@pytest.mark.parametrize(("text", "address"), [("a:1", ("a", 1)), ("10.0.0.7:4001", ("10.0.0.7", 4001)), ("[::1]:65535", ("::1", 65535))])
def test_a_tcp_address_comes_apart(text: str, address: tuple[str, int], tmp_path: Path) -> None:
    assert read(tmp_path, BRIDGE.replace("a:1", text)).source[0].tcp_address == address


@pytest.mark.parametrize(
    "text", ["a", ":1", "a:", "a:b", "a:0", "a:65536", "a:1:2", "a:\N{SUPERSCRIPT TWO}", "http://a:1", "a b:1", "a:" + "9" * 9999]
)
def test_a_tcp_address_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, BRIDGE.replace("a:1", text))
    assert line.startswith('source "bed1": tcp: must')


LEVELS = st.sampled_from(["", "a", "b", "$SYS", "+", "#"])


@given(st.lists(LEVELS, min_size=1, max_size=4), st.lists(st.sampled_from(["", "a", "b", "$SYS"]), min_size=1, max_size=4))
def test_a_filter_takes_the_topics_that_paho_says(levels: list[str], topic_levels: list[str]) -> None:
    text, topic = "/".join(levels), "/".join(topic_levels)
    if not text or not topic or "#" in levels[:-1]:
        return
    assert wildcard.check_filter(text) == text
    assert (wildcard.matched(text, topic) is not None) == topic_matches_sub(text, topic)


@pytest.mark.parametrize(
    ("text", "topic", "name"),
    [
        ("ward/+/ecg", "ward/bed7/ecg", "bed7"),
        ("+/+/ecg", "ward/bed7/ecg", "ward-bed7"),
        ("ward/#", "ward/3/bed7", "3-bed7"),
        ("ward/#", "ward", "_"),
        ("ward/+/ecg", "ward/../ecg", "_."),
        ("ward/+/ecg", "ward/Bett 7\N{DEGREE SIGN}/ecg", "Bett_7_"),
        ("ward/+/ecg", "ward/bed7/scores", None),
        ("ward/+/ecg", "ward/bed7/x/ecg", None),
    ],
)
def test_a_wildcard_names_its_sources_by_what_it_matches(text: str, topic: str, name: str | None, tmp_path: Path) -> None:
    source = read(tmp_path, WARD.replace("ward/+/ecg", text)).source[0]
    assert source.name_of(topic) == name


@given(st.lists(st.text(max_size=6), max_size=4))
def test_the_name_of_a_topic_is_one_that_a_source_may_have(levels: list[str]) -> None:
    name = wildcard.name_source(tuple(levels))
    assert name and Source(name=name[:64]).name == name[:64]


def test_a_password_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").write_text(f"{SECRET}\n")
    monkeypatch.setenv("CARDIOGLOSS_TEST_PASSWORD", SECRET)
    assert Mqtt().password() is None
    assert Mqtt(user="u", password_env="CARDIOGLOSS_TEST_PASSWORD").password() == SECRET
    assert Mqtt(user="u", password_file=tmp_path / "p").password() == SECRET


def test_a_password_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARDIOGLOSS_TEST_PASSWORD", raising=False)
    (tmp_path / "empty").touch()
    (tmp_path / "bytes").write_bytes(b"\xff" + SECRET.encode())
    with pytest.raises(ConfigError, match=r"mqtt\.password_env: the environment variable CARDIOGLOSS_TEST_PASSWORD is not set"):
        Mqtt(password_env="CARDIOGLOSS_TEST_PASSWORD").password()
    for name, words in (("none", "cannot read"), ("empty", "is empty"), ("bytes", "is not UTF-8"), (".", "cannot read")):
        with pytest.raises(ConfigError, match=rf"mqtt\.password_file.*{words}"):
            Mqtt(password_file=tmp_path / name).password()


@pytest.mark.parametrize(
    "line", [f'password = "{SECRET}"', f'pasword_env = ["{SECRET}"]', f'host = "u:{SECRET}@a"', f'token = "{SECRET}"', f'port = "{SECRET}"']
)
def test_no_mistake_repeats_a_secret(line: str, tmp_path: Path) -> None:
    path = write(tmp_path, broker(line))
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_no_secret_is_seen_in_the_config_the_schema_or_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").write_text(SECRET)
    monkeypatch.setenv("CARDIOGLOSS_TEST_PASSWORD", SECRET)
    for key in ('password_file = "p"', 'password_env = "CARDIOGLOSS_TEST_PASSWORD"'):
        path = write(tmp_path, broker(f'user = "u"\n{key}'))
        config = read_config(path)
        assert config.mqtt is not None and config.mqtt.password() == SECRET
        checked = check(path)
        assert SECRET not in f"{config!r} {config} {config.model_dump_json()} {schema()} {checked} {checked.lines}"
        assert "user u with a password" in str(checked.broker)


def test_a_password_file_in_bytes_hides_them_from_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(SECRET.encode() + b"\xff")
    with pytest.raises(ConfigError) as caught:
        Mqtt(password_file=tmp_path / "p").password()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_check_says_what_will_be_watched(tmp_path: Path, bundle: Bundle) -> None:
    checked = check(write(tmp_path, 'site = "clinic"\n' + BED1 + 'record = true\n[record]\nfolder = "kept"\n' + WARD))
    text = "\n".join(checked.lines)
    cyton = devices.DEVICES["cyton"]
    assert f'source "bed1": {cyton.title} on serial /dev/ttyX at 115200 baud; leads ' in text
    assert f"; 250 Hz; {cyton.wiring.units_per_mv:.6g} units per mV; recorded in {tmp_path / 'kept'}" in text
    assert 'source "ward/+/ecg": ' in text and "on mqtt ward/+/ecg; leads as it says itself; rate as it says itself" in text
    assert "site clinic" in text and "broker localhost:1883, MQTT " in text and "http://127.0.0.1:9464/metrics" in text
    assert "medium: atrial fibrillation" in text
    assert sum(map(len, checked.findings.values())) == len(bundle.card.findings)
    assert json.loads(json.dumps(asdict(checked)))["sources"][0]["rate_hz"] == 250


@pytest.mark.parametrize("line", ['tcp = "a:1"', 'file = "a.bin"', 'serial = "/dev/ttyUSB0"', "stdin = true", 'mqtt = "ward/1/ecg"'])
def test_whatever_brings_bytes_serves_one_source(tmp_path: Path, line: str) -> None:
    """Two readers of one FIFO, or of one topic, would each get a part."""
    sources = "".join(f'[[source]]\nname = "bed{i}"\ndevice = "cyton"\n{line}\n' for i in (1, 2))
    with pytest.raises(ConfigError, match=r"bed2.*source 1 has the same"):
        read_config(write(tmp_path, "[mqtt]\n" + sources))


@pytest.mark.parametrize("line", ['leads = ["I"]', "rate_hz = 500", "units_per_mv = 200", "zero = 1"])
def test_what_the_bytes_say_themselves_is_not_said_in_the_config(tmp_path: Path, line: str) -> None:
    """It would change nothing, and seem to."""
    with pytest.raises(ConfigError, match="cardiogloss binary frames say it themselves; leave it out"):
        read_config(write(tmp_path, f'[[source]]\nname = "bed1"\ndevice = "frame"\ntcp = "a:1"\n{line}\n'))


@pytest.mark.parametrize("host", ["bed1..lan", "a" * 64 + ".lan"])
def test_a_host_that_no_resolver_takes_is_refused_at_once(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="host can have"):
        read_config(write(tmp_path, f'[mqtt]\nhost = "{host}"\n[[source]]\nname = "bed1"\ndevice = "frame"\ntcp = "{host}:1"\n'))


def test_check_gives_no_rate_or_scale_for_bytes_that_say_it_and_those_given_for_bytes_that_do_not(tmp_path: Path) -> None:
    given = BRIDGE.replace('"cyton"', '"lines"') + 'rate_hz = 500\nleads = ["I", "II"]\nunits_per_mv = 200\n'
    said = BRIDGE.replace('"cyton"', '"frame"').replace("bed1", "bed2").replace('"a:1"', '"a:2"')
    lines, frames = check(write(tmp_path, given + said)).sources
    assert (lines.leads, lines.rate_hz, lines.units_per_mv) == (("I", "II"), 500, 200)
    assert (frames.leads, frames.rate_hz, frames.units_per_mv) == ((), None, None)


def test_check_tells_a_source_that_is_too_slow_and_a_hop_beyond_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Bundle
) -> None:
    cyton = devices.DEVICES["cyton"]
    slowest_hz = SLOWEST_SHARE * bundle.card.rate_hz
    slow = replace(cyton, name="slow", wiring=replace(cyton.wiring, rate_hz=slowest_hz - 1))
    monkeypatch.setitem(devices.DEVICES, "slow", slow)
    path = write(tmp_path, f"[model]\nhop_s = {bundle.card.window_s + 1}\n" + BED1.replace('"cyton"', '"slow"'))
    with pytest.raises(ConfigError) as caught:
        check(path)
    hop, rate = str(caught.value).split("\n")
    assert hop.startswith(f"{path}: model.hop_s: ") and f"the window's {bundle.card.window_s:g} s" in hop
    assert rate.startswith(f'{path}: source "bed1": rate_hz: {slowest_hz - 1:g} Hz is too slow') and f"{slowest_hz:g} Hz or more" in rate
    check(write(tmp_path, BED1.replace('"cyton"', '"slow"') + f"rate_hz = {slowest_hz}"))


def test_check_passes_on_what_the_bundle_gets_wrong(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=re.escape(str(tmp_path / "none.onnx"))):
        check(write(tmp_path, BED1 + '[model]\nbundle = "none.onnx"'))


def test_check_tells_two_names_of_one_port(tmp_path: Path) -> None:
    (tmp_path / "port").touch()
    (tmp_path / "by-id").symlink_to(tmp_path / "port")
    text = BED1.replace("/dev/ttyX", f"{tmp_path}/port") + BED1.replace("/dev/ttyX", f"{tmp_path}/by-id").replace("bed1", "bed2")
    with pytest.raises(ConfigError, match=r'source "bed2": serial: .*by-id is the port of source "bed1"'):
        check(write(tmp_path, text))


def test_check_tells_absent_files_but_not_credentials_that_come_with_the_service(tmp_path: Path) -> None:
    mqtt = '[mqtt]\ntls = true\nuser = "u"\nca = "ca.pem"\npassword_file = "/run/credentials/cardiogloss-none.service/mqtt"'
    with pytest.raises(ConfigError) as caught:
        check(write(tmp_path, WARD.replace("[mqtt]", mqtt)))
    (line,) = str(caught.value).split("\n")
    assert "mqtt.ca: there is no file" in line


def test_check_says_where_the_dashboard_is_and_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARDIOGLOSS_TEST_TOKEN", raising=False)
    (tmp_path / "c").write_text("")
    text = web('token_env = "CARDIOGLOSS_TEST_TOKEN"\ncertificate = "c"\nkey = "c"')
    (tmp_path / "c").chmod(0o600)
    checked = check(write(tmp_path, text))
    assert "dashboard on https://0.0.0.0:8080, with a token" in checked.lines
    assert any("CARDIOGLOSS_TEST_TOKEN is not set here" in warning for warning in checked.warnings)
    assert "dashboard on http://127.0.0.1:8080, without a token" in check(write(tmp_path, BED1 + "[web]")).lines
    with pytest.raises(ConfigError, match=r"web.key: there is no file"):
        check(write(tmp_path, text.replace('key = "c"', 'key = "k"')))
    with pytest.raises(ConfigError, match=r"web.port: 9464 is that of \[http\]"):
        check(write(tmp_path, BED1 + "[web]\nport = 9464"))


@pytest.mark.parametrize(
    ("host", "local"), [("localhost", True), ("127.8.0.1", True), ("::1", True), ("0.0.0.0", False), ("ward.lan", False)]
)
def test_only_this_machine_is_served_without_a_token(host: str, local: bool, tmp_path: Path) -> None:
    text = BED1 + f'[web]\nhost = "{host}"\ncertificate = "c"\nkey = "k"'
    if local:
        assert read(tmp_path, text).web is not None
    else:
        (line,) = mistakes(tmp_path, text)
        assert "web.token_file: missing" in line


def test_a_token_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARDIOGLOSS_TEST_TOKEN", SECRET)
    (tmp_path / "t").write_text(SECRET + "\n")
    assert Web(token_env="CARDIOGLOSS_TEST_TOKEN").token() == Web(token_file=tmp_path / "t").token() == SECRET
    assert Web().token() is None
    with pytest.raises(ConfigError, match=r"web.token_file: .* is empty; write the token into it"):
        (tmp_path / "t").write_text("\n")
        Web(token_file=tmp_path / "t").token()


def _warnings(folder: Path, text: str) -> list[str]:
    return list(check(write(folder, text)).warnings)


def test_check_opens_nothing(tmp_path: Path) -> None:
    """A FIFO without a writer would block whoever opens it."""
    os.mkfifo(tmp_path / "fifo")
    assert _warnings(tmp_path, BED1.replace("serial", "file").replace("/dev/ttyX", "fifo")) == []
    assert _warnings(tmp_path, BED1.replace("/dev/ttyX", f"{tmp_path}/fifo")) == []


def test_check_warns_of_a_port_that_is_absent_or_may_change(tmp_path: Path) -> None:
    (warning,) = _warnings(tmp_path, BED1.replace("/dev/ttyX", "/dev/serial/by-id/none"))
    assert warning.startswith('source "bed1": serial: there is no port /dev/serial/by-id/none now')
    assert any(
        "may change after a reboot: use its name under /dev/serial/by-id/" in w
        for w in _warnings(tmp_path, BED1.replace("ttyX", "ttyUSB77"))
    )


def test_check_warns_of_a_file_that_is_absent_and_of_records_that_nobody_wants(tmp_path: Path) -> None:
    absent, record = _warnings(tmp_path, BED1.replace("serial", "file").replace("/dev/ttyX", "none") + '[record]\nfolder = "r"')
    assert "there is no file" in absent and record.startswith("record: no source has record = true")


@pytest.mark.parametrize(
    ("host", "doubtful"), [("localhost", False), ("127.0.0.2", False), ("::1", False), ("broker.lan", True), ("10.0.0.7", True)]
)
def test_check_warns_of_a_password_that_leaves_the_machine_unencrypted(
    host: str, doubtful: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARDIOGLOSS_TEST_PASSWORD", SECRET)
    text = broker(f'user = "u"\npassword_env = "CARDIOGLOSS_TEST_PASSWORD"\nhost = "{host}"')
    assert [warning.split(":")[0] for warning in _warnings(tmp_path, text)] == ["mqtt.tls"] * doubtful
    assert _warnings(tmp_path, text.replace("[mqtt]", "[mqtt]\ntls = true")) == []


def test_check_warns_of_a_password_that_is_not_set_or_open_to_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARDIOGLOSS_TEST_PASSWORD", raising=False)
    mqtt = '[mqtt]\nuser = "u"\n'
    (warning,) = _warnings(tmp_path, WARD.replace("[mqtt]", mqtt + 'password_env = "CARDIOGLOSS_TEST_PASSWORD"'))
    assert "CARDIOGLOSS_TEST_PASSWORD is not set here" in warning
    (tmp_path / "p").write_text(SECRET)
    text = WARD.replace("[mqtt]", mqtt + 'password_file = "p"')
    (tmp_path / "p").chmod(0o644)
    (warning,) = _warnings(tmp_path, text)
    assert warning.startswith("mqtt.password_file: everybody on this machine can read") and SECRET not in warning
    (tmp_path / "p").chmod(0o600)
    assert _warnings(tmp_path, text) == []
