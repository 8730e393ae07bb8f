"""Finding: each recording once and by one name, nothing missed in silence, and no file that can stop the search."""

from __future__ import annotations

import fnmatch
import gzip
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st

from edge.archive.find import Found, find
from edge.archive.wfdb_files import Named, files_of, named_in
from edge.decode.csv import Columns
from edge.transport.file import open_recording
from kernels.findings import ConfigError

from .conftest import ARCHIVE, EXCERPT

ROOT = Path(__file__).parent.parent
EDF = b"0       "
"""So much of an EDF file tells its format."""


@pytest.fixture(autouse=True)
def _no_search_takes_long() -> Iterator[None]:
    """A FIFO that is opened, or a circle of links that is followed, would never end."""

    def too_long(*_: object) -> None:
        raise AssertionError("the search does not end")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _record(folder: Path, name: str, signals: str = "") -> Path:
    """A short one; its signals in a file of another name if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    file = signals or f"{name}.dat"
    (folder / f"{name}.hea").write_text(f"{name} 1 100 500\n{file} 16 1000/mV 16 0 0 0 0 II\n")
    (folder / file).write_bytes(bytes(1000))
    return folder / f"{name}.hea"


def _longer(folder: Path, name: str = "whole", of: tuple[str, ...] = ("s1", "s2")) -> Path:
    for segment in of:
        _record(folder, segment)
    (folder / f"{name}.hea").write_text(f"{name}/{len(of)} 1 100 {500 * len(of)}\n" + "".join(f"{segment} 500\n" for segment in of))
    return folder / f"{name}.hea"


def _names(found: Found) -> list[str]:
    return [entry.name for entry in found.entries]


# What is no regular file


def test_what_is_no_regular_file_is_left_out_and_never_opened(tmp_path: Path) -> None:
    _record(tmp_path, "r")
    for name in ("pipe", "pipe.hea", "pipe.edf", "r.atr"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "link.csv").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as unix, tempfile.TemporaryDirectory() as short:
        unix.bind(f"{short}/s")
        (tmp_path / "socket.dcm").symlink_to(f"{short}/s")
        for paths in ([str(tmp_path)], [str(tmp_path / "*")]):
            found = find(paths)
            assert _names(found) == ["r"]
            assert found.left_out == dict.fromkeys(
                ("link.csv", "pipe", "pipe.edf", "pipe.hea", "r.atr", "socket.dcm"), "is no regular file"
            )
            assert not found.unreadable


def test_a_device_that_is_named_is_the_operators_mistake(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.hea")
    for path in (tmp_path / "pipe.hea", Path("/dev/null")):
        with pytest.raises(ConfigError, match="no regular file"):
            find([str(path)])


def test_a_record_whose_signals_come_through_a_pipe_is_unreadable(tmp_path: Path) -> None:
    _longer(tmp_path)
    (tmp_path / "s2.dat").unlink()
    os.mkfifo(tmp_path / "s2.dat")
    found = find([str(tmp_path)])
    assert found.unreadable == {"whole.hea": "its file s2.dat is no regular file"}


# Links


def test_double_stars_match_all_folders_below_however_links_run_in_circles(tmp_path: Path) -> None:
    for folder in ("a", "a/b", "a/b/c", "a/[d]", "a/.hidden"):
        _record(tmp_path / folder, "r")
    listed = [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.hea")]
    for link in ("a/x", "a/y", "a/b/z"):
        (tmp_path / link).symlink_to(tmp_path / "a")
    for pattern in ("a/**/*.hea", "**/r.hea", "a/**/**/c/*.hea", "*/**/b/**/*.hea", "a/**/?[d]?/r.hea", "**/b/*.hea"):
        expected = [file for file in listed if _by_regex(pattern).fullmatch(file)]
        assert expected
        assert sorted(os.path.relpath(entry.path, tmp_path) for entry in find([f"{tmp_path}/{pattern}"]).entries) == sorted(expected)


def _by_regex(pattern: str) -> re.Pattern[str]:
    below = {"**": "(?:[^/.][^/]*/)*", "*": "[^/.][^/]*/"}
    return re.compile(
        "".join(below.get(part, fnmatch.translate(part)[4:-3].replace(".*", "[^/]*") + "/") for part in pattern.split("/"))[:-1]
    )


def test_double_stars_at_the_end_stand_for_all_below(tmp_path: Path) -> None:
    _record(tmp_path / "a/b/c", "r")
    _record(tmp_path / "a", "s")
    (tmp_path / "a/loop").symlink_to(".")
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a/b"):
        assert find([f"{folder}/**"]).entries == find([f"{folder}/**/**"]).entries == find([str(folder)]).entries


def test_a_link_that_cannot_be_followed_is_unreadable_and_does_not_end_the_search(tmp_path: Path) -> None:
    _record(tmp_path, "r")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "one.edf").symlink_to("two.edf")
    (tmp_path / "two.edf").symlink_to("one.edf")
    (tmp_path / "gone.edf").symlink_to("absent.edf")
    (tmp_path / "gone.md").symlink_to("absent.md")
    for path in (str(tmp_path), f"{tmp_path}/*"):
        found = find([path])
        assert _names(found) == ["r"]
        assert set(found.unreadable) == {"self", "one.edf", "two.edf", "gone.edf"}
        assert set(found.left_out) == {"gone.md"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_links_and_patterns_into_a_closed_folder_say_so(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    for name in ("closed", "closed/in", "open"):
        _record(tmp_path / name, "r")
    (tmp_path / "open/link").symlink_to(tmp_path / "closed/in")
    (tmp_path / "open/r.atr").symlink_to(tmp_path / "closed/r.hea")
    (tmp_path / "closed").chmod(0o700)
    cases = (
        ([tmp_path], {"closed", "open/link"}),
        ([tmp_path / "**/*.hea"], {"closed"}),
        ([tmp_path, tmp_path / "closed/r"], {"closed", "closed/r", "open/link"}),
    )
    for paths, closed in cases:
        found = _as_nobody(*paths)
        assert found["names"] == ["open/r"]
        assert set(found["unreadable"]) == closed
        assert all("permission" in reason for reason in found["unreadable"].values())


def _as_nobody(*paths: Path) -> dict[str, Any]:
    code = f"""if True:
        import json, os
        from edge.archive.find import find
        os.setresuid(65534, 65534, 65534)
        found = find({list(map(str, paths))!r})
        print(json.dumps({{"names": [entry.name for entry in found.entries], "unreadable": found.unreadable}}))
    """
    return json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True))


def test_a_header_that_is_a_link_does_not_hide_the_record_it_leads_to(tmp_path: Path) -> None:
    real = _record(tmp_path / "z", "r")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/r.hea").symlink_to("../z/r.hea")
    (entry,) = find([str(tmp_path)]).entries
    assert (entry.name, entry.path) == ("z/r", str(real))
    (alone,) = find([str(tmp_path / "a")]).entries
    assert (alone.name, alone.bytes) == ("r", entry.bytes)
    assert open_recording(Path(alone.path)).duration_s == 5.0


def test_a_record_all_of_whose_files_are_links_elsewhere_is_opened_by_its_own_name(tmp_path: Path) -> None:
    """As git-annex keeps them."""
    header = _record(tmp_path / "archive", "r")
    for file in (header, header.with_suffix(".dat")):
        shutil.move(file, tmp_path / f"key-of-{file.name}")
        file.symlink_to(tmp_path / f"key-of-{file.name}")
    (entry,) = find([str(tmp_path / "archive")]).entries
    assert (entry.name, entry.path) == ("r", str(header))
    assert entry.bytes == sum(file.stat().st_size for file in tmp_path.glob("key*"))


def test_records_that_share_a_header_but_not_the_signals_are_two(tmp_path: Path) -> None:
    _record(tmp_path / "z", "r")
    _record(tmp_path / "a", "r")
    (tmp_path / "a/r.hea").unlink()
    (tmp_path / "a/r.hea").symlink_to("../z/r.hea")
    assert _names(find([str(tmp_path)])) == ["a/r", "z/r"]


def test_a_link_never_gives_a_recording_its_name(tmp_path: Path) -> None:
    _record(tmp_path / "z/deep", "r")
    (tmp_path / "z/x.edf").write_bytes(EDF)
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x.edf").symlink_to("../z/x.edf")
    for paths in (["."], ["a", "b", "z"], ["*"], ["z", "b", "a/deep"]):
        assert _names(find([str(tmp_path / path) for path in paths])) == ["z/deep/r", "z/x.edf"]


# Which files belong to a record


def test_signal_files_are_those_that_the_header_names(tmp_path: Path) -> None:
    other = _record(tmp_path, "other", signals="00001_lr.dat")
    found = find([str(tmp_path)])
    assert _names(found) == ["other"]
    assert (found.unreadable, found.left_out) == ({}, {})
    assert found.entries[0].bytes == other.stat().st_size + 1000


def test_a_change_of_any_segment_changes_the_record(tmp_path: Path) -> None:
    _longer(tmp_path)
    before = find([str(tmp_path)]).entries
    assert [entry.name for entry in before] == ["whole"]
    assert before[0].bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    for name in ("s1.dat", "s2.dat", "s2.hea", "whole.hea"):
        os.utime(tmp_path / name, ns=(0, before[0].changed_ns + 10**9))
        after = find([str(tmp_path)]).entries
        assert after != before, name
        before = after


@pytest.mark.parametrize("ending", ["atr", "ecg", "qrs"])
def test_annotations_belong_to_a_record_and_other_files_beside_it_do_not(ending: str, tmp_path: Path) -> None:
    _longer(tmp_path)
    (before,) = find([str(tmp_path)]).entries
    for name in ("whole.txt", "whole.md", "whole.st-", "s1.atr"):
        (tmp_path / name).write_bytes(b"x\0")
    assert find([str(tmp_path)]).entries == [before]
    (tmp_path / f"whole.{ending}").write_bytes(b"x\0")
    found = find([str(tmp_path)])
    assert [(entry.name, entry.bytes) for entry in found.entries] == [("whole", before.bytes + 2)]
    assert (found.unreadable, found.left_out) == ({}, {})


def test_what_lies_broken_beside_a_record_does_not_matter_to_it(tmp_path: Path) -> None:
    _record(tmp_path, "00001_lr")
    for name in ("00001_lr.txt", "00001_lr.atr", "00001_lr.xml"):
        (tmp_path / name).symlink_to("absent")
    found = find([str(tmp_path)])
    assert _names(found) == ["00001_lr"]
    assert not found.unreadable


def test_records_that_name_each_other_as_segments_do_not_vanish(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a"), ("c", "c")):
        (tmp_path / f"{name}.hea").write_text(f"{name}/1 1 100 500\n{other} 500\n")
    assert _names(find([str(tmp_path)])) == ["a", "b", "c"]


def test_segments_without_signals_and_names_with_folders_are_passed_over(tmp_path: Path) -> None:
    header = tmp_path / "r.hea"
    header.write_text("r/4 1 100 900\n~ 100\nlayout 0\n../s 400\ns 400\n")
    assert named_in(header) == Named(segments=("layout", "s"))
    (tmp_path / "s.hea").write_text("s 3 100\n~ 0 200/mV\n../x.dat 16 200/mV\ns.dat 16 200/mV\ns.dat 16 200/mV\n")
    assert [file.name for file in files_of(header, named_in(header))] == ["r.hea", "layout.hea", "s.hea", "s.dat"]


@given(
    st.binary(max_size=300)
    | st.tuples(st.sampled_from([b"r 2 360 9\n", b"r/2 2 360\n", b"r 99999999999999999999\n"]), st.binary(max_size=99)).map(b"".join)
)
def test_any_bytes_may_stand_in_a_header(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "r.hea").write_bytes(data)
    (folder / "x.edf").write_bytes(EDF)
    assert {"r", "x.edf"} >= {entry.name for entry in find([str(folder)]).entries}


@pytest.mark.skipif(not (ARCHIVE / "mitdb").is_dir(), reason="the data pack is not there")
def test_the_wfdb_package_names_the_same_files() -> None:
    for header in [
        *(ARCHIVE / "mitdb").glob("*.hea"),
        *(ARCHIVE / "nstdb").glob("*.hea"),
        *sorted((ARCHIVE / "cinc2017").rglob("*.hea"))[:20],
    ]:
        expected = wfdb.rdheader(str(header.with_suffix("")))
        assert named_in(header).signals == tuple(dict.fromkeys(expected.file_name))


def test_the_wfdb_package_names_the_same_segments(tmp_path: Path) -> None:
    header = _longer(tmp_path, of=("s1", "s2", "s3"))
    assert named_in(header).segments == tuple(wfdb.rdheader(str(header.with_suffix(""))).seg_name)


# What is given


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """What a folder of recordings holds besides them."""
    _longer(tmp_path)
    _record(tmp_path, "other", signals="elsewhere.dat")
    for ending in ("hea", "dat", "atr"):
        shutil.copy(EXCERPT.with_suffix(f".{ending}"), tmp_path)
    (tmp_path / "x.edf").write_bytes(EDF)
    (tmp_path / "REFERENCE.csv").write_text("00001,N\n00002,A\n")
    return tmp_path


def test_all_files_of_a_folder_are_the_same_recordings_as_the_folder(mixed: Path) -> None:
    entries = find([str(mixed)]).entries
    assert [entry.name for entry in entries] == ["mitdb201af", "other", "whole", "x.edf"]
    assert find(sorted(map(str, mixed.iterdir()))).entries == entries
    assert find([f"{mixed}/*"]).entries == entries
    assert find([f"{mixed}/*", str(mixed)]).entries == entries


def test_a_file_that_is_named_and_is_no_recording_has_a_reason_and_one_that_was_found_is_left_out(mixed: Path) -> None:
    (mixed / "notes.txt").write_text("nothing here")
    for paths in (sorted(map(str, mixed.iterdir())), [str(mixed), str(mixed / "REFERENCE.csv"), str(mixed / "notes.txt")]):
        named = find(paths)
        assert set(named.unreadable) == {"REFERENCE.csv", "notes.txt"}
        assert "no lead is named" in named.unreadable["REFERENCE.csv"]
        assert named.left_out == {}
    found = find([f"{mixed}/*"])
    assert (found.unreadable, set(found.left_out)) == ({}, {"REFERENCE.csv", "notes.txt"})


def test_a_table_of_any_name_is_a_recording_once_it_is_named(tmp_path: Path) -> None:
    table = tmp_path / "export.log"
    table.write_text("time,I\n" + "".join(f"{i / 100:.2f},0.1\n" for i in range(300)))
    assert _names(find([str(table)])) == ["export.log"]
    with pytest.raises(ConfigError, match="no recording in"):
        find([str(tmp_path)])


@pytest.mark.parametrize("name", ["r", "r.hea", "r.dat"])
def test_a_record_may_be_named_by_any_of_its_files(name: str, tmp_path: Path) -> None:
    header = _record(tmp_path, "r")
    _record(tmp_path, "s")
    assert [entry.path for entry in find([str(tmp_path / name)]).entries] == [str(header)]
    assert [entry.path for entry in find([f"/{tmp_path}/./{name}"]).entries] == [str(header)]


def test_a_segment_that_is_named_alone_is_a_recording(tmp_path: Path) -> None:
    _longer(tmp_path)
    assert _names(find([str(tmp_path / "s1.hea")])) == ["s1"]


def test_a_list_within_a_list_is_the_operators_mistake(tmp_path: Path) -> None:
    listed = tmp_path / "l.txt"
    listed.write_text(f"@{listed}\n")
    with pytest.raises(ConfigError, match="a list cannot name another"):
        find([f"@{listed}"])


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "x" * 253, "file.edf/below"])
def test_a_path_that_cannot_be_one_is_the_operators_mistake(path: str, tmp_path: Path) -> None:
    (tmp_path / "file.edf").write_bytes(EDF)
    with pytest.raises(ConfigError, match="no such recording"):
        find([str(tmp_path / path)])


# Results


def test_results_of_another_run_are_not_searched(tmp_path: Path) -> None:
    _record(tmp_path / "archive", "r")
    out = tmp_path / "archive/out"
    _record(out, "strip")
    (out / "parts").mkdir()
    assert _names(find([str(tmp_path / "archive")])) == ["out/strip", "r"]
    (out / "run.json").write_text("{}")
    for paths in ([str(tmp_path / "archive")], [f"{tmp_path}/archive/*"]):
        found = find(paths)
        assert _names(found) == ["r"]
        assert found.left_out == {"out": "holds the results of another run"}
    with pytest.raises(ConfigError, match="holds the results of another run"):
        find([str(out)])


def test_results_cannot_go_to_where_they_would_be_searched(tmp_path: Path) -> None:
    _record(tmp_path / "a", "r")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a/out").mkdir()
    for out in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(ConfigError, match="--out"):
            find([str(tmp_path / "a")], results=out)
    assert _names(find([str(tmp_path / "a")], results=tmp_path / "a/out")) == ["r"]
    assert _names(find([f"{tmp_path}/a/*"], results=tmp_path / "a/out")) == ["r"]


# What is missed


TIMED = "".join(f"{i / 250:.3f},{i % 7 / 10}\n" for i in range(500))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("patient1.csv", b"time,ECG\n" + TIMED.encode(), "no lead is named"),
        ("patient1.tsv", TIMED.replace(",", "\t").encode(), "no lead is named"),
        ("patient1.csv", b"t;ECG\n" + TIMED.replace(",", ";").replace(".", ",").encode(), "no lead is named"),
        ("patient1.csv", ("time,ECG\n" + TIMED).encode("utf-16"), ""),
        ("p2.edf.gz", gzip.compress(EDF), "compressed by gzip"),
        ("p2.HEA.gz", gzip.compress(EDF), "compressed by gzip"),
        ("p2.dcm.zip", b"PK\x03\x04", "ZIP"),
        ("p2.xml.gpg", b"\x85\x01\x0c\x00", "encrypted by PGP"),
        ("00001_LR.HEA", b"00001_LR 1 100 500\n00001_LR.DAT 16\n", "rename it 00001_LR.hea"),
        ("00001_LR.DAT", bytes(100), "header 00001_LR.hea is missing"),
        ("text.dat", b"ABCDEF", "header text.hea is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_should_have_been_a_recording_is_said(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = find([str(tmp_path)])
    assert list(found.unreadable) == [name]
    assert why in found.unreadable[name]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("REFERENCE.csv", b"00001,N\n00002,A\n"),
        ("labels.csv", b"record,age,label\n1,50,N\n2,60,A\n3,70,A\n"),
        ("p.pdf.gz", gzip.compress(EDF)),
        ("r.edf.pdf", b"%PDF-1.4"),
        ("notes.txt", TIMED.encode()),
        ("broken.zip", b"PK\x03\x04"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_recording_is_left_out(name: str, content: bytes, tmp_path: Path) -> None:
    _record(tmp_path, "r")
    (tmp_path / name).write_bytes(content)
    found = find([str(tmp_path)])
    assert (found.unreadable, list(found.left_out)) == ({}, [name])


def _zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in names:
            packed.writestr(name, b"x")
    return file.getvalue()


def test_a_zip_archive_is_missed_if_it_holds_recordings(tmp_path: Path) -> None:
    _record(tmp_path, "r")
    (tmp_path / "x.zip").write_bytes(_zipped("readme.md", "a/00001_lr.HEA"))
    (tmp_path / "papers.zip").write_bytes(_zipped("readme.md"))
    strange = bytearray(_zipped("r.hea"))
    strange[strange.index(b"PK\x01\x02") + 6] = 255
    (tmp_path / "of-a-later-version.zip").write_bytes(strange)
    (tmp_path / "labels.xlsx").write_bytes(_zipped("xl/workbook.xml"))
    found = find([str(tmp_path)])
    assert found.unreadable == {"x.zip": "is a ZIP archive; unpack it first"}
    assert set(found.left_out) == {"papers.zip", "labels.xlsx", "of-a-later-version.zip"}


@given(st.data())
def test_a_damaged_zip_archive_does_not_end_the_search(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = bytearray(_zipped("a/r.hea", "b/\N{GREEK SMALL LETTER MU}.dat"))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("zip")
    (folder / "x.zip").write_bytes(whole)
    (folder / "x.edf").write_bytes(EDF)
    assert _names(find([str(folder)])) == ["x.edf"]


def test_a_record_with_endings_in_upper_case_is_named_once(tmp_path: Path) -> None:
    _record(tmp_path, "r")
    (tmp_path / "00001_LR.HEA").write_text("00001_LR 1 100 500\n00001_LR.DAT 16\n")
    (tmp_path / "00001_LR.DAT").write_bytes(bytes(1000))
    for paths in ([str(tmp_path)], sorted(map(str, tmp_path.iterdir()))):
        found = find(paths)
        assert list(found.unreadable) == ["00001_LR.HEA"]
        assert (_names(found), found.left_out) == (["r"], {})


# Names


def test_two_recordings_never_share_a_name(tmp_path: Path) -> None:
    header = _record(tmp_path, "00001_lr")
    (tmp_path / "00001_lr").write_bytes(EDF)
    entries = find([str(tmp_path)]).entries
    assert {entry.name: entry.path for entry in entries} == {"00001_lr": str(tmp_path / "00001_lr"), "00001_lr.hea": str(header)}
    assert find(sorted(map(str, tmp_path.iterdir()))).entries == entries


def test_a_recording_and_what_is_none_never_share_a_name(tmp_path: Path) -> None:
    _record(tmp_path, "r")
    os.mkfifo(tmp_path / "r")
    found = find([str(tmp_path)])
    assert (_names(found), set(found.left_out)) == (["r.hea"], {"r"})


_bytes = st.lists(
    st.sampled_from([b"a", b"\\", b"x", b"0", b"\x1b", b"1", b"b", b"\n", b"\xff", b"\xa0", b"\xc2\xa0", b"\xe2\x80\xae"]),
    min_size=1,
    max_size=5,
)


@given(st.sets(_bytes.map(b"".join), min_size=1, max_size=12))
def test_names_are_printable_and_each_files_own(tmp_path_factory: pytest.TempPathFactory, stems: set[bytes]) -> None:
    folder = tmp_path_factory.mktemp("names")
    for number, stem in enumerate(sorted(stems)):
        file = os.fsencode(folder) + b"/" + stem
        with open(file + (b".edf", b".pdf", b".xml")[number % 3], "wb") as opened:  # noqa: PTH123 - a path of bytes
            opened.write((EDF, b"%PDF", b"?")[number % 3])
    found = find([str(folder)], Columns()) if stems else Found(folder)
    names = [*_names(found), *found.unreadable, *found.left_out]
    assert len(set(names)) == len(stems)
    assert all(name.isprintable() and name.encode() for name in names)


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    _record(tmp_path, "a\x1b[31m\nb")
    (tmp_path / "c\rd.edf").write_bytes(b"")
    (tmp_path / "e\x07.md").write_bytes(b"%PDF")
    found = find([str(tmp_path)])
    assert (_names(found), list(found.unreadable), list(found.left_out)) == (["a\\x1b[31m\\x0ab"], ["c\\x0dd.edf"], ["e\\x07.md"])
