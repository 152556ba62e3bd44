"""uv against an index on loopback: what it resolves, what it says when nothing fits, and where locked wheels are found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from reprobox.errors import FetchError, OfflineError
from reprobox.lock import Input
from reprobox.pypi import LABEL, IndexProvider, NoSolutionError, Question, Uv, uv_version
from reprobox.store import Store
from tests.python_index import Index, wheel
from tests.servers import Server

PLATFORM = "x86_64-manylinux_2_36"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with Server() as running:
        yield running


@pytest.fixture
def index(server: Server) -> Index:
    return Index(server)


def ask(kept: Store, index: Index, *requirements: str, **more: object) -> dict[str, str]:
    question = Question(requirements=requirements, python="3.11.2", platform=PLATFORM, **more)
    return {item.name: item.version for item in Uv(kept, {"url": index.url}).resolve(question)}


def locked(file: str, data: bytes, **facts: str) -> Input:
    return Input(type="wheel", name=file, sha256=hashlib.sha256(data).hexdigest(), size=len(data), facts=facts)


def test_dependencies_extras_and_markers(kept, index):
    index.add("app", "1.0", requires=["lib>=2", "old; python_full_version < '3.11.1'", "more; extra == 'all'"])
    for name, version in (("lib", "2.1"), ("lib", "1.0"), ("old", "1.0"), ("more", "1.0"), ("win", "1.0")):
        index.add(name, version)
    assert ask(kept, index, "app", "win; sys_platform == 'win32'") == {"app": "1.0", "lib": "2.1"}
    assert ask(kept, index, "app[all]") == {"app": "1.0", "lib": "2.1", "more": "1.0"}
    assert ask(kept, index, "app", dependencies=False) == {"app": "1.0"}


def test_every_wheel_of_the_platform_with_hash_and_size(kept, index):
    data = index.add("lib", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64")
    index.add("lib", "1.0", tag="cp311-cp311-manylinux_2_99_x86_64")
    index.add("lib", "1.0", tag="cp311-cp311-manylinux_2_17_aarch64")
    (package,) = Uv(kept, {"url": index.url}).resolve(Question(requirements=["lib"], python="3.11", platform=PLATFORM))
    (found,) = package.wheels
    assert (found.name, found.size) == ("lib-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", len(data))
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    (package,) = Uv(kept, {"url": index.url}).resolve(Question(requirements=["lib"], python="3.11"))
    assert len(package.wheels) == 3


def test_preferences_are_kept_where_they_can_be(kept, index):
    for version in ("1.0", "1.1", "2.0"):
        index.add("lib", version)
    assert ask(kept, index, "lib", preferences={"lib": "1.0"}) == {"lib": "1.0"}
    assert ask(kept, index, "lib>1.0", preferences={"lib": "1.0"}) == {"lib": "2.0"}
    assert ask(kept, index, "lib", preferences={"lib": "0.9", "gone": "1.0"}) == {"lib": "2.0"}


def test_constraints_hold_and_install_nothing(kept, index):
    index.add("lib", "1.0")
    index.add("lib", "2.0")
    assert ask(kept, index, "lib", constraints=["lib==1.0", "other==3"]) == {"lib": "1.0"}
    with pytest.raises(NoSolutionError, match=r"lib==1\.0"):
        ask(kept, index, "lib>=2", constraints=["lib==1.0"])


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        ("nosuch", "nosuch was not found"),
        ("lib>=99", "only lib==1.0 is available"),
        ("lib==1.0 ; python_version >= '3'", "has no usable wheels"),
    ],
)
def test_the_solver_own_reason_in_full(kept, index, requirement, said):
    if "wheels" in said:
        index.add_file("lib", "lib-1.0.tar.gz", b"source")
    else:
        index.add("lib", "1.0")
    with pytest.raises(NoSolutionError, match=said) as caught:
        ask(kept, index, requirement)
    assert "we can conclude that your requirements are unsatisfiable" in " ".join(caught.value.message.split())


def test_an_index_that_is_not_there(kept, index, server):
    question = Question(requirements=["lib"], python="3.11", platform=PLATFORM)
    with pytest.raises(FetchError, match="could not be asked") as caught:
        Uv(kept, {"url": "http://me:secret@127.0.0.1:9/simple"}).resolve(question)
    assert "127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_offline_what_was_said_before_is_all(kept, index):
    index.add("lib", "1.0")
    question = Question(requirements=["lib"], python="3.11", platform=PLATFORM)
    offline = Uv(kept, {"url": index.url}, offline=True)
    with pytest.raises(OfflineError, match="said too little before"):
        offline.resolve(question)
    Uv(kept, {"url": index.url}).resolve(question)
    assert offline.resolve(question)[0].version == "1.0"


def test_settings_of_the_folder_do_not_count(kept, index, tmp_path, monkeypatch):
    index.add("lib", "1.0")
    (tmp_path / "uv.toml").write_text('constraint-dependencies = ["lib<1"]\n')
    monkeypatch.chdir(tmp_path)
    assert ask(kept, index, "lib") == {"lib": "1.0"}


def test_a_password_is_used_and_never_said(kept, server):
    index = Index(server, login="me:s3cret")
    data = index.add("lib", "1.0")
    uv = Uv(kept, {"url": index.url_with_login})
    (package,) = uv.resolve(Question(requirements=["lib"], python="3.11", platform=PLATFORM))
    assert "s3cret" not in package.wheels[0].url
    with pytest.raises(NoSolutionError, match="401") as caught:
        Uv(kept, {"url": index.url.replace("://", "://me:wr0ng@")}).resolve(
            Question(requirements=["lib"], python="3.11")
        )
    assert "wr0ng" not in str(caught.value)

    item = locked("lib-1.0-py3-none-any.whl", data, package="lib", version="1.0", python="3.11")
    (place,) = IndexProvider(kept, {"url": index.url_with_login}).locate([item])[item.sha256]
    assert "me:s3cret@" in place.url
    assert place.shown == LABEL


# -- locating ----------------------------------------------------------------------------------------------------------


def test_locating_needs_one_question(kept, index, server):
    items = []
    for name, tag in (
        ("a", "py3-none-any"),
        ("b", "cp311-cp311-manylinux_2_28_x86_64"),
        ("c", "cp311-abi3-linux_aarch64"),
    ):
        data = index.add(name, "1.0", tag=tag, python=">=3.11", requires=["d"])
        items.append(locked(f"{name}-1.0-{tag}.whl", data, package=name, version="1.0", python="3.11"))
    file, data = wheel("uv", "0.1", tag="py3-none-musllinux_1_1_x86_64")
    index.add_file("uv", file, data)
    items.append(Input(type="uv", name=file, sha256=hashlib.sha256(data).hexdigest(), size=9, facts={"version": "0.1"}))
    deb = Input(type="deb", name="x.deb", sha256="0" * 64, size=1)

    places = IndexProvider(kept, {"url": index.url}).locate([*items, deb])
    assert places.keys() == {item.sha256 for item in items}
    for item in items:
        assert [place.url.rpartition("/")[2] for place in places[item.sha256]] == [item.name]
    assert sorted(path for path in server.paths() if path.startswith("/simple/")) == [
        f"/simple/{name}/" for name in ("a", "b", "c", "uv")
    ]


def test_two_versions_of_one_package_and_two_pythons(kept, index):
    old = index.add("lib", "1.0", python="<3.12", tag="cp39-cp39-linux_x86_64")
    new = index.add("lib", "2.0", python=">=3.12", tag="cp312-cp312-linux_x86_64")
    mid = index.add("lib", "1.5", python=">=3.9")
    items = [
        locked("lib-1.0-cp39-cp39-linux_x86_64.whl", old, package="lib", version="1.0", python="3.9"),
        locked("lib-1.5-py3-none-any.whl", mid, package="lib", version="1.5", python="3.9"),
        locked("lib-2.0-cp312-cp312-linux_x86_64.whl", new, package="lib", version="2.0", python="3.12"),
    ]
    assert len(IndexProvider(kept, {"url": index.url}).locate(items)) == 3


def test_what_the_index_forgot_does_not_hide_the_rest(kept, index):
    items = []
    for number in range(7):
        data = index.add(f"p{number}", "1.0")
        items.append(
            locked(f"p{number}-1.0-py3-none-any.whl", data, package=f"p{number}", version="1.0", python="3.11")
        )
    index.forget("p2", items[2].name)
    del index.wheels["p5"]
    places = IndexProvider(kept, {"url": index.url}).locate(items)
    assert places.keys() == {item.sha256 for item in items} - {items[2].sha256, items[5].sha256}


def test_offline_no_place_is_known_and_no_server_asked(kept, index, server):
    data = index.add("lib", "1.0")
    item = locked("lib-1.0-py3-none-any.whl", data, package="lib", version="1.0", python="3.11")
    assert IndexProvider(kept, {"url": index.url}, offline=True).locate([item]) == {}
    assert server.seen == []


def test_the_version_of_uv_is_the_one_that_is_run(kept):
    import subprocess

    from uv import find_uv_bin

    assert subprocess.check_output([find_uv_bin(), "--version"], text=True).split()[1] == uv_version()
