"""The constants of chips against the peaks that their makers publish."""

import pytest

from maskrcnn_jax.planning import chips

# TFLOP/s in bfloat16 without sparsity, GB/s, GB. Google, https://cloud.google.com/tpu/docs/v5e;
# NVIDIA, data sheets of the H100 SXM and of the H200 SXM.
PUBLISHED = {"v5e": (197, 819, 16), "h100": (989, 3350, 80), "h200": (989, 4800, 141)}


@pytest.mark.parametrize("chip", chips.CHIPS.values(), ids=lambda chip: chip.name)
def test_published_peaks(chip):
    assert chip.is_checked == (chip.name in PUBLISHED)
    if chip.is_checked:
        peak, bandwidth, memory = PUBLISHED[chip.name]
        assert chip.peak == pytest.approx(peak * 1e12, rel=0.003)
        assert chip.bandwidth == bandwidth * 1e9
        assert chip.memory == pytest.approx(memory * 1e9, rel=0.08)  # 16 GB are 16 GiB.


@pytest.mark.parametrize("gpu", chips.GPUS.values(), ids=lambda gpu: gpu.name)
def test_what_kernels_reach_is_below_the_peak(gpu):
    assert 0.4 * gpu.peak < gpu.convolution_rate < gpu.product_rate < 0.8 * gpu.peak
    assert 0.8 * gpu.bandwidth < gpu.copy_rate < gpu.bandwidth


def test_a_chip_without_prices():
    with pytest.raises(ValueError, match="no prices for 'cpu', only for v5e, v5p, v6e, v4, h100"):
        chips.find("cpu")
