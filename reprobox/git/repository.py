"""Getting a commit out of a git repository with the host's git, which is trusted with the transport alone.

Nothing is checked out and nothing is run: no hooks, no filters, no line ends that change, no replaced objects. Git may
ask nobody for a password. The user's own settings count where they say how a server is reached (credentials, proxies).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Self

from reprobox.download.transfer import Watch
from reprobox.errors import FetchError
from reprobox.git.commits import CommitError, is_oid
from reprobox.urls import loopback, without_password

#: Ways to a repository that is not a folder of this machine.
SCHEMES = ("https", "http", "ssh", "git")
#: Those of them whose answers anybody on the way can change.
OPEN = ("http", "git")
#: What the host says about reaching servers; every other GIT_ variable would change what git does.
_KEPT = frozenset(
    (
        "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSL_NO_VERIFY",
        "GIT_PROXY_COMMAND", "GIT_PROXY_SSL_CAINFO",
    )
)  # fmt: skip
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "credential.interactive=false",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
    "transfer.bundleURI=false",
)
_WANTED = "refs/reprobox/wanted"
#: Runs a program, and ends it with all that it started when the thread that asked for it ends, killed or not.
_TIED = """
import ctypes, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
child = os.fork()
if not child:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.execv(sys.argv[2], sys.argv[2:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)
"""
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository. ``url`` is what git is given; ``local`` says that it is a folder of this machine."""

    url: str
    local: bool = False

    @classmethod
    def of(cls, text: str, folder: Path) -> Remote:
        """What a manifest in ``folder`` says: a URL, ``user@host:path``, or the path of a folder."""
        scheme, mark, rest = text.partition("://")
        if mark:
            if scheme == "file":
                return cls(Path(urllib.parse.unquote(rest)).as_uri(), local=True)
            return cls(text)
        if ":" in text.partition("/")[0]:
            return cls(text)
        return cls(Path(os.path.normpath(folder / text)).as_uri(), local=True)

    @property
    def shown(self) -> str:
        """As messages show it: without a password, and a folder as a path."""
        if self.local:
            return urllib.parse.unquote(self.url.removeprefix("file://"))
        return without_password(self.url) if "://" in self.url else self.url

    def module(self, url: str) -> Remote | None:
        """The repository that a submodule of this one names; None where it may not be had from there.

        Relative ones are read as git-submodule(1) does. A server cannot name a folder of this machine.
        """
        if url.startswith(("./", "../")):
            return Remote(_relative(self.url, url), local=self.local)
        scheme, mark, _ = url.partition("://")
        if mark and scheme in SCHEMES:
            return Remote(url)
        if self.local and (url.startswith("/") or scheme == "file"):
            return Remote.of(url, Path("/"))
        scp = not mark and ":" in url.partition("/")[0] and "::" not in url and not url.startswith("-")
        return Remote(url) if scp else None


def _relative(base: str, url: str) -> str:
    base = base.rstrip("/")
    mark = "/"
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            cut = max(base.rfind("/"), base.rfind(":"))
            mark, base = base[cut], base[:cut]
        url = url.partition("/")[2]
    return f"{base}{mark}{url}"


class Clone:
    """A bare repository in the empty folder ``path``, into which single commits are fetched from ``remote``."""

    def __init__(self, path: Path, remote: Remote, watch: Watch | None = None) -> None:
        self._path = path
        self._remote = remote
        self._watch = watch or Watch()
        self._refs: Mapping[str, str] | None = None
        self._git("init", "--quiet", "--bare", "--template=", "--", str(path))

    def fetch(self, rev: str) -> str:
        """Have the commit that ``rev`` (commit, tag or branch) is now; returns its id (sha1 hex).

        Raises :class:`FetchError` naming what there is instead.
        """
        if is_oid(rev):
            self._fetch_oid(rev)
            return self._commit(rev, rev)
        refs = self.refs()
        if name := _named(rev, refs):
            self._fetch(f"{name}:{_WANTED}")
            return self._commit(_WANTED, rev)
        if not _is_short(rev):
            raise FetchError(
                f"it has no commit, tag or branch {rev!r}", where=self._remote.shown, hint=_near(rev, refs)
            )
        self._fetch_all()
        return self._commit(rev, rev)

    def ask(self, commit: str) -> None:
        """That the repository has a commit (sha1 hex), without any of its files where the server can do that.

        Raises :class:`FetchError` where it has not.
        """
        if commit not in self.refs().values():
            self._fetch(f"{commit}:{_WANTED}", "--filter=tree:0")

    def fetch_ref(self, name: str) -> bool:
        """Have what a whole name such as ``refs/notes/commits`` is now, under that name; False where there is none."""
        if name not in self.refs():
            return False
        self._fetch(f"{name}:{name}")
        return True

    def known(self, rev: str) -> str | None:
        """The commit that a tag or branch is, if that can be said without fetching it."""
        if is_oid(rev):
            return rev
        name = _named(rev, self.refs())
        return self.refs()[name] if name else None

    def refs(self) -> Mapping[str, str]:
        """What the repository's names stand for: object ids by ``HEAD``, ``refs/tags/v1``, ``refs/heads/main``.

        Of a tag that says something itself, it is the id of what it tags.
        """
        if self._refs is None:
            self._refs = self._listed()
        return self._refs

    def _listed(self) -> Mapping[str, str]:
        lines = self._talk("ls-remote", *self._pack(), "--", self._remote.url).decode(errors="replace").splitlines()
        found = (line.partition("\t") for line in lines)
        return {name.removesuffix("^{}"): oid for oid, _, name in found}

    def objects(self) -> Objects:
        """Its objects. A context, for a program runs meanwhile."""
        return Objects(self._path)

    def _fetch_oid(self, oid: str) -> None:
        """Ask for it alone; an old or a simple server gives names only, and then all of them are had."""
        try:
            self._fetch(f"{oid}:{_WANTED}")
        except FetchError as error:
            if not _can_only_give_names(error.message):
                raise
            self._fetch_all()

    def _fetch(self, refspec: str, *more: str) -> None:
        options = ("--quiet", "--no-tags", "--force", "--depth=1", *more, *self._pack())
        try:
            self._talk("fetch", *options, "--", self._remote.url, refspec)
        except FetchError as error:
            if "does not support shallow" not in error.message:
                raise
            options = ("--quiet", "--no-tags", "--force", *self._pack())
            self._talk("fetch", *options, "--", self._remote.url, refspec)

    def _fetch_all(self) -> None:
        self._talk("fetch", "--quiet", "--force", *self._pack(), "--", self._remote.url, "+refs/*:refs/reprobox/all/*")

    def _pack(self) -> tuple[str, ...]:
        """Reading a folder that somebody else owns is what was asked for."""
        return ("--upload-pack=git -c 'safe.directory=*' upload-pack",) if self._remote.local else ()

    def _commit(self, name: str, rev: str) -> str:
        done = self._run(("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"), None)
        oid = done[1].decode().strip()
        if done[0] or not is_oid(oid):
            raise FetchError(
                f"it has no commit {rev!r}",
                where=self._remote.shown,
                hint="check the commit: it may have been removed upstream, or be of another repository",
            )
        return oid

    # -- the program ---------------------------------------------------------------------------------------------------

    def _git(self, *argv: str) -> None:
        status, _, said = self._run(argv, None)
        if status:
            raise FetchError(_last(said), where=self._remote.shown)

    def _talk(self, *argv: str) -> bytes:
        """Run a command that reaches the repository."""
        status, out, said = self._run(argv, self._remote)
        if status:
            message = said.replace(self._remote.url, self._remote.shown)
            raise FetchError(_last(message), where=self._remote.shown, hint=_hint(message))
        return out

    def _run(self, argv: Sequence[str], remote: Remote | None) -> tuple[int, bytes, str]:
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        tied = [sys.executable, "-SIc", _TIED, str(os.getpid())] if remote is not None else []
        command = [*tied, _program(), *settings, *argv]
        environment = _environment(remote) | {"GIT_DIR": str(self._path)}
        out, said = self._path.with_name("stdout"), self._path.with_name("stderr")
        with (
            out.open("wb") as stdout,
            said.open("wb") as stderr,
            subprocess.Popen(
                command,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # its own group, and without a terminal that somebody could be asked on
            ) as process,
        ):
            self._wait(process)
        return process.returncode, out.read_bytes(), said.read_text("utf-8", "replace")

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Until it ends, or until nobody wants it any more."""
        pause = 0.002
        try:
            while process.poll() is None:
                self._watch.advance(0)
                time.sleep(pause)
                pause = min(pause * 1.5, 0.1)
        except BaseException:
            process.terminate()
            raise


def _program() -> str:
    found = shutil.which("git")
    if found is None:
        raise FetchError(
            "the program git is needed to get this, and it is not on this machine",
            hint="install git (package `git` of most systems), and look that it is on PATH",
        )
    return found


def _environment(remote: Remote | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in _KEPT}
    if remote is not None and loopback(urllib.parse.urlsplit(remote.url).hostname or ""):
        kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    return kept | {
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": ":".join(("file",) if remote is not None and remote.local else _ways(remote)),
        "GIT_ASKPASS": "",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "SSH_ASKPASS_REQUIRE": "never",
        **({} if remote is not None else {"GIT_CONFIG_GLOBAL": "/dev/null"}),
    }


def _ways(remote: Remote | None) -> Iterator[str]:
    """What may be used to reach it. Nobody is sent on from what is protected to what anybody on the way can change."""
    url = remote.url if remote is not None else ""
    return (scheme for scheme in SCHEMES if scheme not in OPEN or url.startswith(f"{scheme}://"))


class Objects:
    """The objects of a bare repository, read through one ``git cat-file``."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [_program(), "cat-file", "--batch"],
            cwd="/",
            env=_environment(None) | {"GIT_DIR": str(path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                _pipe(stream).close()
        self._process.wait()

    def read(self, oid: str) -> tuple[str, int, Iterator[bytes]]:
        """As :data:`reprobox.git.commits.Read`."""
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        stdin.write(oid.encode() + b"\n")
        stdin.flush()
        words = stdout.readline().split()
        if len(words) != 3:
            raise CommitError(f"the object {oid} is missing")
        return words[1].decode(), int(words[2]), _content(stdout, int(words[2]))


def _content(stdout: IO[bytes], size: int) -> Iterator[bytes]:
    while size:
        piece = stdout.read(min(size, _CHUNK))
        if not piece:
            raise CommitError("git ended while it was read from")
        size -= len(piece)
        yield piece
    stdout.read(1)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def modules(text: bytes, folder: Path) -> Mapping[bytes, str]:
    """URLs of submodules by path, from the content of a ``.gitmodules`` file. ``folder`` is an empty one to work in."""
    file = folder / "gitmodules"
    file.write_bytes(text)
    done = subprocess.run(
        [_program(), "config", "--file", str(file), "--null", "--list"],
        cwd="/",
        env=_environment(None),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise CommitError(f".gitmodules cannot be read: {_last(done.stderr.decode(errors='replace'))}")
    found: dict[bytes, dict[bytes, bytes]] = {}
    for line in done.stdout.split(b"\0"):
        name, _, value = line.partition(b"\n")
        module, _, key = name.rpartition(b".")
        found.setdefault(module, {})[key] = value
    return {
        os.path.normpath(item[b"path"]): os.fsdecode(item[b"url"])
        for module, item in found.items()
        if module.startswith(b"submodule.") and b"path" in item and b"url" in item
    }


# -- what to say -------------------------------------------------------------------------------------------------------


def _named(rev: str, refs: Mapping[str, str]) -> str | None:
    return next((name for name in (rev, f"refs/tags/{rev}", f"refs/heads/{rev}") if name in refs), None)


def _is_short(rev: str) -> bool:
    return 6 <= len(rev) < 40 and not rev.strip("0123456789abcdef")


def _near(rev: str, refs: Mapping[str, str]) -> str:
    names = sorted({name.split("/", 2)[2] for name in refs if name.startswith(("refs/tags/", "refs/heads/"))})
    if near := get_close_matches(rev, names, n=3):
        return f"did you mean {' or '.join(map(repr, near))}?"
    if 0 < len(names) <= 12:
        return f"it has {', '.join(names)}"
    return f"it has {len(names)} tags and branches: `git ls-remote` lists them" if names else "it has no commits yet"


def _can_only_give_names(said: str) -> bool:
    return any(
        text in said for text in ("not our ref", "unadvertised object", "couldn't find remote ref", "not found in")
    )


def _last(said: str) -> str:
    """What git gave as its reason."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(("fatal: ", "error: ", "ERROR: "))] or lines
    chosen = [line.partition(": ")[2] if line in reasons and ": " in line else line for line in reasons]
    return "; ".join(dict.fromkeys(chosen[:3])) or "git failed, and did not say why"


_HINTS = {
    ("Could not resolve", "Failed to connect", "unable to connect", "Connection refused", "timed out", "unreachable"): (
        "check the network connection, the name of the server, and the proxy settings (https_proxy, no_proxy)"
    ),
    ("terminal prompts disabled", "Authentication failed", "Permission denied", "Host key verification"): (
        "git must be able to read it without asking: set up a credential helper or an ssh key, and try `git ls-remote`"
    ),
    ("not found", "does not appear to be a git repository", "not a git repository", "No such file"): (
        "check the repository: `git ls-remote` must be able to list it"
    ),
    ("transport", "not allowed"): "git is told not to use this way: begin the repository with https:// or ssh://",
}


def _hint(said: str) -> str:
    for texts, hint in _HINTS.items():
        if any(text in said for text in texts):
            return hint
    return "try `git ls-remote` with it"
