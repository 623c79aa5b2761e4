"""Is hiding tokens worth it, or is a plain diffusion transformer of equal compute as good?

Three arms: the recipe's masked model; the plain one (nothing hidden, no side interpolator) with as many updates, which
costs more; and the plain one with so many updates fewer that both cost the same number of floating point operations
(matrix products and attention, counted by PyTorch's FlopCounterMode; the schedule of the learning rate shrinks along).
"""

from __future__ import annotations

from audiocraft_qamdt.sweeps.flops import masked_share
from audiocraft_qamdt.sweeps.overrides import checked
from audiocraft_qamdt.utils.dora import argv_of, main_of

from ._explorers import QAMDTExplorer
from ._sweep import recipe, sweep

PLAIN = ["masking.ratio=0", "masking.spread=0.0"]


@QAMDTExplorer
def explorer(launcher):
    cfg = checked(main_of(launcher), [*argv_of(launcher), *recipe()]).cfg
    updates = round(cfg.optim.updates_per_epoch * masked_share(cfg))
    sweep(launcher, [], PLAIN, [*PLAIN, f"optim.updates_per_epoch={updates}"])
