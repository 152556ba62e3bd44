"""``reprobox deposit``"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

from reprobox.cli.report import human
from reprobox.deposit.depositing import Deposited, Depositing, Wish
from reprobox.deposit.files import File, files_of
from reprobox.deposit.invenio import SANDBOX, ZENODO, Invenio, server_url
from reprobox.deposit.memory import PUBLISHED, RECORD_ID, Deposit, recall
from reprobox.deposit.metadata import TYPES, check_complete
from reprobox.deposit.token import token_for
from reprobox.deposit.written_back import paper_of
from reprobox.download.downloader import Downloader
from reprobox.download.transfer import Watch
from reprobox.errors import UsageError
from reprobox.manifest import Manifest
from reprobox.plugins import Plugins
from reprobox.project import Project

DETAILS = """\
Puts files into Zenodo, or another archive that runs InvenioRDM, as a draft that only you see; --publish makes it
public, for ever. The token comes from ZENODO_TOKEN, ZENODO_SANDBOX_TOKEN, REPROBOX_DEPOSIT_TOKEN or the keyring. A
command that was cut off is run again: what has arrived is not sent again.

examples:
  reprobox deposit --reserve             only a draft, and its DOI into research.toml and CITATION.cff
  reprobox deposit xor.zip               the file into the draft
  reprobox deposit xor.zip --publish     and make it public
  reprobox deposit xor.zip --sandbox     try it where nothing counts
  reprobox deposit xor-2.zip --new-version"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="what `publish` wrote: a folder or a file")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--server", metavar="URL", help="another archive that runs InvenioRDM")
    place.add_argument("--sandbox", action="store_true", help="Zenodo's sandbox, where DOIs are not real")
    parser.add_argument("--reserve", action="store_true", help="only make the draft, and reserve its DOI")
    parser.add_argument("--publish", action="store_true", help="make it public, which cannot be undone")
    parser.add_argument("--yes", action="store_true", help="do not ask whether to publish")
    parser.add_argument(
        "--new-version", metavar="ID", nargs="?", const="", help="as the next version of what is published"
    )
    parser.add_argument("--type", choices=TYPES, default="software", help="what it is; software if left out")
    parser.add_argument("--publisher", metavar="NAME", default="", help="who publishes; the archive if left out")
    parser.add_argument("--dry-run", action="store_true", help="send nothing; show what would be")


def execute(options: argparse.Namespace) -> int:
    _check(options)
    project = Project.find(Path(options.project))
    manifest = project.manifest(Plugins().kinds)
    check_complete(manifest.project, str(project.manifest_path))
    server = server_url(options.server) if options.server else SANDBOX if options.sandbox else ZENODO
    with tempfile.TemporaryDirectory(prefix="reprobox-deposit-") as scratch:
        files = files_of(options.files, Path(scratch))
        wish = Wish(
            files=files,
            kind=options.type,
            publisher=options.publisher or _publisher(server),
            publish=options.publish,
            new_version=options.new_version is not None,
            version_of=options.new_version or "",
        )
        token = "" if options.dry_run else token_for(server)
        depositing = Depositing(
            archive=Invenio(server=server, token=token, downloader=Downloader()),
            project=project,
            manifest=manifest,
            say=options.reporter.say,
            agreed=lambda found: options.yes or _ask(found),
            watch=_Told(options.reporter.say),
        )
        if options.dry_run:
            return _dry_run(options, depositing, manifest, wish)
        return _show(options, depositing.deposit(wish), files)


class _Told(Watch):
    """Says why something has to be sent again."""

    def __init__(self, say: Any) -> None:
        self._say = say

    def note(self, text: str) -> None:
        self._say(f"  {text}")


def _check(options: argparse.Namespace) -> None:
    if options.reserve and (options.files or options.publish):
        raise UsageError("--reserve deposits no file, and publishes nothing", hint="leave it out")
    if not options.files and not options.reserve and not options.publish:
        hint = "give what `reprobox publish` wrote, or ask with --reserve for a draft and its DOI alone"
        raise UsageError("there is nothing to deposit", hint=hint)
    if options.new_version and not RECORD_ID.match(options.new_version):
        hint = "it is the last part of the record's address, such as 1234567"
        raise UsageError(f"{options.new_version!r} is no id of a record", where="--new-version", hint=hint)
    if options.publish and not options.yes and not options.json and sys.stdin.isatty():
        return
    if options.publish and not options.yes and not options.dry_run:
        raise UsageError("publishing cannot be undone, and nobody can be asked here", hint="say --yes")


def _publisher(server: str) -> str:
    return "Zenodo" if server in (ZENODO, SANDBOX) else str(urllib.parse.urlsplit(server).hostname)


def _ask(found: Deposit) -> bool:
    """Whether the person at the terminal agrees."""
    print(f"The draft: {found.page}", file=sys.stderr)
    print(f"Published, it is public for ever, under the DOI {found.doi or 'that it gets'}.", file=sys.stderr)
    print("Publish it? [yes/no] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"


def _dry_run(options: argparse.Namespace, depositing: Depositing, manifest: Manifest, wish: Wish) -> int:
    memory = recall(depositing.project.root)
    said = depositing.metadata(wish, paper_of(manifest, memory.dois()))
    files = [{"name": item.name, "size": item.size, "md5": item.md5} for item in wish.files]
    document = {"server": depositing.archive.server, "files": files, "metadata": said}
    if options.json:
        print(json.dumps(document))
        return 0
    print(f"to {depositing.archive.server}, and nothing is sent now:")
    for item in wish.files:
        print(f"  {item.name}  {human(item.size)}")
    print(json.dumps(said, indent=2, ensure_ascii=False))
    return 0


def _show(options: argparse.Namespace, done: Deposited, files: tuple[File, ...]) -> int:
    found = done.deposit
    if options.json:
        print(json.dumps(_document(done, files)))
        return 0
    for name in done.also:
        print(f"also there  {name}")
    for path in done.written:
        print(f"DOI in      {path}")
    if done.written and files:
        options.reporter.say("these files were made before this DOI was known: publish once more, and deposit that")
    was = "published already" if done.already else "published" if found.state == PUBLISHED else "draft"
    print(f"{was:<11} {found.page}")
    print(f"DOI         {found.doi}{'' if found.state == PUBLISHED else ' (reserved)'}")
    return 0


def _document(done: Deposited, files: tuple[File, ...]) -> dict[str, Any]:
    found = done.deposit
    return {
        "server": found.server,
        "id": found.id,
        "state": found.state,
        "doi": found.doi,
        "page": found.page,
        "files": [
            {"name": item.name, "size": item.size, "md5": item.md5, "sent": item.name in done.sent} for item in files
        ],
        "also": list(done.also),
        "written": [str(path) for path in done.written],
        "already": done.already,
    }
