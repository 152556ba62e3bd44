"""What is particular to the sandbox: environments that mean harm, odd places, old kernels, and what is killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from reprobox.backend import Bind, Realization
from reprobox.errors import BackendError, BuildError
from reprobox.sandbox import kernel
from reprobox.sandbox.backend import Sandbox
from reprobox.sandbox.command import become, stage_folder
from reprobox.sandbox.launcher import ARGV
from reprobox.staging import staging_folder, sweep
from reprobox.testing import Bench, make_layer, running, small_base, small_root, until
from reprobox.tree import scan

pytestmark = pytest.mark.userns


@pytest.fixture(params=["stacked", "copied"])
def bench(request, sandboxes, tmp_path) -> Bench:
    return Bench(sandboxes[request.param], tmp_path)


@pytest.fixture
def stacked(sandboxes, tmp_path) -> Bench:
    return Bench(sandboxes["stacked"], tmp_path)


# -- environments that mean harm ---------------------------------------------------------------------------------------


def linked(**links: str):
    """Fills a root in which the paths (``__`` for a slash) are symbolic links."""

    def fill(tree: Path) -> None:
        small_root(tree)
        for name, target in links.items():
            path = tree / name.replace("__", "/")
            if path.is_dir() and not path.is_symlink():
                for below in sorted(path.rglob("*"), reverse=True):
                    below.rmdir() if below.is_dir() else below.unlink()
                path.rmdir()
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)

    return fill


@pytest.fixture
def victim(tmp_path):
    """A folder of the host that must stay as it is, whoever looks."""
    folder = tmp_path / "victim"
    (folder / "sub").mkdir(parents=True)
    for name in ("hosts", "hostname", "resolv.conf", "policy-rc.d", "passwd"):
        (folder / name).write_text("the host's own\n")
    before = scan(folder)
    yield folder
    assert scan(folder) == before


def by_any_way(path: Path) -> list[str]:
    """Link targets that would reach a host path if links were followed outside, or while the host's root is in sight."""
    return [
        str(path),
        f"../../../../../..{path}",
        f"/run/.host{path}",
        f"/proc/1/root{path}",
        f"/proc/{os.getpid()}/root{path}",
    ]


@pytest.mark.parametrize("way", range(5))
def test_links_of_an_environment_lead_nothing_to_the_host(bench, victim, way):
    folder = by_any_way(victim)[way]
    base = bench.layer(
        linked(
            etc__hosts=f"{folder}/hosts",
            etc__hostname=f"{folder}/new",
            etc__passwd=f"{folder}/passwd",
            usr__sbin=folder,
            opt=f"{folder}/sub",
            var__tmp=folder,
        )
    )
    source = bench.place()
    (source / "file").write_text("mine\n")
    binds = (Bind(source=source, target="/opt/a/b"), Bind(source=source / "file", target="/opt/c/d"))
    for use in (
        lambda: bench.build("cat /opt/c/d", base, binds=binds),
        lambda: bench.tool("/bin/cat", "/opt/c/d", parents=[base], binds=binds),
        lambda: bench.run(bench.realize(base), "cat", "/opt/c/d", binds=binds),
    ):
        try:
            use()
        except (BackendError, BuildError):
            pass  # refusing is right; what counts is the victim


@pytest.mark.parametrize("name", ["dev", "etc", "proc", "run", "sys", "tmp"])
def test_folders_that_every_root_has_must_not_be_links(bench, victim, name):
    base = bench.layer(linked(**{name: str(victim)}))
    with pytest.raises(BackendError, match=f"/{name} of the environment is not a folder"):
        bench.build("true", base)
    ended = bench.run(bench.realize(base), "true")
    assert ended.status == 4
    assert f"/{name} of the environment is not a folder".encode() in ended.stderr


def test_a_resolver_that_is_a_link_into_run_is_shown_there(bench):
    base = bench.layer(linked(**{"etc__resolv.conf": "../run/systemd/resolve/stub-resolv.conf"}))
    assert bench.build("cat /etc/resolv.conf; echo none", base).log == "none\n"
    ended = bench.run(bench.realize(base), "cat", "/etc/resolv.conf")
    assert ended.stdout == Path("/etc/resolv.conf").read_bytes()


def test_a_merged_sbin_takes_no_policy_into_the_layer(bench):
    base = bench.layer(linked(usr__sbin="../bin"))
    built = bench.build("/usr/sbin/policy-rc.d || echo $?", base)
    assert built.log.strip() == "101"
    assert built.index() == []


def test_the_hosts_root_is_out_of_sight(bench):
    script = "ls -A /run; cat /proc/self/mountinfo"
    for shown in (bench.build(script).log, bench.shell(bench.realize(), script).stdout.decode()):
        lines = shown.splitlines()
        mounts = [line.split() for line in lines if " - " in line]
        assert {line for line in lines if " - " not in line} <= {"home"}
        assert not [mount for mount in mounts if mount[4].startswith("/run/")]


# -- odd places --------------------------------------------------------------------------------------------------------


def test_many_layers_in_a_folder_with_an_odd_name(tmp_path):
    place = tmp_path / "a folder, with: odd\tname \N{SNOWMAN} \\ 'quoted'"
    place.mkdir()
    bench = Bench(Sandbox(place), place)

    def fill(number: int):
        return lambda tree: ((tree / "last").write_text(f"{number}\n"), (tree / f"own{number}").write_text("x"))

    layers = [small_base(), *(make_layer(place / f"{n}: layer,", str(n), fill(n)) for n in range(119))]
    script = "cat /last; ls -d /own* | wc -l"
    assert bench.backend.overlay()
    assert bench.build(script, *layers).log == "118\n119\n"
    ended = bench.shell(bench.realize(*layers), script)
    assert ended.stdout == b"118\n119\n"


def test_a_folder_with_acl_and_setgid_above_changes_no_mode(tmp_path):
    tmp_path.chmod(0o2777)
    bench = Bench(Sandbox(tmp_path), tmp_path)
    assert bench.build("mkdir /a; touch /a/b; stat -c %a / /a").log.split() == ["755", "755"]
    assert bench.build("mkdir /a; touch /a/b").index() == ["d 0755 a", "f 0644 a/b"]


def test_both_ways_make_the_same_layer(tmp_path):
    script = """
        mkdir -p /opt/a/b; echo x >/opt/a/b/c; ln /opt/a/b/c /opt/twin; rm /bin/yes; rm -r /var; mkdir /var; chmod 700 /root
        echo y >>/etc/passwd; mv /bin/wc /bin/count; ln -s /nowhere /link"""
    results = []
    for overlay in (True, False):
        place = tmp_path / str(overlay)
        place.mkdir()
        results.append(Bench(Sandbox(place, overlay=overlay), place).build(script).result)
    assert results[0] == results[1]


def test_a_run_finds_its_mounts_in_the_folder_for_temporary_files(bench):
    source = bench.place()  # pytest's folders are below /tmp
    (source / "file").write_text("here\n")
    points = bench.build("mkdir /data")
    ended = bench.shell(
        bench.realize(small_base(), points.layer), "cat /data/file", binds=(Bind(source=source, target="/data"),)
    )
    assert ended.stdout == b"here\n"


def test_a_mount_that_nobody_declared(tmp_path):
    stacked, copied = (Bench(Sandbox(tmp_path, overlay=flag), tmp_path / str(flag)) for flag in (True, False))
    source = tmp_path / "source"
    source.mkdir()
    binds = (Bind(source=source, target="/not/there"),)
    for bench in (stacked, copied):
        bench.folder.mkdir()
    assert stacked.run(stacked.realize(), "ls", "/not", binds=binds).stdout == b"there\n"
    refused = copied.run(copied.realize(), "ls", "/not", binds=binds)
    assert refused.status == 1
    assert b"cannot mount" in refused.stderr
    assert b"declare it in [mounts]" in refused.stderr


@pytest.mark.parametrize(
    ("source", "target", "words"), [("file", "/var", b"there is a folder"), (".", "/etc/passwd", b"there is a file")]
)
def test_a_mount_of_the_wrong_sort_is_explained(bench, source, target, words):
    place = bench.place()
    (place / "file").write_text("x")
    ended = bench.run(bench.realize(), "true", binds=(Bind(source=place / source, target=target),))
    assert ended.status == 1
    assert words in ended.stderr
    assert b"doctor" not in ended.stderr


def test_private_folders_can_be_given_a_place_on_disk(bench):
    scratch = bench.place()
    bench.shell(bench.realize(), "echo x >/tmp/file", binds=(Bind(source=scratch, target="/tmp", writable=True),))
    assert (scratch / "file").read_text() == "x\n"


def test_a_mount_of_a_device_folder_comes_after_the_hosts(stacked):
    place = stacked.place()
    (place / "file").write_text("x\n")
    realization = stacked.realize()
    ended = stacked.shell(realization, "cat /dev/shm/file", binds=(Bind(source=place, target="/dev/shm"),))
    assert ended.stdout == b"x\n"


# -- the caller --------------------------------------------------------------------------------------------------------


def test_an_account_of_the_same_number_or_name_gives_way(bench):
    import pwd

    name = pwd.getpwuid(os.getuid()).pw_name

    def accounts(tree: Path) -> None:
        small_root(tree)
        (tree / "etc/passwd").write_text(
            f"{name}:x:4242:4242:other:/other:/bin/sh\nother:x:{os.getuid()}:1:x:/:/bin/sh\n"
        )

    ended = bench.shell(bench.realize(bench.layer(accounts)), "id -un; cat /etc/passwd")
    assert ended.stdout.decode().splitlines() == [
        name,
        f"{name}:x:{os.getuid()}:{os.getgid()}:{name}:/run/home:/bin/sh",
    ]


class InProcess:
    """A backend that runs as ``reprobox run`` does on a current realization: no new interpreter."""

    def run(self, request):
        become(
            {
                "trees": [str(tree) for tree in request.realization.trees],
                "stage": stage_folder(str(request.realization.location)),
                "argv": list(request.argv),
                "environment": dict(request.environment),
                "binds": [],
                "workdir": request.workdir,
                "network": True,
                "isolate": False,
            }
        )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody whom nobody knows")
@pytest.mark.parametrize("uid", [54321, 4_000_000_000])
def test_a_caller_without_an_account(uid):
    with tempfile.TemporaryDirectory(prefix="reprobox-tests-") as folder:
        place = Path(folder)
        os.chown(place, uid, uid)
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
                kernel.libc.prctl(4, 1, 0, 0, 0)  # as after exec: /proc/self is its own
                base = make_layer(place / "base", "base", small_root)
                top = make_layer(place / "top", "top", lambda _: None)
                realization = Realization(location=folder, trees=(base.tree, top.tree))
                ended = Bench(InProcess(), place).shell(
                    realization, "id -un; id -u; touch /tmp/x; stat -c %u:%g /tmp/x"
                )
                (place / "told").write_bytes(ended.stdout + ended.stderr)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert (place / "told").read_text().split() == [f"user{uid}", str(uid), f"{uid}:{uid}"]


# -- read-only, on old kernels too -------------------------------------------------------------------------------------

OWN_MOUNTS = """
if os.getuid():
    outside = (os.getuid(), os.getgid())
    kernel.unshare(kernel.NEWUSER | kernel.NEWNS)
    kernel.map_one_id((0, 0), outside)
else:
    kernel.unshare(kernel.NEWNS)
kernel.private_mounts()
"""
_NO_MOUNT_SETATTR = """
import ctypes, os, struct, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from reprobox.sandbox import kernel
def instruction(code, operand, yes=0, no=0):
    return struct.pack("=HBBI", code, yes, no, operand)
program = instruction(0x20, 0) + instruction(0x15, 442, 0, 1) + instruction(0x06, 0x00050000 | 38) + instruction(0x06, 0x7FFF0000)
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))
if sys.argv[2] == "old":
    assert kernel.libc.prctl(38, 1, 0, 0, 0) == 0
    assert kernel.libc.prctl(22, 2, ctypes.byref(Program(len(program) // 8, program)), 0, 0) == 0
from reprobox.testing import Bench, small_base
from reprobox.sandbox import kernel
from reprobox.sandbox.backend import Sandbox
from reprobox.sandbox.command import become, stage_folder
from reprobox.backend import Bind, Realization
outer = Path(sys.argv[3])
OWN_MOUNTS
kernel.mount("tmpfs", str(outer / "in ner"), "tmpfs", 0, "mode=0755")
(outer / "in ner" / "file").write_text("inner")
bench = Bench(Sandbox(Path(sys.argv[4])), Path(sys.argv[4]))
points = bench.build("mkdir /data")
script = "cat '/data/in ner/file'; (echo x >/data/new) || true; (echo x >'/data/in ner/new') || true"
binds = (Bind(source=outer, target="/data"),)
for ended in (bench.shell(bench.realize(small_base(), points.layer), script, binds=binds),):
    sys.stdout.write(ended.stdout.decode() + ended.stderr.decode())
built = bench.build(script, small_base(), points.layer, binds=binds)
sys.stdout.write(built.log)
""".replace("OWN_MOUNTS", OWN_MOUNTS)


@pytest.mark.parametrize("age", ["new", "old"])
def test_a_read_only_mount_is_read_only_all_the_way_down(tmp_path, age):
    outer, place = tmp_path / "outer", tmp_path / "place"
    (outer / "in ner").mkdir(parents=True)
    place.mkdir()
    argv = [sys.executable, "-c", _NO_MOUNT_SETATTR, str(Path(ARGV[-1])), age, str(outer), str(place)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("inner") == 2
    assert done.stdout.count("Read-only file system") == 4


# -- probing -----------------------------------------------------------------------------------------------------------


def test_probe_tells_each_link_of_the_chain(tmp_path):
    found = Sandbox(tmp_path).probe()
    assert set(found.details) == {"user namespace", "id map", "namespaces", "overlay", "seccomp", "mounts"}
    assert os.listdir(tmp_path) == []


def test_the_switch_for_overlay(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROBOX_SANDBOX_OVERLAY", "no")
    assert not Sandbox(tmp_path).overlay()
    monkeypatch.delenv("REPROBOX_SANDBOX_OVERLAY")
    (tmp_path / "other").mkdir()
    assert not Sandbox(tmp_path, overlay=False).at(tmp_path / "other").overlay()


# -- what is killed ----------------------------------------------------------------------------------------------------


def test_steps_end_with_the_process_that_asked_for_them(tmp_path):
    stacked = Bench(Sandbox(tmp_path), tmp_path)
    place = stacked.place()
    child = os.fork()
    if child == 0:
        try:
            stacked.build("trap '' TERM HUP INT; sleep 3141.59 & sleep 3141.59")
        finally:
            os._exit(1)
    assert until(lambda: len(running("sleep 3141.59")) >= 2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert until(lambda: not running("sleep 3141.59"), 5)
    assert until(lambda: not running(str(tmp_path)), 5)
    left = [path for path in tmp_path.iterdir() if path.suffix == ".lock"]
    assert left
    sweep(tmp_path)
    assert not [path for path in left if path.exists() or path.with_suffix("").exists()]
    assert place.exists()


def test_work_that_goes_on_is_not_swept(tmp_path):
    with staging_folder(tmp_path) as folder:
        (folder / "file").write_text("x")
        assert sweep(tmp_path) == 0
        assert (folder / "file").exists()
    assert os.listdir(tmp_path) == []


def test_a_step_that_is_asked_for_by_nobody_does_not_start(tmp_path):
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"parent": 1, "network": None}))
    done = subprocess.run([*ARGV, "step", str(request), "1"], capture_output=True, check=True)
    assert json.loads(done.stdout) == {"result": {"problem": "the process that asked for it is gone"}}


def test_a_full_disk_is_told_as_such_and_leaves_nothing(stacked, tmp_path):
    """Also where only the child, which packs the layer, meets it."""
    small = tmp_path / "small"
    small.mkdir()
    program = f"""
import sys
sys.path.insert(0, {ARGV[-1]!r})
from pathlib import Path
from reprobox.sandbox import kernel
import os
{OWN_MOUNTS}
kernel.mount("tmpfs", {str(small)!r}, "tmpfs", 0, "size=40M")
from reprobox.testing import Bench
from reprobox.sandbox.backend import Sandbox
bench = Bench(Sandbox(Path({str(small)!r}), overlay=False), Path({str(small)!r}))
free = os.statvfs({str(small)!r})
Path({str(small)!r}, "filler").write_bytes(bytes(free.f_bavail * free.f_bsize - (1 << 20)))
try:
    bench.build("true")
except OSError as error:
    print(error.errno, [path.name for path in Path({str(small)!r}).iterdir() if path.suffix == ".lock"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("28 []\n", "")


def test_a_closed_and_unreadable_layer_can_be_stacked_and_copied(bench):
    first = bench.build(
        "mkdir -p /deep/closed; echo s >/deep/closed/secret; chmod 000 /deep/closed/secret /deep/closed"
    )
    second = bench.build("cat /deep/closed/secret; rm -r /deep/closed; echo x >/deep/new", small_base(), first.layer)
    assert second.log == "s\n"
    assert second.index() == ["d 0755 deep", "w 0000 deep/closed", "f 0644 deep/new"]


def test_a_crash_leaves_no_core_in_the_layer(bench):
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        assert bench.build("sh -c 'kill -SEGV $$' || ulimit -c").log.split()[-1] == "0"
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


_NOTHING_IMPORTED = """
import sys, json
sys.path.append(sys.argv[1])
from reprobox.sandbox import kernel
inside = []
def hook(event, arguments):
    if event == "import" and inside:
        import os
        os.write(2, f"imported {arguments[0]}\\n".encode())
sys.addaudithook(hook)
pivot = kernel.pivot
kernel.pivot = lambda root, old: (pivot(root, old), inside.append(1))
from reprobox.sandbox.launcher import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize("isolate", [False, True])
def test_nothing_is_imported_once_the_root_is_the_environments(stacked, monkeypatch, isolate):
    """Python's own files are out of reach then, and those of the environment are somebody else's."""
    argv = [*ARGV[:3], _NOTHING_IMPORTED, ARGV[4]]
    monkeypatch.setattr("reprobox.sandbox.backend.ARGV", argv)
    ended = stacked.run(stacked.realize(), "true", isolate=isolate, network=not isolate)
    assert (ended.status, ended.stderr) == (0, b"")
    missing = stacked.run(stacked.realize(), "no-such-command", isolate=isolate)
    assert b"imported" not in missing.stderr
    assert stacked.build("echo x >/new").log == ""


# -- both system call interfaces ---------------------------------------------------------------------------------------


def elf(bits: int, code: bytes, data: bytes) -> bytes:
    """A static executable for x86: code, then data, at 0x400000."""
    header = 52 + 32 if bits == 32 else 64 + 56
    size = header + len(code) + len(data)
    if bits == 32:
        start = b"\x7fELF\x01\x01\x01" + bytes(9)
        start += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x400000 + header, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        start += struct.pack("<IIIIIIII", 1, 0, 0x400000, 0x400000, size, size, 7, 0x1000)
    else:
        start = b"\x7fELF\x02\x01\x01" + bytes(9)
        start += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x400000 + header, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        start += struct.pack("<IIQQQQQQ", 1, 7, 0, 0x400000, 0x400000, size, size, 0x1000)
    return start + code + data


def calls(bits: int, table: list[tuple[int, tuple[int | str, ...], int]], strings: list[str]) -> bytes:
    """A program that makes each call in turn, and exits with the number (from 1) of the first that answers otherwise."""
    header = 52 + 32 if bits == 32 else 64 + 56
    one = 5 * 6 + 2 + 3 + 2 + 12 if bits == 32 else 10 * 6 + 2 + 4 + 2 + 19
    data_at = 0x400000 + header + (len(table) + 1) * one
    data, places = b"", {}
    for text in strings:
        places[text] = data_at + len(data)
        data += text.encode() + b"\0"
    code = b""
    ending = (1, 252) if bits == 32 else (60, 231)
    for number, (call, arguments, wanted) in enumerate([*table, (ending[0], (0,), 0)], 1):
        values = [places[item] if isinstance(item, str) else item for item in arguments]
        values += [0] * (5 - len(values))
        if bits == 32:  # eax; ebx ecx edx esi
            piece = b"".join(
                bytes([op]) + struct.pack("<I", value & 0xFFFFFFFF)
                for op, value in zip((0xB8, 0xBB, 0xB9, 0xBA, 0xBE), (call, *values[:4]), strict=True)
            )
            piece += bytes([0xBF]) + struct.pack("<I", values[4] & 0xFFFFFFFF) + b"\xcd\x80"
            piece += bytes([0x83, 0xF8, wanted & 0xFF]) + b"\x74\x0c"  # cmp eax, wanted; je over the exit
            piece += b"\xb8" + struct.pack("<I", 1) + b"\xbb" + struct.pack("<I", number) + b"\xcd\x80"
        else:  # rax; rdi rsi rdx r10 r8
            piece = b"".join(
                op + struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF)
                for op, value in zip(
                    (b"\x48\xb8", b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8"),
                    (call, *values),
                    strict=True,
                )
            )
            piece += b"\x0f\x05" + bytes([0x48, 0x83, 0xF8, wanted & 0xFF]) + b"\x74\x13"
            piece += b"\xb8" + struct.pack("<I", 60) + b"\x48\xbf" + struct.pack("<Q", number) + b"\x0f\x05\x90\x90"
        assert len(piece) == one, (bits, len(piece), one)
        code += piece
    return elf(bits, code, data)


FIFO, DEVICE, DISK = 0o010644, 0o020644, 0o060644
SOMEBODY = 12345
#: (call number, arguments, answer). Without the filter each would fail: the id is not mapped, the descriptor not open, the
#: pointer not valid.
TABLES = {
    64: [
        (92, ("/file", SOMEBODY, SOMEBODY), 0),  # chown
        (93, (99, SOMEBODY, SOMEBODY), 0),  # fchown
        (94, ("/file", SOMEBODY, SOMEBODY), 0),  # lchown
        (260, (-100, "/file", SOMEBODY, SOMEBODY), 0),  # fchownat
        (105, (SOMEBODY,), 0),  # setuid
        (106, (SOMEBODY,), 0),
        (113, (SOMEBODY, SOMEBODY), 0),
        (114, (SOMEBODY, SOMEBODY), 0),
        (116, (9, 1), 0),  # setgroups
        (117, (SOMEBODY, SOMEBODY, SOMEBODY), 0),
        (119, (SOMEBODY, SOMEBODY, SOMEBODY), 0),
        (126, (1, 1), 0),  # capset
        (74, (99,), 0),  # fsync
        (75, (99,), 0),
        (277, (99,), 0),  # sync_file_range
        (306, (99,), 0),  # syncfs
        (133, ("/device", DEVICE, 0x103), 0),  # mknod
        (259, (-100, "/disk", DISK, 0x800), 0),  # mknodat
        (133, ("/pipe", FIFO, 0), 0),
        (21, ("/device", 0), -2),  # access: pretended devices are not there, pipes are
        (21, ("/disk", 0), -2),
        (21, ("/pipe", 0), 0),
        (74 | 0x40000000, (99,), 0),  # the same by x32's numbers
        (102, (), 0),  # getuid: still 0
        (3, (99,), -9),  # other calls answer as ever: close of nothing is EBADF
    ],
    32: [
        (212, ("/file", SOMEBODY, SOMEBODY), 0),  # chown32
        (182, ("/file", SOMEBODY, SOMEBODY), 0),  # chown
        (207, (99, SOMEBODY, SOMEBODY), 0),
        (95, (99, SOMEBODY, SOMEBODY), 0),
        (198, ("/file", SOMEBODY, SOMEBODY), 0),
        (16, ("/file", SOMEBODY, SOMEBODY), 0),
        (298, (-100, "/file", SOMEBODY, SOMEBODY), 0),
        (213, (SOMEBODY,), 0),
        (23, (SOMEBODY,), 0),
        (214, (SOMEBODY,), 0),
        (46, (SOMEBODY,), 0),
        (203, (SOMEBODY, SOMEBODY), 0),
        (70, (SOMEBODY, SOMEBODY), 0),
        (204, (SOMEBODY, SOMEBODY), 0),
        (71, (SOMEBODY, SOMEBODY), 0),
        (206, (9, 1), 0),
        (81, (9, 1), 0),
        (208, (SOMEBODY, SOMEBODY, SOMEBODY), 0),
        (164, (SOMEBODY, SOMEBODY, SOMEBODY), 0),
        (210, (SOMEBODY, SOMEBODY, SOMEBODY), 0),
        (170, (SOMEBODY, SOMEBODY, SOMEBODY), 0),
        (185, (1, 1), 0),
        (118, (99,), 0),
        (148, (99,), 0),
        (314, (99,), 0),
        (344, (99,), 0),
        (14, ("/device", DEVICE, 0x103), 0),
        (297, (-100, "/disk", DISK, 0x800), 0),
        (14, ("/pipe", FIFO, 0), 0),
        (33, ("/device", 0), -2),
        (33, ("/disk", 0), -2),
        (33, ("/pipe", 0), 0),
        (199, (), 0),  # getuid32
        (6, (99,), -9),
    ],
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code for x86")
@pytest.mark.parametrize("bits", [64, 32])
def test_every_interface_of_the_machine_is_filtered(stacked, bits):
    table = TABLES[bits]
    if bits == 32 and not executes_32(stacked):
        pytest.skip("this kernel runs no 32-bit programs")
    program = calls(bits, table, ["/file", "/device", "/disk", "/pipe"])

    def fill(tree: Path) -> None:
        (tree / "calls").write_bytes(program)
        (tree / "calls").chmod(0o755)
        (tree / "file").write_text("x")

    built = stacked.build("/calls || echo call $?", small_base(), stacked.layer(fill))
    assert built.log == ""
    assert built.result.dropped == ("/pipe: a device, FIFO or socket",)


def executes_32(bench: Bench) -> bool:
    program = bench.layer(program_of(32, [(20, (), -1)]))  # getpid is never -1: exits with 1
    return "status 1" in bench.build("/calls || echo status $?", small_base(), program).log


def program_of(bits, table):
    def fill(tree: Path) -> None:
        (tree / "calls").write_bytes(calls(bits, table, []))
        (tree / "calls").chmod(0o755)

    return fill


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_scratch_folder_that_may_not_be_written_is_told_with_the_remedy(tmp_path):
    tmp_path.chmod(0o500)
    found = Sandbox(tmp_path).probe()
    tmp_path.chmod(0o700)
    assert (found.ok, found.reason) == (False, f"nothing can be written at {tmp_path}: Permission denied")
    assert found.hint == "set REPROBOX_STORE to a folder that you may write"
