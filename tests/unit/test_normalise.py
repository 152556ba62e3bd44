"""The rule that turns what a step changed into a layer: every clause of it, on directories as overlayfs leaves them."""

from __future__ import annotations

import fnmatch
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from reprobox.digest import Entry, read_index
from reprobox.normalise import Changes, normalise
from reprobox.scrub import RULES
from reprobox.tree import Tree, scan
from tests.layers import EPOCH, ROOT, both, d, f, l, merged, opaque, run_bare, w, write

pytestmark = pytest.mark.usefixtures("umask")

OLD = 1_500_000_000


# -- what enters -------------------------------------------------------------------------------------------------------


def test_only_what_differs_enters(make):
    parents = merged(d("a"), d("a/b"), f("a/b/same", b"x"), f("a/b/content", b"x"), f("a/b/mode"), f("a/b/type"))
    layer = make(
        both(
            write({"a/b/same": b"x", "a/b/content": b"y", "a/b/mode": b"", "a/b/type/": None, "a/b/new": b""}),
            lambda root: (root / "a/b/mode").chmod(0o600),
        ),
        parents,
    )
    assert layer.index == [
        d("a"),
        d("a/b"),
        f("a/b/content", b"y"),
        f("a/b/mode", mode=0o600),
        f("a/b/new"),
        d("a/b/type"),
    ]
    assert not (layer.tree / "a/b/same").exists()


def test_copied_up_folders_and_files_that_did_not_change_do_not_enter(make):
    parents = merged(d("usr"), d("usr/share", 0o711), f("usr/share/x", b"x"), l("usr/l", "x"))
    layer = make(
        both(
            write({"usr/share/x": b"x"}),
            lambda root: ((root / "usr/share").chmod(0o711), (root / "usr/l").symlink_to("x")),
        ),
        parents,
    )
    assert layer.index == []
    assert list(layer.tree.iterdir()) == []


def test_a_changed_time_alone_is_no_change(make):
    layer = make(both(write({"x": b""}), lambda root: os.utime(root / "x", (1, 1))), merged(f("x")))
    assert layer.index == []


def test_a_link_to_another_place_enters(make):
    layer = make(lambda root: (root / "x").symlink_to("b c"), merged(l("x", "a")))
    assert layer.index == [l("x", "b c")]
    assert os.readlink(layer.tree / "x") == "b c"


def test_ancestors_enter_with_their_merged_mode(make):
    parents = merged(d("srv", 0o711), d("srv/data", 0o1777), d("other"))
    layer = make(
        both(
            write({"srv/data/mine/x": b"", "other/": None}),
            lambda root: ((root / "srv").chmod(0o711), (root / "srv/data").chmod(0o1777)),
        ),
        parents,
    )
    assert layer.index == [d("srv", 0o711), d("srv/data", 0o1777), d("srv/data/mine"), f("srv/data/mine/x")]
    assert stat.S_IMODE(layer.stat("srv").st_mode) == 0o711
    assert stat.S_IMODE(layer.stat("srv/data").st_mode) == 0o1777


def test_ancestors_of_a_deletion_enter_with_their_merged_mode(make):
    parents = merged(d("srv", 0o711), f("srv/x"))
    assert make(both(write({"srv/x": None}), lambda root: (root / "srv").chmod(0o711)), parents).index == [
        d("srv", 0o711),
        w("srv/x"),
    ]


def test_a_changed_mode_of_an_ancestor_enters(make):
    layer = make(both(write({"srv/": None}), lambda root: (root / "srv").chmod(0o700)), merged(d("srv")))
    assert layer.index == [d("srv", 0o700)]


def test_the_root_never_enters(make, tmp_path):
    layer = make(both(write({"x": b""}), lambda root: root.chmod(0o700)))
    assert [entry.path for entry in layer.index] == [b"x"]
    assert stat.S_IMODE(layer.tree.stat().st_mode) == 0o755


def test_a_file_instead_of_a_folder(make):
    parents = merged(d("a"), d("a/b"), f("a/b/x"), f("a/c"))
    layer = make(write({"a": b"now a file"}), parents)
    assert layer.index == [f("a", b"now a file")]
    parents.apply(layer.index)
    assert parents.sorted() == [f("a", b"now a file")]


def test_a_folder_instead_of_a_file(make):
    parents = merged(f("a", b"x"), l("b", "a"))
    layer = make(write({"a/x": b"", "b/": None}), parents)
    assert layer.index == [d("a"), f("a/x"), d("b")]
    parents.apply(layer.index)
    assert parents.sorted() == [d("a"), f("a/x"), d("b")]


# -- deletions ---------------------------------------------------------------------------------------------------------


def is_whiteout(path: Path) -> bool:
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_a_deletion_is_one_whiteout(make):
    layer = make(write({"a/x": None}), merged(d("a"), f("a/x"), f("a/y")))
    assert layer.index == [d("a"), w("a/x")]
    assert is_whiteout(layer.tree / "a/x")


def test_a_deleted_folder_is_one_whiteout_at_the_topmost_path(make):
    parents = merged(d("a"), d("a/b"), d("a/b/c"), f("a/b/c/x"))
    layer = make(write({"a/b": None}), parents)
    assert layer.index == [d("a"), w("a/b")]
    parents.apply(layer.index)
    assert parents.sorted() == [d("a")]


def test_a_whiteout_of_nothing_does_not_enter(make):
    assert make(write({"made-and-deleted": None}), merged(d("a"))).index == []


def test_an_opaque_folder_becomes_explicit_whiteouts(make):
    parents = merged(d("a"), d("a/deep"), d("a/deep/er"), f("a/deep/er/x"), f("a/gone"), f("a/kept"), f("b"))
    layer = make(both(write({"a/kept": b"", "a/new": b""}), lambda root: opaque(root / "a")), parents)
    assert layer.index == [d("a"), w("a/deep"), w("a/gone"), f("a/new")]
    assert "user.overlay.opaque" not in os.listxattr(layer.tree / "a")


def test_a_new_folder_that_overlayfs_calls_opaque_is_only_a_folder(make):
    layer = make(both(write({"new/x": b""}), lambda root: opaque(root / "new")), merged(d("a")))
    assert layer.index == [d("new"), f("new/x")]


def test_a_folder_made_anew_over_a_deleted_one(make):
    parents = merged(d("a"), d("a/b"), f("a/b/x"), d("a/b/c"), f("a/b/c/y"))
    layer = make(
        both(
            write({"a/b/c/z": b""}),
            lambda root: (opaque(root / "a/b"), opaque(root / "a/b/c"), (root / "a/b").chmod(0o700)),
        ),
        parents,
    )
    assert layer.index == [d("a"), d("a/b", 0o700), d("a/b/c"), w("a/b/c/y"), f("a/b/c/z"), w("a/b/x")]


def test_whole_trees_show_deletions_by_absence(make):
    parents = merged(d("a"), d("a/b", 0o711), f("a/b/x"), d("a/b/c"), f("a/b/c/y"), f("a/kept"), d("run"), f("run/pid"))
    layer = make(
        both(write({"a/kept": b"", "a/b/": None, "run/": None}), lambda root: (root / "a/b").chmod(0o711)),
        parents,
        whole=True,
    )
    assert layer.index == [d("a"), d("a/b", 0o711), w("a/b/c"), w("a/b/x")]


# -- links between files -----------------------------------------------------------------------------------------------


def test_hard_links_stay_within_the_layer(make):
    layer = make(both(write({"b/first": b"x"}), lambda root: os.link(root / "b/first", root / "a")))
    assert layer.index == [f("a", b"x"), d("b"), f("b/first", b"x")]
    assert layer.stat("a").st_ino == layer.stat("b/first").st_ino


def test_a_hard_link_to_a_file_below_is_a_file(make):
    # overlayfs copies the lower file up, under both names; only the new name differs from the parents.
    layer = make(both(write({"old": b"x"}), lambda root: os.link(root / "old", root / "new")), merged(f("old", b"x")))
    assert layer.index == [f("new", b"x")]
    assert (layer.tree / "new").read_bytes() == b"x"


# -- what is normalised ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "kept"), [(0o4755, 0o755), (0o2755, 0o755), (0o6711, 0o711), (0o5755, 0o1755)])
def test_set_id_bits_of_files_are_dropped_and_told(make, mode, kept):
    layer = make(both(write({"x": b""}), lambda root: (root / "x").chmod(mode)))
    assert layer.index == [f("x", mode=kept)]
    assert stat.S_IMODE(layer.stat("x").st_mode) == kept
    assert layer.dropped == (f"/x: setuid or setgid bit of {mode:04o}",)


def test_a_dropped_bit_is_no_change(make):
    layer = make(both(write({"x": b""}), lambda root: (root / "x").chmod(0o4755)), merged(f("x", mode=0o755)))
    assert layer.index == []
    assert layer.dropped == ("/x: setuid or setgid bit of 4755",)


def test_bits_of_folders_are_kept(make):
    layer = make(
        both(write({"a/": None, "b/": None}), lambda root: ((root / "a").chmod(0o2775), (root / "b").chmod(0o1777)))
    )
    assert layer.index == [d("a", 0o2775), d("b", 0o1777)]
    assert [stat.S_IMODE(layer.stat(name).st_mode) for name in "ab"] == [0o2775, 0o1777]
    assert layer.dropped == ()


def test_set_id_bits_of_a_base_stay_where_nothing_changes(make):
    parents = merged(f("su", mode=0o4755), f("mount", mode=0o4755))
    layer = make(
        both(
            write({"su": b"", "mount": b"new"}),
            lambda root: ((root / "su").chmod(0o4755), (root / "mount").chmod(0o4755)),
        ),
        parents,
    )
    assert layer.index == [f("mount", b"new", 0o755)]


def test_devices_fifos_and_sockets_are_dropped_and_told(make):
    def put(root: Path) -> None:
        os.mkfifo(root / "fifo")
        with socket.socket(socket.AF_UNIX) as server:
            old = Path.cwd()
            os.chdir(root)
            server.bind("socket")
            os.chdir(old)
        if os.geteuid() == 0:
            os.mknod(root / "device", stat.S_IFCHR, os.makedev(1, 3))

    layer = make(put, merged(f("fifo", b"was a file")))
    assert layer.index == [w("fifo")]
    names = {"device", "fifo", "socket"} if os.geteuid() == 0 else {"fifo", "socket"}
    assert set(layer.dropped) == {f"/{name}: a device, FIFO or socket" for name in names}


def test_times(make):
    def put(root: Path) -> None:
        write({"old": b"", "epoch": b"", "newer": b"", "now": b"", "ancient": b"", "folder/": None})(root)
        (root / "link").symlink_to("x")
        for name, seconds in (("old", OLD), ("epoch", EPOCH), ("newer", EPOCH + 1), ("ancient", -5), ("folder", OLD)):
            os.utime(root / name, (seconds, seconds))
        os.utime(root / "link", (OLD, OLD), follow_symlinks=False)

    layer = make(put)
    times = {name: layer.stat(name).st_mtime for name in ("old", "epoch", "newer", "now", "ancient", "folder", "link")}
    wanted = {"old": OLD, "epoch": EPOCH, "newer": EPOCH, "now": EPOCH, "ancient": 0, "folder": EPOCH, "link": OLD}
    assert times == wanted


def test_parts_of_a_second_are_dropped(make):
    layer = make(both(write({"x": b""}), lambda root: os.utime(root / "x", ns=(0, OLD * 10**9 + 999_999_999))))
    assert layer.stat("x").st_mtime_ns == OLD * 10**9


def test_what_the_step_wrote_has_the_epoch_also_where_the_clock_is_behind(make):
    """A machine whose clock stands before the epoch: nothing the step wrote is newer than the epoch."""
    now = OLD
    layer = make(
        both(
            write({"written": b"", "at-once": b"", "from-a-package": b""}),
            lambda root: (
                os.utime(root / "written", (now + 5, now + 5)),
                os.utime(root / "at-once", (now, now)),  # the file system counts in seconds, and rounded down
                os.utime(root / "from-a-package", (now - 5, now - 5)),
            ),
        ),
        started=now + 0.9,
    )
    assert layer.stat("written").st_mtime == EPOCH
    assert layer.stat("at-once").st_mtime == EPOCH
    assert layer.stat("from-a-package").st_mtime == now - 5


def test_attributes_are_never_kept(make):
    def put(root: Path) -> None:
        write({"file": b"", "folder/": None})(root)
        for name in ("file", "folder"):
            os.setxattr(root / name, "user.note", b"x")

    layer = make(put)
    assert [os.listxattr(layer.tree / name) for name in ("file", "folder")] == [[], []]


@pytest.mark.skipif(os.geteuid() != 0, reason="capabilities are given by root")
def test_capabilities_are_never_kept(make):
    capability = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+p, version 2
    layer = make(both(write({"ping": b""}), lambda root: os.setxattr(root / "ping", "security.capability", capability)))
    assert os.listxattr(layer.tree / "ping") == []


@pytest.mark.tool("setfacl")
def test_acls_are_never_kept(make):
    def put(root: Path) -> None:
        write({"file": b"", "folder/": None})(root)
        subprocess.run(["setfacl", "-m", "u:1234:rwx", root / "file", root / "folder"], check=True)
        subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", root / "folder"], check=True)

    layer = make(put)
    assert [os.listxattr(layer.tree / name) for name in ("file", "folder")] == [[], []]
    for entry in layer.index:
        assert stat.S_IMODE(layer.stat(os.fsdecode(entry.path)).st_mode) == entry.mode


# -- what never enters -------------------------------------------------------------------------------------------------


SCRUBBED = [
    "etc/apt/apt.conf.d/01autoremove-kernels",
    "var/cache/apt/archives/partial/x.deb",
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/archive_InRelease",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/status-old",
    "var/lib/systemd/catalog/database",
    "var/log/alternatives.log",
    "var/log/apt/history.log",
    "var/log/apt/eipp.log.xz",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
    "var/log/fontconfig.log",
    "usr/share/info/dir.old",
    "var/lib/texmf/web2c/luahbtex/lualatex.log",
    "run/lock/x",
    "tmp/x",
    "dev/null2",
    "proc/x",
    "sys/x",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/mtab",
    ".dockerenv",
]


def folders_of(*paths: str) -> list[Entry]:
    names = {str(folder) for path in paths for folder in Path(path).parents} - {"."}
    return [d(name) for name in sorted(names)]


@pytest.mark.parametrize("path", SCRUBBED)
@pytest.mark.parametrize("whole", [False, True])
def test_scrubbed_paths_revert_to_the_parents_state(make, path, whole):
    folders = folders_of(path)
    made = make(write({path: b"new"}), merged(*folders), whole=whole)
    assert made.index == []
    changed = make(write({path: b"new"}), merged(*folders, f(path, b"old")), whole=whole)
    assert changed.index == []
    gone = both(write({f"{Path(path).parent}/": None}), (lambda _: None) if whole else write({path: None}))
    assert make(gone, merged(*folders, f(path, b"old")), whole=whole).index == []
    assert made.dropped == changed.dropped == ()


SECRETS = [
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_rsa_key.pub",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/munge/munge.key",
]


@pytest.mark.parametrize("path", SECRETS)
@pytest.mark.parametrize("whole", [False, True])
def test_secrets_are_dropped_and_told(make, path, whole):
    folders = folders_of(path)
    told = (f"/{path}: a secret made at installation; make it where the environment runs",)
    for parents in (merged(*folders), merged(*folders, f(path, b"old"))):
        layer = make(write({path: b"new"}), parents, whole=whole)
        assert (layer.index, layer.dropped) == ([], told)


@pytest.mark.parametrize("path", SECRETS)
@pytest.mark.parametrize("whole", [False, True])
def test_secrets_of_a_base_may_be_deleted(make, path, whole):
    folders = folders_of(path)
    gone = both(write({f"{Path(path).parent}/": None}), (lambda _: None) if whole else write({path: None}))
    layer = make(gone, merged(*folders, f(path, b"old")), whole=whole)
    assert (layer.index, layer.dropped) == ([*folders, w(path)], ())


@pytest.mark.parametrize("whole", [False, True])
def test_an_unchanged_secret_of_a_base_is_nobodys_news(make, whole):
    parents = merged(*folders_of(SECRETS[0]), f(SECRETS[0], b"the base's"))
    layer = make(write({SECRETS[0]: b"the base's"}), parents, whole=whole)
    assert (layer.index, layer.dropped) == ([], ())


def test_names_that_images_read_as_whiteouts_are_dropped_and_told(make):
    layer = make(write({"a/.wh.x": b"", ".wh..wh..opq/below/.wh.y": b"", "a/.who": b""}))
    assert layer.index == [d("a"), f("a/.who")]
    assert set(layer.dropped) == {
        f"/{name}: names that start with .wh. cannot be in an image" for name in ("a/.wh.x", ".wh..wh..opq")
    }


def test_what_the_builder_put_there_does_not_enter(make):
    layer = make(write({"opt/bound": b"", "opt/mine": b""}), ignored=frozenset([b"opt/bound"]))
    assert layer.index == [d("opt"), f("opt/mine")]


@pytest.mark.parametrize("whole", [False, True])
def test_folders_with_a_name_that_engines_use_keep_what_is_in_them(make, whole):
    layer = make(write({"environment/x": b"", "singularity/": None, ".singularity.d/x": b""}), whole=whole)
    assert layer.index == [d("environment"), f("environment/x")]


# -- files with other content ------------------------------------------------------------------------------------------

SHADOW = b"root:*:19000:0:99999:7:::\nnobody:*::0:99999:7:::\nodd line\nsci:!:1:0:99999:7:::\n"
DATED = b"root:*:19675:0:99999:7:::\nnobody:*::0:99999:7:::\nodd line\nsci:!:19675:0:99999:7:::\n"


@pytest.mark.parametrize("whole", [False, True])
def test_the_machine_id_is_emptied_and_shadow_has_the_day_of_the_epoch(make, whole):
    contents = {"etc/machine-id": b"0123\n", "etc/shadow": SHADOW, "etc/shadow-": SHADOW}
    layer = make(
        both(
            write(contents),
            lambda root: ((root / "etc/shadow").chmod(0o000), os.utime(root / "etc/shadow", (OLD, OLD))),
        ),
        merged(d("etc")),
        whole=whole,
    )
    assert layer.index == [d("etc"), f("etc/machine-id"), f("etc/shadow", DATED, 0o000), f("etc/shadow-", DATED)]
    assert layer.stat("etc/shadow").st_mtime == OLD
    assert (layer.tree / "etc/shadow-").read_bytes() == DATED
    assert EPOCH // 86400 == 19675


@pytest.mark.parametrize("whole", [False, True])
def test_a_base_with_another_day_and_id_is_not_changed_by_a_step_that_does_not_touch_them(make, whole):
    # Without overlay, the step's result has them; with overlay it does not: the layer must be the same.
    contents = {"etc/machine-id": b"0123\n", "etc/shadow": SHADOW}
    parents = merged(d("etc"), *(f(name, content) for name, content in contents.items()))
    assert make(write(contents if whole else {}), parents, whole=whole).index == []


def test_another_name_of_shadow_keeps_its_content(make):
    layer = make(both(write({"etc/shadow": SHADOW}), lambda root: os.link(root / "etc/shadow", root / "etc/copy")))
    assert layer.index == [d("etc"), f("etc/copy", SHADOW), f("etc/shadow", DATED)]
    assert (layer.tree / "etc/copy").read_bytes() == SHADOW


# -- overlay and whole trees say the same, also at the edges -----------------------------------------------------------


CASES: dict[str, tuple[list[Entry], Mapping[str, bytes | None], Mapping[str, bytes | None], list[Entry]]] = {
    # name: (parents, upper directory, the whole result, the layer)
    "a scrubbed folder is deleted": (
        [*folders_of("var/lib/apt/lists/partial/x"), f("var/lib/apt/lists/partial/x")],
        {"var/lib/apt/lists/partial": None},
        {"var/lib/apt/lists/": None},
        [*folders_of("var/lib/apt/lists/x"), w("var/lib/apt/lists/partial")],
    ),
    "a file stands where a scrubbed folder was": (
        [*folders_of("var/cache/apt/archives/x"), f("var/cache/apt/archives/x")],
        {"var/cache/apt/archives": b""},
        {"var/cache/apt/archives": b""},
        [*folders_of("var/cache/apt/x"), w("var/cache/apt/archives")],
    ),
    "a folder stands where a scrubbed file was": (
        [*folders_of("var/cache/apt/x"), f("var/cache/apt/x")],
        {"var/cache/apt/x/": None},
        {"var/cache/apt/x/": None},
        [*folders_of("var/cache/apt/x"), d("var/cache/apt/x")],
    ),
    "a folder above scrubbed files is deleted": (
        [*folders_of("var/log/apt/x"), f("var/log/apt/history.log")],
        {"var/log": None},
        {"var/": None},
        [d("var"), w("var/log")],
    ),
    "a folder that engines would hide is deleted": (
        [d("environment", 0o711), f("environment/x"), d("environment/y"), f("environment/y/z")],
        {"environment": None},
        {},
        [d("environment", 0o711), w("environment/x"), w("environment/y")],
    ),
    "a run-time folder is emptied": (
        [d("tmp", 0o1777), f("tmp/x"), d("tmp/y")],
        {"tmp/x": None, "tmp/y": None},
        {},
        [],
    ),
    "a file is replaced by a FIFO's absence": ([f("x")], {"x": None}, {}, [w("x")]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("whole", [False, True])
def test_edges(make, name, whole):
    parents, upper, result, wanted = CASES[name]
    put = write(result if whole else upper)
    if name == "a run-time folder is emptied":
        put = both(put, lambda root: ((root / "tmp").mkdir(exist_ok=True), (root / "tmp").chmod(0o1777)))
    assert make(put, merged(*parents), whole=whole).index == wanted


# -- hostile surroundings ----------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys
from pathlib import Path
from reprobox.digest import Entry
from reprobox.normalise import Changes, normalise
from reprobox.tree import Tree, remove, scan
from reprobox.image import layer_digest
os.umask(0o077)
here = Path(sys.argv[1])
output = here / "layer"
output.mkdir()
changes = here / "changes"
changes.mkdir()
{body}
"""


def as_ordinary_user(user, folder: Path, body: str) -> str:
    return run_bare(user, PROGRAM.format(body=body), folder)


@pytest.fixture
def users_folder(user):
    folder = user.home / f"folder-{os.urandom(4).hex()}"
    folder.mkdir()
    return user.give(folder)


@pytest.mark.ordinary
def test_an_ordinary_user_normalises_what_modes_forbid(user, users_folder):
    """Folders that may not be written or entered, files that may not be read: their owner's all the same."""
    printed = as_ordinary_user(
        user,
        users_folder,
        """
for name, mode in (("shut", 0o000), ("bare", 0o311), ("fixed", 0o555), ("blind", 0o600)):
    (changes / name / "below").mkdir(parents=True)
    (changes / name / "below/x").write_text(name)
    (changes / name / "below/x").chmod(0o000)
    (changes / name / "below").chmod(mode)
    (changes / name).chmod(mode)
(changes / "etc").mkdir()
(changes / "etc/shadow").write_text("root:*:1:0:99999:7:::\\n")
(changes / "etc/shadow").chmod(0o000)
before = scan(changes)
dropped = normalise(Changes(root=changes, epoch=1700000000, started=0), Tree(), output)
print(dropped, scan(output / "tree") == [e if e.path != b"etc/shadow" else e._replace(detail=f.detail) for e in before for f in scan(output / "tree") if f.path == e.path], len(before))
remove(output)
print(output.exists())
""",
    )
    assert printed.splitlines() == ["() True 14", "False"]


@pytest.mark.ordinary
def test_normalising_as_root_and_as_an_ordinary_user_gives_the_same(user, users_folder, make):
    body = """
(changes / "a/b").mkdir(parents=True, mode=0o711)
(changes / "a").chmod(0o711)
(changes / "a/b").chmod(0o2755)
(changes / "a/b/x").write_text("x")
(changes / "a/b/x").chmod(0o4755)
os.link(changes / "a/b/x", changes / "linked")
os.mknod(changes / "gone", 0o020000, 0)
parents = Tree.merged([[Entry("f", 0o644, "00" * 32, b"gone")]])
print(normalise(Changes(root=changes, epoch=1700000000, started=0), parents, output))
print((output / "index").read_text())
print(layer_digest(output / "tree", output / "index", 1700000000))
"""
    printed = as_ordinary_user(user, users_folder, body)
    rooted = users_folder.parent / f"{users_folder.name}-other"
    rooted.mkdir()
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PROGRAM.format(body=body)}"
    argv = [sys.executable, "-IS", "-c", program, rooted]
    mine = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert mine.stdout == printed
    assert "w 0000 - gone" in printed


@pytest.mark.tool("setfacl")
def test_umask_setgid_and_acls_around_do_not_enter_modes(tmp_path):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    hostile.chmod(0o2777)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx,g::rwx,o::rwx", hostile], check=True)
    output = hostile / "layer"
    changes = tmp_path / "changes"
    write({"a/b/x": b""})(changes)
    os.umask(0o077)
    output.mkdir()
    normalise(Changes(root=changes, epoch=EPOCH, started=0), Tree(), output)
    assert read_index((output / "index").read_bytes()) == [d("a"), d("a/b"), f("a/b/x")]
    assert scan(output / "tree") == [d("a"), d("a/b"), f("a/b/x")]
    assert stat.S_IMODE((output / "tree").stat().st_mode) == 0o755
    for path in (output / "tree", *(output / "tree").rglob("*")):
        assert os.listxattr(path) == []


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf_8(make):
    name = b"caf\xe9 \\ \n"

    def put(root: Path) -> None:
        folder = os.path.join(os.fsencode(root), name)
        os.mkdir(folder)
        os.symlink(name, os.path.join(folder, name))
        with open(os.path.join(folder, b"x" + name), "wb"):
            pass

    layer = make(put)
    escaped = "caf\xe9\\x20\\x5C\\x20\\x0A"
    assert layer.index == [
        d(name),
        Entry("l", 0o777, escaped, name + b"/" + name),
        f(name + b"/x" + name),
    ]
    assert scan(layer.tree) == layer.index


def test_sorting_is_by_bytes(make):
    names = ["a", "a.txt", "a-", "a0", "B", "b", "é", "Z"]
    layer = make(write({**dict.fromkeys(names[1:], b""), "a/x": b""}))
    paths = [entry.path for entry in layer.index]
    assert paths == sorted(paths)
    assert paths.index(b"a") < paths.index(b"a-") < paths.index(b"a.txt") < paths.index(b"a/x") < paths.index(b"a0")


# -- the table of rules -------------------------------------------------------------------------------------------------


def test_the_rules_name_real_things():
    """A pattern with a typo protects nothing: each matches one of the paths above, or is tried in test_scrub."""
    elsewhere = {
        "usr/sbin/policy-rc.d",
        "var/cache/fontconfig/*",
        "var/cache/man/*",
        "var/lib/dpkg/lock*",
        "var/lib/dpkg/triggers/Lock",
        "etc/postfix/*.pem",
    }
    plain = {pattern for rule in RULES if not rule.rewrite and not rule.installing for pattern in rule.paths}
    for pattern in plain - elsewhere:
        assert any(fnmatch.fnmatch(path, pattern) for path in [*SCRUBBED, *SECRETS]), pattern
