"""What a step that uses the host's network is given beside it: the host's certificates, and its proxies."""

from __future__ import annotations

import os
from pathlib import Path

from reprobox.backend import Bind

CERTIFICATES = "/run/reprobox/certificates.pem"
#: Where curl, git, pip, uv, conda, Node, Cargo and all that asks OpenSSL look. The environment's own bundle is left
#: alone: a script may install another, and a site's proxy may sign with a certificate that the host alone trusts.
_TELLS_OF_CERTIFICATES = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_CAINFO",
)
_PLACES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_PROXIES = frozenset(("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"))


def certificates() -> Path | None:
    """The file with the certificates that this machine trusts; ``SSL_CERT_FILE`` names another."""
    import ssl

    asked = ssl.get_default_verify_paths().cafile
    found = (path for path in (os.environ.get("SSL_CERT_FILE"), asked, *_PLACES) if path and os.path.isfile(path))
    path = next(found, None)
    return Path(path) if path else None


def environment() -> dict[str, str]:
    """Variables of a step: where the certificates are, and the proxies of whoever builds."""
    proxies = {name: value for name, value in os.environ.items() if name.lower() in _PROXIES}
    return {**proxies, **(dict.fromkeys(_TELLS_OF_CERTIFICATES, CERTIFICATES) if certificates() else {})}


def binds() -> tuple[Bind, ...]:
    """What of the host the step sees."""
    path = certificates()
    return (Bind(source=path, target=CERTIFICATES),) if path else ()
