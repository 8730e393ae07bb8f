"""A device for the tests marked `device`, and the fake driver where they run over it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from kernels.device import Device
from kernels.findings import ConfigError


@pytest.fixture
def device() -> Iterator[Device]:
    """The GPU of this machine, or of the fake driver; without either the test is skipped."""
    try:
        opened = Device()
    except ConfigError as error:
        pytest.skip(str(error))
    with opened:
        yield opened


@pytest.fixture
def fake() -> ctypes.CDLL:
    """The fake driver, as it was before the test once that is over; without it the test is skipped."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        library.fake_live.restype = library.fake_made.restype = ctypes.c_long
    except (OSError, AttributeError):
        pytest.skip("only the fake driver counts, is late, and fails on demand")
    return library
