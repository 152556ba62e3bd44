"""The order of versions: the manual's rules, and dpkg's own opinion."""

from __future__ import annotations

import subprocess
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.debian.version import satisfies, sort_key

ASCENDING = [
    "0~~",
    "0~",
    "0",
    "1.0~rc1",
    "1.0~rc1-1",
    "1.0",
    "1.0-0.1",
    "1.0-1~deb12u1",
    "1.0-1",
    "1.0-1+b1",
    "1.0-1+deb12u1",
    "1.0a",
    "1.0+dfsg-1",
    "1.0.1",
    "1.9",
    "1.10",
    "2:0.1",
]


def test_the_order_of_deb_version_7():
    assert all(sort_key(left) < sort_key(right) for left, right in pairwise(ASCENDING))


@pytest.mark.parametrize(("left", "right"), [("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.00", "1.0"), ("1.0-", "1.0")])
def test_versions_that_are_equal(left, right):
    assert sort_key(left) == sort_key(right)


@pytest.mark.parametrize(
    ("version", "operator", "wanted", "answer"),
    [
        ("1.0", ">=", "1.0", True),
        ("1.0", ">>", "1.0", False),
        ("1.0~rc1", "<<", "1.0", True),
        ("1.0", "=", "0:1.0-0", True),
        ("1.0", "<=", "0.9", False),
        ("1.0", "<", "1.0", True),  # the deprecated spelling means <=
    ],
)
def test_relations(version, operator, wanted, answer):
    assert satisfies(version, operator, wanted) is answer


_TEXT = st.text("0129abZ.+~", min_size=1, max_size=8).map(lambda text: "1" + text)
_VERSIONS = st.builds(
    lambda epoch, upstream, revision: f"{epoch}{upstream}{revision}",
    st.sampled_from(["", "0:", "1:", "12:"]),
    _TEXT,
    st.sampled_from(["", "-1", "-0", "-1~bpo", "-2.1+b3"]),
)


@pytest.mark.tool("dpkg")
@settings(max_examples=150)
@given(left=_VERSIONS, right=_VERSIONS)
def test_dpkg_agrees(left, right):
    order = "lt" if sort_key(left) < sort_key(right) else "gt" if sort_key(left) > sort_key(right) else "eq"
    assert subprocess.run(["dpkg", "--compare-versions", left, order, right], check=False).returncode == 0
