"""Names of leads: all spellings of the twelve are found, and nothing else is."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.chunk import UnknownLeads, name_leads
from kernels.findings import ConfigError
from kernels.signal import LEADS, standard_lead

MDC = dict(zip(LEADS, ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"), strict=True))
PLAIN = (
    "{}",
    " {} ",
    "Lead {}",
    "lead {}",
    "LEAD-{}",
    "ECG {}",
    "EKG {}",
    "ECG-{}",
    "ecg_{}",
    "ECG Lead {}",
    "ECG:{}",
    "{}(ECG)",
    "{} [ecg]",
)
GLUED = ("Lead{}", "ECG{}", "EKG{}")
MEANINGS = {  # as in ISO/IEEE 11073-10102 and DICOM PS3.16
    "Lead I (Einthoven)": "I",
    "Lead II (Einthoven)": "II",
    "aVR, augmented voltage, right": "aVR",
    "Lead aVL, augmented voltage, left": "aVL",
    "aVF, augmented voltage, foot": "aVF",
    "Lead V1 (Wilson)": "V1",
    "aVF (Goldberger)": "aVF",
}
OLD = {
    "MLII": "II",
    "MLI": "I",
    "MLIII": "III",
    "ML2": "II",
    "MV1": "V1",
    "DI": "I",
    "DII": "II",
    "D3": "III",
    "L1": "I",
    "C1": "V1",
    "C6": "V6",
}
SIGNS = {"\u2160": "I", "\u2161": "II", "\u2162": "III", "V\u2081": "V1", "\uff36\uff13": "V3", "a\uff36R": "aVR"}
FOREIGN = (
    *("-aVR", "- aVR", "\u2212aVR", "ECG -aVR", "Lead -I", "(-)aVR", "AVRNEG", "MDC_ECG_LEAD_AVRNEG", "MDC_ECG_LEAD_-AVR", "inverted aVR"),
    *("I-II", "I - II", "I II", "I/II", "V1-V2", "V1 V2", "aVR aVL", "ECG I II", "II I", "I I", "I-I"),
    *(
        "V7",
        "V8",
        "V9",
        "V0",
        "V10",
        "V11",
        "V3R",
        "V4R",
        "V 3 R",
        "V1 (right)",
        "CM5",
        "CC5",
        "MCL1",
        "MCL6",
        "ES",
        "AS",
        "AI",
        "X",
        "Y",
        "Z",
    ),
    *("VR", "VL", "VF", "aV", "V", "C7", "D4", "L4", "ML4", "MV7", "IV", "IIII", "VI", "A", "R", "F", "N"),
    *("1", "2", "3", "ECG1", "ECG 1", "ECG2", "EKG 3", "Chan 1", "Channel I", "CH1", "ch 2", "signal 1", "lead 4", "lead 0", "lead 11"),
    *(
        "",
        " ",
        "-",
        "_",
        "ECG",
        "EKG",
        "lead",
        "ECG lead",
        "leader",
        "resp",
        "PLETH",
        "ABP",
        "time",
        "t",
        "II filtered",
        "II mV",
        "II (mV)",
    ),
    *("aVR, augmented voltage, left", "Lead I (Wilson)", "V1 (Einthoven)", "aVF right", "I left", "Lead V1 (foot)"),
    *("I+", "I*", "II?", "V1'", "V1;", "III\0", "V1\u0301", "II" * 50, " " * 100 + "I"),
)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("form", (*PLAIN, *GLUED))
@pytest.mark.parametrize("cased", (str, str.upper, str.lower))
def test_a_lead_is_known_in_any_case_and_decoration(lead: str, form: str, cased) -> None:
    assert standard_lead(form.format(cased(lead))) == lead


@pytest.mark.parametrize("lead", LEADS)
def test_the_codes_of_11073_10102_are_known(lead: str) -> None:
    assert standard_lead(f"MDC_ECG_LEAD_{MDC[lead]}") == standard_lead(f"MDC_ECG_ELEC_POTL_{MDC[lead]}") == lead


@pytest.mark.parametrize(
    ("name", "lead"), [*MEANINGS.items(), *OLD.items(), *SIGNS.items(), ("lead 1", "I"), ("Lead-2", "II"), ("LEAD3", "III")]
)
def test_other_spellings_are_known(name: str, lead: str) -> None:
    assert standard_lead(name) == lead


@pytest.mark.parametrize("name", ["V 1", "V-1", "V_1", "v  1", "ECG V 1", "C 1", "MV-1"])
def test_a_number_may_stand_apart(name: str) -> None:
    assert standard_lead(name) == "V1"


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_another_lead_or_none_or_ambiguous_stays_unknown(name: str) -> None:
    assert standard_lead(name) is None


@given(st.text(max_size=90) | st.text("IVaRLF123456789 -_ECGlead DMC(),:", max_size=9))
def test_whatever_is_found_has_the_letters_of_the_lead(name: str) -> None:
    """By another rule: without signs and the words that may stand beside it, one of its spellings is all that is left."""
    lead = standard_lead(name)
    letters = "".join(char for char in unicodedata.normalize("NFKC", name).upper() if char.isalnum())
    assert lead is None or (lead in LEADS and any(letters.endswith(end) or letters.startswith(end) for end in _spellings(lead)))


_PAIRS = {"I": ["LARA"], "II": ["LLRA"], "III": ["LLLA"]}


def _spellings(lead: str) -> list[str]:
    digit = str(LEADS.index(lead) + 1) if lead in LEADS[:3] else lead[-1]
    return [lead.upper(), f"L{digit}", f"D{digit}", f"ML{digit}", f"LEAD{digit}", f"C{digit}", *_PAIRS.get(lead, ())]


JUNK = st.sampled_from(["X", "R", "7", "10", "neg", "filtered", "resp", "mV", "VL", "ref", "median", "M1", "A2"])


@given(st.sampled_from(LEADS), st.sampled_from(PLAIN), JUNK, st.booleans())
def test_a_word_that_is_not_understood_makes_a_name_unknown(lead: str, form: str, junk: str, before: bool) -> None:
    name = form.format(f"{junk} {lead}" if before else f"{lead} {junk}")
    assert standard_lead(name) is None


@given(st.sampled_from(LEADS), st.sampled_from(LEADS), st.sampled_from([" ", "-", "_", " - ", ", ", ":"]))
def test_two_leads_are_never_taken_for_one(one: str, other: str, between: str) -> None:
    assert standard_lead(one + between + other) is None


@given(st.sampled_from(LEADS), st.sampled_from(["", "ECG ", "Lead ", "EKG_"]), st.sampled_from("-\u2010\u2011\u2013\u2212"))
def test_a_lead_turned_over_is_never_taken_for_itself(lead: str, before: str, minus: str) -> None:
    assert standard_lead(f"{before}{minus}{lead}") is None


@given(st.sampled_from(LEADS), st.sampled_from(PLAIN), st.sampled_from(["-", " -", "- ", "\u2010", "\u2013", "\u2212", "-)", "-_"]))
def test_a_minus_at_the_end_turns_a_lead_over_too(lead: str, form: str, minus: str) -> None:
    assert standard_lead(form.format(lead)) == lead
    assert standard_lead(form.format(lead) + minus) is None
    assert standard_lead(f"MDC_ECG_LEAD_{MDC[lead]}{minus}") is None


@pytest.mark.parametrize(("pair", "lead"), [("LA-RA", "I"), ("LL-RA", "II"), ("LL-LA", "III")])
def test_the_electrodes_of_a_limb_lead_name_it_the_right_way_round(pair: str, lead: str) -> None:
    """Einthoven: I is left arm over right arm, II left leg over right arm, III left leg over left arm."""
    for form in ("{}", "ECG {}", "EKG_{}", "ecg {}", "Lead {}"):
        assert standard_lead(form.format(pair)) == lead
        assert standard_lead(form.format("-".join(reversed(pair.split("-"))))) is None
    assert standard_lead(f"-{pair}") is standard_lead(f"{pair}-") is standard_lead(f"{pair}-V1") is None


# Leads among other signals

ON_THE_HEAD = {
    "sleep": ["C3", "C4", "M1", "M2", "E1", "E2", "Chin"],
    "sleep, older names": ["C3", "C4", "A1", "A2", "LOC", "ROC", "EMG"],
    "midline": ["Fpz", "Cz", "C1", "C2"],
    "all of 10-10": ["FCz", "CPz", "POz", "AFz", "C1", "C2", "C3", "C4", "C5", "C6"],
    "coma": ["F7", "C3", "C4", "Cz"],
    "two alone": ["C3", "C4"],
    "depth electrodes": ["A1", "A2", "C1", "C2", "B1", "B2"],
    "depth electrodes, prefixed": ["C1", "C2", "L1", "L2", "D1", "D2", "POL X1"],
    "one shaft": ["L1", "L2", "L3", "L4"],
    "another": ["D1", "D2", "D3", "D10"],
    "referred": ["C3", "O1-A2"],
    "said": ["C3", "EEG 4"],
    "eye": ["C1", "EOG-L"],
}


@pytest.mark.parametrize("montage", ON_THE_HEAD)
def test_electrodes_on_the_head_are_no_leads_of_the_heart(montage: str) -> None:
    names = ON_THE_HEAD[montage]
    for order in (names, names[::-1], [name.lower() for name in names], [f" {name} " for name in names]):
        with pytest.raises(UnknownLeads):
            name_leads(order)
        assert [lead for lead in name_leads([*order, "ECG II"]) if lead in LEADS] == ["II"]


@pytest.mark.parametrize(
    ("names", "leads"),
    [
        (["I", "II", "III", "aVR", "aVL", "aVF", "C1", "C2", "C3", "C4", "C5", "C6"], list(LEADS)),
        (["D1", "D2", "D3", "AVR", "AVL", "AVF", "V1"], ["I", "II", "III", "aVR", "aVL", "aVF", "V1"]),
        (["C3", "II"], ["V3", "II"]),
        (["L1", "L2", "L3", "C1", "Resp", "PLETH", "ABP", "CO2", "SpO2"], ["I", "II", "III", "V1"]),
    ],
)
def test_the_same_names_beside_other_leads_are_leads(names: list[str], leads: list[str]) -> None:
    assert [lead for lead in name_leads(names) if lead in LEADS] == leads


def test_pairs_name_some_signals_and_leave_the_others_out() -> None:
    found = ["EEG Fp1", "ECG", "II", "EKG2"]
    assert name_leads(found, ("ecg=I", " EKG2 = lead v5")) == ("-", "I", "-", "V5")
    assert name_leads(["a=b", "x"], ("a=b=II",)) == ("II", "-")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("ECG=I", "V5"), "'ECG=I' beside 'V5'"),
        (("EC=I",), "EC=I, but no signal is called so: ECG, "),
        (("EEG=I",), "several signals are called so"),
        (("ECG=V7",), "unknown lead 'V7'"),
        (("ECG=I", "EKG2=I"), "lead I stands twice"),
        (("I",), 'there are 4 signals: .*--leads "ECG=II"'),
    ],
)
def test_pairs_that_do_not_fit_say_so(given: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        name_leads(["EEG", "eeg", "ECG", "EKG2"], given)


def test_the_error_of_unknown_leads_counts_the_signals_and_shows_the_likely_ones_first() -> None:
    with pytest.raises(UnknownLeads, match=r'signals ECG, EEG 0, .*\(31 signals\).*--leads "ECG=II"'):
        name_leads([*(f"EEG {i}" for i in range(30)), "ECG"])


def test_the_names_in_the_headers_of_archives_are_known() -> None:
    """Of PTB-XL and of MIT-BIH."""
    assert [standard_lead(name) for name in ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")] == list(LEADS)
    assert [standard_lead(name) for name in ("MLII", "V5", "V1", "V2", "V4")] == ["II", "V5", "V1", "V2", "V4"]
