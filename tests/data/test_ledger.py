"""Filters are counted, faults raised or listed."""

import pytest

from medjax.data.ledger import DataError, Ledger


def test_a_filter_writes_its_line():
    lines: list[str] = []
    ledger = Ledger(log=lines.append)
    assert ledger.keep("even", range(5), lambda n: n % 2 == 0) == [0, 2, 4]
    assert lines == ["even: kept 3 (dropped 2)"]
    assert ledger.filters == [("even", 3, 2)]


def test_faults_raise_unless_skipped(tmp_path):
    with pytest.raises(DataError, match="s1: no image .*on_error=skip"):
        Ledger().fault("s1", "no image")
    ledger = Ledger("skip")
    assert ledger.summary() == "skipped: none"
    for i in range(12):
        ledger.fault(f"s{i}", "no image, none")
    assert ledger.summary().splitlines()[0] == "skipped: 12"
    assert "and 2 more" in ledger.summary()
    ledger.write_skipped(tmp_path / "skipped.csv")
    lines = (tmp_path / "skipped.csv").read_text().splitlines()
    assert lines[:2] == ["id,reason", 's0,"no image, none"'] and len(lines) == 13
