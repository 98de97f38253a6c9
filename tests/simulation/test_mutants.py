"""The faults that `make mutants` plants can all still be planted, and the document names each."""

import re

import pytest

from tests.processes import ROOT
from tests.simulation.mutants import MUTANTS, Found, Mutant, Stale, hunt, main, planted


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_a_fault_is_in_the_source_once(mutant: Mutant) -> None:
    """If the source has changed, change the fault too: one that is not planted proves nothing."""
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    faulty = planted(mutant, source)
    compile(faulty, mutant.file, "exec")
    assert faulty != source


def test_a_fault_whose_text_is_gone_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Mutant("nobody wrote this", "matching/exchange.py", "a text that is not there", "")
    with pytest.raises(Stale):
        planted(gone, "nothing")
    monkeypatch.setattr("tests.simulation.mutants.MUTANTS", (gone,))
    assert main(["--jobs", "1"]) == 1
    said = capsys.readouterr().err
    assert said == "mutants: nobody wrote this: its text is 0 times in matching/exchange.py\n"


def test_a_planted_fault_is_found_with_its_seed() -> None:
    (mutant,) = [each for each in MUTANTS if each.name == "answer before the sync"]
    found = hunt(mutant)
    assert isinstance(found, Found)
    assert found.seeds is not None
    assert 1 <= found.seeds <= 100
    assert "settled" in found.what


def test_the_document_has_the_table_of_all_faults() -> None:
    document = (ROOT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")
    table = document[document.index("| fault |") :].partition("\n\n")[0]
    named = re.findall(r"^\| (.+?) \| (?:\d[\d,]*|fixed day) \|", table, re.MULTILINE)
    assert named == [mutant.name for mutant in MUTANTS]
