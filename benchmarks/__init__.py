"""Speed: time, arithmetic and memory of training steps, sampling and data. `python -m benchmarks --help`.

Each module named `bench_*` adds to `harness.BENCHES` by `harness.bench`. Every bench runs in a process of its own.
"""
