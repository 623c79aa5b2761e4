"""The table of metrics: names → constructors, and one pass that feeds them all."""

from __future__ import annotations

import logging
import typing as tp
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..quality.predictors.audiobox import AudioboxAxes
from ..quality.predictors.base import Predictor, load_predictor
from ..utils.reading import JsonObject
from .base import AUDIOCRAFT, Batch, Found, Metric, Network, Number, SumOverRanks
from .bootstrap import half_width
from .clap import ClapNetwork, TextAgreement
from .coverage import DensityCoverage, KernelDistance
from .frechet import FrechetMetric
from .networks import Networks, network_names
from .probabilities import ClassAgreement, InceptionScore, KLDivergence, SplitInceptionScore
from .signal import Aesthetics, LevelShares, PredictedMOS, RealTimeFactor

Switch = bool | str | tp.Sequence[str] | None
"""Value of `evaluate.metrics.<name>`: off, on, or the networks or predictors to measure with."""

logger = logging.getLogger(__name__)


@dataclass
class Setup:
    """Resources that constructors share.

    Args:
        networks: shared by all metrics.
        options: a solver's `metrics` config as a dict; a metric's section has its settings.
        device: where metrics compute.
        compress: reference audio through the codec, for AudioCraft's `use_gt`; None = there is no codec.
        predictors: those loaded so far.
    """

    networks: Networks
    options: JsonObject = field(default_factory=dict)
    device: str = "cpu"
    compress: Callable[[Tensor], Tensor] | None = None
    predictors: dict[str, Predictor] = field(default_factory=dict)

    def predictor(self, name: str) -> Predictor:
        """Return the predictor of that name, loaded when it is first asked for."""
        if name not in self.predictors:
            self.predictors[name] = load_predictor(name, self.device)
        return self.predictors[name]


def _frechet(network: str, setup: Setup) -> Metric:
    options = {key: value for key, value in setup.options.get("frechet", {}).items() if key != "reference"}
    return FrechetMetric(setup.networks.get(_named("frechet", network)), **options)


def _samples(name: str, build: Callable[[Network], Metric]) -> Callable[[str, Setup], Metric]:
    return lambda network, setup: build(setup.networks.get(_named(name, network)))


def _inception(name: str, setup: Setup) -> Metric:
    network, splits = setup.networks.get(_named("inception", name)), setup.networks.protocol.splits
    return InceptionScore(network) if splits is None else SplitInceptionScore(network, splits)


def _clap(network: str, setup: Setup) -> Metric:
    name = network or "clap"
    return TextAgreement(setup.networks.get(name), tp.cast(ClapNetwork, setup.networks.plain(name)).embedder)


def _pmos(predictor: str, setup: Setup) -> Metric:
    if not predictor:
        raise ValueError("pmos: name the predictor, e.g. acoustic (evaluate.metrics.pmos=[acoustic], or pmos:acoustic)")
    return PredictedMOS(setup.predictor(predictor))


OURS = {"fad": "frechet", "kld": "kl", "text_consistency": "clap", "chroma_cosine": "another metric"}
"""AudioCraft's metric → the metric of this package that measures the same without TensorFlow or a solver."""


def _audiocraft(name: str) -> Callable[[str, Setup], Metric]:
    def build(argument: str, setup: Setup) -> Metric:
        if setup.compress is None:
            raise ValueError(
                f"{name} is AudioCraft's own metric, which runs in a solver only (evaluate.metrics.{name}=true): "
                f"here, ask for {OURS[name]}"
            )
        from .audiocraft import AudioCraftMetric

        return AudioCraftMetric(name, setup.options[name], setup.compress, setup.device)

    return build


def _named(metric: str, network: str) -> str:
    if not network:
        raise ValueError(f"{metric}: name the network it measures with, one of {', '.join(network_names())}")
    return network


AUDIOCRAFT_QUANTITIES = ("fad", "kld", "kld_pq", "kld_qp", "kld_both", "text_consistency", "chroma_cosine")
"""What AudioCraft's own metrics log, under AudioCraft's words; ours has `AUDIOCRAFT` before them."""

_AUDIOCRAFT_MORE_IS_BETTER = {name: name in ("text_consistency", "chroma_cosine") for name in AUDIOCRAFT_QUANTITIES}

MORE_IS_BETTER: dict[str, bool] = {
    **dict.fromkeys(
        ("loss", "frechet", "frechet_inf", "kad", "kl", "kl_reverse", "kl_both", "silent", "clipped", "rtf"), False
    ),
    **dict.fromkeys(("inception", "density", "coverage", "agreement", "clap", "pmos", "pq", "ce", "cu"), True),
    **_AUDIOCRAFT_MORE_IS_BETTER,
    **{f"{AUDIOCRAFT}{name}": better for name, better in _AUDIOCRAFT_MORE_IS_BETTER.items()},
}
"""Quantity → which way is better, of all that metrics and the validation loss give, but for Audiobox' `pc`.

More complexity is neither better nor worse. Open to registration.
"""

METRICS: dict[str, Callable[[str, Setup], Metric]] = {
    # AudioCraft's, under AudioCraft's flags
    "fad": _audiocraft("fad"),
    "kld": _audiocraft("kld"),
    "text_consistency": _audiocraft("text_consistency"),
    "chroma_cosine": _audiocraft("chroma_cosine"),
    # what it lacks: the argument is a network, or a predictor
    "frechet": _frechet,
    "kad": _samples("kad", KernelDistance),
    "coverage": _samples("coverage", DensityCoverage),
    "inception": _inception,
    "kl": lambda network, setup: KLDivergence(setup.networks.get(_named("kl", network)), setup.networks.protocol.kl),
    "agreement": _samples("agreement", ClassAgreement),
    "clap": _clap,
    "pmos": _pmos,
    "aesthetics": lambda checkpoint, setup: Aesthetics(AudioboxAxes(checkpoint, setup.device)),
    "silence": lambda _, setup: LevelShares(),
    "rtf": lambda _, setup: RealTimeFactor(),
}
"""Name → constructor (argument, setup). Open to registration."""


def build_metrics(switches: Mapping[str, Switch], setup: Setup) -> list[Metric]:
    """Return metrics that are switched on.

    Args:
        switches: `evaluate.metrics` of a solver: name → false, true, a network or predictor, or a list of those.
        setup: what they are made of.
    Raises:
        ValueError: an unknown metric or network, or one without the network it needs.
    """
    unknown = set(switches) - set(METRICS)
    if unknown:
        raise ValueError(f"unknown metric {', '.join(sorted(unknown))}: choose from {', '.join(METRICS)}")
    return [METRICS[name](argument, setup) for name, value in switches.items() for argument in _arguments(value)]


def quantity(key: str) -> str | None:
    """Return the quantity of `MORE_IS_BETTER` that a key starts with; networks, sets and seeds follow it."""
    name = key.split("/")[0]
    known = [quantity for quantity in MORE_IS_BETTER if f"{name}_".startswith(f"{quantity}_")]
    return max(known, key=len) if known else None


def more_is_better(key: str) -> bool | None:
    """Return whether more is better for the number under this key; None = not known."""
    return MORE_IS_BETTER.get(quantity(key) or "")


def _arguments(value: Switch) -> list[str]:
    if value is None or isinstance(value, bool):
        return [""] if value else []
    return [value] if isinstance(value, str) else list(value)


one_rank = SumOverRanks()
"""The sum over ranks where there is one."""


@dataclass
class Evaluation:
    """One pass over clips.

    Args:
        metrics: fed with every batch.
    """

    metrics: list[Metric]
    clips: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def update(self, batch: Batch) -> None:
        """Hand a batch to every metric."""
        self.clips += len(batch.generated)
        for metric in self.metrics:
            metric.update(batch)

    def numbers(
        self,
        total: SumOverRanks = one_rank,
        *,
        reference: str = "",
        best_of: int | None = None,
        seed: int | None = None,
    ) -> list[Number]:
        """Return the measured numbers, the same on every rank (see `Number`).

        Raises:
            ValueError: there was not a single clip.
        """
        clips = int(total(self.clips))
        if not clips:
            raise ValueError("nothing to evaluate: there is no clip")
        found = []
        for metric in self.metrics:
            metric.reduce(total)
            compared = metric.reference_name or reference if metric.needs & {"reference", "pairs"} else ""
            values, used = metric.compute(), metric.used()
            if used is not None and used < clips:
                logger.warning("%s is of %d of %d clips: the others cannot be used", "/".join(values), used, clips)
            judged = clips if used is None else used
            for quantity, value in values.items():
                drawn = metric.replicates.get(quantity)
                interval = None if drawn is None else half_width(drawn, judged)
                found.append(Number(quantity, metric.instrument, value, compared, judged, best_of, seed, interval))
        return found

    def replicates(self) -> dict[str, Tensor]:
        """Return values on resampled clips by quantity and instrument (see `Metric.replicates`), after `numbers`."""
        return {
            "_".join(filter(None, (quantity, metric.instrument))): values
            for metric in self.metrics
            for quantity, values in metric.replicates.items()
        }

    def scores(self) -> dict[str, dict[str, float]]:
        """Clip → what was measured of it alone → value."""
        table: dict[str, dict[str, float]] = {}
        for metric in self.metrics:
            for quantity, values in metric.scores.items():
                for clip, value in values.items():
                    name = "_".join(filter(None, (quantity, metric.instrument)))
                    table.setdefault(clip, {})[name] = value
        return table


class _Distributed(SumOverRanks):
    """The processes of torch.distributed, which sum through `device`, as their backend needs."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = device

    def __call__(self, tensor: Tensor) -> Tensor:
        import flashy

        summed = tensor.to(self.device, copy=True)
        flashy.distrib.all_reduce(summed)
        return summed.cpu()

    def gather(self, found: Found) -> list[Found]:
        import flashy

        parts = [found] * flashy.distrib.world_size()
        torch.distributed.all_gather_object(parts, found)
        return parts


def sum_over_ranks(device: torch.device | str) -> SumOverRanks:
    """Return a sum over the processes of torch.distributed, through the device that its backend needs."""
    import flashy

    return _Distributed(device) if flashy.distrib.is_distributed() else one_rank


def gather_scores(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return scores of the clips of all ranks, by the clips' names."""
    parts = sum_over_ranks("cpu").gather(scores)
    return dict(sorted((clip, values) for part in parts for clip, values in part.items()))
