"""The examples in docstrings are run: a module's first page may not lie."""

import doctest
import importlib

import pytest

from tests.test_layering import MODULES


def _with_examples() -> list[str]:
    return [name for name, path in MODULES.items() if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("module", _with_examples())
def test_the_examples_of_a_module_hold(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0
