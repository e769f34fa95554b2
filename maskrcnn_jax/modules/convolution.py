"""Convolution with symmetric padding, and a weight gradient that is fast on a CPU too."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from jaxtyping import Array, Float

# XLA's CPU backend computes the weight gradient of a 3x3 convolution four times slower than a matrix product of the
# same size. Unfolding strips of about this many pixels keeps the unfolded copy in the cache.
STRIP_PIXELS = 640

# A loop over strips takes a second to compile: smaller gradients, in multiplications, are left to XLA.
SMALLEST_GRADIENT = 5e7


def conv(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int) -> Float[Array, "b h2 w2 o"]:
    """Convolves with zero padding of half a kernel on every side: ``h2 = ceil(h / stride)`` for odd kernels.

    The result has the dtype of ``x``. Differentiable in reverse mode; 3x3 kernels of stride 1 in that mode only.
    """
    if kernel.shape[:2] == (1, 1):  # A matrix product is faster than a 1x1 convolution, most of all backward.
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    return _conv3x3(x, kernel, _mesh()) if kernel.shape[:2] == (3, 3) and stride == 1 else _conv(x, kernel, stride)


def _mesh() -> AbstractMesh | None:
    """The devices among which XLA divides arrays; None where each device has its own, or the only one has all."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if AxisType.Auto in mesh.axis_types and mesh.size > 1 else None


def _conv(x: Array, kernel: Array, stride: int) -> Array:
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv3x3(x: Array, kernel: Array, mesh: AbstractMesh | None) -> Array:
    return _conv(x, kernel, 1)


def _forward(x: Array, kernel: Array, mesh: AbstractMesh | None) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, 1), (x, kernel)


def _backward(mesh: AbstractMesh | None, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    (x_gradient,) = jax.linear_transpose(lambda x: _conv(x, kernel, 1), x)(gradient)

    def by_transpose(x: Array, gradient: Array) -> Array:
        return jax.linear_transpose(lambda kernel: _conv(x, kernel, 1), kernel)(gradient)[0]

    divisible = mesh is None or mesh.size == mesh.shape[mesh.axis_names[0]]
    if not divisible or gradient.size * 9 * x.shape[-1] < SMALLEST_GRADIENT:
        return x_gradient, by_transpose(x, gradient)
    in_strips = _kernel_gradient_in_strips if mesh is None else partial(_on_each_device, mesh)
    return x_gradient, jax.lax.platform_dependent(x, gradient, cpu=in_strips, default=by_transpose)


_conv3x3.defvjp(_forward, _backward)


def _on_each_device(mesh: AbstractMesh, x: Array, gradient: Array) -> Array:
    """Each device works through its own images: XLA would gather those of all devices for a loop over strips."""
    batch = mesh.axis_names[0]

    def add(x: Array, gradient: Array) -> Array:
        return jax.lax.psum(_kernel_gradient_in_strips(x, gradient), batch)

    split = PartitionSpec(batch)
    return jax.shard_map(add, mesh=mesh, in_specs=split, out_specs=PartitionSpec(), check_vma=False)(x, gradient)


def _kernel_gradient_in_strips(x: Array, gradient: Array) -> Array:
    """Gradient of a 3x3 kernel: unfolds a strip of the input to ``[pixels, 9 i]``, one matrix product per strip.

    Strips are groups of whole images where these are small (RoIs), else groups of rows of all images.
    """
    b, h, w, channels = x.shape
    axis, pixels = (0, h * w) if h * w < STRIP_PIXELS else (1, b * w)
    thickness = min(max(1, STRIP_PIXELS // pixels), x.shape[axis])
    num_strips = -(-x.shape[axis] // thickness)
    surplus = num_strips * thickness - x.shape[axis]
    extra = [(0, surplus if i == axis else 0) for i in range(4)]
    x = jnp.pad(jnp.pad(x, extra), [(0, 0), (1, 1), (1, 1), (0, 0)])
    gradient = jnp.pad(gradient, extra)

    def add_strip(total: Array, strip: Array) -> tuple[Array, None]:
        halo = 2 if axis == 1 else 0
        rows = jax.lax.dynamic_slice_in_dim(x, strip * thickness, thickness + halo, axis)
        outer = jax.lax.dynamic_slice_in_dim(gradient, strip * thickness, thickness, axis)
        height = outer.shape[1]
        taps = [rows[:, i : i + height, j : j + w] for i in range(3) for j in range(3)]
        unfolded = jnp.concatenate(taps, axis=-1).reshape(-1, 9 * channels)
        product = jnp.matmul(unfolded.T, outer.reshape(-1, outer.shape[-1]), preferred_element_type=jnp.float32)
        return total + product, None

    total = jnp.zeros((9 * channels, gradient.shape[-1]), jnp.float32)
    total, _ = jax.lax.scan(add_strip, total, jnp.arange(num_strips))
    return total.reshape(3, 3, channels, -1).astype(x.dtype)
