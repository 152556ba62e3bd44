"""What the files of a crate are called: whoever writes one, reads one or tells of one takes the names from here."""

from __future__ import annotations

METADATA = "ro-crate-metadata.json"
PREVIEW = "ro-crate-preview.html"
#: The folder with the manifest, the lock and the code.
PROJECT = "project"
#: Everything that the environment is made of.
VAULT = "vault.tar"
#: The folder with the finished environment, one tar for each target.
IMAGES = "image"


def image_file(target: str) -> str:
    """Where a crate has the image of a target."""
    return f"{IMAGES}/{target}.oci.tar"
