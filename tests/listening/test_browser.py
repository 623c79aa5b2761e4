"""A listening test in a real browser: rate clips from a server and from a file, send and download the answers."""

from __future__ import annotations

import json

import pytest

from audiocraft_qamdt.listening.page import make_test
from audiocraft_qamdt.listening.report import report_on
from audiocraft_qamdt.listening.results import read_results

from ..helpers.browser import browsing, need_browser
from ..helpers.listening import MARKUP, make_systems
from .test_server import serving


@pytest.fixture(autouse=True)
def chromium():
    need_browser()


def begin(page, rater: str) -> None:
    page.fill("#rater", rater)
    page.click("#start")


def listen(page) -> None:
    """Play every clip to its end; the answer cannot be given before."""
    assert page.is_disabled("#next")
    for clip in page.query_selector_all("audio"):
        clip.evaluate("clip => clip.play()")
        page.wait_for_function("clip => clip.ended", arg=clip)


def choose(page, key, rate) -> str:
    """Answer what is asked, and go on; what the screen was about."""
    clips = [clip.get_attribute("data-clip") for clip in page.query_selector_all("audio")]
    trial = next(trial for trial in key.trials.values() if set(trial.clips) == set(clips))
    for ask in trial.asks:
        value = trial.beeps if ask == "beeps" else rate(ask, [key.sounds[clip] for clip in clips], clips)
        page.check(f"input[name={ask}][value='{value}']")
    page.click("#next:not([disabled])")
    return key.sounds[clips[0]].name if clips[0] in key.sounds else "check"


def test_ratings_are_sent_to_the_server(tmp_path):
    key = make_test(make_systems(tmp_path / "systems"), tmp_path / "page", checks=1)
    rate = lambda ask, sounds, clips: 5 if sounds[0].system.startswith("ours") else 2  # noqa: E731
    with serving(tmp_path / "page", tmp_path / "results") as server:
        url = f"http://127.0.0.1:{server.server_port}/"
        with browsing(url) as page:
            begin(page, "anna")
            seen = []
            for screen in range(len(key.trials)):
                assert page.text_content(".progress") == f"{screen + 1} of {len(key.trials)}"
                listen(page)
                if page.query_selector(".prompt"):
                    assert page.text_content(".prompt") in (f"Description{MARKUP}", "Descriptionprompt 1")
                seen.append(choose(page, key, rate))
            page.wait_for_selector("#sent:has-text('have been sent')")
            assert page.problems == []
            assert all(address.startswith((url, "blob:", "data:")) for address in page.addresses)
    assert sorted(seen) == ["check", "one", "one", "two", "two"]
    assert seen[0] != "check" != seen[-1]
    (result,) = read_results([tmp_path / "results"], key)
    means = {(one.system, one.question): one.estimate.mean for one in report_on([result], key).means}
    assert means["ours-secret", "ovl"] == means["ours-secret", "rel"] == 5
    assert means["baseline-secret", "ovl"] == 2


def test_preferences_are_downloaded_from_a_page_that_was_opened_as_a_file(tmp_path):
    key = make_test(make_systems(tmp_path / "systems"), tmp_path / "page", kind="preference", checks=1)
    with browsing((tmp_path / "page" / "public" / "index.html").as_uri()) as page:
        begin(page, "anna")
        listen(page)
        first = choose(page, key, lambda ask, sounds, clips: "neither")
        page.reload()  # the answers so far are kept
        begin(page, "anna")
        assert page.text_content(".progress") == "2 of 3"
        for _ in range(2):
            listen(page)
            ours = lambda ask, sounds, clips: clips[[s.system for s in sounds].index("ours-secret")]  # noqa: E731
            choose(page, key, ours)
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(tmp_path / download.value.suggested_filename)
        assert page.problems == []
    assert first in ("one", "two")
    (file,) = tmp_path.glob("*.json")
    assert all(seconds > 0.5 for trial in json.loads(file.read_text())["trials"] for seconds in trial["heard"])
    (won,) = report_on(read_results([file], key), key).win_rates
    assert (won.wins, won.ties, won.losses) == (1, 1, 0)


def test_a_rater_has_an_order_of_their_own_and_finds_it_again(tmp_path):
    names = tuple(f"clip{index}" for index in range(6))
    make_test(make_systems(tmp_path / "systems", names), tmp_path / "page", checks=2, per_rater=4)
    with browsing((tmp_path / "page" / "public" / "index.html").as_uri()) as page:
        orders = {
            rater: page.evaluate("rater => trialsFor(rater).map(trial => trial.id)", rater)
            for rater in ("anna", "ben", "anna2", "cleo")
        }
        again = page.evaluate("rater => trialsFor(rater).map(trial => trial.id)", "anna")
        prompts = page.evaluate(
            "new Set(trialsFor('anna').filter(trial => trial.prompt).map(trial => trial.prompt)).size"
        )
        assert page.problems == []
    assert again == orders["anna"]
    assert len({tuple(order) for order in orders.values()}) == 4
    assert all(len(set(order)) == 4 * 2 + 2 for order in orders.values())
    assert prompts == 4
