"""deploy/compose.yaml, its setup script and the Dockerfiles: what they name is there, and nothing is more open than it must be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.config import read_config

from .test_broker import Person, Site

yaml = pytest.importorskip("yaml", reason="wants PyYAML, which reads the compose file: pip install pyyaml")

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
JETSON: dict[str, Any] = yaml.safe_load((DEPLOY / "compose/jetson.yaml").read_text())
OPEN = {"8883:8883", "8080:8080"}
"""What other machines may reach: the broker with TLS and passwords, the dashboard with TLS and a token."""
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "jetson/Dockerfile"]
PATH = re.compile(r"/(?:[\w.-]+/)+[\w.-]+")

needs_openssl = pytest.mark.skipif(
    not shutil.which("openssl"), reason="wants openssl, which makes the certificates: apt-get install openssl"
)


def setup(deploy: Path, *words: str, code: int = 0) -> str:
    """The script in a copy of deploy; who is not root cannot give files away."""
    owner = [] if os.geteuid() == 0 else ["--keep-owner"]
    done = subprocess.run([deploy / "compose/setup.sh", *words, *owner], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy, with what the script makes in it."""
    if not shutil.which("openssl"):
        pytest.skip("wants openssl, which makes the certificates: apt-get install openssl")
    copy = tmp_path_factory.mktemp("compose") / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets"))
    for path in copy.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    setup(copy, "ward.example")
    yield copy


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mounts(name: str) -> dict[str, str]:
    """Where what lies on the machine (or the name of a volume) is seen in the container."""
    return {target: source for source, target in (one.split(":")[:2] for one in SERVICES[name]["volumes"])}


def outside(deploy: Path, name: str, path: str) -> Path | None:
    """What a container has under this path; None where the path is on no mount of ours."""
    for target, source in mounts(name).items():
        if source.startswith("./") and (path + "/").startswith(target + "/"):
            return deploy / source / path[len(target) :].lstrip("/")
    return None


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded_hardened_watched_and_of_a_known_version(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["restart"] == "unless-stopped"
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"]) and service["pids_limit"] > 0
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["logging"]["driver"] == "json-file" and {"max-size", "max-file"} <= service["logging"]["options"].keys()
    assert "privileged" not in service and "network_mode" not in service


def test_other_machines_reach_the_broker_with_tls_and_the_dashboard_and_nothing_else() -> None:
    ports = {port for service in SERVICES.values() for port in service["ports"]}
    assert {port for port in ports if not port.startswith("127.0.0.1:")} == OPEN
    assert not any(port.endswith(f":{read_config(DEPLOY / 'compose/edge.toml').http.port}") for port in ports)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", SERVICES)
def test_whatever_is_mounted_is_in_the_tree_or_made_by_the_script_and_cannot_be_changed(deploy: Path, name: str) -> None:
    for mount in SERVICES[name]["volumes"]:
        source, _, *flags = mount.split(":")
        if source.startswith("./"):
            assert (deploy / source).exists() and flags == ["ro"], mount
        else:
            assert source in COMPOSE["volumes"] and not flags


CONFIGS = {
    "mosquitto": ("compose/mosquitto.conf", "mosquitto.conf"),
    "cardiogloss": ("compose/edge.toml",),
    "prometheus": ("prometheus.yml",),
    "grafana": ("grafana/provisioning/datasources/prometheus.yaml", "grafana/provisioning/dashboards/cardiogloss.yaml"),
}


@pytest.mark.parametrize("name", SERVICES)
def test_every_file_that_a_container_is_told_of_is_there(deploy: Path, name: str) -> None:
    """In its config, its command, its environment and its health check."""
    service = SERVICES[name]
    texts = [line for path in CONFIGS[name] for line in (deploy / path).read_text().splitlines() if not line.startswith("#")]
    texts += [*service.get("command", ()), *service.get("environment", {}).values(), *service["healthcheck"]["test"]]
    named = {path for text in texts for path in PATH.findall(re.sub(r"\w+://[^'\"\s]+", "", text))}
    assert named
    for path in named:
        file = outside(deploy, name, path)
        below = [target for target in mounts(name) if target.startswith(path)]
        assert below or (file and file.exists()), f"{name} has no {path}"


@needs_openssl
def test_a_second_setup_changes_no_byte(deploy: Path) -> None:
    before = files(deploy)
    for words in ((), ("ward.example",)):
        setup(deploy, *words)
        assert files(deploy) == before


def test_the_monitor_finds_the_broker_under_a_name_in_its_certificate(deploy: Path) -> None:
    config = read_config(deploy / "compose/edge.toml")
    assert config.mqtt is not None and config.mqtt.host in SERVICES
    for certificate, host in (
        ("mosquitto/server.crt", config.mqtt.host),
        ("mosquitto/server.crt", "localhost"),
        ("cardiogloss/web.crt", "ward.example"),
    ):
        command = ["openssl", "x509", "-noout", "-checkhost", host, "-in", str(deploy / "compose/secrets" / certificate)]
        assert "does match" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_secrets_are_read_by_their_container_and_by_nobody_else(deploy: Path) -> None:
    secrets = deploy / "compose/secrets"
    owners = {"authority": 0, "mosquitto": int(SERVICES["mosquitto"]["user"].split(":")[0]), "cardiogloss": _image_user(), "grafana": 472}
    assert {path.name for path in secrets.iterdir()} == owners.keys()
    for path in secrets.rglob("*"):
        state = path.stat()
        assert state.st_mode & 0o077 == 0, path
        assert os.geteuid() != 0 or state.st_uid == owners[path.relative_to(secrets).parts[0]], path
    assert list(secrets.rglob("ca.key")) == [secrets / "authority/ca.key"]


def _image_user() -> int:
    users = {re.findall(r"^USER (\S+)$", path.read_text(), re.MULTILINE)[-1] for path in DOCKERFILES}
    assert len(users) == 1
    return int(users.pop())


class Composed(Site):
    """The broker of the compose file, with the files that the script made."""

    def __init__(self, deploy: Path) -> None:
        self._made = deploy / "compose/secrets/mosquitto"
        super().__init__(deploy.parent / "broker")

    def make(self) -> None:
        shutil.copytree(self._made, self.folder)
        shutil.copytree(self._made.parent / "authority/clients", self.folder / "clients")


def test_the_passwords_that_the_script_made_open_the_broker_and_the_old_ones_do_not(deploy: Path) -> None:
    old, new = (re.findall(r"password (\w+)", setup(deploy, "--user", "bed7"))[0] for _ in range(2))
    setup(deploy, "--certificate", "bed8")
    monitor = (deploy / "compose/secrets/cardiogloss/mqtt-password").read_text().strip()
    with Composed(deploy) as broker:
        for user, password, comes_in in (("cardiogloss", monitor, True), ("bed7", new, True), ("bed7", old, False), ("viewer", "", False)):
            person = Person(broker, user)
            person.client.username_pw_set(user, password)
            assert person.connect().came_in == comes_in
            person.close()
        for user in ("health", "bed8"):
            with Person(broker, user, broker.folder / "clients" / user):
                pass


def test_another_password_for_one_device_is_none_for_those_of_a_like_name(deploy: Path) -> None:
    passwords = deploy / "compose/secrets/mosquitto/passwords"
    for name in ("bed-9", "bed.9", "bed.9"):
        setup(deploy, "--user", name)
    names = [line.partition(":")[0] for line in passwords.read_text().splitlines()]
    assert sorted(names) == sorted(set(names)) and {"cardiogloss", "bed-9", "bed.9"} <= set(names)


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_of_the_checkout_can_be_read_by_users_of_containers(deploy: Path, name: str) -> None:
    """The copy was made as by one who lets nobody else read his files."""
    for source in mounts(name).values():
        if source.startswith("./") and "/secrets" not in source:
            for path in [deploy / source, *(deploy / source).rglob("*")]:
                assert path.stat().st_mode & 0o004, path


@pytest.mark.parametrize("words", [["--user"], ["--user", "a/b"], ["--user", "cardiogloss"], ["--what"], ["a b"]])
def test_a_mistake_is_said_and_changes_nothing(deploy: Path, words: list[str]) -> None:
    before = files(deploy)
    assert ": " in setup(deploy, *words, code=2)
    assert files(deploy) == before


def test_the_images_run_a_program_that_hears_signals_as_a_user_without_rights() -> None:
    for path in DOCKERFILES:
        last = path.read_text().rpartition("\nFROM ")[2]
        for word in ("ENTRYPOINT", "CMD"):
            (found,) = re.findall(rf"^(?:    )?{word} (.*)$", last, re.MULTILINE)[-1:]
            assert found.startswith("["), "a shell would hear the signal, and not cardiogloss"
        assert _image_user() > 0
        assert f":{read_config(DEPLOY / 'compose/edge.toml').http.port}/healthz" in last  # type: ignore[union-attr]


def test_the_images_begin_from_a_tagged_one_and_end_without_a_compiler() -> None:
    for path in DOCKERFILES:
        text = path.read_text()
        defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
        stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.MULTILINE)
        names = {name for _, name in stages}
        for image, _ in stages:
            known = image
            for word, value in defaults.items():
                known = known.replace(f"${{{word}}}", value)
            assert known in names or re.search(r":\w*\d[\w.-]*$", known), image
        assert "build-essential" not in text.rpartition("\nFROM ")[2]


def test_the_images_are_built_from_the_packages_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    taken = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines and all((ROOT / name).exists() for name in taken)
    packages = re.findall(r"^packages = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
    assert {name.split(".")[0] for name in re.findall(r'"([\w.]+)"', packages)} | {"pyproject.toml", "README.md", "LICENSE"} == taken


def compose_command() -> list[str]:
    """Of Docker Compose 2, as plug-in or by itself; empty where there is none. It needs no engine to check a file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            told = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if told.returncode == 0 and told.stdout.strip().lstrip("v").split(".")[0].isdigit() and not told.stdout.startswith("1."):
                return command
    return []


@pytest.mark.parametrize("more", [[], ["compose/jetson.yaml"]])
def test_docker_compose_itself_takes_the_files(deploy: Path, more: list[str]) -> None:
    command = compose_command()
    if not command:
        pytest.skip("wants Docker Compose 2; `docker compose version` or `docker-compose version` says whether it is there")
    named = [word for path in ("compose.yaml", *more) for word in ("-f", str(deploy / path))]
    done = subprocess.run([*command, *named, "config", "--format", "json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services.keys() == SERVICES.keys()
    assert services["cardiogloss"].get("runtime") == ("nvidia" if more else None)
    for service in services.values():
        for mount in service["volumes"]:
            assert mount["type"] == "volume" or Path(mount["source"]).exists()
