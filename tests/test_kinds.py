"""Which format a file is in: told by its content, under any name, and never by an exception that is not for the operator."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.decode.frame import DEVICE, FrameEncoder
from edge.formats.kinds import KINDS, TEXT, Kind, kind_of
from edge.formats.xml import decode, root_name
from kernels.findings import ConfigError

NAMES = ("a.csv", "a.xml", "a.pdf", "a", "a.edf", "EXPORT.0001", ".hidden", "a.npy.bak")


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((12, 100), np.float32))
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, samples_mv=np.zeros((12, 100), np.float32))
    return file.getvalue()


XML = {
    "HL7 aECG": "AnnotatedECG",
    "Philips Sierra XML": "restingecgdata",
    "GE MUSE XML": "RestingECG",
    "GE CardioSoft XML": "CardiologyXML",
}
CONTENTS = {
    "EDF": b"0       X X X X" + b" " * 300,
    "DICOM": bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00",
    "ISHNE": b"ISHNE1.0" + bytes(600),
    "binary frames": FrameEncoder(DEVICE.wiring).feed(np.zeros((12, 10), np.float32)),
    "NumPy": _npy(),
    "Parquet": b"PAR1" + bytes(30) + b"PAR1",
    "CSV": b"time,I,II\n0,0.1,0.2\n",
} | {title: f"<?xml version='1.0'?><{root}/>".encode() for title, root in XML.items()}


def _find(folder: Path, data: bytes, name: str = "a") -> Kind:
    path = folder / name
    path.write_bytes(data)
    return kind_of(path)


@pytest.mark.parametrize("title", CONTENTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_format_is_found_under_any_name(tmp_path: Path, title: str, name: str) -> None:
    assert _find(tmp_path, CONTENTS[title], name).title == title


def test_every_kind_is_met_by_one_of_these_files() -> None:
    assert {kind.title for kind in (*KINDS, TEXT)} == set(CONTENTS)


def test_an_archive_of_arrays_is_numpy_and_another_archive_is_none(tmp_path: Path) -> None:
    assert _find(tmp_path, _npz()).title == "NumPy"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.csv", "I,II\n1,2\n")
    with pytest.raises(ConfigError, match="ZIP archive; unpack"):
        _find(tmp_path, file.getvalue())


def test_text_in_utf_16_is_text(tmp_path: Path) -> None:
    assert _find(tmp_path, "time\tI\n0\t1\n".encode("utf-16")) is TEXT


PROLOGUES = (
    "",
    "\n\n  ",
    '<?xml version="1.0" encoding="{encoding}"?>\n',
    "<!-- made by a cart; <RestingECGx> and <AnnotatedECGs> are in no element -->",
    '<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n',
    '<!DOCTYPE x [ <!ELEMENT a (b)> <!-- ] --> ]><?xml-stylesheet href="a.xsl"?>',
    "<!--" + "long " * 2000 + "-->",
)


@pytest.mark.parametrize("title", XML)
@pytest.mark.parametrize("prologue", PROLOGUES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("element", ['<{root} xmlns="urn:x">', '<n:{root}\n xmlns:n="urn:x">', "<{root}/>", "<{root}>\u00e9"])
def test_xml_is_told_by_its_root_behind_any_prologue(tmp_path: Path, title: str, prologue: str, encoding: str, element: str) -> None:
    text = prologue.replace("{encoding}", encoding) + element.format(root=XML[title])
    assert _find(tmp_path, text.encode(encoding)).title == title


@pytest.mark.parametrize(
    "text", ["<html><AnnotatedECG/></html>", "<!-- <RestingECG> --><root a=''/>", "<RestingECGs>", "<!doctype html>\n<html lang='en'>"]
)
def test_other_xml_is_named_by_its_root(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"root is <(html|root|RestingECGs)>; export"):
        _find(tmp_path, text.encode())


FOREIGN = {
    "empty": (b"", "is empty"),
    "PDF": (b"%PDF-1.7\n1 0 obj", "PDF"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(20), "picture"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(20), "picture"),
    "gzip": (gzip.compress(b"I,II\n"), "unpack"),
    "bzip2": (b"BZh91AY&SY" + bytes(9), "unpack"),
    "xz": (b"\xfd7zXZ\0" + bytes(9), "unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), "unpack"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(9), "unpack"),
    "RAR": (b"Rar!\x1a\x07\0", "unpack"),
    "PGP": (b"\x85\x01\x0c\x03" + bytes(20), "decrypt"),
    "PGP text": (b"-----BEGIN PGP MESSAGE-----\n\nhQEMA", "decrypt"),
    "OpenSSL": (b"Salted__" + bytes(20), "decrypt"),
    "age": (b"age-encryption.org/v1\n", "decrypt"),
    "noise": (np.random.default_rng(0).bytes(5000), "give WFDB"),
    "zeros": (bytes(5000), "give WFDB"),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("name", ["a.edf", "a.dcm", "a"])
def test_what_is_no_recording_says_what_to_do(tmp_path: Path, what: str, name: str) -> None:
    data, message = FOREIGN[what]
    with pytest.raises(ConfigError, match=message):
        _find(tmp_path, data, name)


HEADS = [data[:40] for data in CONTENTS.values()] + [data[:8] for data, _ in FOREIGN.values()]


@given(st.sampled_from(HEADS), st.binary(max_size=200))
@example(b"<", b"!DOCTYPE a [" + b"]" * 5000)
@example(b"<?xml encoding='punycode", b"'?><a>\xff")
@example(b"<?xml encoding='cp99999", b"'?><a>\xff")
@example(b"\xff\xfe", b"\x00\xd8<")
def test_any_bytes_have_a_kind_or_a_reason(tmp_path_factory: pytest.TempPathFactory, head: bytes, rest: bytes) -> None:
    try:
        assert _find(tmp_path_factory.getbasetemp(), head + rest) in (*KINDS, TEXT)
    except ConfigError as error:
        assert str(error)


@given(st.text(max_size=60), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_characters_survive_their_encoding(text: str, encoding: str) -> None:
    """Python's own encoders are the oracle; XML begins with `<`, or a blank, and no mark."""
    text = "<" + text.encode("utf-8", "ignore").decode()
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", ["iso-8859-1", "iso-8859-15", "windows-1252", "gb2312", "GB18030", "Shift_JIS", "euc-kr"])
def test_a_declared_code_page_is_read(encoding: str) -> None:
    text = f"<?xml version='1.0' encoding='{encoding}'?><a>{'é' if encoding.lower()[:2] in ('is', 'wi') else '中'}</a>"
    assert decode(text.encode(encoding)) == text


def test_a_wrong_declaration_does_not_spoil_what_is_utf_8() -> None:
    text = "<?xml version='1.0' encoding='utf-16'?><a>é</a>"
    assert decode(text.encode()) == text
    assert root_name(text) == "a"
