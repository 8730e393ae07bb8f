"""The bundle: it survives the disk, and a file that is damaged, of another version or something else is refused in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.bundle import FORMAT, METADATA_KEY, SHIPPED_BUNDLE, Bundle, BundleError, Card, golden_windows, seal, shipped_names


def test_survives_the_disk(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "copy.onnx"
    path.write_bytes(bundle.onnx)
    assert Bundle.read(path) == bundle


def test_the_card_is_where_onnx_keeps_metadata(bundle: Bundle) -> None:
    model = onnx.load_model_from_string(bundle.onnx)
    (text,) = [p.value for p in model.metadata_props if p.key == METADATA_KEY]
    assert Card.model_validate_json(text) == bundle.card


@settings(max_examples=40)
@given(st.data())
def test_no_flipped_bit_goes_unnoticed(bundle: Bundle, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(bundle.onnx) - 1))
    damaged = bytearray(bundle.onnx)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BundleError):
        Bundle.parse(bytes(damaged))


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(bundle: Bundle, keep: float) -> None:
    length = int(keep * len(bundle.onnx)) if keep < 1 else int(keep)
    with pytest.raises(BundleError):
        Bundle.parse(bundle.onnx[:length])


def test_another_version_says_which(bundle: Bundle) -> None:
    other = bundle.onnx.replace(f'"cardiogloss_bundle":{FORMAT},'.encode(), b'"cardiogloss_bundle":9,')
    with pytest.raises(BundleError, match="bundle format 9, this cardiogloss reads format 1; export it again"):
        Bundle.parse(other)


def test_what_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot read bundle"):
        Bundle.read(tmp_path / "absent.onnx")
    with pytest.raises(BundleError, match="not a cardiogloss bundle"):
        Bundle.parse(b"PNG and so on")


def test_sealing_twice_changes_nothing(bundle: Bundle) -> None:
    assert seal(bundle.onnx) == bundle


def test_the_shipped_bundle_fits_its_promises(bundle: Bundle) -> None:
    assert SHIPPED_BUNDLE.stat().st_size < 25e6
    assert (bundle.card.rate_hz, bundle.card.window_s) == (100.0, 10.0)
    assert len(bundle.card.findings) >= 18
    assert bundle.card.metrics["rows"]


def test_golden_windows_are_twelve_leads_one_lead_and_none() -> None:
    windows = golden_windows(1000)
    assert (~np.isnan(windows).all(axis=2)).sum(axis=1).tolist() == [12, 1, 0]


def test_only_a_bare_name_means_a_shipped_bundle_and_a_file_of_that_name_comes_first(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cardiogloss").mkdir()
    assert {"cardiogloss", "cardiogloss-int8", "cardiogloss-stream"} <= set(shipped_names())
    assert Bundle.read(Path("cardiogloss")) == bundle
    for elsewhere in (tmp_path / "cardiogloss-int8", Path("models/cardiogloss-int8"), Path("cardiogloss-int8.onnx")):
        with pytest.raises(BundleError, match=r"give another bundle$"):
            Bundle.read(elsewhere)
    (tmp_path / "cardiogloss-int8").write_bytes(bundle.onnx)
    assert Bundle.read(Path("cardiogloss-int8")) == bundle
