"""The name of a dataset in; its reader, and what each of its labels is called in words, out."""

from __future__ import annotations

from kernels.findings import ConfigError

from .challenge import CPSC2018, CSN
from .cinc2017 import CINC2017
from .dataset import Dataset, Label, Task
from .ludb import LUDB
from .mimic import MIMIC_IV_ECG
from .mitdb import MITDB
from .ptb_xl import PTB_XL

__all__ = ["DATASETS", "Dataset", "Label", "Task", "dataset"]

DATASETS: dict[str, Dataset] = {
    "ptb-xl": PTB_XL,
    "cpsc2018": CPSC2018,
    "csn": CSN,
    "mitdb": MITDB,
    "cinc2017": CINC2017,
    "ludb": LUDB,
    "mimic-iv-ecg": MIMIC_IV_ECG,
}


def dataset(name: str) -> Dataset:
    """Raises ConfigError for an unknown name."""
    if name not in DATASETS:
        raise ConfigError(f"unknown dataset {name!r}; allowed are {', '.join(DATASETS)}")
    return DATASETS[name]
