"""Keys and signatures (PROTOCOL §2)."""

import hashlib
import hmac

import pytest

from matching import signing

VENUE_KEY = "ab" * 32
TEXT = "7:buy intc 100@50.25 ts=1700000000000"


def test_a_signature_is_the_hmac_of_the_text_under_the_keys_ascii_digits() -> None:
    expected = hmac.new(VENUE_KEY.encode("ascii"), TEXT.encode("ascii"), hashlib.sha256).hexdigest()
    assert signing.sign(VENUE_KEY, TEXT) == expected


def test_an_owner_key_is_derived_from_the_venue_key() -> None:
    expected = hmac.new(VENUE_KEY.encode("ascii"), b"owner:7:1", hashlib.sha256).hexdigest()
    assert signing.owner_key(VENUE_KEY, 7) == expected
    assert signing.owner_key(VENUE_KEY, 7, generation=2) != expected
    assert signing.owner_key(VENUE_KEY, 8) != expected


@pytest.mark.parametrize(("owner", "generation"), [(0, 1), (-1, 1), (7, 0)])
def test_the_house_has_no_key(owner: int, generation: int) -> None:
    with pytest.raises(ValueError, match="keys begin with owner 1"):
        signing.owner_key(VENUE_KEY, owner, generation)


@pytest.mark.parametrize("text", ["owner:7:1", "web-session", "", "hello"])
def test_sign_refuses_what_is_not_a_command(text: str) -> None:
    """A signature over `owner:7:1` would be owner 7's key."""
    with pytest.raises(ValueError, match="column"):
        signing.sign(VENUE_KEY, text)


@pytest.mark.parametrize(
    "signature",
    ["", "00" * 32, "é", "\ud800", signing.sign(VENUE_KEY, TEXT).upper()],
)
def test_a_wrong_signature_is_not_authentic(signature: str) -> None:
    assert not signing.is_authentic(VENUE_KEY, TEXT, signature)


def test_the_right_signature_is_authentic_for_its_key_and_text_only() -> None:
    signature = signing.sign(VENUE_KEY, TEXT)
    assert signing.is_authentic(VENUE_KEY, TEXT, signature)
    assert not signing.is_authentic(VENUE_KEY, TEXT.replace("100", "900"), signature)
    assert not signing.is_authentic(signing.owner_key(VENUE_KEY, 7), TEXT, signature)


def test_the_web_secret_is_no_key_of_an_owner() -> None:
    secret = signing.web_session_secret(VENUE_KEY)
    assert secret == hmac.new(VENUE_KEY.encode(), b"web-session", hashlib.sha256).hexdigest()
