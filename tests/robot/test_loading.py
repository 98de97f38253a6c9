"""Loading a user's strategy: what is wrong with it is said in one line, with file and line."""

import json
import sys
from pathlib import Path

import pytest

from matching.exits import ExitCode, Fatal
from robot.loading import load
from robot.strategy import MarketMaker, Strategy

GOOD = """\
from robot.strategy import Desk, Strategy

class Dipper(Strategy):
    def on_timer(self, desk: Desk) -> None:
        desk.buy(1)
"""


def _load(tmp_path: Path, text: str, name: str = "Dipper") -> Strategy:
    path = tmp_path / "dipper.py"
    path.write_text(text)
    return load(f"{path}:{name}")


def test_a_class_is_loaded_from_a_file(tmp_path: Path) -> None:
    strategy = _load(tmp_path, GOOD)
    assert isinstance(strategy, Strategy)
    assert type(strategy).__name__ == "Dipper"


def test_a_file_may_use_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_the_dipper.py").write_text("SHARES = 5\n")
    _load(tmp_path, f"from beside_the_dipper import SHARES\n{GOOD}")


def test_a_file_may_be_called_like_a_module_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "json.py"
    path.write_text(GOOD)
    assert type(load(f"{path}:Dipper")).__name__ == "Dipper"
    assert sys.modules["json"] is json


def test_emtes_own_go_by_name() -> None:
    assert isinstance(load("maker"), MarketMaker)


CLASS = "from robot.strategy import Strategy\nclass Dipper(Strategy):\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "dipper.py: there is no class Dipper in it"),
        ("Dipper = 5", "dipper.py: there is no class Dipper in it"),
        ("\nclass Dipper:\n    pass", "dipper.py:2: Dipper does not take after robot.strategy"),
        ("\n\n1 / 0", "dipper.py:3: ZeroDivisionError: division by zero"),
        ("import os\ndef", "dipper.py:2: SyntaxError: invalid syntax"),
        ("import nowhere_to_be_found", "dipper.py:1: ModuleNotFoundError: No module named"),
        ("import sys\nsys.exit(3)", "dipper.py:2: SystemExit: 3"),
        (CLASS + "    def on_boook(self, desk): pass", "dipper.py:2: no robot calls on_boook; it"),
        (CLASS + "    def on_book(self): pass", "dipper.py:3: on_book has to take (self, desk)"),
        (CLASS + "    async def on_book(self, desk): pass", "dipper.py:3: on_book is async"),
        (CLASS + "    def __init__(self): raise KeyError(7)", "dipper.py:3: KeyError: 7"),
        (
            CLASS + "    def __init__(self, n): pass",
            "dipper.py:2: Dipper has to be made without arguments",
        ),
    ],
)
def test_what_is_wrong_with_it_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Fatal) as fatal:
        _load(tmp_path, text)
    assert words in fatal.value.message
    assert fatal.value.message.startswith(str(tmp_path))
    assert "\n" not in fatal.value.message
    assert fatal.value.code == ExitCode.BUG


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"no\.py: there is no such file"):
        load(f"{tmp_path}/no.py:Dipper")
