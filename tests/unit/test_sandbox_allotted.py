"""Processors and GPUs that a run in the sandbox is given, on machines of several kinds."""

from __future__ import annotations

import os

import pytest

from reprobox.backend import Limits
from reprobox.errors import BackendError
from reprobox.sandbox.allotted import allotted


@pytest.fixture
def machine(tmp_path):
    for name in ("null", "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "dri/renderD128"):
        (tmp_path / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / name).touch()
    return tmp_path


def test_processors_are_some_of_those_that_there_are():
    there = os.sched_getaffinity(0)
    assert allotted(Limits(), "").processors == ()
    assert len(set(allotted(Limits(cpus=1), "").processors) & there) == 1
    assert set(allotted(Limits(cpus=100_000), "").processors) == there


def test_no_gpu_is_every_device_hidden(machine):
    hidden = allotted(Limits(), "none", machine).binds
    assert [str(bind.source) for bind in hidden] == ["/dev/null"] * 5
    assert {bind.target for bind in hidden} == {
        "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/dri/renderD128",
    }  # fmt: skip


def test_some_gpus_are_chosen_by_a_variable(machine):
    assert allotted(Limits(), "all", machine).environment == {}
    assert allotted(Limits(), "1", machine).environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert allotted(Limits(), "GPU-a1", machine).environment["CUDA_VISIBLE_DEVICES"] == "GPU-a1"
    with pytest.raises(BackendError) as caught:
        allotted(Limits(), "0,3", machine)
    assert str(caught.value) == "--gpus: this machine has no GPU 3\n  hint: `reprobox doctor` lists what it has"
