"""One request and its answer over HTTP: trust, redirects, challenges, and errors in our own words."""

from __future__ import annotations

import contextlib
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn

from reprobox import __version__
from reprobox.download.connections import Connections
from reprobox.download.transfer import CHUNK, Body, InterruptedTransferError, Location, StatusError
from reprobox.errors import FetchError
from reprobox.urls import origin, split_login, without_password

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

USER_AGENT = f"reprobox/{__version__}"
_BUSY = frozenset((408, 429, 500, 502, 503, 504))
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MAX_REDIRECTS = 10
_TRUST = "if your site re-signs traffic, point SSL_CERT_FILE at a file with its certificates"


class Http:
    """An HTTP client without patience; ``timeout`` is how many seconds a silent server is waited for."""

    def __init__(self, timeout: float) -> None:
        self._connections = Connections(timeout)

    @contextlib.contextmanager
    def answer(
        self, place: Location, headers: Mapping[str, str], body: Body | None = None, method: str = "GET"
    ) -> Iterator[BaseHTTPResponse]:
        """The server's answer with its body unread; urllib3's errors become ours, while the body is read too."""
        import ssl

        from urllib3 import exceptions

        try:
            response = self._request(place, headers, body, method)
            try:
                if response.status in _BUSY:
                    raise _busy(place, response)
                yield response
            finally:
                response.close()
        except (exceptions.LocationValueError, exceptions.ProxySchemeUnsupported, exceptions.InvalidHeader) as error:
            raise FetchError(f"this URL cannot be used: {error}", where=place.shown) from None
        except exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                message = f"its certificate is not trusted: {_reason(error)}"
                raise FetchError(message, where=place.shown, hint=_TRUST) from None
            if isinstance(error.args[0], ssl.SSLEOFError | ssl.SSLZeroReturnError):
                raise InterruptedTransferError(f"TLS was cut off: {_reason(error)}") from None
            raise FetchError(f"it does not speak TLS as it should: {_reason(error)}", where=place.shown) from None
        except (exceptions.NewConnectionError, exceptions.ConnectTimeoutError, exceptions.ProxyError) as error:
            raise InterruptedTransferError(f"it cannot be reached: {_reason(error)}", reached=False) from None
        except exceptions.HTTPError as error:
            raise InterruptedTransferError(f"the connection broke: {_reason(error)}") from None

    def _request(self, place: Location, headers: Mapping[str, str], body: Body | None, method: str) -> BaseHTTPResponse:
        """Send it; follow redirects without taking secrets to another server, and answer one challenge."""
        url, login = split_login(place.url)
        challenged = False
        for _ in range(_MAX_REDIRECTS + 1):
            private: dict[str, str] = {}
            if origin(url) == origin(place.url):
                private = {**login, **place.headers, **(place.auth.headers() if place.auth else {})}
            response = self._connections.pool(url).urlopen(
                method,
                url,
                body=body.pieces() if body else None,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers, **private},
                redirect=False,
                retries=False,
                preload_content=False,
            )
            if _leads_on(method, response):
                url = _redirected(place, url, response)
            elif (
                response.status == 401
                and place.auth
                and not challenged
                and origin(url) == origin(place.url)
                and place.auth.answer(response.headers.get("www-authenticate", ""), private)
            ):
                challenged = True
            else:
                return response
            response.drain_conn()
        raise FetchError(f"it redirects more than {_MAX_REDIRECTS} times", where=place.shown)


def headers_of(response: BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def read(response: BaseHTTPResponse, limit: int, place: Location) -> bytes:
    body = bytearray()
    for chunk in response.stream(CHUNK, decode_content=False):
        body += chunk
        if len(body) > limit:
            raise FetchError(f"it sends more than the {limit} bytes allowed for this document", where=place.shown)
    return bytes(body)


def refuse(place: Location, response: BaseHTTPResponse) -> NoReturn:
    raise _status(place, response)


def _status(place: Location, response: BaseHTTPResponse) -> StatusError:
    return StatusError(
        where=place.shown,
        code=response.status,
        reason=response.reason or "",
        headers=headers_of(response),
        body=response.read(4096, decode_content=False),
    )


def _busy(place: Location, response: BaseHTTPResponse) -> InterruptedTransferError:
    error = _status(place, response)
    return InterruptedTransferError(
        error.message, delay=_retry_after(response.headers.get("retry-after", "")), status=error
    )


def _retry_after(value: str) -> float | None:
    """Seconds that a Retry-After header (RFC 9110, 10.2.3) asks to wait: a number of them, or a date."""
    from email.utils import parsedate_to_datetime

    if value.strip().isdecimal():
        return float(value)
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _leads_on(method: str, response: BaseHTTPResponse) -> bool:
    """Whether to ask elsewhere: what changes something is only repeated where the server says so (RFC 9110, 15.4)."""
    if "location" not in response.headers or response.status not in _REDIRECTS:
        return False
    return method in ("GET", "HEAD") or (method != "POST" and response.status in (307, 308))


def _redirected(place: Location, url: str, response: BaseHTTPResponse) -> str:
    target = urllib.parse.urljoin(url, response.headers["location"])
    if not target.startswith(("http://", "https://")) or (url.startswith("https:") and target.startswith("http:")):
        raise FetchError(f"it redirects to {without_password(target)}, which is not safe to follow", where=place.shown)
    return target


def _reason(error: Exception) -> str:
    """The innermost cause, in few words: urllib3 wraps them with the pool's name and the object's address."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__ or _argument(cause)) is not None:
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause).rpartition(": ")[2] or type(cause).__name__


def _argument(error: BaseException) -> BaseException | None:
    return next((item for item in error.args if isinstance(item, BaseException)), None)
