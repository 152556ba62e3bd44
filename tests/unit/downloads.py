"""A file to be downloaded, and a downloader that does not wait long."""

from __future__ import annotations

import hashlib
import random

from reprobox.download.downloader import Downloader
from reprobox.lock import Input

DATA = random.Random(7).randbytes(300_000)


def made(name: str = "a.deb", data: bytes = DATA) -> Input:
    return Input(type="deb", name=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def quick(**options: object) -> Downloader:
    return Downloader(**{"backoff": 0.01, "timeout": 5.0} | options)  # type: ignore[arg-type]
