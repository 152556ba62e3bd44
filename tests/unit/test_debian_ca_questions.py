"""The questions of ca-certificates are answered as its own script answers them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installation import World

INFO = Path("/var/lib/dpkg/info")
QUESTIONS = INFO / "ca-certificates.config"

pytestmark = [
    pytest.mark.userns,
    pytest.mark.tool("dpkg"),
    pytest.mark.tool("unshare"),
    pytest.mark.tool("debconf"),
    pytest.mark.tool("update-ca-certificates"),
]

#: What debconf is told before, the certificates chosen before, and whether they are asked for anew, case by case.
CASES = {
    "first": ("", ":", ""),
    "like another": ("trust_new_crts select no", "choose ${some}x x$some mozilla/ISRG_Root_X ${some%.*}?crt", ""),
    "not like another": ("", "choose \\!${some}x \\!x$some \\!mozilla/ISRG_Root_X \\!${some%.*}?crt", ""),
    "patterns": ("", "choose 'mozilla/*' '*' \\!\\* \\!one.crt; touch '/usr/share/ca-certificates/o[n]e.crt'", ""),
    "comments": ("trust_new_crts select no", "choose '#one' '' \"$some \" $other", ""),
    "asked for": ("trust_new_crts select ask", "choose $some", ""),
    "again": ("", "choose $some \\!$other", "1"),
}
CASE = """
echo "== {name}"
rm -f /var/cache/debconf/* /run/ca-certificates.conf; touch /run/ca-certificates.conf
[ -z '{told}' ] || echo 'ca-certificates ca-certificates/{told}' | debconf-set-selections
{chosen}
mount --bind /run/ca-certificates.conf /etc/ca-certificates.conf
DEBCONF_RECONFIGURE={anew} DEBIAN_FRONTEND=noninteractive /usr/share/debconf/frontend /run/asked/ca-certificates.postinst configure 1
umount /etc/ca-certificates.conf
mkdir '/opt/{name}'; cp /var/cache/debconf/config.dat '/opt/{name}'
"""
SCRIPT = f"""
some=mozilla/ISRG_Root_X1.crt other=mozilla/GTS_Root_R1.crt
choose() {{ printf '%s\\n' "$@" >/run/ca-certificates.conf; }}
mkdir /run/asked && ln -s {INFO}/ca-certificates.config {INFO}/ca-certificates.templates /run/asked
printf '#!/bin/sh\\n' >/run/asked/ca-certificates.postinst && chmod 755 /run/asked/*.postinst
"""


def test_they_are_answered_as_the_package_does(tmp_path):
    world = World(tmp_path, ["/opt", "/var/cache/debconf", "/usr/share/ca-certificates"])
    script = SCRIPT + "".join(
        CASE.format(name=name, told=told, chosen=chosen, anew=anew) for name, (told, chosen, anew) in CASES.items()
    )
    script += f'! mountpoint -q {QUESTIONS} || grep -c "esac; then" {QUESTIONS} >&2'
    quick, plain = world.install(script), world.install(script, plain=True)
    assert (quick.status, plain.status) == (0, 0), quick.said + plain.said
    assert quick.said.rstrip().endswith("\n2"), quick.said
    asked = quick.said.rstrip().removesuffix("\n2").partition("== first")
    assert asked[1:] == plain.said.rstrip().partition("== first")[1:]
    assert quick.entries == plain.entries
    answers = {name: (tmp_path / "plain/result/opt" / name / "config.dat").read_text() for name in CASES}
    assert len(set(answers.values())) >= 6
    assert "mozilla/ISRG_Root_X1.crt, mozilla/" in answers["first"]
