"""`qamdt demo`, whole, as small as it can be."""

from __future__ import annotations

import re

import pytest

from audiocraft_qamdt.cli import main

pytestmark = pytest.mark.slow


def test_it_ends_with_a_page_of_all_clips(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("audiocraft_qamdt.reports.demo.UPDATES", 20)  # as many as the learning rate rises for
    assert main(["demo", "--out", str(tmp_path / "demo"), "--epochs", "1"]) == 0
    page = capsys.readouterr().out.strip().splitlines()[-1]
    assert page == str(tmp_path / "demo" / "results" / "demo.html")
    text = (tmp_path / "demo" / "results" / "demo.html").read_text()
    clips = len(list((tmp_path / "demo" / "results").glob("*.wav")))
    assert clips in (9, 18)  # with the embedded model twice as many
    assert len(re.findall("<audio", text)) == clips
    assert not re.search(r'(src|href)="(?!data:)', text), "the page needs no other file"
