"""The user's settings: where they are found, what they may say, and what is said of a mistake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from reprobox.config import Config, Registries, Remote, load
from reprobox.errors import UsageError

EVERYTHING = """\
jobs = 3
[archives]
debian = ["https://mirror.example/debian/", "file:///srv/debian"]
[snapshots]
debian = ["https://snapshot.example/archive/debian"]
[registries]
mirrors = { "docker.io" = ["https://mirror.example"] }
insecure = ["registry.lan:5000"]
[index]
url = "https://mirror.example/simple"
extra = ["https://one.example/simple", "https://two.example/simple"]
[store]
path = "/scratch/me"
[remote]
repository = "registry.example/group/layers"
trust = "pushers"
push = true
"""

Loaded = Callable[..., Config]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    def loaded(text: str | bytes, **environment: str) -> Config:
        path = tmp_path / "my.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load({"REPROBOX_CONFIG": str(path), **environment})

    return loaded


def test_everything(loaded: Loaded, tmp_path: Path) -> None:
    assert loaded(EVERYTHING) == Config(
        store=Path("/scratch/me"),
        jobs=3,
        archives={"debian": ("https://mirror.example/debian", "file:///srv/debian")},
        snapshots={"debian": ("https://snapshot.example/archive/debian",)},
        registries=Registries(mirrors={"docker.io": ("https://mirror.example",)}, insecure=("registry.lan:5000",)),
        index={
            "url": "https://mirror.example/simple",
            "extra": "https://one.example/simple https://two.example/simple",
        },
        remote=Remote(repository="registry.example/group/layers", trust="pushers", push=True),
        path=tmp_path / "my.toml",
    )


def test_nothing_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, folder in (("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    assert load({}) == Config(store=tmp_path / "cache" / "reprobox")
    assert not (tmp_path / "cache").exists()


def test_the_file_is_found_in_the_configuration_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "reprobox").mkdir()
    (tmp_path / "reprobox" / "config.toml").write_text("jobs = 5")
    assert load({}).jobs == 5
    assert load({}).path == tmp_path / "reprobox" / "config.toml"


def test_the_environment_comes_before_the_file(loaded: Loaded) -> None:
    config = loaded(EVERYTHING, REPROBOX_STORE="/tmp/elsewhere", REPROBOX_JOBS="7")
    assert (config.store, config.jobs) == (Path("/tmp/elsewhere"), 7)
    config = loaded(EVERYTHING, REPROBOX_STORE="", REPROBOX_JOBS="")
    assert (config.store, config.jobs) == (Path("/scratch/me"), 3)


def test_the_remote_of_the_environment_comes_before_the_file(loaded: Loaded) -> None:
    config = loaded(
        EVERYTHING, REPROBOX_REMOTE="other.example/a", REPROBOX_REMOTE_TRUST="seal", REPROBOX_REMOTE_PUSH="0"
    )
    assert config.remote == Remote(repository="other.example/a", trust="seal", push=False)
    assert loaded(EVERYTHING, REPROBOX_REMOTE="").remote.repository == ""
    assert loaded("", REPROBOX_REMOTE="other.example/a").remote == Remote(repository="other.example/a")


def test_the_store_may_be_below_home(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert loaded('store.path = "~/box"').store == Path("/home/me/box")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs = ", ":1: this is not a TOML value"),
        ("jobs = 0", ":1: jobs: expected a number from 1 to 64, found 0"),
        ('\njobs = "8"', ":2: jobs: expected an integer, found a string"),
        ("[archive]\n", ':1: archive: unknown key\n  hint: did you mean "archives"?'),
        ('[archives]\ndebian = "https://x"', ":2: archives.debian: expected a list of strings, found a string"),
        ('[archives]\ndebian = ["mirror"]', ':2: archives.debian[0]: expected a URL, found "mirror"'),
        ('[registries]\ninsecure = ["http://x"]', ":2: registries.insecure[0]: expected the name of a registry"),
        ('[remote]\ntrust = "everybody"', ':2: remote.trust: expected "seal" or "pushers", found "everybody"'),
        ('[remote]\npush = "yes"', ":2: remote.push: expected true or false, found a string"),
        ('[store]\npath = "relative"', ':2: store.path: expected an absolute path, found "relative"'),
        (b"# \xff", ":1: it is not UTF-8 text"),
        (b"#" * (1 << 20) + b"##", ": it is larger than 1048576 bytes"),
        ("a" + ".a" * 30 + " = 1", ":1: a key has more than 16 parts"),
    ],
)
def test_mistakes(loaded: Loaded, text: str | bytes, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(text)
    assert f"my.toml{message}" in str(caught.value)
    assert caught.value.status == 2


def test_all_mistakes_at_once(loaded: Loaded) -> None:
    with pytest.raises(UsageError) as caught:
        loaded('jobs = 99\n[index]\nurl = "x"\n')
    assert str(caught.value).count("my.toml:") == 2


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"REPROBOX_CONFIG": "/no/such/file"}, "/no/such/file: the settings cannot be read: No such file or directory"),
        ({"REPROBOX_CONFIG": "/"}, "/: the settings cannot be read: Is a directory"),
        ({"REPROBOX_REMOTE_TRUST": "all"}, 'REPROBOX_REMOTE_TRUST: expected seal or pushers, found "all"'),
        ({"REPROBOX_REMOTE_PUSH": "yes"}, 'REPROBOX_REMOTE_PUSH: expected 1 or 0, found "yes"'),
        ({"REPROBOX_JOBS": "many"}, 'REPROBOX_JOBS: expected a number from 1 to 64, found "many"'),
    ],
)
def test_mistakes_in_the_environment(environment: Mapping[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(environment)
    assert message in str(caught.value)
