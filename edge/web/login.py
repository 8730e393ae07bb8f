"""A token, and what a browser shows of it, in; whether that browser may see patients out."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import deque
from collections.abc import Callable

COOKIE = "cardiogloss"
LASTS_S = 30 * 86400
"""A cookie is good for so long."""

_MOST, _MOST_OF_ALL, _WITHIN_S = 10, 100, 60.0
"""Wrong tokens, of one address and of all together, within so long."""
_SALT = b"cardiogloss dashboard cookie"


class Login:
    """Knows a token, and signs cookies with it, so that they outlive a restart of the daemon but no change of the token."""

    def __init__(self, token: str, since_1970_s: Callable[[], float] = time.time) -> None:
        self._since_1970_s = since_1970_s
        self._digest = _digest(token)
        # Slow to make, so that nobody finds a short token out from a cookie (RFC 7914).
        self._key = hashlib.scrypt(token.encode(), salt=_SALT, n=1 << 14, r=8, p=1)

    def knows(self, token: str) -> bool:
        """Whether it is the token, in a time that tells nothing of it."""
        return hmac.compare_digest(_digest(token), self._digest)

    def cookie(self) -> str:
        """A new one: when it ends, and the signature of that."""
        end = f"{self._since_1970_s() + LASTS_S:.0f}"
        return f"{end}.{self._sign(end)}"

    def admits(self, cookie: str) -> bool:
        """Whether it is one of ours, and not too old."""
        end, _, signature = cookie.partition(".")
        # What is signed is ours, and so a number.
        return hmac.compare_digest(signature.encode(), self._sign(end).encode()) and self._since_1970_s() < float(end)

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class Tries:
    """The last wrong tokens by address, as many as are allowed within a minute."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._failed: deque[tuple[float, str]] = deque(maxlen=_MOST_OF_ALL)

    def may_try(self, address: str) -> bool:
        """Whether this address may try a token now."""
        since_s = self._monotonic_s() - _WITHIN_S
        recent = [one for at_s, one in self._failed if at_s > since_s]
        return len(recent) < _MOST_OF_ALL and recent.count(address) < _MOST

    def note_failure(self, address: str) -> None:
        """It was wrong."""
        self._failed.append((self._monotonic_s(), address))


def _digest(token: str) -> bytes:
    # Of one length, and bytes: `compare_digest` takes no text beyond ASCII. Bytes of a header that are no UTF-8 are kept apart.
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
