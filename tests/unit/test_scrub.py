"""The rules that make layers the same: what each makes of a real file, and whom it leaves alone."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess

import pytest

from reprobox.scrub import RULES, rule_for
from tests.layers import EPOCH, d, f, merged, write


def rewritten(path: str, content: bytes, epoch: int = EPOCH) -> bytes:
    rule = rule_for(path, installing=True)
    assert rule is not None
    assert rule.rewrite is not None
    made = rule.rewrite(content, epoch)
    assert rule.rewrite(made, epoch) == made  # a second time changes nothing
    return made


def test_every_rule_says_why():
    assert all(rule.why and rule.paths for rule in RULES)
    assert len({pattern for rule in RULES for pattern in rule.paths}) == sum(len(rule.paths) for rule in RULES)
    assert rule_for("etc/passwd", installing=True) is None


# -- data of services --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_a_database_born_at_installation_is_left_out_and_told_once(make, whole):
    files = write({"var/lib/mysql/ibdata1": b"x", "var/lib/mysql/mysql/db.frm": b"y", "var/lib/other/x": b"z"})
    layer = make(files, installing=True, whole=whole)
    folders = [d("var"), d("var/lib"), d("var/lib/mysql")]
    assert layer.index == [*folders, d("var/lib/other"), f("var/lib/other/x", b"z")]
    (told,) = layer.dropped
    wanted = "/var/lib/mysql/*: the data of a service, made at installation;"
    assert told == f"{wanted} let the service make it where the environment runs"


def test_a_database_that_a_script_filled_is_kept(make):
    layer = make(write({"var/lib/mysql/mysql/db.frm": b"y"}))
    assert f("var/lib/mysql/mysql/db.frm", b"y") in layer.index
    assert layer.dropped == ()
    again = make(write({}), merged(*layer.index), installing=True)
    assert again.index == []


# -- files that are written anew ---------------------------------------------------------------------------------------

INFO = b"""\
This is the file .../info/dir, which contains the
topmost node of the Info hierarchy.
\x1f
File: dir,\tNode: Top\tThis is the top of the INFO tree

  Emacs users type "mEmacs<Return>".

* Menu:

Utilities
* sdiff: (diffutils)Invoking sdiff.
                                Compare files.
* diff3: (diffutils)Invoking diff3.

Basics
* Find: (find).  Search.
"""


def test_the_menu_of_info_is_in_order():
    one, two = (
        b"* sdiff: (diffutils)Invoking sdiff.\n" + b" " * 32 + b"Compare files.\n",
        b"* diff3: (diffutils)Invoking diff3.\n",
    )
    assert one + two in INFO
    made = rewritten("usr/share/info/dir", INFO)
    assert made == rewritten("usr/share/info/dir", INFO.replace(one + two, two + one))
    assert sorted(made.split()) == sorted(INFO.split())
    assert made.index(b"\nBasics\n* Find") < made.index(b"\nUtilities\n* diff3") < made.index(one)
    assert made.startswith(INFO.partition(b"* Menu:")[0])
    head, _, _ = INFO.partition(b"\nUtilities")
    for other in (b"", head, head + b"\nBasics\n* Find: (find).\n\n\nTools\n* X: (x).\n* Y: (y).\n\n"):
        assert rewritten("usr/share/info/dir", other) == other  # what is in order stays as it is


def test_octaves_list_says_no_time():
    text = b"# Created by Octave 7.3.0, Sun Nov 22 07:00:00 2026 UTC <root@reprobox>\n# name: global_packages\n"
    made = rewritten("usr/share/octave/octave_packages", text)
    assert made == b"# Created by Octave 7.3.0\n# name: global_packages\n"


LS_R = b"""\
% ls-R -- filename database for kpathsea; do not change this line.

./:
.:
xdvi
dvips

./xdvi:
XDvi-paper

./dvips:
config
base
"""


def test_ls_r_is_in_order():
    made = rewritten("var/lib/texmf/ls-R-TEXLIVEDIST", LS_R)
    other = LS_R.replace(b"config\nbase", b"base\nconfig").replace(b"xdvi\ndvips", b"dvips\nxdvi")
    assert made == rewritten("var/lib/texmf/ls-R", other)
    first, top, dvips, xdvi = made.split(b"\n\n")
    assert first == LS_R.partition(b"\n")[0]
    assert top == b"./:\n.:\ndvips\nxdvi"
    assert dvips == b"./dvips:\nbase\nconfig"
    assert xdvi == b"./xdvi:\nXDvi-paper\n"


def test_lists_of_fonts_are_in_order():
    content = b"### made by update-updmap.\n#\n# Z\n# A\nMixedMap cm.map\nMap charter.map\nMap a.map\n"
    made = b"### made by update-updmap.\n#\n# Z\n# A\nMap a.map\nMap charter.map\nMixedMap cm.map\n"
    assert rewritten("var/lib/texmf/updmap.cfg-TEXLIVEDIST", content) == made


def test_formats_are_kept_for_a_tex_without_them_does_not_run(make):
    path = "var/lib/texmf/web2c/luahbtex/lualatex.fmt"
    assert f(path, b"x") in make(write({path: b"x"}), installing=True).index


def keystore(*aliases: str, date: int, password: str = "changeit", tag: int = 2) -> bytes:
    """As java.security.KeyStore writes it (sun.security.provider.JavaKeyStore)."""
    data = struct.pack(">III", 0xFEEDFEED, 2, len(aliases))
    for alias in aliases:
        name, kind, certificate = alias.encode(), b"X.509", alias.encode() * 40
        data += struct.pack(">IH", tag, len(name)) + name + struct.pack(">Q", date * 1000)
        data += struct.pack(">H", len(kind)) + kind + struct.pack(">I", len(certificate)) + certificate
    return data + hashlib.sha1(password.encode("utf-16-be") + b"Mighty Aphrodite" + data).digest()


CACERTS = "etc/ssl/certs/java/cacerts"


def test_javas_certificates_have_the_epochs_date():
    made = rewritten(CACERTS, keystore("b", "a", date=1))
    assert made == rewritten(CACERTS, keystore("a", "b", date=2)) == keystore("a", "b", date=EPOCH)


@pytest.mark.parametrize(
    "other",
    [b"", b"\xfe\xed\xfe\xed", keystore("a", date=1, password="other"), keystore("a", date=1, tag=1)],
)
def test_other_keystores_stay_as_they_are(other):
    assert rewritten(CACERTS, other) == other


@pytest.mark.tool("keytool")
def test_keytool_reads_what_was_rewritten(tmp_path):
    """The real program, where there is one."""
    keytool = shutil.which("keytool") or ""
    (tmp_path / "cacerts").write_bytes(rewritten(CACERTS, keystore(date=1)))
    listing = [keytool, "-list", "-keystore", tmp_path / "cacerts", "-storepass", "changeit"]
    assert "0 entries" in subprocess.run(listing, capture_output=True, text=True, check=True).stdout


def page(kind: int, entries: int, first: int, body: bytes) -> bytes:
    """A page of a Berkeley DB: log position, number, neighbours, entries, where they start, level, type."""
    return struct.pack("<QIIIHHBB", 0, 1, 0, 0, entries, first, 1, kind) + body


def test_the_aliases_lose_ids_and_date():
    meta = struct.pack("<QIIIIBB", 0, 0, 0x00061561, 9, 512, 0, 9)
    entry = b"host\x01YP_MASTER_NAME\x011795331863\x01YP_LAST_MODIFIED\x01@"

    def database(junk: bytes) -> bytes:
        first = (meta + bytes(26) + junk * 20).ljust(512, b"\x07")
        used = page(5, 2, 512 - len(entry), b"abcd" + junk * (512 - len(entry) - 30) + entry)
        return first + used + page(13, 0, 512, junk * 486)

    made = rewritten("etc/aliases.db", database(b"x"))
    assert made == database(b"\0").replace(b"1795331863", b"%d" % EPOCH)
    for other in (b"", b"text " * 300, bytes(2048)):
        assert rewritten("etc/aliases.db", other) == other
