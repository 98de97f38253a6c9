"""Every sentence of docs/RULES.md has its proof: tests/law.txt names what fails if it is not kept.

There a block has a sentence, at the margin, and indented its proofs: scenarios by rule and title,
or tests as `tests/path.py::name`. The examples of the document are played, too.
"""

import ast
import re
from typing import NamedTuple

import pytest

from matching.conformance import SCENARIOS, Product, play
from matching.scenario import USUAL_PRODUCT, Scenario, read_rows, read_scenarios
from tests.processes import ROOT
from tests.test_layering import MODULES, PURE

RULES = (ROOT / "docs" / "RULES.md").read_text(encoding="utf-8")
LAW = (ROOT / "tests" / "law.txt").read_text(encoding="utf-8")

TITLES = {
    f"{scenario.rule} {scenario.title}"
    for path in SCENARIOS.glob("*.txt")
    for scenario in read_scenarios(path.read_text(encoding="utf-8"))
}

EXAMPLES = re.findall(r"(?:^ {4}.*\n)+", RULES, re.MULTILINE)


class Sentence(NamedTuple):
    """A sentence of a section, and what proves it."""

    section: str
    text: str
    proofs: tuple[str, ...] = ()


def sentences_of_rules(document: str) -> list[Sentence]:
    """The sentences of the rules without their markup, in order.

    A semicolon ends one too; a row of a table is one at least, its cells parted by a colon. The
    head of a table, and the examples, are none.
    """
    found: list[Sentence] = []
    rules, _, _ = document.partition("## The rules as scenarios")
    for part in re.split(r"^## ", rules, flags=re.MULTILINE)[1:]:
        section, _, body = part.partition("\n")
        body = re.sub(r"^ {4}.*$", "", body, flags=re.MULTILINE)
        body = re.sub(r"^\|.*\n\|---.*$", "", body, flags=re.MULTILINE)
        body = re.sub(r"^\| (.+) \| (.+) \|$", r"\n\1: \2\n", body, flags=re.MULTILINE)
        for paragraph in re.split(r"\n\s*\n", re.sub(r"\*\*|`", "", body)):
            words = " ".join(paragraph.split())
            found += [Sentence(section, text) for text in re.split(r"(?<=[.;]) ", words) if text]
    return found


def sentences_of_law(text: str) -> list[Sentence]:
    """The blocks of the law file; `==` begins a section, `#` a comment line."""
    found: list[Sentence] = []
    section = ""
    for block in re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip().split("\n\n"):
        lines = block.splitlines()
        if block.startswith("== "):
            section = block.removeprefix("== ")
        else:
            words = " ".join(line for line in lines if not line.startswith(" "))
            proofs = tuple(line.strip() for line in lines if line.startswith(" "))
            found.append(Sentence(section, words, proofs))
    return found


def is_proof(name: str) -> bool:
    """Whether there is a scenario, or a test, of this name."""
    path, is_test, function = name.partition("::")
    if not is_test:
        return name in TITLES
    file = ROOT / path
    return file.is_file() and f"\ndef {function}(" in file.read_text(encoding="utf-8")


PROVED = sentences_of_law(LAW)


def test_the_law_file_has_the_sentences_of_the_rules_and_no_others() -> None:
    proved = [sentence._replace(proofs=()) for sentence in PROVED]
    assert proved == sentences_of_rules(RULES)


@pytest.mark.parametrize("sentence", PROVED, ids=lambda sentence: sentence.text)
def test_every_sentence_has_proofs_and_they_exist(sentence: Sentence) -> None:
    assert sentence.proofs
    assert [proof for proof in sentence.proofs if not is_proof(proof)] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split(" |")[0].strip())
def test_every_example_of_the_rules_holds(example: str) -> None:
    scenario = Scenario("RULES.md", 0, "", "", USUAL_PRODUCT, read_rows(example))
    failure = play(scenario, Product())
    assert failure is None, f"\n{failure}"


WITH_MONEY = [name for name in PURE if name in MODULES] + [
    *("log2db.settlement", "log2db.verify", "app.models.portfolio", "app.models.intents"),
    *("app.models.amends", "app.models.equity", "app.models.trades"),
]


@pytest.mark.parametrize("module", WITH_MONEY)
def test_no_float_touches_a_price_a_quantity_or_money(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert [ast.unparse(node) for node in ast.walk(tree) if _is_float(node)] == []


def _is_float(node: ast.AST) -> bool:
    """Whether it makes a float, or speaks of one."""
    match node:
        case ast.Constant():
            return isinstance(node.value, float)
        case ast.BinOp() | ast.AugAssign():
            return isinstance(node.op, ast.Div)
    return isinstance(node, ast.Name) and node.id == "float"


def test_sentences_are_found_in_text_and_tables() -> None:
    document = """
A document says something before its rules.

## R1 First
It does **this**; then
that. And `more`.

    1:buy intc 5 | no sentence

| head | of it |
|---|---|
| `a` | one. Two |
| b | c |
## The rules as scenarios
Not a rule.
"""
    texts = ["It does this;", "then that.", "And more.", "a: one.", "Two", "b: c"]
    assert sentences_of_rules(document) == [Sentence("R1 First", text) for text in texts]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("R1 The cheapest seller trades first, even if it came last", True),
        ("R2 The cheapest seller trades first, even if it came last", False),
        ("tests/matching/test_law.py::test_what_is_a_proof", True),
        ("tests/matching/test_law.py::test_what_is", False),
        ("tests/matching/test_nothing.py::test_what_is_a_proof", False),
    ],
)
def test_what_is_a_proof(name: str, is_one: bool) -> None:
    assert is_proof(name) is is_one
