"""Dashboard, alert rules and scrape config: they ask for figures that a real daemon exports, and the rules fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge.decode.chunk import Chunk

from .broker import Mosquitto
from .daemon import Client, Daemon, between, config, frames, on_topic

yaml = pytest.importorskip("yaml", reason="wants PyYAML, which reads the rules: pip install pyyaml")

DEPLOY = Path(__file__).parent.parent / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/cardiogloss.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())["groups"][0]["rules"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [rule["expr"] for rule in RULES]
OF_PROMETHEUS = {"up", "ALERTS"}
WORDS = {"and", "or", "unless"}


def figures(expression: str) -> set[str]:
    """The metrics that PromQL text names: its identifiers without labels, ranges, groupings and functions."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)', " ", re.sub(r'"[^"]*"', "", expression))
    return {name for name, call in re.findall(r"\b([A-Za-z_:][\w:]*)\b\s*(\(?)", bare) if not call} - WORDS


def labels(expression: str) -> set[str]:
    return set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expression))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, excerpt: Chunk) -> dict[str, set[str]]:
    """Of a real daemon with a broker and a source that has sent something, and of a gateway: each figure, with its labels."""
    folder = tmp_path_factory.mktemp("daemon")
    with Mosquitto(folder) as broker, Client(broker.port) as client, Daemon(folder, config(on_topic("bed1"), broker=broker.port)) as daemon:
        daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
        client.send_all("bed1", frames(between(excerpt, 0, 5)))
        daemon.wait_for_samples("bed1", 5 * 360)
        with Daemon(folder / "gateway", _REMOTE.format(port=broker.port)) as gateway:
            return _figures(gateway.page("metrics")[1]) | _figures(daemon.page("metrics")[1])


_REMOTE = """
site = "elsewhere"
[model]
engine = "remote"
[mqtt]
port = {port}
[http]
port = 0
[[source]]
mqtt = "cardiogloss/elsewhere/+/ecg"
"""


def _figures(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        # Rate and drift have no sample before they have been measured for a while.
        of_sources = {"source"} if name.startswith("cardiogloss_source_") else set()
        found[name] = {label for sample in family.samples for label in sample.labels} | of_sources
    return found


@pytest.mark.parametrize(("expression", "named"), [
    ('sum by (source) (rate(a_total{state!="b", c=~"d.*"}[5m])) > 0.01 * b_total', {"a_total", "b_total"}),
    ('up{job="x"} == 0', {"up"}),
    ("increase(a[1m]) > 0 and on (instance) b or c > 7e6", {"a", "b", "c"}),
])  # fmt: skip
def test_the_reader_of_expressions_finds_every_figure(expression: str, named: set[str]) -> None:
    assert figures(expression) == named


def test_every_expression_asks_for_figures_and_labels_that_a_daemon_exports(exported: dict[str, set[str]]) -> None:
    for expression in EXPRESSIONS:
        named = figures(expression)
        assert named and named <= exported.keys() | OF_PROMETHEUS, expression
        known = set().union(*(exported.get(name, set()) for name in named)) | {"job", "instance", "alertstate"}
        assert labels(expression) <= known, expression


def test_every_figure_of_ours_is_on_the_dashboard(exported: dict[str, set[str]]) -> None:
    shown = set().union(*(figures(expression) for expression in EXPRESSIONS))
    assert {name for name in exported if name.startswith("cardiogloss_")} <= shown


def test_counters_are_asked_for_their_growth_and_nothing_else_is() -> None:
    for expression in EXPRESSIONS:
        grown = set(re.findall(r"(?:rate|increase)\((\w+)", expression))
        assert grown == {name for name in figures(expression) if name.endswith("_total")}, expression


def test_the_dashboard_holds_together() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = [tuple(panel["gridPos"][key] for key in "xywh") for panel in DASHBOARD["panels"]]
    cells = [(column, line) for x, y, w, h in taken for column in range(x, x + w) for line in range(y, y + h)]
    assert len(set(cells)) == len(cells) and max(column for column, _ in cells) < 24, "panels lie on each other"
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    known = {one["uid"] for one in sources}
    for panel in PANELS:
        assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} <= known
        assert set(re.findall(r"\$(\w+)", json.dumps(panel["targets"]))) <= {one["name"] for one in DASHBOARD["templating"]["list"]}
    assert int(DASHBOARD["schemaVersion"]) >= 39, "that of Grafana 11"


def test_every_rule_says_how_bad_it_is_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"].endswith(".")


def test_prometheus_of_the_compose_file_asks_where_the_monitor_answers() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    jobs = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"][0].split(":") for job in jobs}
    host, port = targets["cardiogloss"]
    assert host in compose and set(compose[host]["networks"]) & set(compose["prometheus"]["networks"])
    assert f"port = {port}" in (DEPLOY / "compose/edge.toml").read_text().partition("[http]")[2].partition("[web]")[0]


MONITOR = 'instance="a", job="cardiogloss"'
WELL = {
    f"up{{{MONITOR}}}": "1x40",
    f"cardiogloss_broker_connected{{{MONITOR}}}": "1x40",
    f"cardiogloss_outbox_waiting{{{MONITOR}}}": "0x40",
    f"cardiogloss_outbox_dropped_total{{{MONITOR}}}": "0x40",
    f"cardiogloss_outbox_refused_total{{{MONITOR}}}": "0x40",
    f"cardiogloss_windows_scored_total{{{MONITOR}}}": "0+30x40",
    f"cardiogloss_rounds_total{{{MONITOR}}}": "0+90x40",
    f"cardiogloss_faults_total{{{MONITOR}}}": "0x40",
    f'cardiogloss_source_state{{{MONITOR}, source="bed1", state="online"}}': "1x40",
    f'cardiogloss_source_state{{{MONITOR}, source="bed1", state="stalled"}}': "0x40",
    f'cardiogloss_source_state{{{MONITOR}, source="bed1", state="offline"}}': "0x40",
    f'cardiogloss_source_samples_total{{{MONITOR}, source="bed1"}}': "0+7500x40",
    f'cardiogloss_source_lost_total{{{MONITOR}, source="bed1"}}': "0+10x40",
    f'cardiogloss_source_dropped_bytes_total{{{MONITOR}, source="bed1"}}': "0x40",
    f'cardiogloss_source_unrecorded_total{{{MONITOR}, source="bed1"}}': "0x40",
    f"process_start_time_seconds{{{MONITOR}}}": "1000x40",
    f"process_resident_memory_bytes{{{MONITOR}}}": "2e8x40",
}
"""Half a minute from one to the next; `first+step x times`, as promtool writes it."""

ILL = {
    "MonitorDown": {"up{": "1x10 0x30"},
    "SourceSilent": {'state="online"': "1x10 0x30", 'state="stalled"': "0x10 1x30"},
    "BrokerAway": {"broker_connected": "1x10 0x30"},
    "AlertsWait": {"outbox_waiting": "0x10 3x30"},
    "AlertsLost": {"outbox_refused": "0x30 1x10"},
    "ScoringStands": {"rounds": "0+90x10 990x30"},
    "NoWorkerAnswers": {"rounds": "0+90x10 990x30", "fleet_scored": "0+30x10 330x30"},
    "WorkersRefuse": {"fleet_scored": "0+30x40", "fleet_refused": "0x30 7x10"},
    "SamplesThrownAway": {"dropped_bytes": "0x36 5000x4"},
    "SamplesLost": {"source_lost": "0+300x40"},
    "RecordingFails": {"unrecorded": "0x36 500x4"},
    "ProgramFault": {"faults": "0x30 1x10"},
    "MonitorRestarts": {"process_start_time": "1000+100x5 2000x34"},
    "MemoryShort": {"resident_memory": "2e8x10 9e8x30"},
}


WELL_TOO = {
    "a bed whose electrodes are off": {"windows_scored": "0+30x10 330x30"},
    "a gateway": {"fleet_scored": "0+30x40", "fleet_refused": "0x40"},
}
FLEET = {f"cardiogloss_fleet_{name}_total{{{MONITOR}}}": "" for name in ("scored", "refused")}


def _tell(changes: dict[str, str]) -> list[dict[str, str]]:
    known = WELL | {name: values for name, values in FLEET.items() if any(part in name for part in changes)}
    told = {name: next((values for part, values in changes.items() if part in name), values) for name, values in known.items()}
    return [{"series": name, "values": values} for name, values in told.items()]


def test_each_rule_fires_for_its_own_ill_and_none_when_all_is_well(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("wants promtool, which tries the rules: apt-get install prometheus")
    assert ILL.keys() == {rule["alert"] for rule in RULES}
    well = [_case("", changes, name) for name, changes in {"all is well": {}, **WELL_TOO}.items()]
    tests = [*well, *(_case(name, changes, name) for name, changes in ILL.items())]
    shutil.copy(DEPLOY / "prometheus-rules.yml", tmp_path)
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": ["prometheus-rules.yml"], "evaluation_interval": "30s", "tests": tests})
    )
    done = subprocess.run([promtool, "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _case(firing: str, changes: dict[str, str], name: str) -> dict[str, Any]:
    """After twenty minutes this rule fires, and no other."""
    return {
        "name": name,
        "interval": "30s",
        "input_series": _tell(changes),
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "20m",
                "exp_samples": [{"labels": f'{{alertname="{firing}"}}', "value": 1}] if firing else [],
            }
        ],
    }
