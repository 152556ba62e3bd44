"""The README inside a vault: for a reader who has no reprobox, in a year when there may be none."""

from __future__ import annotations

README = """\
This folder is a vault: it holds everything that a computational environment is made of, so that it can be made
again when the places that offered these files are gone. It was written by the program reprobox.

It is an OCI image layout (Open Container Initiative, image specification 1.1):

  index.json          names one manifest for each lock that is kept here, and one for each image
  blobs/sha256/HEX    every file, under the sha256 of its bytes
  oci-layout          says that this is such a layout
  README              this text


1. Is it whole?

Every blob is named by its hash, so any program for sha256 can tell:

    cd blobs/sha256 && for f in *; do echo "$f  $f"; done | sha256sum --check --quiet

No output means that every blob has its bytes. `reprobox vault PATH --check` also finds what is missing, what does
not belong here, and damage to the index.


2. Take the files out, under names that mean something

With Python 3 alone. Save this as take.py and run `python3 take.py VAULT FOLDER [NAME]`; without NAME it takes the
first lock:

    import json, os, shutil, sys
    vault, folder, name = sys.argv[1], sys.argv[2], (sys.argv[3:] or [None])[0]
    blob = lambda digest: os.path.join(vault, "blobs", "sha256", digest.removeprefix("sha256:"))
    for entry in json.load(open(os.path.join(vault, "index.json")))["manifests"]:
        if "artifactType" in entry and name in (None, entry["annotations"]["org.opencontainers.image.ref.name"]):
            for part in json.load(open(blob(entry["digest"])))["layers"]:
                target = os.path.join(folder, part["annotations"]["org.opencontainers.image.title"])
                os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
                shutil.copy(blob(part["digest"]), target)
            break

`oras pull --oci-layout VAULT:NAME` does the same. You get:

  research.toml       what the researcher asked for: the manifest
  research.lock       what that was, by hash, layer by layer in the order in which they were built
  project.tar         both of these, the code, and what else of the project is needed
  inputs/             packages, archives, image layers: every file that the lock names
  indices/, keys/     the signed lists that the packages were chosen from, and who signed them
  inventory.txt       each input with its licence, and what may not be passed on
  tools/              reprobox itself, with all that it needs, as Python wheels
  research.attestations/  people who built it again and vouch for it: in-toto statements, signed (DSSE)
  layers/             built layers as tars, where they were asked for


3. Make the environment with reprobox

On Linux, with Python 3.11 or newer, and without any network:

    python3 -m venv venv
    venv/bin/pip install --no-index --find-links FOLDER/tools reprobox
    venv/bin/reprobox vault VAULT --extract project
    venv/bin/reprobox realize -C project --offline --vault VAULT

The digests that it prints are those of the table `seal` in research.lock. (The wheels in tools/ are for the kind of
machine and the version of Python that wrote them; the program is plain Python otherwise.)


4. Make it by hand

You will get the same packages, if not the same bytes. Read research.lock from its beginning: it is a TOML file. For
each `[[targets.NAME.layers]]`, in order, take the files in its `inputs` from inputs/, and:

  kind = "bootstrap"  unpack every .deb into an empty folder (`dpkg-deb --extract FILE.deb ROOT`), then configure them
                      inside it: `chroot ROOT dpkg --force-depends --install ...` over the same files
  kind = "image"      unpack the layer-NNN.tar.* files over each other, in the order of their numbers
  kind = "apt"        `chroot ROOT dpkg --install` of its .deb files
  kind = "pip"        `pip install --no-index --no-deps FILES.whl` with the Python of that folder
  kind = "fetch"      put the file where `options.files` says, or unpack it there
  kind = "git"        the .bundle file is a git bundle: `git bundle list-heads FILE`, `git clone FILE`
  kind = "copy"       copy the files from project.tar to where `options.files` says
  kind = "run"        run the script that `options` has, in that folder

Then run what `[run] command` of research.toml says, with the code where `[code] target` says.
"""
