"""How apt is run by ``install.sh``."""

from __future__ import annotations

import pytest

from tests.debs import make_deb
from tests.installation import INSTALL, World

pytestmark = [pytest.mark.userns, pytest.mark.tool("apt-get"), pytest.mark.tool("unshare")]

#: Apt asks dpkg nothing else, and nothing is installed on this machine.
OPTIONS = ("-oDir::State=/run/apt", "-oDir::State::status=/run/apt/status", "-oDir::Cache=/run/apt", "--download-only")
FILE = "/run/reprobox/inputs/one_1.0_all.deb"


def test_apt_takes_the_locked_files_for_downloaded(tmp_path):
    make_deb(tmp_path, "one", architecture="all")
    before = f"mkdir -p /run/apt/lists/partial ${{FILE%/*}}; touch /run/apt/status; cp {tmp_path}/one_1.0_all.deb $FILE"
    conf = {"APT_CONFIG": "/run/reprobox/step-apt.conf", "FILE": FILE}
    before += "; cp $SOURCE/step-apt.conf $APT_CONFIG"
    world = World(tmp_path, ["/var/cache/apt"])
    done = world.run(tmp_path, [*INSTALL, "apt-get", *OPTIONS, "install", FILE], before, conf)
    assert done.status == 0, done.said
    assert "Need to get 0 B/" in done.said
    assert "Get:1" not in done.said
