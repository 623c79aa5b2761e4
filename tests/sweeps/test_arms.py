"""Arms of a grid: what repeats what, mean and deviation, and what is said of runs that do not count."""

from __future__ import annotations

import math
import statistics

import pytest
from omegaconf import OmegaConf

from audiocraft_qamdt.metrics.base import Number, comparable
from audiocraft_qamdt.metrics.table import METRICS, MORE_IS_BETTER, more_is_better
from audiocraft_qamdt.sweeps.arms import GridRun, Statistic, find_grid, make_sweep, remarks

from ..helpers.grid_folder import add_run, evaluated


def run(signature: str, history, problem: str = "", **given) -> GridRun:
    """A run as `find_grid` reads it, of a configuration with masking and seeds."""
    nested = {key.replace("__", "."): value for key, value in given.items()}
    settings = {"seed": 0, "generate": {"seed": 0}, "masking": {"ratio": 0.3, "spread": 0.2, "kind": "random"}}
    config = OmegaConf.create(settings)
    for key, value in nested.items():
        OmegaConf.update(config, key, value)
    parts = {key: value for key, value in nested.items() if key not in ("seed", "generate.seed")}
    return GridRun(signature, {key: str(value) for key, value in parts.items()}, parts, config, history, problem)


FRECHET = "frechet_playground/evaluate_n64/best1"


def test_mean_and_deviation_over_the_seeds_of_an_arm():
    values = {"none": [10.0, 12.0, 17.0], "clip": [8.0, 9.0, 8.5]}
    runs = [
        run(f"{name}{seed}", evaluated(frechet=value), conditioner=f"qamdt/{name}", seed=seed)
        for seed in range(3)
        for name, value in ((name, found[seed]) for name, found in values.items())
    ]
    sweep = make_sweep("g", runs)
    assert [arm.name for arm in sweep.arms] == ["conditioner=qamdt/none", "conditioner=qamdt/clip"]
    for arm, expected in zip(sweep.arms, values.values(), strict=True):
        found = arm.metrics[FRECHET]
        assert found.mean == pytest.approx(statistics.mean(expected))
        assert found.deviation == pytest.approx(statistics.stdev(expected))  # n - 1
    assert sweep.best(FRECHET) == 8.5
    assert sweep.arm("clip") is sweep.arm("conditioner=qamdt/clip") is sweep.arms[1]
    none, clip = (arm.metrics[FRECHET] for arm in sweep.arms)
    assert clip.relative(none) == pytest.approx((8.5 - 13) / 13 * 100)
    assert clip.overlaps(none) is False and none.overlaps(none) is True


@pytest.mark.parametrize(
    "first, second, meets",
    [
        ((1.0, 3.0), (3.0, 5.0), True),
        ((1.0, 1.0), (1.0, 1.0), True),
        ((0.0, 1.0), (9.0, 10.0), False),
        ((1.0,), (1.0, 2.0), None),
    ],
)
def test_intervals_of_one_deviation_overlap_or_not(first, second, meets):
    assert Statistic(first).overlaps(Statistic(second)) is meets is Statistic(second).overlaps(Statistic(first))


def test_relative_to_nothing_is_nothing_and_signs_are_of_the_difference():
    assert Statistic((1.0,)).relative(Statistic((0.0,))) is None
    assert Statistic((-1.0,)).relative(Statistic((-2.0,))) == 50


def test_one_seed_has_no_deviation_and_unequal_seeds_are_said():
    runs = [run(f"a{seed}", evaluated(frechet=1.0 + seed), masking__ratio=0.1, seed=seed) for seed in range(2)]
    sweep = make_sweep("g", [*runs, run("b", evaluated(frechet=2.0), masking__ratio=0.5)])
    assert sweep.arms[1].metrics[FRECHET].deviation is None
    told = "\n".join(remarks(sweep))
    assert "unequal numbers of seeds (1: masking.ratio=0.5; 2: masking.ratio=0.1)" in told and "one seed" in told


def test_numbers_of_other_sizes_are_never_averaged_together():
    sizes = {"a": 64, "b": 64, "c": 32}
    runs = [run(name, evaluated(frechet=float(size), size=size), seed=name) for name, size in sizes.items()]
    sweep = make_sweep("g", runs)
    assert sweep.arms[0].name == "all runs"
    assert sweep.arms[0].metrics[FRECHET].values == (64.0, 64.0)
    assert sweep.arms[0].metrics["frechet_playground/evaluate_n32/best1"].values == (32.0,)
    assert "Numbers of evaluate_n64/best1 and evaluate_n32/best1 do not compare" in "\n".join(remarks(sweep))


def test_seed_of_the_noise_makes_repeats_and_no_columns():
    runs = []
    for seed in (0, 1):
        number = Number("frechet", "playground", 5.0 + seed, "evaluate", 64, 3, seed)
        runs.append(run(str(seed), [{"evaluate": {number.key: number.value}}], generate__seed=seed))
    assert make_sweep("g", runs).arms[0].metrics == {"frechet_playground/evaluate_n64/best3": Statistic((5.0, 6.0))}
    plain = Number("silent", "", 0.0, "", 8).key
    assert comparable(plain) == plain == "silent/n8"


def test_last_evaluation_counts_without_what_is_not_of_the_model():
    history = [*evaluated(frechet=9.0), *evaluated(frechet=4.0, loss=0.5), {"train": {"loss": 1.0}}]
    history[3]["evaluate"] |= {"kld": 1.0, "kld_passt/evaluate_n64/best1_seed0": 1.0, "unscored": 0.5}
    measured = run("a", history).measured
    assert measured == {FRECHET: 4.0, "loss": 0.5, "kld_passt/evaluate_n64/best1": 1.0}


def test_values_that_are_not_finite_are_left_out_and_named():
    runs = [run("good", evaluated(frechet=1.0)), run("bad", evaluated(frechet=math.nan, kl=1.0), seed=1)]
    sweep = make_sweep("g", runs)
    assert sweep.arms[0].metrics[FRECHET].values == (1.0,)
    assert f"not finite in bad: {FRECHET}" in "\n".join(remarks(sweep))


def test_unfinished_runs_are_listed_and_count_only_when_asked():
    runs = [run("done", evaluated(frechet=1.0)), run("half", evaluated(frechet=3.0), "2 of 4 epochs done", seed=1)]
    sweep = make_sweep("g", [*runs, run("new", [], "was not started", seed=2)])
    assert [one.signature for one in sweep.arms[0].runs] == ["done"]
    assert [(name, one.signature) for name, one in sweep.left_out] == [("all runs", "half"), ("all runs", "new")]
    sweep = make_sweep("g", runs, unfinished=True)
    assert sweep.arms[0].metrics[FRECHET].mean == 2.0 and not sweep.left_out
    assert "Counted though not finished: half" in "\n".join(remarks(sweep))
    with pytest.raises(ValueError, match="none of its 1 runs counts; half .*2 of 4 epochs done"):
        make_sweep("g", runs[1:])


def test_arm_is_asked_for_by_its_name_or_a_part_that_no_other_has():
    arms = ["prefix", "clip", "prefix_clip"]
    sweep = make_sweep("g", [run(name, evaluated(kl=1.0), conditioner=f"qamdt/{name}") for name in arms])
    assert [sweep.arm(name).runs[0].signature for name in (*arms, "prefix_", "qamdt/clip")] == [*arms, arms[2], arms[1]]
    with pytest.raises(ValueError, match="several arms are called 'pre': choose one of .*=qamdt/prefix; .*prefix_clip"):
        sweep.arm("pre")
    with pytest.raises(ValueError, match="no arm is called 'frame': choose one of conditioner=qamdt/prefix"):
        sweep.arm("frame")


def test_a_choice_that_one_run_names_and_others_do_not_is_no_difference_where_something_else_is():
    runs = [run(str(ratio), evaluated(kl=1.0), masking__ratio=ratio) for ratio in (0.1, 0.2)]
    runs[1].given["conditioner"] = "qamdt/prefix_clip"  # as another grid started it
    assert [arm.name for arm in make_sweep("g", runs).arms] == ["masking.ratio=0.1", "masking.ratio=0.2"]
    runs = [run("a", evaluated(kl=1.0)), run("b", evaluated(kl=1.0), conditioner="qamdt/none")]
    assert [arm.name for arm in make_sweep("g", runs).arms] == ["conditioner=default", "conditioner=qamdt/none"]


def test_every_metric_says_which_way_is_better():
    quantities = {"silence": "silent", "aesthetics": "pq"}
    assert all(more_is_better(quantities.get(name, name)) is not None for name in METRICS)
    assert more_is_better("kl_reverse_playground/evaluate_n64") is more_is_better(FRECHET) is False
    assert more_is_better("pmos_playground-1/n4") is more_is_better("inception_passt/n4") is True
    assert more_is_better("pmoses/n4") is more_is_better("unknown") is None
    assert MORE_IS_BETTER["loss"] is False


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Dora's folder with a grid: three arms, of which one goes on from runs that differ only in their seed."""
    outputs = tmp_path_factory.mktemp("outputs")
    trained = [add_run(outputs, "trained", evaluated(loss=1.0), f"seed={seed}") for seed in (1, 2)]
    evaluation = evaluated(epochs=1, frechet=1.0)
    for index, signature in enumerate(trained):
        more = ["execute_only=evaluate", f"continue_from=//sig/{signature}", f"seed={index + 1}"]
        add_run(outputs, "sweep", evaluation, *more)
    add_run(outputs, "sweep", evaluated(frechet=2.0), "masking.ratio=0.5", "logging.log_updates=7")
    add_run(outputs, "sweep", evaluated(frechet=2.0)[:1], "masking.ratio=0.6")
    add_run(outputs, "sweep", None, "masking.ratio=0.7")
    (outputs / "grids" / "sweep" / "0badc0de").symlink_to(outputs / "xps" / "0badc0de")
    return outputs


def test_grid_of_dora_is_read_in_the_order_it_was_started(outputs):
    sweep = make_sweep("sweep", find_grid("sweep"))
    assert [len(arm.runs) for arm in sweep.arms] == [2, 1]
    assert [one.seed for one in sweep.arms[0].runs] == ["1", "2"]
    assert sweep.arms[1].name.endswith("masking.ratio=0.5")
    assert "logging.log_updates" not in sweep.arms[1].settings  # does not change what is computed
    assert sweep.common["solver"] == "qamdt/debug"
    problems = {one.problem for _, one in sweep.left_out}
    assert problems == {"1 of 2 epochs done", "0 of 2 epochs done", "was not started"}


@pytest.mark.parametrize("name", ["swoop", "", "../xps"])
def test_grid_that_was_not_started_names_those_that_were(outputs, name):
    with pytest.raises(ValueError, match="no grid .* was started in .*there: sweep, trained.*`qamdt grid "):
        find_grid(name)
