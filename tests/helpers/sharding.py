"""A small network trained by two processes under FSDP on the CPU: `python -m tests.helpers.sharding FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed, multiprocessing
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from audiocraft_qamdt.models.compiling import compile_blocks
from audiocraft_qamdt.models.layers import Block
from audiocraft_qamdt.models.masking import draw_mask
from audiocraft_qamdt.models.mdt import MaskedDiffusionTransformer

RANKS = 2


def tiny() -> MaskedDiffusionTransformer:
    """The network, of one seed."""
    torch.manual_seed(0)
    return MaskedDiffusionTransformer(
        latent_channels=2, latent_frames=16, latent_bins=4, dim=32, depth=4, decoder_depth=2, num_heads=2,
        patch=(2, 2), overlap=(0, 0), context_dim=8, quality=("clip",),
    )  # fmt: skip


def train(network: torch.nn.Module, first: int, stop: int, rank: int) -> list[float]:
    """Train from one step to another on batches that depend on step and rank; the mean losses of all ranks."""
    optimizer, losses = torch.optim.SGD(network.parameters(), 0.1), []
    grid = tiny().grid(16)
    for step in range(first, stop):
        generator = torch.Generator().manual_seed(100 * step + rank)
        x, target = torch.randn(2, 3, 2, 16, 4, generator=generator)
        mask = draw_mask("random", 3, grid, (0.3, 0.3 + 0.2 * (step % 2)), generator, "cpu")
        text = torch.randn(3, 5, 8, generator=generator)
        predicted = network(x, torch.tensor([10, 400, 900]), text, quality={"clip": torch.tensor([1, 3, 5])}, mask=mask)
        loss = (predicted - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        distributed.all_reduce(total)
        losses.append(total.item() / RANKS)
    return losses


def sharded(network: torch.nn.Module, compiled: bool) -> FullyShardedDataParallel:
    """Shard it as AudioCraft's `wrap_with_fsdp` does, which wants a GPU."""
    if compiled:
        compile_blocks(network, Block, "default", backend="aot_eager")
    return FullyShardedDataParallel(
        network,
        sharding_strategy=ShardingStrategy.SHARD_GRAD_OP,
        device_id=torch.device("cpu"),
        use_orig_params=True,
        auto_wrap_policy=ModuleWrapPolicy({Block}),
    )


def run(rank: int, folder: str) -> None:
    """Train without and with compilation, and once more from a checkpoint in the middle; write the losses."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    for name, compiled in (("plain", False), ("compiled", True)):
        network = sharded(tiny(), compiled)
        found[name] = train(network, 0, 2, rank)
        state = {key: value.clone() for key, value in network.state_dict().items()}
        found[name] += train(network, 2, 4, rank)
        resumed = tiny()
        resumed.load_state_dict(state)
        found[f"{name}, resumed"] = found[name][:2] + train(sharded(resumed, compiled), 2, 4, rank)
    if rank == 0:
        torch.save({"losses": found, "keys": list(state), "own": list(tiny().state_dict())}, Path(folder) / "found.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.start_processes(run, (sys.argv[1],), RANKS, start_method="fork")  # imports PyTorch once
