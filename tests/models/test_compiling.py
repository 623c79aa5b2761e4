from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from audiocraft_qamdt.models.compiling import CUDA_GRAPHS, compile_blocks, compiled
from audiocraft_qamdt.models.layers import Block

from .test_mdt import close, half_mask, inputs, tiny

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler on the CPU"
)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_shape_is_compiled_once_and_a_changing_number_of_visible_tokens_twice(checkpointing):
    counter = CompileCounter()
    model = tiny()
    model.checkpointing = checkpointing
    network = torch.compile(model, fullgraph=True, backend=counter)
    conditions = inputs(model)
    counts = []
    for ratio in (0.5, 0.5, 0.5, 0.3, 0.4, 0.2):
        conditions["t"] = conditions["t"] // 2 + 3
        network(**conditions, mask=half_mask(model, ratio=ratio)).sum().backward()
        counts.append(counter.frame_count)
    assert counts[:3] == [counts[0]] * 3  # other values, same shapes
    assert counts[3:] == [2 * counts[0]] * 3  # from the second number on, the number is a variable
    if not checkpointing:
        assert counts[0] == 1


def test_no_mode_is_the_network_itself():
    model = tiny()
    assert compiled(model, None) is model


def test_unknown_modes_are_named():
    with pytest.raises(ValueError, match="'fast' is unknown: choose one of default, reduce-overhead"):
        compiled(tiny(), "fast")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@torch.no_grad()
def test_compiled_predictions_are_the_networks_and_stay(mode):
    model = tiny(depth=3)
    network = compiled(model, mode)
    conditions = inputs(model)
    context = model.project_context(conditions.pop("context"), conditions.pop("context_mask"))
    first = network(**conditions, context=context)
    kept = first.clone()
    conditions["t"] = conditions["t"] + 100
    second = network(**conditions, context=context)
    assert torch.equal(first, kept)
    close(second, model(**conditions, context=context))
    with torch.no_grad():
        model.final_layer.linear.weight.mul_(2)  # as a trainer or an average does
    close(network(**conditions, context=context), model(**conditions, context=context))
    assert (mode in CUDA_GRAPHS) == (mode == "reduce-overhead")


def test_blocks_are_compiled_in_place_under_their_own_names():
    model, counter = tiny(depth=7), CompileCounter()
    names = list(model.state_dict())
    conditions = inputs(model)
    with torch.no_grad():
        expected = model(**conditions)
        compile_blocks(model, Block, "default", backend=counter)
        close(model(**conditions), expected)
    assert list(model.state_dict()) == names
    assert 1 <= counter.frame_count < 7, "blocks of the same shape share what is compiled"


@pytest.mark.parametrize(
    "kind, mode, message", [(Block, "reduce-overhead", "is unknown"), (torch.nn.GRU, "default", "none")]
)
def test_blocks_that_cannot_be_compiled_are_refused(kind, mode, message):
    with pytest.raises(ValueError, match=message):
        compile_blocks(tiny(), kind, mode)


@pytest.mark.slow
def test_two_processes_train_compiled_shards_to_the_same_losses_and_resume(tmp_path):
    """On the CPU through gloo: without compilation, with it, and each resumed in the middle."""
    command = [sys.executable, "-m", "tests.helpers.sharding", str(tmp_path)]
    subprocess.run(command, check=True, timeout=600, capture_output=True, cwd=Path(__file__).parents[2])
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert found["keys"] == found["own"]
    plain = found["losses"].pop("plain")
    assert plain[0] != plain[-1]
    for name, losses in found["losses"].items():
        assert losses == pytest.approx(plain, rel=1e-5), name
