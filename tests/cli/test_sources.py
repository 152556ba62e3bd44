"""Recreating from what others publish: crates, archives and vaults, honest ones and such that were made to do harm."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reprobox.archives.fetched import Limits
from tests.cli.publications import FILES, Reader, nothing_left, refused, write
from tests.cli.test_terminal import Terminal

# -- honest ones -------------------------------------------------------------------------------------------------------


def as_zip(reader: Reader) -> str:
    return str(reader.zip())


def as_folder(reader: Reader) -> str:
    reader.zip("../crate.zip")
    with zipfile.ZipFile("../crate.zip") as packed:
        packed.extractall("../crate")
    shutil.rmtree("../crate/project")
    shutil.copytree(reader.paper, "../crate/project", symlinks=True)
    return "../crate"


def as_release(reader: Reader) -> str:
    """What forges make of a tag: one folder in a compressed tar."""
    with tarfile.open("../release.tar.gz", "w:gz", compresslevel=1) as packed:
        packed.add(reader.paper, "xor-1.0")
    return "../release.tar.gz"


def as_vault(_: Reader) -> str:
    return "../vault.tar"


@pytest.mark.userns
@pytest.mark.parametrize("make", [as_zip, as_vault])
def test_from_a_publication_to_the_same_result(reader: Reader, make: Callable[[Reader], str]):
    (reader.paper / "out").mkdir()
    assert reader.call.process("run", "-C", reader.paper).out == "xor\nready\n1 2 3\n"
    first = reader("realize", "--json", reader.paper).json
    source = make(reader)
    shutil.rmtree(reader.paper)
    os.environ["REPROBOX_STORE"] += "-other"
    done = reader("realize", "--json", "--offline", "--yes", source)
    assert done.status == 0, done.err
    assert (done.json["tree_digest"], done.json["image_digest"]) == (first["tree_digest"], first["image_digest"])
    assert done.json["project"] == str(Path("xor").absolute())
    if make is as_vault:  # mounted data is no input
        Path("xor/data").mkdir()
        Path("xor/data/numbers").write_text(FILES["data/numbers"])
    done = reader.call.process("run", "-C", "xor")
    assert (done.status, done.out) == (0, "xor\nready\n1 2 3\n"), done.err
    assert Path("xor/out/result").read_text() == "two words\n"


@pytest.mark.parametrize("make", [as_folder, as_release])
def test_a_folder_and_a_release_hold_the_same_project(reader: Reader, make: Callable[[Reader], str]):
    first = reader("show", "--json", reader.zip()).json
    found = reader("show", "--json", make(reader)).json
    assert {**found, "origin": "", "facts": {}} == {**first, "origin": "", "facts": {}}
    assert found["code"]["locked"]


def test_what_is_shown_before_anything_is_done(reader: Reader):
    lock = reader("show", "--json", reader.paper).json["lock"]
    done = reader("show", reader.zip())
    assert (done.status, done.err) == (0, "")
    assert (
        done.out
        == f"""\
xor 1.0: A network learns\\x1b[31m XOR
from          a crate, file paper.zip
authors       Ada Lovelace (0000-0002-1825-0097)
licence       MIT
lock          {lock}, epoch 1980-01-01T00:00:00Z
target        default, linux/amd64, not sealed
base          rootfs base
layer         base             rootfs
layer         settings         copy
layer         made             run        runs a script, without network
              | cat /etc/xor/name > /made
              | echo ready >> /made
inputs        all are here already
mount         /data (ro) data: in the project
mount         /out (rw) out: for output
command       /bin/sh /work/main.sh 'two words'
code          src, 2 files (deep/more.txt, main.sh), as locked
"""
    )
    assert nothing_left()
    assert os.listdir(Path(os.environ["REPROBOX_STORE"], "layers")) == []


def test_nothing_is_built_without_a_word_of_the_reader(reader: Reader):
    done = reader("realize", reader.zip())
    assert "              | cat /etc/xor/name > /made\n" in done.err
    refused(
        done,
        2,
        "error: paper.zip: nothing of it is built or run before you agree, and there is no terminal to ask on\n"
        "  hint: read what it is, and add --yes\n",
    )
    assert done.out == ""
    assert os.listdir(Path(os.environ["REPROBOX_STORE"], "layers")) == []


@pytest.mark.userns
@pytest.mark.parametrize("answer", ["y", "n"])
def test_the_reader_is_asked_on_a_terminal(reader: Reader, answer):
    reader.zip()
    terminal = Terminal(reader.call, "realize", "paper.zip")
    terminal.until(r"Build this, and run its scripts\? \[y/N\] ")
    terminal.type(f"{answer}\n")
    if answer == "y":
        terminal.until("go on with    reprobox run -C xor\n")
        assert terminal.status() == 0
    else:
        terminal.until("error: you did not agree: nothing was run, and nothing is kept\n")
        assert terminal.status() == 1
        assert nothing_left()


@pytest.mark.userns
def test_it_is_told_where_it_is_and_how_to_go_on(reader: Reader):
    done = reader("realize", "--yes", "../vault.tar", "--into", "mine")
    assert done.status == 0, done.err
    assert done.out.endswith("project       mine\ngo on with    reprobox run -C mine --mount /data=PATH\n")
    assert "put into mine\n" in done.err
    assert sorted(os.listdir()) == ["mine"]
    assert stat.S_IMODE(os.stat("mine").st_mode) == 0o755
    assert stat.S_IMODE(os.stat("mine/base/etc/tight").st_mode) == 0o640


def test_a_folder_of_the_projects_name_is_left_alone(reader: Reader):
    os.mkdir("xor")
    done = reader("realize", "--yes", reader.zip())
    assert done.err == (
        "error: xor: there is a folder or file of the project's name already\n"
        "  hint: if it is this project, go on in it with `reprobox realize xor`; else give --into another name\n"
    )
    assert (done.status, os.listdir("xor")) == (2, [])


@pytest.mark.parametrize("option", ["--into=x", "--lock=x", "--allow=x"])
def test_an_own_project_is_used_where_it_is(reader: Reader, option):
    done = reader("realize", reader.paper, option)
    name = option.partition("=")[0]
    said = f"error: {reader.paper}: {name} is for projects of others\n"
    assert (done.status, done.err) == (2, f"{said}  hint: leave it out: your own project is used where it is\n")


@pytest.mark.userns
def test_a_lock_beside_its_manifest_is_the_project(reader: Reader):
    assert reader("realize", reader.paper / "research.lock").status == 0
    shutil.copy(reader.paper / "research.lock", "research.lock")
    done = reader("realize", "research.lock")
    assert done.status == 2
    assert done.err == (
        "error: research.lock: a lock says what the layers are made of, and its manifest what runs in them: the manifest"
        " is not here\n  hint: put both into one folder, as research.toml and research.lock\n"
    )


def test_several_projects_of_a_vault_are_named(reader: Reader):
    reader.edit('name = "xor"', 'name = "nor"')
    assert reader("vault", "-C", reader.paper, "--without-reprobox", "../vault.tar").status == 0
    done = reader("show", "../vault.tar")
    assert done.status == 2
    assert re.fullmatch(
        r"error: \S+/vault.tar: it keeps 2 locks; there are nor-[0-9a-f]{12}, xor-[0-9a-f]{12}\n"
        r"  hint: choose one with --lock NAME\n",
        done.err,
    )
    assert reader("show", "../vault.tar", "--lock", "nor").out.startswith("nor 1.0")


def test_what_is_not_code_and_not_locked_is_told(reader: Reader):
    write(reader.paper, **{"notes.txt": "", ".git/config": "[core]\nfsmonitor = evil\n", "src/__pycache__/a.pyc": ""})
    done = reader("show", reader.zip())
    assert (
        "also there    1 file (notes.txt): the lock says nothing of it\n"
        "left out      .git: what is in it would be believed or run without being locked\n"
        "left out      src/__pycache__: what is in it would be believed or run without being locked\n"
    ) in done.out


# -- what does not hold together ---------------------------------------------------------------------------------------

_FIX = (
    "  hint: it is damaged, or was changed after it was locked: get it again from where it was published, or ask its"
    " authors\n"
)
_AGAIN = "  hint: it is damaged, or was made to do harm: get it again from where it was published\n"
_ONE = "  hint: ask whoever published it for one project with one lock\n"


def test_a_lock_of_another_manifest(reader: Reader):
    reader.edit("echo ready", "echo done", lock=False)
    refused(
        reader("realize", "--yes", reader.zip()),
        5,
        "error: paper.zip: the lock is of another manifest than the one with it\n  layers.made.script (changed)\n"
        + _FIX,
    )


def test_a_lock_that_was_changed_since_it_was_written(reader: Reader):
    lock = reader.paper / "research.lock"
    lock.write_text(lock.read_text().replace("epoch = ", "epoch = 1"))
    text = "error: paper.zip: research.lock: its content does not match its checksum\n"
    refused(reader("realize", "--yes", reader.zip()), 5, text + _FIX)


def test_a_lock_with_another_script_than_its_manifest(reader: Reader):
    """Both are a stranger's: a lock that is sound in itself may still say another thing than what the manifest shows."""
    original = (reader.paper / "research.lock").read_text()
    keys = original.partition("[manifest]")[2].partition("[[")[0]
    reader.edit("echo ready", "echo evil")
    text = (reader.paper / "research.lock").read_text()
    forged = text.replace(text.partition("[manifest]")[2].partition("[[")[0], keys)
    (reader.paper / "research.lock").write_text(_with_checksum(forged))
    reader.edit("echo evil", "echo ready", lock=False)
    refused(
        reader("realize", "--yes", reader.zip()),
        5,
        "error: paper.zip: its files are not what was locked:\n  layers.made (its files changed)\n" + _FIX,
    )


def test_a_lock_with_a_layer_that_its_manifest_does_not_have(reader: Reader):
    original = (reader.paper / "research.lock").read_text()
    keys = original.partition("[manifest]")[2].partition("[[")[0]
    before = (reader.paper / "research.toml").read_text()
    reader.edit("[mounts]", '[[layers]]\nname = "more"\nkind = "run"\nscript = "true"\n\n[mounts]')
    text = (reader.paper / "research.lock").read_text()
    forged = text.replace(text.partition("[manifest]")[2].partition("[[")[0], keys)
    (reader.paper / "research.lock").write_text(_with_checksum(forged))
    (reader.paper / "research.toml").write_text(before)
    refused(
        reader("realize", "--yes", reader.zip()),
        5,
        'error: paper.zip: layer "more" of target "default" is of kind "run" in the lock, and of kind "none" in the'
        " manifest\n" + _FIX,
    )


def _with_checksum(text: str) -> str:
    """The lock as somebody writes it who knows how its checksum is made."""
    import tomllib

    from reprobox import lock_text

    return re.sub(r'checksum = "\w+"', f'checksum = "{lock_text._checksum(tomllib.loads(text))}"', text)


def test_code_that_was_changed(reader: Reader):
    (reader.paper / "src/main.sh").write_text("echo evil\n")
    tree = reader("show", "--json", reader.paper).json["code"]["tree"]
    refused(
        reader("realize", "--yes", reader.zip()),
        5,
        f"error: paper.zip: code: it is not what the lock pins: its tree is {tree}\n"
        "  hint: get it again from where it was published; or, if you know why, add --allow changed-code\n",
    )
    assert "(deep/more.txt, main.sh), NOT what was locked\n" in reader("show", "paper.zip").out


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("research_o_toml", "manifests: research.toml and project/research.toml"),
        ("research_o_lock", "locks: research.lock and project/research.lock"),
    ],
)
def test_two_manifests_or_two_locks(reader: Reader, name, what):
    refused(reader("realize", "--yes", reader.zip(**{name: "x"})), 5, f"error: paper.zip: it has two {what}\n{_ONE}")


def test_no_manifest_and_no_lock(reader: Reader):
    with zipfile.ZipFile("other.zip", "w") as packed:
        packed.writestr("data.csv", "1,2\n")
    refused(
        reader("realize", "--yes", "other.zip"),
        2,
        "error: other.zip: there is no research.toml in it\n"
        "  hint: it was not made with reprobox: look in it for how its authors installed what they used\n",
    )
    (reader.paper / "research.lock").unlink()
    refused(
        reader("realize", "--yes", reader.zip()),
        3,
        "error: paper.zip: it has no research.lock: which bytes its environment is made of is not said\n"
        "  hint: ask its authors for it; or unpack it and run `reprobox lock`: an environment of today, not theirs\n",
    )


# -- made to do harm ---------------------------------------------------------------------------------------------------


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, str]:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, target


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (("../evil", "x"), "'../evil' leads out of the folder that it is unpacked into"),
        (("/tmp/evil", "x"), "'/tmp/evil' is an absolute name"),
        (("project/src/main.sh", "x"), "'project/src/main.sh' is in it twice, and programs differ in which one they take"),
        (("project/src", "x"), "'project/src' is a folder and something else too"),
        (link("project/src/up", "../../attestations"), "the project in it cannot be unpacked: 'src/up' is a link to"),
        (("project/Research.LOCK", "x"), "'Research.LOCK' would pass for research.lock, and is another name or no file"),
    ],
    ids=["up", "absolute", "twice", "folder-and-file", "link-out", "case"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_names(reader: Reader, entry, said):
    with zipfile.ZipFile(reader.zip(), "a") as packed:
        packed.writestr(*entry)
    done = reader("realize", "--yes", "paper.zip")
    assert done.status == 5
    assert said in done.err
    assert done.err.endswith(_AGAIN)
    assert nothing_left()
    assert not Path("../evil").exists()


def test_what_a_folder_may_not_hold(reader: Reader):
    crate = Path(as_folder(reader))
    os.mkfifo(crate / "project/src/pipe")
    refused(
        reader("realize", "--yes", crate),
        5,
        f"error: {crate}/project: 'src/pipe' is neither a file, a folder nor a link\n{_ONE}",
    )
    shutil.rmtree(crate / "project")
    (crate / "project").symlink_to(reader.paper)
    refused(
        reader("realize", "--yes", crate),
        2,
        f"error: {crate}: this crate has no project/research.toml\n"
        "  hint: it was not made with reprobox, or is not whole\n",
    )


def test_names_cannot_steer_a_terminal(reader: Reader):
    """A line end would forge a line of what is shown; U+202E turns what follows around."""
    reader.edit('name = "Ada Lovelace"', r'name = "Ada\u202E\nlicence       public domain"', lock=False)
    (reader.paper / "src/\x1b[2Jevil\ncode").write_text("x")
    reader.lock()
    done = reader("show", reader.zip())
    assert "authors       Ada\\u202e licence public domain (0000-0002-1825-0097)\n" in done.out
    assert "code          src, 3 files (\\x1b[2Jevil\\ncode, deep/more.txt, main.sh), as locked\n" in done.out
    with zipfile.ZipFile("paper.zip", "a") as packed:
        packed.writestr("../\x1b[2J", "x")
    assert "'../\\x1b[2J' leads out" in reader("show", "paper.zip").err


def test_a_zip_bomb(reader: Reader, monkeypatch):
    monkeypatch.setattr("reprobox.project_files.LIMITS", Limits(size=1 << 20, ratio=100))
    shutil.rmtree(reader.paper / "base")
    with zipfile.ZipFile(reader.zip(), "a", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("project/src/zeros", bytes(2 << 20))
    size = os.path.getsize("paper.zip")
    refused(
        reader("realize", "--yes", "paper.zip"),
        5,
        "error: paper.zip: the project in it cannot be unpacked: it unpacks to more than 1048576 bytes, far more than its"
        f" {size} bytes let expect\n{_AGAIN}",
    )


def test_set_id_bits_are_kept_of_a_base_alone_and_for_nobody_else(reader: Reader):
    (reader.paper / "src/main.sh").chmod(0o6755)
    (reader.paper / "base/etc/tight").chmod(0o6755)
    reader.lock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reprobox.cli.realize._realize", lambda _: {"layers": [], "tree_digest": "", "image_digest": "", "location": ""})  # fmt: skip
        done = reader("realize", "--yes", reader.zip())
    assert done.status == 0, done.err
    assert stat.S_IMODE(os.stat("xor/src/main.sh").st_mode) == 0o755
    assert stat.S_IMODE(os.stat("xor/base/etc/tight").st_mode) == 0o6755
    assert stat.S_IMODE(os.stat("xor/base").st_mode) == 0o700


_HOME = "/home/somebody"


@pytest.mark.parametrize(
    ("old", "new", "key", "message", "name"),
    [
        ('source = "data"', f'source = "{_HOME}"', 'mounts."/data".source',
         f'it is "{_HOME}", outside the project: what runs may read it', "/data"),
        ('source = "out"', 'source = "../../.config"', 'mounts."/out".source',
         'it is "../../.config", outside the project: what runs may read, change and delete what is in it', "/out"),
        ("[mounts]", '[secrets]\nkey = {{ path = "/home/a/key" }}\n[mounts]', "secrets.key.path",
         'it is the file "/home/a/key", outside the project, and layer made, which uses the network, sees it', "secrets.key"),
        ("[mounts]", '[secrets]\nkey = {{ env = "GITHUB_TOKEN" }}\n[mounts]', "secrets.key.env",
         "it is your environment variable GITHUB_TOKEN, and layer made, which uses the network, sees it", "secrets.key"),
    ],
    ids=["mount", "writable-mount", "secret-file", "secret-variable"],
)  # fmt: skip
def test_what_is_outside_its_folder_needs_a_word_by_name(reader: Reader, old, new, key, message, name):
    if "secrets" in key:
        reader.edit('kind = "run"', 'kind = "run"\nsecrets = ["key"]\nnetwork = true', lock=False)
    reader.edit(old, new.replace("{{", "{").replace("}}", "}"))
    path = reader.zip()
    done = reader("realize", "--yes", path)
    refused(
        done,
        2,
        "error: paper.zip: it names what is outside its own folder, and is not yours:\n"
        f"  {key}: {message}\n  hint: if you want that, say so by name: --allow {name}\n",
    )
    assert f"reaches       {key}: {message}\n" in reader("show", path).out
    done = reader("realize", path, "--allow", name)
    assert "and there is no terminal to ask on" in done.err


def test_a_link_is_no_way_out(reader: Reader):
    shutil.rmtree(reader.paper / "data")
    (reader.paper / "data").symlink_to("/etc")
    done = reader("realize", "--yes", reader.zip())
    assert (
        '  mounts."/data".source: it is "data", which is "/etc", outside the project: what runs may read it\n'
        in done.err
    )
    assert done.status == 2


def test_only_what_it_names_can_be_allowed(reader: Reader):
    refused(
        reader("realize", "--yes", reader.zip(), "--allow", "/data"),
        2,
        "error: there is nothing to allow by the name '/data'\n"
        "  hint: leave --allow out: this names nothing outside its own folder\n",
    )


def test_a_target_that_there_is_not(reader: Reader):
    refused(
        reader("realize", "--yes", reader.zip(), "--target", "gpu"),
        2,
        'error: paper.zip: research.toml: there is no target "gpu"\n  hint: known here: default\n',
    )


def test_a_manifest_that_is_none(reader: Reader):
    (reader.paper / "research.toml").write_text('[project]\nname = "x"\n[base]\nrootfs = "base"\nkey\u0007 = 1\n')
    done = reader("realize", "--yes", reader.zip())
    assert (done.status, done.err.partition(": research.toml:5:")[0]) == (2, "error: paper.zip")
    assert "\x07" not in done.err
    assert nothing_left()


def test_a_flipped_byte(reader: Reader):
    data = bytearray(reader.zip().read_bytes())
    data[len(data) // 2] ^= 1
    Path("paper.zip").write_bytes(data)
    done = reader("show", "paper.zip")
    assert (done.status, done.err.endswith(_AGAIN)) == (5, True)


def test_what_is_no_source(reader: Reader):
    forms = (
        "  hint: give a folder, a file (research.toml, a crate, a PDF, a vault), an image in a registry, a git"
        " repository (https://host/name.git@v1.0), an https:// address, or a DOI (10.5281/zenodo.123)\n"
    )
    Path("noise.bin.tar").write_bytes(bytes(2000))
    for text, message in {
        "doi:10/x": "doi:10/x: this is no DOI",
        "gone": "gone: there is no such file or folder",
        "gopher://x/y": 'gopher://x/y: "gopher" is no way to a source',
        "noise.bin.tar": "noise.bin.tar: nothing can be recreated from a file like this",
    }.items():
        hint = "  hint: a DOI begins with 10., such as 10.5281/zenodo.123\n" if "DOI" in message else forms
        refused(reader("realize", "--yes", text), 2, f"error: {message}\n{hint}")
