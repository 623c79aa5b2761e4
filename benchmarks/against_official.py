"""Time the network against the authors' class, with the same weights, in turns.

    git clone https://github.com/ivcylc/OpenMusic
    python -m benchmarks.against_official --code OpenMusic

Their file needs timm, einops and torchvision. xformers, which has no kernels for CPUs, is replaced by PyTorch's fused
attention, which our network uses, too. Outputs and gradients are compared first; 1 is the exit status if they differ.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiocraft_qamdt.commands.output import say
from audiocraft_qamdt.diffusion.objective import DiffusionObjective, NoiseSchedule
from audiocraft_qamdt.models import official
from audiocraft_qamdt.models.masking import mask_from_noise
from audiocraft_qamdt.models.mdt import MaskedDiffusionTransformer
from audiocraft_qamdt.utils.files import replacing, write_json

from . import bench_network, operators
from .harness import Settings
from .published_code import check_checkout, official_class
from .table import machine

RATIO, SPREAD = 0.3, 0.2  # of the tokens are hidden: 0.3 + U(0, 0.2), as published
OWN, OFFICIAL, ROUNDED = "ours", "authors'", "ours, bfloat16"
FORWARD, STEP = "evaluation forward", "masked training step"
TARGETS = {FORWARD: 0.6, STEP: 0.6}
"""Share of the authors' processor time that was hoped for, in float32."""
EQUAL = 1e-5
"""Relative error up to which outputs and gradients in float32 count as equal."""
DEFAULTS: dict[str, Any] = {
    **{"patch": (4, 1), "overlap": (0, 0), "dim": 1152, "depth": 28, "decoder_depth": 8, "num_heads": 16},
    **{"ffn_ratio": 4.0, "context_dim": 1024, "position_scale": 1.0},
}
"""The published size: what a size of `bench_network` leaves out."""
HEADER = ("what", "threads", "network", "processor time", "wall time", "of the authors'", "wall", "target")

Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Inputs:
    """What both networks are given: latents, timesteps, texts of `bench_network.WORDS` tokens, levels."""

    latents: Tensor
    timesteps: Tensor
    context: Tensor
    context_mask: Tensor
    levels: Tensor

    @classmethod
    def drawn(cls, size: str, batch: int, width: int) -> Inputs:
        """Draw them, the same each time."""
        generator = torch.Generator().manual_seed(0)
        words = bench_network.WORDS
        return cls(
            torch.randn(batch, *bench_network.latents_of(size), generator=generator),
            torch.randint(1000, (batch,), generator=generator),
            torch.randn(batch, words, width, generator=generator),
            torch.ones(batch, words),
            torch.arange(batch) % 5 + 1,
        )


class Network:
    """A network as the benchmark calls it.

    Args:
        model: ours or the authors'.
        predict: calls it in training mode with a mask, otherwise without; draws the mask from PyTorch's generator.
        inputs: of the calls.
        dtype: of the products.
    """

    def __init__(self, model: nn.Module, predict: Predict, inputs: Inputs, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.predict, self.inputs, self.dtype = model, predict, inputs, dtype
        self.objective = DiffusionObjective(NoiseSchedule())
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def forward(self, seed: int = 0) -> Tensor:
        """Evaluate without gradient, nothing masked."""
        self.model.eval()
        with torch.no_grad(), self._precision():
            return self.predict(self.inputs.latents, self.inputs.timesteps)

    def gradients(self, seed: int) -> Tensor:
        """Predict with a mask and go back, with the noise and mask of a seed; returns the prediction."""
        self.model.train()
        torch.manual_seed(seed)
        noise = torch.randn(self.inputs.latents.shape)
        noisy = self.objective.add_noise(self.inputs.latents, noise, self.inputs.timesteps)
        with self._precision():
            prediction = self.predict(noisy, self.inputs.timesteps)
        self.objective.loss(prediction, self.inputs.latents, noise, self.inputs.timesteps).mean().backward()
        return prediction.detach()

    def step(self, seed: int) -> None:
        """Train one step: forward, backward, clipping and AdamW."""
        self.gradients(seed)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def checked(self) -> dict[str, Tensor]:
        """Return what is compared: the outputs and the gradient."""
        found = {"evaluation": self.forward().float(), "masked": self.gradients(0).float()}
        grads = [p.grad.flatten() for _, p in sorted(_named(self.model).items()) if p.grad is not None]
        self.optimizer.zero_grad()
        return found | {"gradient": torch.cat(grads)}

    def _precision(self) -> contextlib.AbstractContextManager:
        return torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32)


def _named(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trained parameters under the names that ours have."""
    return {official.own_key(name): p for name, p in model.named_parameters() if p.requires_grad}


# ---- the networks


def config_of(size: str) -> dict[str, Any]:
    """Return the authors' arguments for a size of `bench_network`."""
    shape = DEFAULTS | bench_network.shape(size)
    channels, frames, bins = bench_network.latents_of(size)
    return {
        "input_size": (frames, bins),
        "patch_size": tuple(shape["patch"]),
        "overlap": tuple(shape["overlap"]),
        "in_channels": channels,
        "hidden_size": shape["dim"],
        "depth": shape["depth"],
        "num_heads": shape["num_heads"],
        "mlp_ratio": shape["ffn_ratio"],
        "cond_dim": shape["context_dim"],
        "mask_ratio": RATIO,
        "decode_layer": shape["decoder_depth"],
        "lewei_scale": shape["position_scale"],
    }


def networks(code: Path, size: str, batch: int) -> dict[str, Network]:
    """Return the authors' network and ours with the same weights, none of them zero, by name."""
    published = official_class(code)
    torch.manual_seed(0)
    config = config_of(size)
    model = official.build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    weights = {key: value.clone() for key, value in official.to_official(model).items()}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its mask ratio
        theirs = published(**config)
    theirs.load_state_dict(weights)
    inputs = Inputs.drawn(size, batch, config["cond_dim"])
    twin = official.build(config)
    twin.load_state_dict(model.state_dict())
    return {
        OWN: Network(model, own_prediction(model, inputs), inputs),
        OFFICIAL: Network(theirs, official_prediction(theirs, inputs), inputs),
        ROUNDED: Network(twin, own_prediction(twin, inputs), inputs, torch.bfloat16),
    }


def own_prediction(model: MaskedDiffusionTransformer, inputs: Inputs) -> Predict:
    """Call our network, in training with the mask that the authors' code draws."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        mask = None
        if model.training:
            ratio = torch.rand(1) * SPREAD + RATIO
            mask = mask_from_noise(torch.rand(len(x), model.num_tokens(x.shape[2])), ratio)
        return model(x, t, context=inputs.context, context_mask=inputs.context_mask, quality=inputs.levels, mask=mask)

    return predict


def official_prediction(model: nn.Module, inputs: Inputs) -> Predict:
    """Call the authors' network, which draws its mask itself."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return model(x, t, [inputs.context], [inputs.context_mask], mos=inputs.levels)

    return predict


# ---- measuring


@dataclass
class Line:
    """The calls of one kind by one network.

    Attributes:
        what: `FORWARD` or `STEP`.
        threads: of PyTorch.
        network: `OWN`, `OFFICIAL` or `ROUNDED`.
        processor, wall: seconds of each call.
    """

    what: str
    threads: int
    network: str
    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def row(self, reference: Line) -> tuple[str, ...]:
        """Return it as a line of the table, with its share of the reference's time: the median of the rounds' ratios.

        A round's mask is the same for all networks, and another one than the next round's.
        """
        processor, wall = statistics.median(self.processor), statistics.median(self.wall)
        shares = _ratio(self.processor, reference.processor), _ratio(self.wall, reference.wall)
        columns = tuple("" if self is reference else f"{share:.3f}" for share in shares)
        target = f"≤ {TARGETS[self.what]:g}" if self.network == OWN else ""
        return self.what, str(self.threads), self.network, f"{processor:.3f} s", f"{wall:.3f} s", *columns, target


def _ratio(own: list[float], reference: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, reference, strict=True))


def differences(found: Mapping[str, Network]) -> dict[str, dict[str, float]]:
    """Return the relative error (L2) of each of our networks against the authors' by what is compared."""
    exact = found[OFFICIAL].checked()
    errors: dict[str, dict[str, float]] = {}
    for name in (OWN, ROUNDED):
        ours = found[name].checked()
        errors[name] = {what: float((ours[what] - exact[what]).norm() / exact[what].norm()) for what in exact}
    return errors


def timed(found: Mapping[str, Network], what: str, threads: int, rounds: int) -> list[Line]:
    """Time the networks in turns (A B C A B C), after a call of each that is not counted."""
    torch.set_num_threads(threads)
    lines = [Line(what, threads, name) for name in found]
    for seed in range(-1, rounds):
        for line in lines:
            network = found[line.network]
            wall, processor = time.perf_counter(), time.process_time()
            (network.forward if what == FORWARD else network.step)(seed + 1)
            if seed >= 0:
                line.processor.append(time.process_time() - processor)
                line.wall.append(time.perf_counter() - wall)
    return lines


def table(lines: list[Line]) -> list[str]:
    """Return the lines of a Markdown table."""
    references = {(line.what, line.threads): line for line in lines if line.network == OFFICIAL}
    rows = [HEADER, ("---",) * len(HEADER), *(line.row(references[line.what, line.threads]) for line in lines)]
    return [f"| {' | '.join(row)} |" for row in rows]


def rooflines(found: Mapping[str, Network], peak: float, copy: float) -> list[str]:
    """Return a table of operators for each of the two networks in float32, forward and step, on one thread."""
    torch.set_num_threads(1)
    lines = []
    for what in (FORWARD, STEP):
        for name in (OWN, OFFICIAL):
            run = found[name].forward if what == FORWARD else found[name].step
            kinds = operators.measure_operators(partial(run, 1))
            total = sum(kind.seconds for kind in kinds.values())
            flops = sum(kind.flops for kind in kinds.values())
            bound = f"{flops / 1e9:.0f} GFLOP, which take {flops / peak:.2f} s at the peak"
            lines += [f"{what}, {name}: {total:.2f} s, {bound}", "", *operators.table(kinds, peak, copy), ""]
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Compare, time, print the tables and write them; the exit status is 1 where float32 results differ."""
    options = parse(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # their imports from timm
        found = networks(options.code, options.size, options.batch)
    torch.set_num_threads(options.threads[0])
    errors = differences(found)
    equal = max(errors[OWN].values()) <= EQUAL
    about = machine("cpu") | {"size": options.size, "batch": options.batch, "rounds": options.rounds}
    heading = [", ".join(f"{key} {value}" for key, value in about.items() if value), "", *compared(errors), ""]
    record: dict[str, Any] = {**about, "errors": errors, "equal": equal}
    lines: list[Line] = []
    for threads, what in product(options.threads, (FORWARD, STEP)):
        lines += timed(found, what, threads, options.rounds)
        texts = [*heading, *table(lines)]
        write(options.out, texts, record | {"lines": [asdict(line) for line in lines]})  # what is there if it is ended
    if options.operators:
        peak, copy = operators.limits(Settings(Path(), threads=1))
        record |= {"peak_flops": peak, "copy_bytes": copy}
        texts += ["", f"One thread; matmul peak {peak / 1e9:.0f} GFLOP/s, copies {copy / 1e9:.1f} GB/s", ""]
        texts += rooflines(found, peak, copy)
        write(options.out, texts, record | {"lines": [asdict(line) for line in lines]})
    say([*texts, "", str(options.out)])
    return int(not equal)


def compared(errors: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the lines that say how far our results are from the authors', and whether that counts as equal."""
    lines = []
    for name, values in errors.items():
        figures = ", ".join(f"{what} {value:.1e}" for what, value in values.items())
        lines.append(f"relative error of {name} against the authors': {figures}")
    if max(errors[OWN].values()) > EQUAL:
        lines.append(f"NOT EQUAL: in float32 the error is above {EQUAL:g}")
    return lines


def write(folder: Path, texts: list[str], record: Mapping[str, Any]) -> None:
    """Write `against_official.md` and `.json` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "against_official.json", record)
    with replacing(folder / "against_official.md") as part:
        part.write_text("\n".join(texts) + "\n", encoding="utf-8")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_official", description=__doc__)
    parser.add_argument("--code", type=Path, required=True, help="a checkout of the authors' code")
    parser.add_argument("--size", default="small", help="published, or a file of config/model/qamdt")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of PyTorch, one table for each")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each network")
    parser.add_argument("--operators", action="store_true", help="also measure the kinds of operators (roofline)")
    parser.add_argument("--out", type=Path, default=Path("outputs/official"), help="folder for table and JSON")
    options = parser.parse_args(arguments)
    try:
        check_checkout(options.code)
    except FileNotFoundError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    raise SystemExit(main())
