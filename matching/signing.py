"""Keys and signatures: who may say what to a matching server (PROTOCOL §2).

The *venue key* speaks for everybody; an *owner key* is derived from it and speaks for one owner. A
signature is the HMAC-SHA256 of a command's text. Keys are used as the ASCII text of their 64 hex
digits.

>>> key = owner_key("00" * 32, 7)
>>> signature = sign(key, "7:buy intc 100@50.25 ts=1700000000000")
>>> is_authentic(key, "7:buy intc 100@50.25 ts=1700000000000", signature)
True
>>> is_authentic(key, "7:buy intc 900@50.25 ts=1700000000000", signature)
False
"""

import hashlib
import hmac

from matching import protocol


def owner_key(venue_key: str, owner: int, generation: int = 1) -> str:
    """The key of an owner, of a generation from 1 on; ValueError for owner 0, who has none."""
    if owner < 1 or generation < 1:
        raise ValueError(
            f"owner {owner}, generation {generation}: keys begin with owner 1, generation 1"
        )
    return _hmac(venue_key, f"owner:{owner}:{generation}")


def web_session_secret(venue_key: str) -> str:
    """The secret that signs the web app's cookies, shared by all web servers of a venue."""
    return _hmac(venue_key, "web-session")


def sign(key: str, text: str) -> str:
    """The signature of a command's text, in lowercase hex.

    ValueError if the text is not a command: a signature over `owner:7:1` would *be* owner 7's key.
    """
    protocol.parse(text)
    return _hmac(key, text)


def is_authentic(key: str, text: str, signature: str) -> bool:
    """Whether `signature` is the text's under `key`; compared in constant time, as text."""
    return hmac.compare_digest(_hmac(key, text).encode(), signature.encode("utf-8", "replace"))


def _hmac(key: str, text: str) -> str:
    return hmac.new(key.encode("utf-8"), text.encode("utf-8"), hashlib.sha256).hexdigest()
