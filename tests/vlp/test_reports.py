"""Sectioning, sentences and clean-up on reports with every fault of the real ones."""

import csv

import pytest

from medjax.vlp.reports import (
    clean,
    header_name,
    join_sections,
    split_sections,
    split_sentences,
    word_count,
)

# As MIMIC-CXR files them: a space before each line, lines wrapped, ___ for names.
HEAD = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___ year old man with cough  // pneumonia?
 
 COMPARISON:  ___
 
"""
FINDINGS = """ FINDINGS: 
 
 The lungs are clear.  A nodule of 2.5
 cm is unchanged since ___.
 
"""
IMPRESSION = """ IMPRESSION: 
 
 1.  Stable nodule.
 2.  No pneumonia.
"""
SEEN = "The lungs are clear. A nodule of 2.5 cm is unchanged since ___."
MEANT = "1. Stable nodule. 2. No pneumonia."


@pytest.mark.parametrize("faithful", [False, True])
def test_both_sections(faithful):
    sections = split_sections(HEAD + FINDINGS + IMPRESSION, faithful=faithful)
    assert sections["findings"] == SEEN and sections["impression"] == MEANT
    assert sections["comparison"] == "___"
    assert "last_paragraph" not in sections


@pytest.mark.parametrize(
    ("text", "present"),
    [
        (HEAD + FINDINGS, {"findings"}),
        (HEAD + IMPRESSION, {"impression"}),
        (HEAD + FINDINGS + " IMPRESSION: \n \n", {"findings"}),
        (HEAD, set()),
        ("", set()),
    ],
)
def test_a_missing_or_empty_section_is_absent(text, present):
    sections = split_sections(text)
    assert sections.keys() & {"findings", "impression"} == present


@pytest.mark.parametrize("faithful", [False, True])
def test_without_either_section_the_last_paragraph_speaks(faithful):
    text = HEAD + " Lungs are clear\n of infiltrate.\n"
    sections = split_sections(text, faithful=faithful)
    assert sections["last_paragraph"] == "Lungs are clear of infiltrate."
    assert sections["comparison"] == "___"


def test_of_two_equal_headers_the_last_wins():
    text = HEAD + FINDINGS + IMPRESSION + " IMPRESSION:  Corrected: normal.\n"
    assert split_sections(text)["impression"] == "Corrected: normal."
    # ... unless it is empty
    text = HEAD + FINDINGS + IMPRESSION + " IMPRESSION:  \n"
    assert split_sections(text)["impression"] == MEANT


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("FINDNGS", "findings"),
        ("FINDING", "findings"),
        ("IMPRESSON", "impression"),
        ("IMPRESSIONS", "impression"),
        ("CONCLUSION", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/IMPRESSION", "impression"),
        ("PA AND LATERAL CHEST RADIOGRAPH", "findings"),
        ("INDICATON", "indication"),
        ("REASON FOR EXAM", "indication"),
        ("RECOMMENDATION", "recommendation"),
        ("NOTIFICATION", "notification"),
    ],
)
def test_synonyms_and_typing_errors(header, name):
    assert header_name(header) == name
    assert split_sections(f"{HEAD} {header}:  Clear lungs.\n")[name] == "Clear lungs."


def test_an_addendum_stands_apart():
    line = " " + "_" * 78 + "\n"
    above = " ADDENDUM: \n IMPRESSION: a line was placed.\n \n"
    sections = split_sections(above + line + HEAD + FINDINGS)
    assert "impression" not in sections and sections["findings"] == SEEN
    assert sections["addendum"].endswith("a line was placed.")
    # A line that closes a report does not cut it off.
    assert split_sections(HEAD + FINDINGS + line)["findings"].startswith(SEEN)


def test_headers_as_people_write_them_elsewhere():
    text = "FINDINGS: Clear lungs. IMPRESSION: Normal."
    expected = {"findings": "Clear lungs.", "impression": "Normal."}
    assert split_sections(text) == expected
    assert split_sections("Findings: Clear lungs.\r\nImpression: Normal.") == expected
    assert "impression" not in split_sections(text, faithful=True)


def test_organ_headers_stay_in_the_findings():
    text = " FINDINGS:\n LUNGS: Clear.\n HEART: Normal.\n \n IMPRESSION: Fine.\n"
    assert split_sections(text)["findings"] == "LUNGS: Clear. HEART: Normal."
    original = split_sections("\n" + text, faithful=True)
    assert original["findings"] == "LUNGS: Clear." and original["heart"] == "Normal."


def test_text_without_headers_is_kept_whole():
    text = "1. Left effusion.\n\n2. Cardiomegaly."
    expected = "1. Left effusion. 2. Cardiomegaly."
    assert split_sections(text) == {"last_paragraph": expected}


def test_sentences_keep_decimals_and_drop_numbers():
    assert split_sentences(MEANT) == ["Stable nodule.", "No pneumonia."]
    assert split_sentences(SEEN)[1].startswith("A nodule of 2.5 cm")
    assert split_sentences("(1) One thing. 2) Another! dr. Who? Yes") == [
        "One thing.",
        "Another!",
        "dr. Who?",
        "Yes",
    ]
    assert split_sentences(" \n") == [] == split_sentences("...")


def test_faithful_sentences_break_decimals():
    assert split_sentences("A nodule of 2.5 cm.", faithful=True) == [
        "A nodule of",
        "5 cm",
    ]
    assert split_sentences(MEANT, faithful=True) == ["Stable nodule", "No pneumonia"]


def test_clean_removes_what_the_anonymiser_left():
    text = "Normal chest. Seen by ___ on [**2101-1-1**], sternotomy XXXX.\n XXXX"
    assert clean(text) == "Normal chest. Seen by on, sternotomy."
    assert clean(text, "raw") == text.strip()
    assert clean(" ___ ") == ""


def test_clean_as_mgca():
    # Sentences of one word go, as do punctuation, case and what is not ASCII.
    assert clean("Clear. Left-sided 2nd-degree EFFUSION; café.", "mgca") == (
        "left sided 2nd degree effusion caf"
    )


def test_join_and_count():
    assert join_sections("b", "a") == "a b"
    assert join_sections("b", "") == "b"
    assert word_count("Two words, ___.") == 2


def test_real_reports_come_apart(shared_data):
    with (shared_data / "cxr" / "chexpert_sample_reports.csv").open(newline="") as file:
        reports = [row[0] for row in csv.reader(file)]
    assert [len(split_sentences(report)) for report in reports] == [3, 3, 1, 2]
