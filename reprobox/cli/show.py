"""``reprobox show``"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from reprobox.cli.obtaining import Looked, add_source_options, look, looked_at
from reprobox.cli.telling import sentences
from reprobox.project import Project
from reprobox.sources.obtained import Obtained
from reprobox.sources.source import understand

DETAILS = """\
Describes what a publication, a vault, a repository or a folder holds: whose it is, what its environment is made of,
what it would fetch, run, read and write. Nothing of it is built or run, and nothing is kept.

examples:
  reprobox show                           the project in this folder
  reprobox show paper.zip                 a crate, as a journal or an archive has it
  reprobox show vault.tar --lock xor      one of several projects of a vault"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="what `realize` takes; this project if left out")
    parser.add_argument("--offline", action="store_true", help="use only this machine; exit 6 if that will not do")
    add_source_options(parser)


def execute(options: argparse.Namespace) -> int:
    source = understand(options.source or options.project)
    if source.is_own:
        project = Project.find(source.path)
        root, name = project.root, project.manifest_path.name
        obtained = Obtained(folder=root, what="a folder of this machine", facts={"folder": str(root)}, manifest=name)
        _tell(options, look(options, source, obtained))
        return 0
    with (
        tempfile.TemporaryDirectory(prefix="reprobox-show-") as place,
        looked_at(options, source, Path(place), inputs=False) as looked,
    ):
        _tell(options, looked)
    return 0


def _tell(options: argparse.Namespace, looked: Looked) -> None:
    close = getattr(options.reporter, "close", None)
    if close is not None:
        close()
    if options.json:
        print(json.dumps(looked.description.document()))
        return
    for line in sentences(looked.description):
        print(line)
