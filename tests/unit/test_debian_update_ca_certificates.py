"""What stands in for ``update-ca-certificates`` leaves what the script leaves, and leaves to the script what is unusual."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.installation import World

SHIPPED = Path("/usr/share/ca-certificates")
FOLDERS = ["/etc/ssl/certs", "/etc/ca-certificates", str(SHIPPED), "/usr/local/share/ca-certificates", "/opt"]

pytestmark = [
    pytest.mark.userns,
    pytest.mark.tool("dpkg"),
    pytest.mark.tool("unshare"),
    pytest.mark.tool("openssl"),
    pytest.mark.tool("update-ca-certificates"),
]

#: Where the test's certificates are: short names for shell.
C = "/usr/share/ca-certificates/real"

#: What the script finds, case by case; the list names all of the package's certificates if nothing else is said.
USUAL = {
    "first": "",
    "again": "update-ca-certificates",
    "comments": "printf '# one\\n\\n#two\\n' >>$list",
    "deselected before": "edit '2s/^/!/'",
    "two of a name": f"mkdir {C}/more; cp {C}/1.crt {C}/more/2.crt; echo real/more/2.crt >>$list",
    "the same twice": f"cp {C}/1.crt {C}/one.crt; echo real/one.crt >>$list",
    "not only crt": f"mv {C}/1.crt {C}/1.cert; edit s/1.crt/1.cert/",
    "lost links": "ln -s /nowhere /etc/ssl/certs/lost.pem; ln -s loop /etc/ssl/certs/loop",
    "link to another": f"ln -s {C}/2.crt /etc/ssl/certs/1.pem",
    "a file for a link": "echo 1 >/etc/ssl/certs/1.pem",
    "a bundle of another": "ln -s /opt/none /etc/ssl/certs/ca-certificates.crt",
    "certificates of nobody": f"cp {C}/1.crt /etc/ssl/certs/own.pem",
    "no line at the end": f'printf %s "$(cat {C}/1.crt)" >{C}/2.crt',
    "empty": f": >{C}/1.crt",
    "no certificate": f"echo none >{C}/1.crt",
    "bytes": f"printf '\\377\\0\\r\\n\\nx' >>{C}/1.crt",
    "no hooks": "rmdir /etc/ca-certificates/update.d",
    "no folder for others": "rmdir /usr/local/share/ca-certificates/*",
}
UNUSUAL = {
    "hook": "printf '#!/bin/sh\\ncat >>/etc/ssl/certs/told\\n' >$hooks/one; chmod 755 $hooks/one",
    "certificates of others": f"cp {C}/1.crt /usr/local/share/ca-certificates/own.crt",
    "deselected now": "update-ca-certificates; edit '2s/^/!/'",
    "missing": "echo real/none.crt >>$list",
    "no list": ": >$list",
    "no line": "printf real/1.crt >$list",
    "nothing": "edit 's/^/#/'",
    "spaces": f"cp {C}/1.crt '{C}/o n (e),.crt'; echo 'real/o n (e),.crt' >>$list",
    "indented": "echo '  real/2.crt' >>$list",
    "backslash": f"cp {C}/1.crt '{C}/o\\\\x.crt'; echo 'real/o\\\\x.crt' >>$list",
    "a folder for a link": "mkdir /etc/ssl/certs/1.pem",
    "folders of others": "mkdir /etc/ssl/certs/java; ln -s /nowhere /etc/ssl/certs/java/lost",
    "interrupted": "echo rest >/etc/ssl/certs/ca-certificates.crt.new",
    "names of others": "ln -s /nowhere '/etc/ssl/certs/lost one '",
    "own folder for files": "export TMPDIR=/opt",
    "anew": "set -- --fresh",
}  # fmt: skip

#: What a maintainer script does, for each case in folders as they were; its result goes to one of its own. Where the
#: script itself was run although something stood in for it, the case is told.
CASES = f"""
list=/etc/ca-certificates.conf hooks=/etc/ca-certificates/update.d kept=/run/reprobox-later/usr/sbin
edit() {{ sed "$1" $list >/run/edited; cat /run/edited >$list; }}
mkdir -p /opt/results && touch /run/list && mount --bind /run/list $list
cp -a {SHIPPED}/real /opt/real
if [ -e $kept ]; then
    mv $kept/update-ca-certificates /run/script
    printf '%s\n' 'touch "/run/taken $(cat /run/case)"' '. /run/script' >$kept/update-ca-certificates
fi
"""
CASE = f"""
echo {{name}} >/run/case
find /etc/ssl/certs /etc/ca-certificates /usr/local/share/ca-certificates {SHIPPED} -mindepth 1 -delete
cp -a /opt/real {SHIPPED} && mkdir $hooks /usr/local/share/ca-certificates/none && rmdir /usr/local/share/ca-certificates/*
(cd {SHIPPED} && find real -name '*.crt' | LC_ALL=C sort) >$list
(
    set --
    {{prepare}}
    update-ca-certificates --hooksdir ''
    update-ca-certificates "$@"
) >/opt/results/{{name}}.said 2>&1 || echo "status $?" >>/opt/results/{{name}}.said
cp -a /etc/ssl/certs /opt/results/{{name}}
"""


def real_certificates() -> dict[str, bytes]:
    """Files of a package: six certificates, one with a name that is not ASCII."""
    found = sorted((SHIPPED / "mozilla").iterdir())
    strange = next(path for path in found if not path.name.isascii())
    named = {f"{number}.crt": path for number, path in enumerate(found[:5], 1)} | {strange.name: strange}
    return {f"{SHIPPED}/real/{name}".lstrip("/"): path.read_bytes() for name, path in named.items()}


def test_it_leaves_what_the_script_leaves(tmp_path):
    world = World(tmp_path, FOLDERS, files=real_certificates())
    cases = {name: CASE.format(name=shlex.quote(name), prepare=text or ":") for name, text in (USUAL | UNUSUAL).items()}
    script = CASES + "".join(cases.values()) + "\nfor taken in /run/taken*; do echo $taken; done"
    quick, plain = world.install(script), world.install(script, plain=True)
    assert (quick.status, plain.status) == (0, 0), quick.said + plain.said
    differing = {os.fsdecode(entry.path) for entry in {*quick.entries} ^ {*plain.entries}}
    assert differing == set()
    assert {f"opt/results/{name}/ca-certificates.crt" for name in USUAL} <= plain.paths
    taken = {line.partition(" ")[2] for line in quick.said.splitlines() if line.startswith("/run/taken ")}
    assert taken == set(UNUSUAL)


def test_only_a_script_that_is_known_is_stood_in_for(tmp_path):
    world, script = World(tmp_path, FOLDERS), "/usr/sbin/update-ca-certificates"
    change = f"(cat {script}; echo '# more') >/run/other; mount --bind /run/other {script}"
    for before, program in (("", "#!/usr/bin/perl"), (change, "#!/bin/sh -e")):
        found = world.install(f"head -n 1 {script}", before=before)
        assert found.status == 0, found.said
        assert program in found.said
        shutil.rmtree(tmp_path / "quick")
