"""deploy/certificates.sh with a real openssl: what it makes is checked by Python's TLS, and nothing that exists is lost."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "deploy" / "certificates.sh"

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="wants openssl, which makes the certificates: apt-get install openssl")


def certificates(*words: str | Path, code: int = 0) -> str:
    """What it says on both sides."""
    done = subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert bool(done.stderr) == (code != 0)
    return done.stdout + done.stderr


def openssl(*words: str | Path, code: int = 0) -> str:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def field(certificate: Path, name: str) -> str:
    return openssl("x509", "-noout", f"-{name}", "-in", certificate).strip().partition("=")[2]


def ends(certificate: Path) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(field(certificate, "enddate")), timezone.utc)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def handshake(folder: Path, server: str, host: str, client: str | None = None) -> str:
    """A TLS connection in memory, checked as strictly as Python can. The name of the client that the server saw."""
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=folder / "ca.crt")
    ours.load_cert_chain(folder / f"{server}.crt", folder / f"{server}.key")
    ours.load_verify_locations(folder / "ca.crt")
    for context in (ours, theirs):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    if client is not None:
        ours.verify_mode = ssl.CERT_REQUIRED
        theirs.load_cert_chain(folder / f"clients/{client}.crt", folder / f"clients/{client}.key")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near, far = theirs.wrap_bio(down, up, server_hostname=host), ours.wrap_bio(up, down, server_side=True)
    for one in (near, far, near, far):
        try:
            one.do_handshake()
        except ssl.SSLWantReadError:
            continue
    seen = far.getpeercert()
    return dict(pair for group in seen["subject"] for pair in group)["commonName"] if seen else ""  # type: ignore[misc]


def test_broker_and_dashboard_are_trusted_by_every_name_that_was_given_and_no_other(tmp_path: Path) -> None:
    certificates(tmp_path, "ward.example", "192.0.2.7", "2001:db8::7")
    certificates(tmp_path, "--web", "board.example")
    for host in ("ward.example", "192.0.2.7", "2001:db8::7", "localhost", "127.0.0.1", "::1"):
        handshake(tmp_path, "server", host)
    handshake(tmp_path, "web", "board.example")
    for host in ("other.example", "192.0.2.8", "board.example"):
        with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
            handshake(tmp_path, "server", host)


def test_a_client_is_known_by_its_name_and_cannot_pass_for_a_server(tmp_path: Path) -> None:
    certificates(tmp_path)
    certificates(tmp_path, "--client", "bed-1.left")
    assert handshake(tmp_path, "server", "localhost", "bed-1.left") == "bed-1.left"
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unsuitable certificate purpose|unsupported certificate purpose"):
        handshake(tmp_path, "clients/bed-1.left", "localhost")


def test_keys_are_of_p256_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    certificates(folder)
    certificates(folder, "--client", "bed1")
    keys = [*folder.rglob("*.key")]
    assert {path.name for path in keys} == {"ca.key", "server.key", "bed1.key"}
    for path in keys:
        assert path.stat().st_mode & 0o777 == 0o600
        assert "prime256v1" in openssl("pkey", "-noout", "-text", "-in", path)
    assert folder.stat().st_mode & 0o077 == 0


def test_the_validity_is_that_which_was_asked_for(tmp_path: Path) -> None:
    certificates(tmp_path, "--days", "90")
    certificates(tmp_path, "--client", "bed1")
    now = datetime.now(timezone.utc)
    for name, days in (("ca", 3650), ("server", 90), ("clients/bed1", 825)):
        assert abs(ends(tmp_path / f"{name}.crt") - now - timedelta(days=days)) < timedelta(hours=1)


def test_a_second_run_changes_no_byte(tmp_path: Path) -> None:
    runs = ((tmp_path, "ward.example"), (tmp_path, "--web"), (tmp_path, "--client", "bed1"))
    for words in runs:
        certificates(*words)
    before = files(tmp_path)
    assert all("kept" in certificates(*words) for words in runs)
    assert files(tmp_path) == before


def test_what_nears_its_end_is_signed_anew_by_itself_with_the_same_key_names_and_authority(tmp_path: Path) -> None:
    certificates(tmp_path, "ward.example", "2001:db8::7", "--days", "29")
    certificates(tmp_path, "--client", "bed1", "--days", "31")
    before = files(tmp_path)
    assert "made" in certificates(tmp_path)
    assert "kept" in certificates(tmp_path, "--client", "bed1")
    after = files(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"server.crt"}
    assert ends(tmp_path / "server.crt") > datetime.now(timezone.utc) + timedelta(days=800)
    for host in ("ward.example", "2001:db8::7", "localhost"):
        handshake(tmp_path, "server", host)


def test_other_hosts_are_taken_only_with_renew(tmp_path: Path) -> None:
    certificates(tmp_path, "ward.example")
    before = files(tmp_path)
    assert "--renew" in certificates(tmp_path, "other.example", code=2)
    assert files(tmp_path) == before
    certificates(tmp_path, "other.example", "--renew")
    handshake(tmp_path, "server", "other.example")
    assert files(tmp_path)["server.key"] == before["server.key"]


@pytest.mark.parametrize("gone", ["ca.key", "ca.crt"])
def test_an_authority_of_which_half_is_away_is_never_made_anew(tmp_path: Path, gone: str) -> None:
    certificates(tmp_path)
    (tmp_path / gone).unlink()
    before = files(tmp_path)
    assert f"no {gone}" in certificates(tmp_path, "--renew", code=2)
    assert files(tmp_path) == before


def test_a_certificate_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    certificates(tmp_path / "one")
    certificates(tmp_path / "other")
    for name in ("server.crt", "server.key"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "one" / name)
    before = files(tmp_path)
    for words in ((), ("--renew",)):
        assert "not of this authority" in certificates(tmp_path / "one", *words, code=2)
    assert files(tmp_path) == before


def test_a_revoked_client_is_on_the_list_and_its_name_may_have_another(tmp_path: Path) -> None:
    certificates(tmp_path, "--client", "bed1")
    certificates(tmp_path, "--client", "bed2")
    certificates(tmp_path, "--revoke", "bed1")
    certificates(tmp_path, "--client", "bed1")
    (old,) = (tmp_path / "revoked").iterdir()
    check = ("verify", "-CAfile", tmp_path / "ca.crt", "-CRLfile", tmp_path / "ca.crl", "-crl_check")
    for name in ("bed1", "bed2"):
        openssl(*check, tmp_path / "clients" / f"{name}.crt")
    openssl(*check, old, code=2)
    assert "no" in certificates(tmp_path, "--revoke", "bed3", code=2)


@pytest.mark.parametrize("name", ["", "a/b", "a+b", "#", "-bed", "../bed", "bed 1", "bed=1", "x" * 65, "bed1\n/CN=nurse"])
def test_a_name_that_is_no_level_of_a_topic_makes_nothing(tmp_path: Path, name: str) -> None:
    certificates(tmp_path / "none", "--client", name, code=2)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "words", [["a b"], ["a,DNS:b"], ["--client"], ["--days", "0"], ["--days", "x"], ["--what"], ["--client", "x", "host"]]
)
def test_a_mistake_is_said_in_one_line_and_makes_nothing(tmp_path: Path, words: list[str]) -> None:
    told = certificates(tmp_path / "none", *words, code=2)
    assert told.startswith("certificates.sh: ")
    assert told.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_help_and_wrong_use_tell_every_option(tmp_path: Path) -> None:
    told = certificates("--help")
    assert certificates(code=2) == told
    assert all(option in told for option in ("--web", "--client", "--revoke", "--renew", "--days"))
