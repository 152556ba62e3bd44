"""What others have signed about the lock, as it is handed on.

A publication does not say whether a signature is good: readers find out, with the keys that they believe. So it is
the same whoever makes it.
"""

from __future__ import annotations

from pathlib import Path

from reprobox.errors import IntegrityError
from reprobox.lock import Lock
from reprobox.preview.content import Voucher
from reprobox.project import Project
from reprobox.session import Session

PLACE = "attestations"


def put_attestations(
    session: Session, project: Project, lock: Lock, lock_digest: str, folder: Path
) -> tuple[Voucher, ...]:
    """Copy the attestations of this lock, and return what they say. Those of other locks are left out, and told.

    ``lock_digest`` is sha256 hex of ``research.lock``. Raises :class:`IntegrityError` for one that is damaged, or says
    other digests than the seal, or has a bad signature of a key that is known here.
    """
    from reprobox.attestation.check import check_attestations
    from reprobox.attestation.folder import FOLDER, attestations_in, read_attestation
    from reprobox.attestation.keys import open_keyring

    place = project.root / FOLDER
    files = list(attestations_in([place])) if place.is_dir() else []
    if not files:
        return ()
    report = check_attestations(files, lock_digest, lock, open_keyring().believed())
    vouchers = {}
    for finding in report.findings:
        name = Path(finding.file).name
        if finding.state == "another lock":
            session.reporter.say(f"{name} is not in it: {finding.message}")
        elif finding.state not in ("valid", "unknown key") or finding.statement is None:
            hint = "take it away, or let whoever signed it sign again"
            raise IntegrityError(finding.message, where=finding.file, hint=hint)
        else:
            (folder / PLACE).mkdir(exist_ok=True)
            (folder / PLACE / name).write_bytes(read_attestation(Path(finding.file)))
            builders = " and ".join(finding.statement.builders)
            says = f"built again by {builders}, with the digests of the seal"
            vouchers[name, finding.keyid] = Voucher(key=finding.keyid, when=finding.statement.finished, says=says)
    return tuple(vouchers[key] for key in sorted(vouchers))
