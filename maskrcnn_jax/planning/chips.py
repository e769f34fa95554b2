"""The chips that prices exist for: published peaks, and what programs reach of them."""

from typing import NamedTuple


class TPU(NamedTuple):
    """A TPU chip. Those with two cores are one device to jax."""

    name: str
    hertz: float
    macs_per_cycle: int  # Multiply-adds of the matrix units, in bfloat16.
    memory: int  # Bytes.
    bandwidth: float  # Bytes per second of HBM.
    is_checked: bool = False  # Whether the constants were compared with published peaks.

    @property
    def peak(self) -> float:
        """Operations per second in bfloat16."""
        return 2 * self.macs_per_cycle * self.hertz


class GPU(NamedTuple):
    """A GPU. `product_rate`, `convolution_rate` and `copy_rate` are what large kernels reach."""

    name: str
    multiprocessors: int
    hertz: float  # The boost clock that the peak is stated for.
    flops_per_cycle: int  # Of the tensor cores of one multiprocessor, bfloat16 without sparsity.
    memory: int  # Bytes that the driver reports.
    bandwidth: float  # Bytes per second of HBM.
    product_rate: float  # Operations per second of matrix products in bfloat16.
    convolution_rate: float
    copy_rate: float  # Bytes per second, read and written.
    is_checked: bool = False

    @property
    def peak(self) -> float:
        """Operations per second in bfloat16."""
        return self.multiprocessors * self.flops_per_cycle * self.hertz


# Clocks and matrix units give the peaks of Google's pages (https://cloud.google.com/tpu/docs/v5e
# and its neighbours): 197 TFLOP/s and 819 GB/s of a v5e, 459 and 2,765 of a v5p, 918 and 1,640 of
# a v6e, 275 and 1,228 of a v4. Keys are `jax.Device.device_kind`.
TPUS = {
    "TPU v5 lite": TPU("v5e", 1.5e9, 4 * 128**2, 16 << 30, 819e9, is_checked=True),
    "TPU v5": TPU("v5p", 1.75e9, 2 * 4 * 128**2, 95 << 30, 2765e9),
    "TPU v6 lite": TPU("v6e", 1.75e9, 4 * 256**2, 32 << 30, 1640e9),
    "TPU v4": TPU("v4", 1.05e9, 2 * 4 * 128**2, 32 << 30, 1228e9),
}
# NVIDIA's data sheets of the SXM cards (https://www.nvidia.com/en-us/data-center/h100/ and h200/):
# 989 TFLOP/s in bfloat16 without sparsity; 80 GB at 3.35 TB/s and 141 GB at 4.8 TB/s.
GPUS = {
    "NVIDIA H100 80GB HBM3": GPU(
        "h100", 132, 1.83e9, 4096, 84929347584, 3.35e12, 600e12, 520e12, 2.95e12, is_checked=True
    ),
    "NVIDIA H200": GPU(
        "h200", 132, 1.83e9, 4096, 150754820096, 4.8e12, 650e12, 560e12, 4.25e12, is_checked=True
    ),
}
CHIPS: dict[str, TPU | GPU] = TPUS | GPUS


def find(device_kind: str) -> TPU | GPU:
    """The chip of a `jax.Device.device_kind`.

    Raises:
        ValueError: There are no prices for it.
    """
    if device_kind not in CHIPS:
        known = ", ".join(chip.name for chip in CHIPS.values())
        raise ValueError(f"there are no prices for {device_kind!r}, only for {known}")
    return CHIPS[device_kind]
