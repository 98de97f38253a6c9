"""A Chromium and a venue for the tests that look at EMTE from outside."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.end_to_end.venue import Venue
from tests.waiting import PATIENCE_SECONDS

expect.set_options(timeout=PATIENCE_SECONDS * 1000)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's Chromium. Where there is none the tests are skipped, unless all must run.

    Of a module, not of the session: Playwright keeps an event loop running in this thread, under
    which no other test could start its own.
    """
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        if os.environ.get("EMTE_REQUIRE_ALL") == "1":
            pytest.fail("there is no chromium on the path, and EMTE_REQUIRE_ALL=1")
        pytest.skip("there is no chromium on the path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def venue(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Venue]:
    """A web app with an empty database of its own, and whatever is started on it."""
    var: Path = tmp_path_factory.mktemp("venue")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environment:
        environment.delenv("EMTE_DATABASE", raising=False)
        environment.delenv("EMTE_HMAC_KEY", raising=False)
        environment.delenv("EMTE_SMTP_HOST", raising=False)  # links stand in the log then
        environment.delenv("EMTE_URL", raising=False)
        yield Venue(browser, var, stack)
