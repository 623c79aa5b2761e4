"""The authors' checkpoint by name, from a hub on loopback, in the layouts that repositories with it have."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from audiocraft_qamdt.checkpoints import hub

from ..helpers.published import AUTHORS, COPY


@pytest.fixture
def fetch(tmp_path):
    def fetched(name: str) -> Path:
        return hub.fetch(hub.find(name), tmp_path / "out")

    return fetched


def test_the_only_checkpoint_of_a_repository_is_found_in_any_folder(hub_server, caplog, fetch):
    hub_server.models["owner/model"] = {"README.md": b"text", "some/folder/published.ckpt": b"weights" * 100}
    with caplog.at_level(logging.INFO):
        assert fetch("owner/model").read_bytes() == b"weights" * 100
    assert "owner/model/some/folder/published.ckpt: the authors' checkpoint, 0.00 GiB to download into" in caplog.text
    assert "GiB free); its import" in caplog.text
    assert "of memory (" in caplog.text
    assert fetch("owner/model/README.md").read_bytes() == b"text"
    assert fetch("owner/model@main").name == "published.ckpt"


@pytest.mark.parametrize("layout", [AUTHORS, COPY, {f"qa_mdt/{path}": data for path, data in COPY.items()}])
def test_the_checkpoint_of_published_repositories_is_found_as_it_lies_there(hub_server, layout):
    hub_server.models["owner/published"] = layout
    assert hub.find("owner/published").file.endswith("checkpoint_389999.ckpt")


@pytest.mark.parametrize("redirects", [False, True], ids=["hub", "other host"])
def test_a_connection_that_breaks_is_resumed_where_it_broke(hub_server, monkeypatch, fetch, redirects):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    content = bytes(index % 251 for index in range(50000))
    hub_server.models["owner/model"] = {"published.ckpt": content}
    hub_server.breaks_after, hub_server.redirects = 20000, redirects
    assert fetch("owner/model").read_bytes() == content
    assert 20000 in hub_server.starts


def test_a_download_that_failed_is_resumed_by_the_next_call(hub_server, monkeypatch, fetch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    content = bytes(index % 251 for index in range(50000))
    hub_server.models["owner/model"] = {"published.ckpt": content}
    hub_server.breaks_after, hub_server.goes_down = 20000, True
    with pytest.raises(FileNotFoundError, match="owner/model/published.ckpt: .*503"):
        fetch("owner/model")
    hub_server.is_down, hub_server.starts = False, []
    assert fetch("owner/model").read_bytes() == content
    assert 20000 in hub_server.starts


def test_what_was_left_of_another_file_is_not_continued_in_silence(hub_server, tmp_path, fetch):
    content = b"weights" * 100
    hub_server.models["owner/model"] = {"published.ckpt": content}
    part = hub.folder_of("owner/model") / "blobs" / f"{hashlib.sha256(content).hexdigest()}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 10)
    with pytest.raises(OSError, match="owner/model/published.ckpt: what was downloaded is not what the hub has"):
        fetch("owner/model")
    assert fetch("owner/model").read_bytes() == content


PIPELINE = {"model_index.json": b"{}", "unet/config.json": b"{}", "vae/diffusion_pytorch_model.safetensors": b""}


@pytest.mark.parametrize(
    "name, error, message",
    [
        ("owner/none", FileNotFoundError, "owner/none: neither a file here nor a checkpoint on the hub"),
        (
            "owner/text",
            FileNotFoundError,
            "owner/text: no model that can be read; there are README.md. Expected: an ex",
        ),
        (
            "owner/pipeline",
            FileNotFoundError,
            "there are model_index.json, unet/, vae/. Expected: an export .*beside mod",
        ),
        ("owner/two", ValueError, "several checkpoints, name one: owner/two/a.ckpt, owner/two/b.pt"),
        ("owner/two/c.ckpt", FileNotFoundError, "no file c.ckpt there; checkpoints: a.ckpt, b.pt"),
    ],
)
def test_what_is_not_there_is_named(hub_server, name, error, message):
    hub_server.models |= {"owner/text": {"README.md": b""}, "owner/two": {"a.ckpt": b"1", "b.pt": b"2"}}
    hub_server.models["owner/pipeline"] = PIPELINE
    with pytest.raises(error, match=message):
        hub.find(name)


@pytest.mark.parametrize("free", [3, 13])
def test_too_little_room_for_download_and_import_is_said_before_the_download(hub_server, monkeypatch, fetch, free):
    hub_server.models["owner/model"] = {"published.ckpt": b"weights"}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))
    with pytest.raises(OSError, match="owner/model/published.ckpt: .*set HF_HOME"):
        fetch("owner/model")
    assert not any(request.startswith("GET /owner") for request in hub_server.requests)


def test_files_of_this_machine_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_hub_name("owner/name")
    assert hub.is_hub_name("owner/name/folder/file.ckpt@v1")
    assert not hub.is_hub_name("file.ckpt")
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").touch()
    assert not hub.is_hub_name("owner/name")


def test_a_mistyped_path_is_no_name_of_a_model():
    assert hub.is_model_name("owner/name@v1")
    assert hub.is_model_name("owner/name/folder/file.ckpt")
    assert not hub.is_model_name("outputs/xps/0123abcd/checkpoint.th")
