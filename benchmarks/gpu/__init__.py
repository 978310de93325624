"""What `benchmarks.bench_gpu` measures: the bus, resident pixels, and training."""
