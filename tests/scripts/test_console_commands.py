"""The console commands of pyproject.toml: each is a program of ours, and the documents name it."""

import importlib
import inspect
import tomllib

import pytest

from tests.processes import ROOT

COMMANDS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]["scripts"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_a_function_that_takes_nothing(command: str) -> None:
    module, _, name = COMMANDS[command].partition(":")
    main = getattr(importlib.import_module(module), name)
    assert not inspect.signature(main).parameters


@pytest.mark.parametrize("command", COMMANDS)
def test_operators_are_told_of_it(command: str) -> None:
    assert f"`{command}`" in (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")


def test_each_script_that_operators_run_is_a_command() -> None:
    """make runs soak.py; owner_key.py's users have a checkout (docs/BOTS.md)."""
    programs = {
        path.stem
        for path in (ROOT / "scripts").glob("*.py")
        if "\ndef main() -> None:" in path.read_text(encoding="utf-8")
    }
    commands = {target.removeprefix("scripts.").partition(":")[0] for target in COMMANDS.values()}
    assert programs - commands == {"soak", "owner_key"}


def test_a_new_run_begins_by_command_too() -> None:
    assert COMMANDS["emte-zap"] == "scripts.zap:main"
    assert "emte-zap" in (ROOT / "README.md").read_text(encoding="utf-8")
