"""An account's own pages, as a person uses them: profile, password, lost password; users."""

import re

import pytest
from playwright.sync_api import expect

from tests.end_to_end.test_pages import OVERFLOW
from tests.end_to_end.venue import DESKTOP, PASSWORD, PHONE, Venue

NEW = "staple of the battery"
FITS = {"scrolls": False, "beyond": []}


def test_a_trader_changes_profile_and_password_without_a_script(venue: Venue) -> None:
    with venue.trader(java_script_enabled=False, **PHONE) as trader:
        page = trader.page
        page.goto("/")
        page.get_by_role("link", name="Profile").click()
        expect(page.get_by_label("Username")).not_to_be_editable()
        page.get_by_label("First name").fill("Grace")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Your profile is changed")).to_be_visible()
        expect(page.get_by_label("First name")).to_have_value("Grace")
        page.get_by_role("link", name="Password", exact=True).click()
        page.get_by_label("Old password").fill(PASSWORD)
        page.get_by_label("New password").fill(NEW)
        page.get_by_label("Confirm password").fill(NEW)
        page.get_by_role("button", name="Change").click()
        expect(page.get_by_text("Your password is changed")).to_be_visible()


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_who_lost_the_password_chooses_a_new_one_by_the_link(
    venue: Venue, screen: dict[str, object]
) -> None:
    with venue.trader(**screen) as trader:
        page = trader.page
        page.goto("/")
        name = page.locator(".welcome b").inner_text()
        trader.log_out()
        page.get_by_role("link", name="Lost password?").click()
        page.get_by_label("Username or e-mail").fill(f"{name}@example.com")
        page.get_by_role("button", name="Send the link").click()
        expect(page.get_by_text("If there is such an account")).to_be_visible()
        link = venue.web.wait_for_line(rf"{name} chooses a new password at (\S+)")[1]
        page.goto(link)
        assert page.evaluate(OVERFLOW) == FITS
        page.get_by_label("New password").fill(NEW)
        page.get_by_label("Confirm password").fill(NEW)
        page.get_by_role("button", name="Store it").click()
        expect(page.get_by_text("Your new password is stored")).to_be_visible()
        page.get_by_label("Username").fill(name)
        page.get_by_label("Password").fill(NEW)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text(f"Welcome {name}")).to_be_visible()
        page.goto(link)
        expect(page.get_by_text("This link does not work")).to_be_visible()
        assert page.evaluate(OVERFLOW) == FITS
        trader.errors.clear()  # the browser itself notes the answer's status, 404


def test_a_manager_finds_the_users(venue: Venue) -> None:
    with venue.trader(manager=True) as manager:
        manager.page.goto("/")
        name = manager.page.locator(".welcome b").inner_text()
        manager.page.get_by_role("link", name="Users").click()
        row = manager.page.get_by_role("row", name=re.compile(rf"\b{name}\b"))
        expect(row.get_by_role("cell", name="yes")).to_be_visible()
        expect(row.get_by_role("cell", name="50,000.00")).to_be_visible()
