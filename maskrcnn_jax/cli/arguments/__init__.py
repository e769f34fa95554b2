"""The arguments of all commands but `train`. Nothing here imports jax, so `--help` is fast."""
