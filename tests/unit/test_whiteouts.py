"""Deletions as overlayfs marks them."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from reprobox.whiteouts import is_opaque, is_whiteout, make_opaque, whiteout


def test_a_whiteout_is_the_device_of_overlayfs(tmp_path):
    place = os.fsencode(tmp_path / "gone")
    whiteout(place)
    status = os.lstat(place)
    assert is_whiteout(status)
    assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)


def test_other_devices_files_and_folders_are_no_whiteouts(tmp_path):
    (tmp_path / "file").touch()
    for path in ("/dev/zero", tmp_path / "file", tmp_path):
        assert not is_whiteout(os.lstat(path))


@pytest.mark.parametrize(("value", "wanted"), [(b"y", True), (b"n", False), (b"x", False)])
def test_a_folder_is_opaque_where_its_mark_says_so(tmp_path, value, wanted):
    folder = os.fsencode(tmp_path)
    assert not is_opaque(folder)
    try:
        os.setxattr(folder, b"user.overlay.opaque", value)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip(f"the file system of {tmp_path} has no such attributes: {error.strerror}")
    assert is_opaque(folder) is wanted


def test_a_folder_that_is_made_opaque_is(tmp_path):
    make_opaque(os.fsencode(tmp_path))
    assert os.getxattr(tmp_path, "user.overlay.opaque") == b"y"
    assert is_opaque(os.fsencode(tmp_path))
