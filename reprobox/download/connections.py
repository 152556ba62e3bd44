"""Connections by proxy, and which proxy and which certificates a URL wants."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from reprobox.urls import loopback, split_login

if TYPE_CHECKING:
    import ssl

    import urllib3


class Connections:
    """Connections, by proxy. Certificates are loaded when the first https URL is asked for: that takes a while."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._pools: dict[tuple[str, bool], urllib3.PoolManager] = {}
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def pool(self, url: str) -> urllib3.PoolManager:
        proxy, secure = key = (_proxy(url), url.startswith("https:"))
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._made(proxy, secure=secure)
            return self._pools[key]

    def _made(self, proxy: str, *, secure: bool) -> urllib3.PoolManager:
        import urllib3

        trust = self._trust() if secure or proxy.startswith("https:") else None
        timeout = urllib3.Timeout(connect=min(20.0, self._timeout), read=self._timeout)
        if not proxy:
            return urllib3.PoolManager(maxsize=16, timeout=timeout, ssl_context=trust)
        bare, login = split_login(proxy)
        headers = {"Proxy-Authorization": login["Authorization"]} if login else None
        return urllib3.ProxyManager(
            bare, proxy_headers=headers, proxy_ssl_context=trust, maxsize=16, timeout=timeout, ssl_context=trust
        )

    def _trust(self) -> ssl.SSLContext:
        """The host's trust store; OpenSSL itself honours SSL_CERT_FILE and SSL_CERT_DIR."""
        import ssl

        self._context = self._context or ssl.create_default_context()
        return self._context


def _proxy(url: str) -> str:
    """The proxy that the environment names for ``url``; none for this machine itself, as Go programs have it."""
    import urllib.request

    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if loopback(host) or urllib.request.proxy_bypass(host):
        return ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"
