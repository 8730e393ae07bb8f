"""Reports are read: the longest phrase wins, a denial affirms nothing, and three languages come to the same findings."""

from __future__ import annotations

import csv
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.findings import read_toml
from tests.conftest import ARCHIVE
from trainer.report import GLOSSARY, clean, coverage, language, read_glossary, spellings, translate

TABLES = {name: table for name, table in read_toml(GLOSSARY).items() if name != "words"}
SPELLINGS = sorted(set(spellings(TABLES)))
PIECES = st.sampled_from([
    "sinusrhythmus", "Ä", "#", "4.46", "unbestÄtigter bericht", "Edit: NORM", "trace only requested.", "  ", ".", ",", "!", "linkstyp",
    "4.46 u", "trace only", "requested",
])  # fmt: skip
ANY_TEXT = st.text() | st.lists(PIECES).map("".join) | st.lists(PIECES).map(" ".join)


@given(ANY_TEXT)
def test_cleaning_twice_is_cleaning_once(report: str) -> None:
    assert clean(clean(report)) == clean(report)


@given(ANY_TEXT)
def test_any_text_is_read(report: str) -> None:
    reading = translate(report)
    assert 0 <= reading.understood <= 1
    assert len(set(reading.findings)) == len(reading.findings)
    assert reading == translate(clean(report))
    assert language(report) in ("de", "en", "sv", "")


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ("sinusrhythmus normales ekg 4.46                          unbestÄtigter bericht", "sinusrhythmus normales ekg"),
        ("linksbelastung 4.46 unbestÄti", "linksbelastung"),
        ("linksbelastung 4.46", "linksbelastung"),
        ("unbestÄtigter bericht Edit: NORM 100, (NORM 100)", ""),
        ("sinus rhythm. normal ecg. Edit: NORM 100, (NORM 100)", "sinus rhythm. normal ecg."),
        ("bÖr ÖvervÄgasconsensus label derived from: {'SR': 0.0}", "bör övervägas"),
        ("trace only requested.", ""),
        ("infarkt     alter unbest.", "infarkt alter unbest."),
        ("amplitudenkriterien f#r linkshypertrophie", "amplitudenkriterien für linkshypertrophie"),
    ],
)
def test_remarks_and_blanks_go(report: str, text: str) -> None:
    assert clean(report) == text


@pytest.mark.parametrize(
    ("report", "name"),
    [("sinusrhythmus lagetyp normal", "de"), ("sinus rhythm. this may be normal.", "en"), ("sinusrytm vÄnster el-axel", "sv"), (" . ", "")],
)
def test_tells_the_language(report: str, name: str) -> None:
    assert language(report) == name


def test_capital_umlauts_and_written_out_ones_do_not_matter() -> None:
    assert len({translate(f"{start}berdrehter linkstyp") for start in ("Ü", "ü", "ue", "UE", "#")}) == 1


@pytest.mark.parametrize(
    ("report", "finding"),
    [
        ("rechtsschenkelblock", "right bundle branch block"),
        ("kompletter rechtsschenkelblock", "complete right bundle branch block"),
        ("unvollstÄndiger rechtsschenkelblock", "incomplete right bundle branch block"),
        ("linkstyp", "leftward axis (normal variant)"),
        ("überdrehter linkstyp", "left axis deviation"),
        ("ueberdrehter linkstyp", "left axis deviation"),
        ("linkstyp überdreht", "left axis deviation"),
        ("sonst normales ekg", "otherwise normal ECG"),
        ("atrial fibrillation or flutter", "atrial fibrillation or flutter"),
    ],
)
def test_the_longest_phrase_wins(report: str, finding: str) -> None:
    assert translate(report).findings == (finding,)


@pytest.mark.parametrize(
    ("report", "findings"),
    [
        ("kein hinweis auf vorhofflimmern", ()),
        ("sinusrhythmus, kein vorhofflimmern mehr", ("sinus rhythm",)),
        ("kein vorhofflimmern oder rechtsschenkelblock", ()),
        ("sinusrhythmus ohne inferioren infarkt", ("sinus rhythm",)),
        ("vorhofflimmern ausgeschlossen", ()),
        ("keine st-hebung. linksschenkelblock", ("left bundle branch block",)),
        ("keine st-hebung in v2 linksschenkelblock", ("left bundle branch block",)),
        ("no ecg evidence of lvh or ischaemia. sinus rhythm.", ("sinus rhythm",)),
        ("acute pericarditis would be unlikely", ()),
        ("no atrial fibrillation, left bundle branch block or ischaemia", ()),
        ("inga tecken på förmaksflimmer", ()),
        ("bifascikulÄrt block med Ökad risk fÖr totalt av-block", ("bifascicular block",)),
        ("nicht normales ekg", ()),
    ],
)
def test_what_is_denied_is_not_affirmed(report: str, findings: tuple[str, ...]) -> None:
    assert translate(report).findings == findings


@pytest.mark.parametrize(
    ("report", "finding"),
    [
        ("verdacht auf p-sinistrocardiale", "left atrial enlargement"),
        ("possible left atrial enlargement", "left atrial enlargement"),
        ("misstänkt hypertrofi av vänster förmak", "left atrial enlargement"),
        ("inferiorer infarkt nicht auszuschliessen", "inferior myocardial infarction"),
        ("old inferior infarct cannot be excluded", "inferior myocardial infarction"),
        ("inferior infarkt kan ej uteslutas", "inferior myocardial infarction"),
    ],
)
def test_what_is_suspected_counts_as_named(report: str, finding: str) -> None:
    assert translate(report).findings == (finding,)


@pytest.mark.parametrize(
    "reports",
    [
        ("sinusrhythmus normales ekg", "sinusrytm normalt ekg", "sinus rhythm. normal ecg."),
        ("sinusbradykardie sonst normales ekg", "sinusbradykardi eljest normalt ekg", "sinus bradycardia. otherwise normal ecg."),
        ("supraventrikulÄre extrasystole(n)", "supraventrikulÄr(a) extrasystoli(er)", "premature atrial contraction(s)."),
        ("ventrikulÄre extrasystole(n)", "ventrikulÄr(a) extrasystoli(er)", "premature ventricular contraction(s)."),
        ("vorhofflimmern/-flattern", "fÖrmaksflimmer/-fladder", "atrial fibrillation or flutter"),
        ("tachykardes vorhofflimmern", "fÖrmaksflimmer med hÖg kammarfrekvens", "atrial fibrillation with rapid ventricular response."),
        ("linksanteriorer hemiblock", "vÄnster anteriort hemiblock", "left anterior fascicular block."),
        ("unvollstÄndiger rechtsschenkelblock", "inkomplett hÖgersidigt skÄnkelblock", "incomplete right bundle branch block."),
        ("linksschenkelblock", "vÄnstersidigt skÄnkelblock", "left bundle branch block."),
        ("periphere niederspannung", "lÅga qrs amplituder i extremitetsavledningarna", "low limb lead voltage."),
        ("linkshypertrophie", "vÄnster kammarhypertrofi", "voltages are high in chest leads suggesting lvh."),
        ("inferiorer infarkt wahrscheinlich alt", "inferior infarkt sannolikt Äldre", "old inferior myocardial infarction"),
        ("anteriore ischÄmie oder linksbelastung", "anterior ischemi eller vÄnster belastning", "anterior ischaemia or lv strain"),
        (
            "r-s Übergang in v ableitungen nach rechts verschoben",
            "brÖstavledningarnas r-s transition fÖrskjuten    Åt hÖger",
            "r-s transition zone in v leads displaced to the right.",
        ),
        ("qt-verlÄngerung", "qt fÖrlÄngd", "prolonged qt."),
    ],
)
def test_three_languages_come_to_the_same_findings(reports: tuple[str, str, str]) -> None:
    german, swedish, english = (translate(report).findings for report in reports)
    assert german == swedish == english != ()


def test_speaks_english_in_the_order_of_the_report() -> None:
    report = (
        "sinusrhythmus verdacht auf p-sinistrocardiale qrs(t) abnorm inferiorer infarkt     alter unbest. "
        "kein vorhofflimmern t neg in v4-6,avl"
    )
    assert translate(report).text == (
        "sinus rhythm, suspected left atrial enlargement, QRS-T abnormality, inferior myocardial infarction of uncertain age, "
        "no atrial fibrillation, T wave inversion in V4-6 aVL"
    )


def test_english_stays_as_it_is() -> None:
    assert translate("Sinus rhythm.  This may be   normal.").text == "sinus rhythm. this may be normal."


@pytest.mark.parametrize(("role", "say", "spelling"), [s for s in SPELLINGS if s[0] == "finding"])
def test_every_finding_is_found_in_each_of_its_spellings(role: str, say: str, spelling: str) -> None:
    reading = translate(spelling)
    assert reading.findings == (say,)
    assert reading.understood == 1


def test_every_other_phrase_is_understood() -> None:
    assert [spelling for role, _, spelling in SPELLINGS if role != "finding" and translate(spelling).understood < 1] == []
    assert [spelling for role, _, spelling in SPELLINGS if role != "finding" and translate(spelling).findings] == []


def test_no_phrase_stands_twice() -> None:
    assert len(read_glossary().phrases) <= len(SPELLINGS)
    written = Counter(
        (name, text) for table in TABLES.values() for others in table.values() for name, texts in others.items() for text in texts
    )
    assert [text for text, count in written.items() if count > 1] == []


def test_coverage_counts_foreign_reports_only() -> None:
    found = coverage(["sinusrhythmus", "sinus rhythm", "sinusrytm", "", "sinusrhythmus mit krokodilstraenen"])
    assert (found.reports, found.by_language) == (3, {"de": 2, "en": 1, "sv": 1, "": 1})
    assert found.missed == (("krokodilstraenen", 1),)
    assert found.whole == pytest.approx(2 / 3)
    assert coverage([]).words == 0


@pytest.mark.skipif(not (ARCHIVE / "ptb-xl" / "ptbxl_database.csv").exists(), reason="PTB-XL is not here")
def test_reads_what_the_archive_says() -> None:
    with (ARCHIVE / "ptb-xl" / "ptbxl_database.csv").open(encoding="utf-8", newline="") as file:
        found = coverage(row["report"] for row in csv.DictReader(file) if int(row["strat_fold"]) <= 9)
    assert found.words >= 0.983
    assert found.whole >= 0.978
