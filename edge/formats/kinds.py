"""The first bytes of a file in; the format that it is in, whatever its name says, out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from kernels.findings import ConfigError

from ..decode.csv import UTF_16, Columns
from .recording import RecordingFile
from .xml import decode, root_name

HEAD = 1 << 16
"""Bytes that tell a format: XML may begin with long comments."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One format and where its reader is, which is imported only when it is met."""

    title: str
    is_it: Callable[[bytes], bool]
    reader: str
    """`module:function`, which takes the path and `Columns`; relative to this package."""
    says_all: bool = True
    """Whether the file itself says its rate and unit."""

    def open(self, path: Path, columns: Columns) -> RecordingFile:
        """Raises ConfigError for a damaged file, and for `columns` that contradict it."""
        if self.says_all and (columns.rate_hz is not None or columns.mv_per_unit != 1.0):
            raise ConfigError(f"--rate and --unit are for files that do not say them, and {self.title} does; leave them out")
        module, _, function = self.reader.partition(":")
        opener: Callable[[Path, Columns], RecordingFile] = getattr(import_module(f".{module}", __package__), function)
        return opener(path, columns)


def _xml(root: str) -> Callable[[bytes], bool]:
    """Whether the first element has this name, in any namespace and any encoding that XML is met in."""
    return lambda head: root_name(decode(head)) == root


KINDS = (
    Kind("EDF", lambda head: head[:8] == b"0       " or head[:8] == b"\xffBIOSEMI", "edf:open_edf"),
    Kind("DICOM", lambda head: head[128:132] == b"DICM", "dicom:open_dicom"),
    Kind("ISHNE", lambda head: head[:8] == b"ISHNE1.0", "ishne:open_ishne"),
    Kind("HL7 aECG", _xml("AnnotatedECG"), "aecg:open_aecg"),
    Kind("Philips Sierra XML", _xml("restingecgdata"), "sierra:open_sierra"),
    Kind("GE MUSE XML", _xml("RestingECG"), "muse:open_muse"),
    Kind("GE CardioSoft XML", _xml("CardiologyXML"), "muse:open_cardiosoft"),
    Kind("binary frames", lambda head: head[:3] == b"\xecgl", "frames:open_frames"),
    Kind(
        "NumPy",
        lambda head: head[:6] == b"\x93NUMPY" or (head[:4] == b"PK\x03\x04" and b".npy" in head),
        "numpy:open_numpy",
        says_all=False,
    ),
    Kind("Parquet", lambda head: head[:4] == b"PAR1", "parquet:open_parquet", False),
)

TEXT = Kind("CSV", lambda head: b"\0" not in head or head[:2] in UTF_16, "text:open_text", False)
"""What is left, if it is text."""

_FOREIGN = {
    b"%PDF": "is a PDF, which holds a picture of an ECG and not its samples; export the recording itself",
    b"\x89PNG": "is a picture; export the recording itself",
    b"\xff\xd8\xff": "is a picture; export the recording itself",
    b"PK\x03\x04": "is a ZIP archive; unpack it first",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"7z\xbc\xaf": "is a 7z archive; unpack it first",
    b"BZh": "is compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "is compressed by xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it first",
    b"Rar!": "is a RAR archive; unpack it first",
    b"\x85\x01": "is encrypted by PGP; decrypt it first",
    b"\x85\x02": "is encrypted by PGP; decrypt it first",
    b"-----BEGIN PGP": "is encrypted by PGP; decrypt it first",
    b"Salted__": "is encrypted by OpenSSL; decrypt it first",
    b"age-encryption": "is encrypted by age; decrypt it first",
}


def kind_of(path: Path) -> Kind:
    """Raises ConfigError that says what the file is instead, as far as that shows."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise ConfigError("is empty; copy it again")
    for kind in (*KINDS, TEXT):
        if kind.is_it(head):
            if kind is TEXT:
                break
            return kind
    root = root_name(decode(head))
    if root:
        raise ConfigError(f"is XML or HTML whose root is <{root[:40]}>; export the recording as HL7 aECG, or another format that is read")
    foreign = next((what for mark, what in _FOREIGN.items() if head.startswith(mark)), None)
    if foreign:
        raise ConfigError(foreign)
    if TEXT.is_it(head):
        return TEXT
    raise ConfigError(f"is no recording that cardiogloss reads; give WFDB (name or .hea), {', '.join(kind.title for kind in KINDS)} or CSV")
