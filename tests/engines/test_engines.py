"""The engines and fixtures themselves: if one of these fails, no other engine test can be believed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.engines import availability


@pytest.mark.registry
@pytest.mark.network
@pytest.mark.slow
def test_the_base_image_is_in_the_registry(base_image):
    argv = ["skopeo", "inspect", "--tls-verify=false", f"docker://{base_image}"]
    told = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert told["Architecture"] == "amd64"
    assert len(told["Layers"]) == 1


@pytest.mark.docker
@pytest.mark.registry
@pytest.mark.network
@pytest.mark.slow
def test_docker_runs_the_base_image(docker, base_image, tmp_path):
    docker("pull", base_image)
    try:
        assert docker("run", "--rm", base_image, "cat", "/etc/debian_version").startswith("12.")
        assert docker.export(base_image, tmp_path / "root.tar").stat().st_size > 50_000_000
    finally:
        docker("image", "rm", "--force", base_image)


@pytest.mark.ordinary
def test_the_ordinary_user_is_not_root(user):
    done = user.run(["sh", "-c", "id -u; pwd; touch mine; echo $REPROBOX_STORE"])
    uid, folder, *rest = done.stdout.split()
    assert int(uid) == user.uid != 0
    assert Path(folder) == user.home
    assert rest == []


@pytest.mark.userns
@pytest.mark.ordinary
def test_the_ordinary_user_makes_user_namespaces(user):
    assert user.run(["unshare", "--user", "--map-root-user", "--mount", "id", "-u"]).stdout.strip() == "0"


def test_the_store_is_not_the_users_own(store):
    assert os.environ["REPROBOX_STORE"] == str(store)
    assert not store.is_relative_to(Path.home())


def test_a_missing_tool_has_a_reason():
    assert availability.missing("tool", "no-such-program") == "no-such-program is not installed"
    assert availability.missing("tool", "sh") == ""


def test_a_missing_engine_skips_on_a_laptop_and_fails_in_ci(pytester):
    pytester.makeconftest("from tests.engines.availability import require_marked as pytest_runtest_setup")
    pytester.makepyfile("import pytest\n@pytest.mark.tool('no-such-program')\ndef test_it(): pass")
    pytester.makeini(f"[pytest]\npythonpath = {Path(__file__).parents[2]}\nmarkers = tool(name)")
    pytester._monkeypatch.delenv("REPROBOX_REQUIRE_ENGINES", raising=False)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(skipped=1)
    pytester._monkeypatch.setenv("REPROBOX_REQUIRE_ENGINES", "1")
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(errors=1)
