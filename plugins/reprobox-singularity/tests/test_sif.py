"""Images: the same bytes every time, the digest of the layers, and what plain Apptainer does with them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.archives import sif
from reprobox.backend import Realization, RealizeRequest
from reprobox.digest import tree_digest
from reprobox.image import Settings
from reprobox.testing import EPOCH, image_of, make_layer, small_root
from reprobox.tree import Tree
from reprobox_singularity import metadata
from reprobox_singularity.backend import Singularity

pytestmark = [pytest.mark.apptainer, pytest.mark.userns]
ROOT = Path(__file__).resolve().parents[3]
PLUGIN = Path(__file__).resolve().parents[1]
SETTINGS = Settings(
    architecture={"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
    environment={"PATH": "/bin", "WORDS": "two 'words' \"and\" $HOME\na line"},
    entrypoint=("/bin/sh", "-c", 'printf "%s|" "$0" "$@" "$WORDS"'),
    command=("by default", "$HOME"),
    labels={"org.opencontainers.image.title": "a 'title'"},
)


def awkward(tree: Path) -> None:
    """Folders that hide things from their owner, hard links, old times, odd names."""
    for folder in ("closed", "d/deep"):
        (tree / folder).mkdir(parents=True)
    (tree / "closed/inside").write_text("hidden")
    (tree / "d/one").write_text("same" * 5000)
    os.link(tree / "d/one", tree / "d/two")
    (tree / "d/deep/a b:c,d\ne").write_text("odd")
    (tree / "d/link").symlink_to("/bin/sh")
    os.utime(tree / "d/one", (1_000_000_000, 1_000_000_000))
    (tree / "d/unreadable").write_text("x")
    (tree / "d/unreadable").chmod(0)
    (tree / "closed").chmod(0)


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """A small environment, with a layer above it that hides and one that is awkward, anybody's to read."""
    folder = tmp_path_factory.mktemp("layers")
    os.chmod(folder, 0o755)
    made = [make_layer(folder / "base", "base", small_root), make_layer(folder / "odd", "odd", awkward)]
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            os.utime(os.path.join(root, name), (EPOCH, EPOCH), follow_symlinks=False)
    return made


@pytest.fixture
def request_of(layers, tmp_path):
    def make(output: str | None = None, **other) -> RealizeRequest:
        image = replace(image_of(layers), settings=SETTINGS)
        (tmp_path / "keep").mkdir(exist_ok=True)
        request = RealizeRequest(
            name="test-default",
            layers=tuple(layers),
            image=image,
            image_digest=image.digest(),
            tree_digest=tree_digest(Tree.load(*(layer.index for layer in layers)).entries.values()),
            keep=tmp_path / "keep",
            output=tmp_path / output if output else None,
        )
        return replace(request, **other)

    return make


@pytest.fixture
def backend(tmp_path):
    (tmp_path / "scratch").mkdir()
    return Singularity(tmp_path / "scratch")


@pytest.fixture
def env_sif(backend, request_of):
    return Path(backend.realize(request_of("x.sif")).location)


def apptainer(*argv, **options) -> subprocess.CompletedProcess:
    command = ["apptainer", "--silent", *map(str, argv)]
    if os.geteuid() == 0 and argv[0] in ("exec", "run"):
        command.insert(3, "--userns")  # root may lack CAP_SYS_RESOURCE
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)


# -- bytes -------------------------------------------------------------------------------------------------------------


def test_an_image_has_the_same_bytes_in_another_place_at_another_time(backend, request_of, tmp_path):
    first = Path(backend.realize(request_of("x.sif")).location)
    time.sleep(1.1)
    (tmp_path / "elsewhere").mkdir()
    before = os.umask(0o077)
    try:
        second = Path(Singularity(tmp_path / "elsewhere").realize(request_of("elsewhere/y.sif")).location)
    finally:
        os.umask(before)
    assert first.read_bytes() == second.read_bytes()
    assert subprocess.run(["cmp", first, second], check=False).returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "keep", "scratch", "x.sif"]


def test_copied_layers_give_the_bytes_that_stacked_ones_give(backend, request_of, monkeypatch):
    stacked = Path(backend.realize(request_of("x.sif")).location)
    monkeypatch.setenv("REPROBOX_SANDBOX_OVERLAY", "no")
    assert Path(backend.realize(request_of("y.sif")).location).read_bytes() == stacked.read_bytes()


AS_ANOTHER = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from reprobox.backend import ImageLayer, RealizeRequest
from reprobox.image import Image, Settings
from reprobox_singularity.backend import Singularity
folder, epoch, image_digest, tree_digest, architecture = Path(sys.argv[3]), *sys.argv[4:8]
layers = tuple(ImageLayer(id=n, name=n, tree=folder / n / "tree", index=folder / n / "index") for n in ("base", "odd"))
settings = eval(sys.argv[8], {"Settings": Settings})
image = Image(settings=settings, layers=(), epoch=int(epoch))
print(Singularity(folder).realize(RealizeRequest(
    name="test-default", layers=layers, image=image, image_digest=image_digest, tree_digest=tree_digest, keep=folder,
    output=folder / "users.sif")).location)
"""


@pytest.mark.ordinary
def test_an_ordinary_user_gets_the_bytes_that_root_gets(env_sif, request_of, user):
    if os.geteuid() != 0:
        pytest.skip("it takes root to be both")
    wanted = request_of()
    for name in ("reprobox", "plugins/reprobox-singularity/reprobox_singularity"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, user.home / "code" / Path(name).name, ignore=ignore)
    for layer in wanted.layers:
        subprocess.run(["cp", "-a", layer.tree.parent, user.home / "code"], check=True)
    user.give(user.home / "code")
    code = user.home / "code"
    argv = [code, code, code, wanted.image.epoch, wanted.image_digest, wanted.tree_digest, SETTINGS.architecture]
    done = user.run(["python3", "-B", "-c", AS_ANOTHER, *argv, repr(SETTINGS)])
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["cmp", env_sif, done.stdout.strip()], check=False).returncode == 0


def test_an_image_that_is_kept_is_made_once(backend, request_of):
    first = backend.realize(request_of())
    made = os.stat(first.location)
    assert backend.has(first)
    assert backend.realize(request_of()) == first
    assert os.stat(first.location).st_mtime_ns == made.st_mtime_ns
    assert os.path.basename(first.location) == f"{request_of().image_digest}.sif"


# -- content -----------------------------------------------------------------------------------------------------------


def partition_at(path: Path) -> int:
    with path.open("rb") as file:
        primary = sif.read(file).primary
    assert primary is not None
    return primary.offset


@pytest.mark.tool("unsquashfs")
def test_the_digest_of_an_unpacked_image_is_that_of_the_layers(env_sif, request_of, tmp_path):
    tree = tmp_path / "unpacked"
    offset = str(partition_at(env_sif))
    unpack = ["unsquashfs", "-quiet", "-no-progress", "-offset", offset, "-dest", tree, env_sif]
    script = [sys.executable, ROOT / "tests/independent/tree_digest.py", tree]
    inside = "import subprocess, sys; [subprocess.run(a, check=True) for a in eval(sys.argv[1])]"
    argv = [sys.executable, "-c", inside, repr([list(map(str, unpack)), list(map(str, script))])]
    done = subprocess.run(["unshare", "--map-root-user", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1].removeprefix("sha256:") == request_of().tree_digest
    subprocess.run(["chmod", "-R", "u+rwX", tree], check=True)


def test_plain_apptainer_runs_it_as_it_would_run_the_docker_image(env_sif):
    said = apptainer("run", "--no-home", "--cleanenv", env_sif).stdout
    assert said == f"by default|$HOME|{SETTINGS.environment['WORDS']}|"
    assert apptainer("run", "--cleanenv", env_sif, "an arg", "$X").stdout.startswith("an arg|$X|two")
    assert (
        apptainer("exec", "--cleanenv", env_sif, "/bin/sh", "-c", 'printf "%s" "$WORDS"').stdout
        == (SETTINGS.environment["WORDS"])
    )
    given = {**os.environ, "APPTAINERENV_WORDS": "mine"}
    assert apptainer("exec", "--cleanenv", env_sif, "/bin/sh", "-c", 'echo "$WORDS"', env=given).stdout == "mine\n"


def test_plain_apptainer_inspects_it(env_sif, request_of):
    told = json.loads(apptainer("inspect", "--json", "--labels", "--runscript", env_sif).stdout)["data"]["attributes"]
    assert told["labels"]["org.opencontainers.image.title"] == "a 'title'"
    assert told["labels"]["org.reprobox.tree-digest"] == f"sha256:{request_of().tree_digest}"
    assert told["runscript"].endswith(
        'exec "/bin/sh" "-c" "printf \\"%s|\\" \\"\\$0\\" \\"\\$@\\" \\"\\$WORDS\\"" "$@"'
    )


def test_it_inspects_as_well_as_a_backend(backend, request_of):
    realization = backend.realize(request_of())
    assert backend.inspect(realization)["org.reprobox.image-digest"] == f"sha256:{request_of().image_digest}"


@pytest.mark.parametrize("name", ["x.sqfs", "folder"])
def test_other_forms_run_too(backend, request_of, name):
    location = backend.realize(request_of(name)).location
    assert apptainer("run", "--cleanenv", location, "word").stdout.startswith("word|two 'words'")
    assert apptainer("exec", location, "cat", "/.singularity.d/labels.json").returncode == 0


def test_a_bare_squashfs_is_what_is_in_the_sif(backend, request_of, env_sif):
    bare = Path(backend.realize(request_of("x.sqfs")).location).read_bytes()
    assert env_sif.read_bytes()[partition_at(env_sif) :] == bare


def test_scripts_quote_whatever_there_is(tmp_path):
    settings = replace(SETTINGS, environment={"A": "x'y\n\"$(z)`", "odd name": "x", "PATH": "/a:/b"})
    script = tmp_path / "env.sh"
    script.write_text(metadata.environment_script(settings))
    said = subprocess.run(
        ["sh", "-c", f'. {script}; printf "%s|" "$A" "$PATH"'], capture_output=True, text=True, check=False
    )
    assert said.stdout == "x'y\n\"$(z)`|/a:/b|"
    assert metadata.run_script(Settings(architecture="amd64")) == (
        '#!/bin/sh\nif [ $# -eq 0 ]; then set -- "/bin/sh"; fi\nexec "$@"\n'
    )


# -- what goes wrong ---------------------------------------------------------------------------------------------------


SLOWLY = """#!/bin/sh
exec sleep 4712.5
"""


def test_a_killed_realize_leaves_no_image(request_of, backend, tmp_path, monkeypatch):
    """A mksquashfs that never ends stands for one that is at work."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mksquashfs").write_text(SLOWLY)
    (tmp_path / "bin/mksquashfs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    child = os.fork()
    if child == 0:
        backend.realize(request_of())
        os._exit(0)
    end = time.monotonic() + 20
    while not (asleep := sleeping("4712.5")) and time.monotonic() < end:
        time.sleep(0.05)
    assert asleep
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for process in asleep:
        os.kill(process, signal.SIGKILL)
    monkeypatch.undo()
    assert os.listdir(tmp_path / "keep") == []
    assert Path(backend.realize(request_of()).location).exists()


def sleeping(seconds: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", seconds.encode()]:
            found.append(int(path.parent.name))
    return found


def test_a_full_disk_is_told_with_the_remedy(layers, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(ROOT)!r}, {str(PLUGIN)!r}]
from reprobox.backend import ImageLayer, RealizeRequest
from reprobox.errors import ReproboxError
from reprobox.image import Image, Settings
from reprobox_singularity.backend import Singularity
layers = tuple(ImageLayer(id=n, name=n, tree=Path({str(layers[0].tree.parents[1])!r}, n, "tree"),
    index=Path({str(layers[0].tree.parents[1])!r}, n, "index")) for n in ("base", "odd"))
image = Image(settings=Settings(architecture={SETTINGS.architecture!r}), layers=(), epoch=0)
try:
    Singularity(Path({str(tmp_path)!r})).realize(RealizeRequest(name="n", layers=layers, image=image, image_digest="0",
        tree_digest="0", keep=Path("/"), output=Path({str(small)!r}, "x.sif")))
except ReproboxError as error:
    print(error)
"""
    mounted = f'mount -t tmpfs -o size=512k tmpfs {small} && "$0" -c "$1"; ls -A {small}'
    argv = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, sys.executable, script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout == (
        f"{small}/x.sif: there is no space left: the disk, or the quota, of {tmp_path} or of {small} is full\n"
        "  hint: `reprobox cache gc` frees the store; APPTAINER_TMPDIR names another folder for what is not kept\n"
    ), done.stderr


@pytest.mark.parametrize("damage", ["cut", "no head", "no file system", "empty"])
def test_a_kept_image_that_is_broken_is_made_anew(backend, request_of, damage):
    path = Path(backend.realize(request_of()).location)
    whole = path.read_bytes()
    with path.open("rb") as file:
        start = sif.read(file).primary.offset
    gone = {
        "cut": slice(-1, None),
        "no head": slice(0, 64),
        "no file system": slice(start, start + 4),
        "empty": slice(0, None),
    }
    broken = bytearray(whole)
    if damage in ("cut", "empty"):
        del broken[gone[damage]]
    else:
        broken[gone[damage]] = bytes(len(broken[gone[damage]]))
    path.write_bytes(broken)
    assert not backend.has(Realization(location=str(path)))
    assert backend.has(backend.realize(request_of()))
    assert path.read_bytes() == whole


def test_a_broken_image_is_told_before_it_is_run(backend, request_of):
    from reprobox.backend import RunRequest
    from reprobox.errors import ReproboxError

    realization = backend.realize(request_of())
    path = Path(realization.location)
    path.write_bytes(path.read_bytes()[:60_000])
    wish = RunRequest(realization=realization, argv=("true",), environment={}, binds=(), workdir="/")
    with pytest.raises(ReproboxError) as raised:
        backend.run(wish)
    assert raised.value.status == 5
    assert "cut off" in str(raised.value)
    assert str(raised.value).startswith(f"{path}: the image cannot be run: its object 3 (")
    assert str(raised.value).endswith("  hint: `reprobox realize --backend singularity` makes it anew")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ReproboxError, match="Apptainer cannot inspect it"):
        backend.inspect(realization)
    path.unlink()
    assert not backend.has(realization)
    with pytest.raises(ReproboxError, match="it is not there any more"):
        backend.run(wish)
