"""The example passes what every backend must pass."""

from __future__ import annotations

import pytest
from reprobox_folder import Folder

from reprobox.testing import BackendConformance

pytestmark = pytest.mark.userns


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder().at(tmp_path_factory.mktemp("scratch"))


class TestFolder(BackendConformance):
    @pytest.fixture
    def backend(self, folder):
        return folder
