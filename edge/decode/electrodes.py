"""The names of the signals of one recording in; the lead of each, and none for an electrode on the scalp that is called alike, out.

Source: the International 10-10 system for the scalp, the AASM manual for sleep, IEC 60601-2-25 for C1 to C6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kernels.signal import standard_lead

_AMBIGUOUS = re.compile(r"([CDL])[\s_-]*(\d)", re.IGNORECASE)
"""A chest or limb lead, the scalp over the motor cortex, or a contact of an electrode within the brain."""
_ELSEWHERE = re.compile(
    r"(?<![a-z])(?:s?eeg|[lr]?eog[lr]?|pol|[lr]oc|eyes?|chin(?:emg)?|scalp)(?![a-z])"
    r"|^(?:(?:fp|af|f|fc|ft|t|tp|c|cp|p|po|o|n|i)z|(?:fp|af|fc|ft|cp|tp|po)\d{1,2}|[abe-kmo-uw-z]\d{1,2}|c\d\d|[dl](?:[4-9]|\d\d))h?(?![a-z\d])",
    re.IGNORECASE,
)
"""What lies on the scalp, at an ear, an eye or the chin, or is one of many contacts on a shaft."""


def leads_among(names: Sequence[str]) -> tuple[str, ...]:
    """The lead of each name, or the name itself.

    C1 to C6, D1 to D3 and L1 to L3 are leads only where no signal comes from the head, and C3 and C4 not without C1.
    """
    plain = {name.strip().upper() for name in names}
    on_head = any(map(_ELSEWHERE.search, plain))
    central = {"C3", "C4"} <= plain and "C1" not in plain
    return tuple(name if _is_electrode(name, on_head, central) else standard_lead(name) or name for name in names)


def _is_electrode(name: str, on_head: bool, central: bool) -> bool:
    found = _AMBIGUOUS.fullmatch(name.strip())
    return found is not None and (on_head or (central and found[1] in "Cc"))
