"""The keys with which an identity provider signs tokens: a JSON Web Key Set at a fixed URL."""

import asyncio
import json
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from adapters.daemon_threads import run_in_daemon_thread
from adapters.error_translation import foreign_error
from adapters.proxies import BadProxyURL, proxy_for
from application.ports.credentials import IdentityProviderUnavailable
from application.ports.turn_observer import SigningKeysNotFetched, TurnObserver

ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Those with a public key. A key set is public, so it must not hold the key of a symmetric algorithm."""

_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}


class _Unsuitable(Exception):
    """The response is no key set that can be used. The message quotes nothing of it."""


class JWKS:
    """Fetches a key set when it is first needed, and keeps it. One fetch runs at a time, and blocks nobody else.

    Args:
        url: Never taken from a token. Redirects are not followed.
        timeout: Seconds for a fetch.
        max_bytes: Size limit of the key set.
        max_age: Seconds after which the keys are fetched again.
        max_stale: Seconds for which keys are used while the identity provider does not respond.
        min_interval: Seconds between two fetches, whatever tokens ask for. While there are no keys at all, it is a
            thirtieth of that.
        max_unknown: How many ids that are in no key set are remembered: a token with one of them causes no fetch.
    """

    def __init__(
        self,
        url: str,
        observer: TurnObserver,
        *,
        timeout: float = 3,
        max_bytes: int = 64 * 1024,
        max_age: float = 300,
        max_stale: float = 24 * 3600,
        min_interval: float = 30,
        max_unknown: int = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._observer = observer
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._max_stale = max_stale
        self._min_interval = min_interval
        self._max_unknown = max_unknown
        self._clock = clock
        self._keys: Mapping[str | None, Sequence[PyJWK]] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetch_task: asyncio.Task[bool] | None = None
        self._unknown: OrderedDict[str, None] = OrderedDict()

    async def key(self, key_id: str | None, algorithm: str = "") -> PyJWK | None:
        """Return the key with this id, or None if there is none. A set of a single key needs no id.

        Of several keys with the same id, which may differ in their type, it is the first one for this algorithm.

        Raises:
            IdentityProviderUnavailable: no keys are known.
        """
        if self._clock() - self._fetched_at >= self._max_age:
            await self._refresh(wait=not self._is_usable or self._tried_at == self._fetched_at)
        if not self._is_usable:
            raise IdentityProviderUnavailable(retry_after=max(1.0, self._min_interval / 30))
        key = self._find(key_id, algorithm)
        if key is None and key_id is not None and key_id not in self._unknown and await self._refresh():
            key = self._find(key_id, algorithm)
            if key is None:
                self._remember_unknown(key_id)
        return key

    @property
    def _is_usable(self) -> bool:
        return bool(self._keys) and self._clock() - self._fetched_at < self._max_stale

    def _find(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            [found] = self._keys.values()
        else:
            found = self._keys.get(key_id, ())
        return next((key for key in found if key.algorithm_name == algorithm), found[0] if found else None)

    def _remember_unknown(self, key_id: str) -> None:
        self._unknown[key_id] = None
        if len(self._unknown) > self._max_unknown:
            self._unknown.popitem(last=False)

    async def _refresh(self, *, wait: bool = True) -> bool:
        """Fetch the keys, unless they were fetched just before. Return whether new ones have arrived."""
        if self._fetch_task is None:
            now = self._clock()
            if now - self._tried_at < self._min_interval / (1 if self._is_usable else 30):
                return False
            self._tried_at = now
            self._fetch_task = asyncio.create_task(self._fetch(now))
        task = self._fetch_task
        if not wait:
            return False
        await asyncio.wait([task])  # does not cancel it if this caller is cancelled
        return not task.cancelled() and task.result()

    async def _fetch(self, now: float) -> bool:
        try:
            async with asyncio.timeout(self._timeout):
                content = await self._download()
                keys = await run_in_daemon_thread(lambda: _keys_in(content), name="jwks")
        except TimeoutError:
            self._report(f"it did not respond within {self._timeout:g} seconds")
        except _Unsuitable as unsuitable:
            self._report(str(unsuitable))
        except BadProxyURL as error:
            self._report(f"the proxy that the environment names cannot be used ({error.problem})")
        except Exception as error:  # of any kind, e.g. an AttributeError of asyncio's if TLS fails behind a proxy
            self._report(str(foreign_error(error)))
        else:
            if keys:
                self._keys, self._fetched_at = keys, now
                return True
            # Those that were known have been withdrawn: they must not be used as if the provider did not respond.
            self._keys, self._fetched_at = {}, float("-inf")
            self._report("the key set has no key for signatures that is supported")
        finally:
            self._fetch_task = None
        return False

    async def _download(self) -> bytes:
        content = bytearray()
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(self._url, headers=_HEADERS, proxy=proxy_for(self._url), allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise _Unsuitable(f"it responded with status {response.status}")
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > self._max_bytes:
                    raise _Unsuitable(f"the key set is larger than {self._max_bytes} bytes")
        return bytes(content)

    def _report(self, problem: str) -> None:
        age = self._clock() - self._fetched_at if self._keys else None
        host = urlsplit(self._url).netloc
        self._observer.observe(SigningKeysNotFetched(f"The keys at {host} (AUTH_JWKS_URL): {problem}.", age))


def _keys_in(content: bytes) -> Mapping[str | None, Sequence[PyJWK]]:
    """Return the usable keys by their ids. Others are left out, e.g. those for encryption, and private ones.

    Raises:
        _Unsuitable: It is no key set.
    """
    keys: dict[str | None, list[PyJWK]] = defaultdict(list)
    try:
        members = json.loads(content)["keys"]
        if not isinstance(members, list):
            raise TypeError
        for member in members:
            if (key := _key_of(member)) is not None:
                keys[key.key_id].append(key)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _Unsuitable("the response is not a JSON Web Key Set") from None
    return dict(keys)


def _key_of(member: Any) -> PyJWK | None:
    if not isinstance(member, dict) or not isinstance(member.get("kid", ""), str):
        return None
    if member.get("use") not in (None, "sig"):
        return None
    if "d" in member:  # checking a private key takes up to hours, and one that is published proves nothing
        return None
    try:
        key = PyJWK(member)
        return key if key.algorithm_name in ALGORITHMS else None
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
