"""The benchmark against the authors' class: what it needs, checks and writes; how long anything takes is not tested.

The authors' code is no part of this repository. Where a checkout is needed, it holds our network under their names:
what is tested is that equal networks count as equal, and others do not.
"""

from __future__ import annotations

import json
import sys

import pytest
import torch
import torch.nn.functional as F

from benchmarks import bench_network
from benchmarks.against_official import OFFICIAL, OWN, ROUNDED, main
from benchmarks.operators import ELEMENTWISE, Operators, kind_of
from benchmarks.published_code import FILE, Blocks, attend, official_class

TINY = {"dim": 32, "depth": 3, "decoder_depth": 1, "num_heads": 2, "context_dim": 16}
CHECKOUT = """
import torch
import xformers.ops
from fairscale.nn.model_parallel.layers import ColumnParallelLinear
from audiocraft_qamdt.models.masking import mask_from_noise
from audiocraft_qamdt.models.mdt import MaskedDiffusionTransformer
from audiocraft_qamdt.models.official import build, own_key

def PixArt_MDT_MOS_AS_TOKEN(**config):
    model = build(config)
    def forward(x, t, context, context_mask, mos):
        mask = None
        if model.training:
            ratio = torch.rand(1) * 0.2 + 0.3
            mask = mask_from_noise(torch.rand(len(x), model.num_tokens(x.shape[2])), ratio)
        given = {"context": context[0], "context_mask": context_mask[0], "quality": mos, "mask": mask}
        return MaskedDiffusionTransformer.forward(model, x, t, **given) * FACTOR
    load = model.load_state_dict
    model.load_state_dict = lambda state: load({own_key(key): value for key, value in state.items()})
    model.forward = forward
    return model
"""


@pytest.fixture
def checkout(tmp_path):
    """Make a checkout whose network is ours times a factor."""

    def make(factor: float):
        file = tmp_path / "code" / FILE
        file.parent.mkdir(parents=True)
        file.write_text(CHECKOUT.replace("FACTOR", str(factor)))
        return tmp_path / "code"

    return make


def run(tmp_path, code, monkeypatch, *arguments: str) -> tuple[int, dict, str]:
    """The exit status, and what was written."""
    monkeypatch.setattr(bench_network, "LATENTS", (2, 16, 4))
    monkeypatch.setitem(bench_network.SHAPES, "tiny", TINY)
    small = ["--size", "tiny", "--batch", "2", "--threads", "1", "--rounds", "2", "--out", str(tmp_path / "out")]
    status = main(["--code", str(code), *small, *arguments])
    folder = tmp_path / "out"
    record = json.loads((folder / "against_official.json").read_text())
    return status, record, (folder / "against_official.md").read_text()


def test_a_folder_without_the_authors_file_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--code", str(tmp_path)])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path} is no checkout of the authors' code: it lacks {FILE}" in last


def test_equal_networks_are_timed_in_turns_and_written_with_targets_and_operators(tmp_path, checkout, monkeypatch):
    status, record, text = run(tmp_path, checkout(1.0), monkeypatch, "--operators")
    assert status == 0 and record["equal"]
    assert set(record["errors"][OWN].values()) == {0.0}
    assert 1e-4 < record["errors"][ROUNDED]["evaluation"] < 0.1
    assert [line["network"] for line in record["lines"]] == 2 * [OWN, OFFICIAL, ROUNDED]
    for line in record["lines"]:
        assert len(line["processor"]) == len(line["wall"]) == 2 and min(line["wall"]) > 0
    assert "NOT EQUAL" not in text
    assert text.count("≤ 0.6 |") == 2
    assert record["peak_flops"] > 0 and record["copy_bytes"] > 0
    assert text.count("| matrix products |") == text.count("| layer norm |") == 4


def test_networks_that_differ_make_the_exit_status_one(tmp_path, checkout, monkeypatch):
    status, record, text = run(tmp_path, checkout(1.001), monkeypatch)
    assert status == 1 and not record["equal"]
    assert record["errors"][OWN]["evaluation"] == pytest.approx(1e-3, rel=0.01)
    assert "NOT EQUAL" in text


def test_an_operators_work_and_memory_are_its_own():
    x, weight = torch.ones(64, 48), torch.ones(48, 32)
    with Operators() as operators:
        (x @ weight).view(-1).exp()
    product = operators.kinds["matrix products"]
    assert (product.calls, product.flops, product.bytes) == (1, 2 * 64 * 48 * 32, 4 * (64 * 48 + 48 * 32 + 64 * 32))
    assert operators.kinds[ELEMENTWISE].bytes == 2 * 4 * 64 * 32
    assert (operators.kinds["views"].calls, operators.kinds["views"].bytes) == (1, 0)


@pytest.mark.parametrize(
    ("operator", "kind"),
    [("gelu_backward", "GELU"), ("native_layer_norm", "layer norm"), ("copy_", "copies"), ("mul", ELEMENTWISE)],
)
def test_operators_have_a_kind_by_name(operator, kind):
    assert kind_of(operator) == kind


@pytest.mark.parametrize("keys", [[5, 5], [3, 7]], ids=["equal", "unequal"])
def test_items_attend_to_their_own_text_alone(keys):
    q, k, v = (torch.randn(1, n, 2, 8) for n in (12, 10, 10))
    found = attend(q, k, v, attn_bias=Blocks.from_seqlens([6, 6], keys))
    mask = torch.block_diag(*(torch.ones(6, n) for n in keys)).bool()
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_the_stand_ins_are_gone_after_the_import(checkout):
    before = dict(sys.modules)
    official_class(checkout(1.0))
    assert {name for name in sys.modules.keys() ^ before.keys() if not name.startswith("audiocraft_qamdt")} == set()
    assert all(sys.modules[name] is module for name, module in before.items())
