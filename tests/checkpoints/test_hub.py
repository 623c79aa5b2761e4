"""Checkpoints by name, from a hub on loopback."""

from __future__ import annotations

import logging
import shutil
from collections import namedtuple

import pytest

from audiocraft_qamdt.checkpoints.hub import fetch_checkpoint, is_hub_name


def test_the_only_checkpoint_of_a_repository_is_found_in_any_folder(hub_server, caplog):
    hub_server.models["owner/model"] = {"README.md": b"text", "some/folder/published.ckpt": b"weights" * 100}
    with caplog.at_level(logging.INFO):
        assert fetch_checkpoint("owner/model").read_bytes() == b"weights" * 100
    assert "owner/model/some/folder/published.ckpt: 0.00 GiB into" in caplog.text and "GiB free" in caplog.text
    assert fetch_checkpoint("owner/model/README.md").read_bytes() == b"text"
    assert fetch_checkpoint("owner/model@main").name == "published.ckpt"


def test_a_connection_that_breaks_is_resumed_where_it_broke(hub_server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    content = bytes(index % 251 for index in range(50000))
    hub_server.models["owner/model"] = {"published.ckpt": content}
    hub_server.breaks_after = 20000
    assert fetch_checkpoint("owner/model").read_bytes() == content
    assert hub_server.starts[-1] == 20000


@pytest.mark.parametrize(
    "name, error, message",
    [
        ("owner/none", FileNotFoundError, "owner/none: neither a file here nor a checkpoint on the hub"),
        ("owner/text", FileNotFoundError, "owner/text: no checkpoint"),
        ("owner/two", ValueError, "several checkpoints, name one: owner/two/a.ckpt, owner/two/b.pt"),
        ("owner/two/c.ckpt", FileNotFoundError, "no file c.ckpt there; checkpoints: a.ckpt, b.pt"),
    ],
)
def test_what_is_not_there_is_named(hub_server, name, error, message):
    hub_server.models |= {"owner/text": {"README.md": b""}, "owner/two": {"a.ckpt": b"1", "b.pt": b"2"}}
    with pytest.raises(error, match=message):
        fetch_checkpoint(name)


def test_too_little_room_is_said_before_the_download(hub_server, monkeypatch):
    hub_server.models["owner/model"] = {"published.ckpt": b"weights"}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(3))
    with pytest.raises(OSError, match="owner/model/published.ckpt: .*set HF_HOME"):
        fetch_checkpoint("owner/model")
    assert not hub_server.starts


def test_files_of_this_machine_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("owner/name") and is_hub_name("owner/name/folder/file.ckpt@v1") and not is_hub_name("file.ckpt")
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").touch()
    assert not is_hub_name("owner/name")
