"""`qamdt listening-test report`: numbers that are known beforehand, raters who do not count, and wrong files."""

from __future__ import annotations

import json

import pytest

from audiocraft_qamdt.cli import main
from audiocraft_qamdt.listening.page import make_test

from ..helpers.listening import answers, make_systems

NAMES = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def rating(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rating")
    return make_test(make_systems(folder / "systems", NAMES), folder / "page"), folder / "page" / "key.json"


@pytest.fixture(scope="module")
def preference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preference")
    systems = make_systems(folder / "systems", NAMES)
    return make_test(systems, folder / "page", kind="preference"), folder / "page" / "key.json"


def write(folder, *results) -> list[str]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index}.json" for index in range(len(results))]
    for path, content in zip(paths, results, strict=True):
        path.write_text(json.dumps(content))
    return [str(path) for path in paths]


def report(files, key, out, *more) -> dict:
    assert main(["listening-test", "report", *files, "--key", str(key), "--out", str(out), *more]) == 0
    return json.loads(out.read_text())


def better(high: int, low: int):
    """Rate our system `high` and the other one `low`."""
    return lambda ask, sound, other: high if sound.system.startswith("ours") else low


def test_ratings_become_means_and_win_rates(rating, tmp_path, capsys):
    key, path = rating
    files = write(tmp_path / "results", answers(key, "anna", better(5, 3)), answers(key, "ben", better(4, 3)))
    found = report(files, path, tmp_path / "out.json")
    means = {(one["system"], one["question"]): one["estimate"] for one in found["means"]}
    assert means["ours-secret", "ovl"]["mean"] == 4.5
    assert means["baseline-secret", "rel"]["mean"] == 3
    assert means["ours-secret", "ovl"]["judgements"] == 8
    assert means["baseline-secret", "ovl"]["low"] == 3
    assert [(one["question"], one["wins"], one["losses"]) for one in found["win_rates"]] == [
        ("ovl", 8, 0),
        ("rel", 8, 0),
    ]
    assert found["agreement"][0]["question"] == "ovl"
    assert found["agreement"][0]["difference"] == "ordinal"
    table = (tmp_path / "out.md").read_text()
    assert table == capsys.readouterr().out
    assert "| ours-secret | 4.50 ± " in table
    assert "| ours-secret | baseline-secret | OVL | 100.0% |" in table


def test_choices_become_win_rates_with_ties_as_halves(preference, tmp_path):
    key, path = preference
    verdicts = {"one": True, "two": True, "three": None, "four": False}
    same = [answers(key, rater, lambda ask, first, second: verdicts[first.name]) for rater in ("anna", "ben", "cleo")]
    found = report(write(tmp_path / "results", *same), path, tmp_path / "out.json")
    won = found["win_rates"][0]
    assert (won["system"], won["wins"], won["ties"], won["losses"]) == ("ours-secret", 6, 3, 3)
    assert won["estimate"]["mean"] == 0.625
    assert won["estimate"]["low"] < 0.5 < won["estimate"]["high"]
    assert found["agreement"] == [{"question": "choice", "difference": "nominal", "alpha": 1.0}]
    assert found["means"] == []


def test_whoever_fails_checks_is_named_and_left_out(rating, tmp_path, capsys):
    key, path = rating
    careless = answers(key, "a <b>", better(1, 5), checks_right=False)
    files = write(tmp_path / "results", careless, answers(key, "ben", better(5, 3)))
    found = report(files, path, tmp_path / "out.json")
    assert found["raters"] == ["ben"]
    assert found["left_out"] == [{"rater": "a <b>", "file": files[0], "reason": "3 of 3 attention checks failed"}]
    assert f"left out: a &lt;b&gt; (3 of 3 attention checks failed; {files[0]})" in capsys.readouterr().out
    assert report(files, path, tmp_path / "out.json", "--allow-failed", "3")["raters"] == ["a <b>", "ben"]


def test_nobody_counts(rating, tmp_path, caplog):
    key, path = rating
    files = write(tmp_path / "results", answers(key, "anna", better(5, 3), checks_right=False))
    assert main(["listening-test", "report", *files, "--key", str(path)]) == 2
    assert "anna: 3 of 3 attention checks failed" in caplog.text
    assert "--allow-failed" in caplog.text


def test_of_two_results_of_a_rater_the_first_counts(rating, tmp_path):
    key, path = rating
    second = answers(key, "anna", better(1, 5)) | {"finished": "2026-01-02T10:00:00.000Z"}
    files = write(tmp_path / "results", second, answers(key, "anna", better(5, 3)))
    found = report([str(tmp_path / "results")], path, tmp_path / "out.json")
    assert found["raters"] == ["anna"]
    assert found["means"][0]["estimate"]["mean"] == 5
    assert found["left_out"][0]["file"] == files[0]


def test_a_rater_who_failed_gets_no_second_try(rating, tmp_path):
    key, path = rating
    second = answers(key, "anna", better(5, 1)) | {"finished": "2026-01-02T10:00:00.000Z"}
    failed = answers(key, "anna", better(5, 1), checks_right=False)
    files = write(tmp_path / "results", second, failed, answers(key, "ben", better(3, 3)))
    found = report(files, path, tmp_path / "out.json")
    assert found["raters"] == ["ben"]
    assert [one["file"] for one in found["left_out"]] == [files[1], files[0]]


def test_results_of_another_page_are_refused(rating, preference, tmp_path, caplog):
    files = write(tmp_path / "results", answers(preference[0], "anna", lambda *_: True))
    assert main(["listening-test", "report", *files, "--key", str(rating[1])]) == 2
    assert f"0.json: results of test '{preference[0].test}', but the key is of {rating[0].test}" in caplog.text


def _spoilt(content, how):
    first = content["trials"][0]
    changes = {
        "no results": {"trials": None},
        "no rater": {"rater": " "},
        "long rater": {"rater": "x" * 65},
        "half a pair": {"rater": "a\ud800"},
        "no time": {"finished": None},
        "stranger": {"trials": [{**first, "trial": "0" * 16}]},
        "a list for an id": {"trials": [{**first, "trial": ["x"]}]},
        "rating": {"trials": [{**first, "answers": {"ovl": 6, "rel": 1}}]},
        "true": {"trials": [{**first, "answers": {"ovl": True, "rel": 1}}]},
        "one answer": {"trials": [{**first, "answers": {"ovl": 3}}]},
        "twice": {"trials": [first, *content["trials"]]},
        "no checks": {"trials": [first]},
        "checks alone": {"trials": content["trials"][-3:]},
    }
    return content | changes[how]


@pytest.mark.parametrize(
    "how, message",
    [
        ("no results", "0.json: not results of a listening test"),
        ("no rater", "rater must be a text"),
        ("long rater", "rater must be a text of at most 64"),
        ("half a pair", "rater has characters that cannot be written"),
        ("no time", "finished must be a time"),
        ("stranger", "trials[0]: no trial of this test"),
        ("a list for an id", "trials[0]: no trial of this test"),
        ("rating", "trials[0]: ovl cannot be 6"),
        ("true", "trials[0]: ovl cannot be True"),
        ("one answer", "trials[0]: answers must be to ovl and rel"),
        ("twice", "is answered twice"),
        ("no checks", "3 of 3 attention checks are not answered"),
        ("checks alone", "no clip is judged"),
    ],
)
def test_what_the_page_cannot_have_given_is_refused(rating, tmp_path, caplog, how, message):
    key, path = rating
    files = write(tmp_path / "results", _spoilt(answers(key, "anna", better(5, 3)), how))
    assert main(["listening-test", "report", *files, "--key", str(path)]) == 2
    assert message in caplog.text


@pytest.mark.parametrize(
    "content, message", [("{}", "not the key"), ('{"format": "qamdt listening-test key 1"}', "damaged")]
)
def test_a_key_that_is_none_is_named(tmp_path, caplog, content, message):
    (tmp_path / "key.json").write_text(content)
    assert main(["listening-test", "report", str(tmp_path), "--key", str(tmp_path / "key.json")]) == 2
    assert "key.json: " in caplog.text
    assert message in caplog.text


def test_an_empty_folder_of_results_and_a_foreign_output_are_named(rating, tmp_path, caplog):
    (tmp_path / "results").mkdir()
    assert main(["listening-test", "report", str(tmp_path / "results"), "--key", str(rating[1])]) == 2
    assert "no results (*.json)" in caplog.text
    command = ["listening-test", "report", str(tmp_path / "results"), "--key", str(rating[1])]
    assert main([*command, "--out", str(rating[1])]) == 2
    assert "was not written by this command" in caplog.text
    (tmp_path / "s.md").write_text("my notes")
    assert main([*command, "--out", str(tmp_path / "s.json")]) == 2
    assert "s.md is there without" in caplog.text
    assert (tmp_path / "s.md").read_text() == "my notes"
