"""Files to write: what is refused before the work, and that nothing is touched by asking."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels import writable
from kernels.findings import ConfigError
from kernels.writable import check_picture, check_writable


def test_what_can_be_written_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.json").write_text("old")
    check_writable(None, Path("new.json"), tmp_path / "old.json")
    check_picture(Path("new.PNG"))
    check_picture(None)
    assert list(tmp_path.iterdir()) == [tmp_path / "old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "why"),
    [("no/out.json", "there is no folder"), ("file/out.json", "there is no folder"), ("", "name a file that can be written")],
)
def test_what_cannot_be_written_is_told(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=why):
        check_writable(None, tmp_path / name)


def test_a_picture_needs_an_ending_and_what_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"must end in one of \.png, \.svg, \.pdf"):
        check_picture(tmp_path / "out.gif")
    with pytest.raises(ConfigError, match="there is no folder"):
        check_picture(tmp_path / "no" / "out.png")
    monkeypatch.setattr(writable, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=r"pip install 'cardiogloss\[plot\]'"):
        check_picture(tmp_path / "out.png")
