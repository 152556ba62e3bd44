"""What the host says about its index: which setting wins, what is named as unused, and which login a URL gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reprobox.index_settings import host_settings, host_trust, with_login

MIRROR = "http://mirror.test/simple"
OTHER = "http://other.test/simple"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody without any settings, whatever the machine's own files say."""
    return {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "xdg")}


def pip_conf(home: dict[str, str], text: str, place: str = ".config/pip/pip.conf") -> None:
    path = Path(home["HOME"], place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_settings_uv_is_left_alone(home):
    settings = host_settings({}, home | {"PIP_CONFIG_FILE": os.devnull})
    assert settings.variables == {}
    assert settings.unused == ()


def test_reprobox_own_index_beats_all(home):
    pip_conf(home, f"[global]\nindex-url = {OTHER}\nextra-index-url = {OTHER}\n")
    settings = host_settings({"url": MIRROR}, home | {"UV_DEFAULT_INDEX": OTHER, "PIP_INDEX_URL": OTHER})
    assert settings.variables == {"UV_DEFAULT_INDEX": MIRROR}
    assert settings.unused == ()


def test_further_indices_are_asked_with_those_of_uv(home):
    settings = host_settings({"url": MIRROR, "extra": f"{OTHER}/a {OTHER}/b"}, home | {"UV_INDEX": f"{OTHER}/c"})
    assert settings.variables["UV_INDEX"] == f"{OTHER}/a {OTHER}/b {OTHER}/c"


@pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_INDEX"])
def test_uv_own_variable_beats_pip(home, variable):
    assert host_settings({}, home | {variable: MIRROR, "PIP_INDEX_URL": OTHER}).variables == {}


@pytest.mark.parametrize(
    "text",
    [
        f'index-url = "{MIRROR}"\n',
        f'[pip]\nindex-url = "{MIRROR}"\n',
        f'[[index]]\nurl = "{MIRROR}"\ndefault = true\n',
        "no-index = true\n",
    ],
)
def test_uv_own_file_beats_pip(home, text):
    pip_conf(home, text, ".config/uv/uv.toml")
    assert host_settings({}, home | {"PIP_INDEX_URL": OTHER}).variables == {}
    assert (
        host_settings({}, home | {"PIP_INDEX_URL": OTHER, "UV_NO_CONFIG": "1"}).variables["UV_DEFAULT_INDEX"] == OTHER
    )


@pytest.mark.parametrize("text", [f'[[index]]\nname = "x"\nurl = "{MIRROR}"\n', "not TOML", "index-url = 3 = 4"])
def test_a_uv_file_that_names_no_default_index_leaves_pip_its_say(home, text):
    pip_conf(home, text, ".config/uv/uv.toml")
    assert host_settings({}, home | {"PIP_INDEX_URL": OTHER}).variables == {"UV_DEFAULT_INDEX": OTHER}


def test_pip_files_from_the_machine_to_the_user_to_the_variable(home):
    def index(**more: str) -> str:
        return host_settings({}, home | more).variables["UV_DEFAULT_INDEX"]

    pip_conf(home, "[global]\nindex-url = http://a.test\n", "xdg/pip/pip.conf")
    assert index() == "http://a.test"
    pip_conf(home, "[global]\nindex_url = http://b.test\n", ".pip/pip.conf")
    assert index() == "http://b.test"
    pip_conf(home, "[global]\nindex-url: http://c.test\n")
    assert index() == "http://c.test"
    pip_conf(home, "[global]\nindex-url = http://d.test\n", "named.conf")
    named = f"{home['HOME']}/named.conf"
    assert index(PIP_CONFIG_FILE=named) == "http://d.test"
    pip_conf(home, "[install]\nindex-url = http://e.test\n", ".pip/pip.conf")
    assert index(PIP_CONFIG_FILE=named) == "http://e.test"
    assert index(PIP_CONFIG_FILE=named, PIP_INDEX_URL="http://f.test") == "http://f.test"


def test_a_pip_file_that_cannot_be_read_is_as_none(home):
    pip_conf(home, "index-url = http://no.section\n")
    assert host_settings({}, home | {"PIP_INDEX_URL": MIRROR}).variables == {"UV_DEFAULT_INDEX": MIRROR}


def test_pip_further_places_are_asked_as_pip_would(home):
    pip_conf(home, f"[global]\nextra-index-url = {OTHER}\n    {MIRROR}\nfind-links = /opt/wheels /srv/wheels\n")
    settings = host_settings({}, home)
    assert settings.variables == {
        "UV_EXTRA_INDEX_URL": f"{OTHER} {MIRROR}",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/opt/wheels,/srv/wheels",
    }
    more = home | {"UV_FIND_LINKS": "/own", "UV_INDEX_STRATEGY": "first-index", "PIP_NO_INDEX": "1"}
    found = host_settings({}, more).variables
    assert (found["UV_FIND_LINKS"], found["UV_INDEX_STRATEGY"]) == ("/own,/opt/wheels,/srv/wheels", "first-index")
    assert found["UV_NO_INDEX"] == "1"
    assert host_settings({"url": MIRROR}, home).variables == {"UV_DEFAULT_INDEX": MIRROR}


def test_reprobox_own_folders_of_wheels_come_first(home):
    pip_conf(home, "[global]\nfind-links = /opt/wheels\n")
    assert (
        host_settings({"find-links": "/a /b"}, home | {"UV_FIND_LINKS": "/c"}).variables["UV_FIND_LINKS"] == "/a,/b,/c"
    )


def test_settings_of_pip_without_effect_are_named(home):
    pip_conf(home, "[global]\nconstraint = /etc/constraints.txt\n")
    assert host_settings({}, home).unused == ("constraint",)
    assert host_settings({}, home).variables == {}


def test_a_login_goes_to_its_own_server_only(home):
    variables = home | {"UV_DEFAULT_INDEX": "http://me:s%40cret@mirror.test:8080/simple"}
    assert with_login("http://mirror.test:8080/f/a.whl", variables) == "http://me:s%40cret@mirror.test:8080/f/a.whl"
    for url in (
        "http://mirror.test/f/a.whl",
        "https://mirror.test:8080/a.whl",
        "http://else.test/a.whl",
        "file:///a.whl",
    ):
        assert with_login(url, variables) == url


def test_logins_of_named_and_further_indices(home):
    variables = home | {"UV_INDEX": "lab=http://a:b@lab.test/simple http://c:d@wheels.test/simple"}
    assert with_login("http://lab.test/a.whl", variables) == "http://a:b@lab.test/a.whl"
    assert with_login("http://wheels.test/a.whl", variables) == "http://c:d@wheels.test/a.whl"


def test_a_login_from_netrc(home):
    path = Path(home["HOME"], ".netrc")
    path.write_text("machine mirror.test login me password s@cret\n")
    path.chmod(0o600)
    assert with_login("http://mirror.test/a.whl", home) == "http://me:s%40cret@mirror.test/a.whl"
    assert with_login("http://other.test/a.whl", home) == "http://other.test/a.whl"
    assert with_login("http://mirror.test/a.whl", {"NETRC": str(path)}) == "http://me:s%40cret@mirror.test/a.whl"
    assert with_login("http://mirror.test/a.whl", {}) == "http://mirror.test/a.whl"


def test_uv_trusts_whom_the_host_trusts(tmp_path):
    certificates = tmp_path / "ca.pem"
    certificates.write_text("")
    (tmp_path / "pip.conf").write_text(f"[global]\ncert = {certificates}\n")
    known = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    assert host_trust(known)["UV_SYSTEM_CERTS"] == "true"
    assert host_trust(known)["SSL_CERT_FILE"] == str(certificates)
    assert "SSL_CERT_FILE" not in host_trust({**known, "SSL_CERT_FILE": "/own"})
    assert "UV_SYSTEM_CERTS" not in host_trust({**known, "UV_SYSTEM_CERTS": "0"})
