"""The values of secrets are found however they are cut into pieces, and nothing else is touched."""

from __future__ import annotations

import base64
import io
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.redact import Redactor, holders, redacted

VALUE = b"s3cr3t/Value+With=Signs"


def masked(data: bytes, *values: bytes, cut: int = 7) -> bytes:
    redactor = Redactor({str(number): value for number, value in enumerate(values)})
    pieces = [redactor.feed(data[at : at + cut]) for at in range(0, len(data), cut)]
    return b"".join([*pieces, redactor.finish()])


@given(st.lists(st.sampled_from([b"x", b"\n", VALUE, VALUE[:-1], VALUE[1:]])), st.integers(1, 40))
def test_wherever_the_pieces_are_cut(parts, cut):
    assert masked(b"".join(parts), VALUE, cut=cut) == b"".join(parts).replace(VALUE, b"***")


@pytest.mark.parametrize(
    "shown",
    [
        VALUE,
        base64.b64encode(VALUE),
        base64.b64encode(VALUE + b"\n"),
        base64.urlsafe_b64encode(VALUE).rstrip(b"="),
        VALUE.hex().encode(),
        VALUE.hex().upper().encode(),
        b"s3cr3t%2FValue%2BWith%3DSigns",
    ],
)
def test_common_spellings(shown):
    found = masked(b"before " + shown + b" after", VALUE + b"\n")
    assert found.rstrip(b"=").startswith(b"before ***")
    assert b"s3cr3t" not in found
    assert shown[:-4] not in found


def test_the_lines_of_a_key_and_of_its_base64():
    key = b"".join(b"line %d of a long private key, which has many\n" % number for number in range(9))
    coded = subprocess.run(["base64"], input=key, capture_output=True, check=True).stdout
    assert masked(b"> " + key.replace(b"\n", b"\n> "), key).count(b"***") == 9
    assert set(masked(coded, key).split()) <= {b"***", *coded.split()[-1:]} - {coded.split()[0]}


def test_a_short_value_is_masked_in_logs_alone(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert masked(b"xabcx", b"abc") == b"x***x"
    assert not list(holders(tmp_path, {"key": b"abc"}))


def test_without_secrets_nothing_changes(tmp_path):
    assert masked(b"some text", cut=2) == b"some text"
    with (tmp_path / "log").open("wb") as log, redacted(log, {}) as descriptor:
        assert descriptor == log.fileno()


def test_a_log_is_written_while_the_step_runs():
    log = io.BytesIO()
    with redacted(log, {"key": VALUE}) as descriptor:  # type: ignore[arg-type]
        os.write(descriptor, b"a" * 1000 + VALUE[:9])
        os.write(descriptor, VALUE[9:] + b"b" * 100)
    assert log.getvalue() == b"a" * 1000 + b"***" + b"b" * 100


def test_holders_are_found_by_content_name_and_link(tmp_path):
    value = b"long-enough-value"
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "content").write_bytes(b"x" * ((1 << 20) - 5) + value + b"y")
    (tmp_path / "deep" / "coded").write_bytes(base64.b64encode(value + b"\n"))
    (tmp_path / "hidden").write_bytes(value)
    (tmp_path / "hidden").chmod(0)
    (tmp_path / "link").symlink_to(os.fsdecode(value))
    (tmp_path / os.fsdecode(b"name-" + value)).touch()
    (tmp_path / "clean").write_bytes(value[:-1])
    os.mkfifo(tmp_path / "pipe")
    found = {os.fsdecode(path): name for path, name in holders(tmp_path, {"key": value + b"\n", "other": b"x" * 99})}
    assert found.pop("deep/content") in ("key", "other")
    assert found == dict.fromkeys(["deep/coded", "hidden", "link", "name-long-enough-value"], "key")
