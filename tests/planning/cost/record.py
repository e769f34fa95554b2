"""Compiles small programs for a TPU v5e and an H100, and records their texts for the tests here.

    python -m tests.planning.cost.record gpu [NAME ...]  # Needs the extra gpu-compiler.
    python -m tests.planning.cost.record tpu [NAME ...]  # Needs the extra tpu.

No test needs a compiler: they read the recorded texts. Of a TPU program the bundles of each
instruction are recorded too; and if only `SIMULATED` programs are named, the cycles that libtpu's
static profile gives them: it simulates the scheduled bundles, the matrix units and the copies. It
does so for some instructions only, and for a convolution it takes minutes.
"""

import json
import os
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from maskrcnn_jax import execution, sharding
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.pack import batch_shapes
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import BoxHeadConfig, FPNConfig, ModelConfig
from maskrcnn_jax.planning import devices, hlo, stages
from maskrcnn_jax.planning.cost import bundles, launches
from maskrcnn_jax.variables import example_inputs

TEXTS = Path(__file__).parent / "texts"
ROOT = Path(__file__).parents[3]


def product(x, kernel):
    return jnp.maximum(x @ kernel, 0)


def exact_product(x, kernel):
    return jnp.matmul(x, kernel, precision="highest")


def long_sum(x, y):
    return x.T @ y


def pad(x):
    return jnp.pad(x, ((1, 1), (1, 1), (0, 0)))


def convolution(x, kernel):
    numbers = "NHWC", "HWIO", "NHWC"
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def kernel_gradient(x, kernel):
    loss = lambda kernel: convolution(x, kernel).astype(jnp.float32).sum()  # noqa: E731
    return jax.grad(loss)(kernel)


def add(x, y):
    return jnp.maximum(x + y, 0)


def transpose(x):
    return x.T


def largest(x):
    return x.max(axis=0)


def upsample(x):
    h, w, c = x.shape
    return jnp.broadcast_to(x.reshape(h, 1, w, 1, c), (h, 2, w, 2, c)).reshape(2 * h, 2 * w, c)


def pick(x, indices):
    return x[indices]


def add_at(x, indices, values):
    return x.at[indices].add(values)


def order(x):
    return lax.sort_key_val(x, jnp.arange(len(x)))


def repeated(x, kernel):
    return lax.fori_loop(0, 5, lambda _, x: x @ kernel, x)


def until_small(x):
    return lax.while_loop(lambda x: x.max() > 1, lambda x: x / 2, x)


def shapes(*arrays):
    return [jax.ShapeDtypeStruct(sides, dtype) for dtype, *sides in arrays]


BF16, F32, I32 = jnp.bfloat16, jnp.float32, jnp.int32
PROGRAMS = {
    "product": (product, shapes((BF16, 4096, 1024), (BF16, 1024, 1024))),
    "tall_product": (product, shapes((BF16, 67200, 256), (BF16, 256, 256))),
    "exact_product": (exact_product, shapes((F32, 2048, 512), (F32, 512, 512))),
    "long_sum": (long_sum, shapes((BF16, 67200, 256), (BF16, 67200, 256))),
    "add": (add, shapes((BF16, 100, 168, 256), (BF16, 100, 168, 256))),
    "transpose": (transpose, shapes((F32, 1024, 2048))),
    "largest": (largest, shapes((F32, 100, 33572))),
    "upsample": (upsample, shapes((BF16, 50, 84, 256))),
    "pad": (pad, shapes((BF16, 100, 168, 256))),
    "convolution": (convolution, shapes((BF16, 1, 48, 48, 128), (BF16, 3, 3, 128, 128))),
    "kernel_gradient": (kernel_gradient, shapes((BF16, 1, 48, 48, 128), (BF16, 3, 3, 128, 128))),
    "pick": (pick, shapes((F32, 25200, 4), (I32, 2000))),
    "add_at": (add_at, shapes((F32, 25200, 256), (I32, 2000), (F32, 2000, 256))),
    "order": (order, shapes((F32, 2048))),
    "repeated": (repeated, shapes((BF16, 512, 512), (BF16, 512, 512))),
    "until_small": (until_small, shapes((F32, 4096))),
}
SIMULATED = (
    *("product", "tall_product", "exact_product", "long_sum"),
    *("add", "transpose", "largest", "upsample", "pad"),
)


def box_head(mesh):
    """The box head of a tiny model with its gradient."""
    head = BoxHeadConfig(num_layers=1, features=32)
    model = ModelConfig(num_classes=4, fpn=FPNConfig(channels=16), box_head=head, dtype="bfloat16")
    model.mask_head, model.roi.num_samples = None, 16
    config = Config(model=model, batch_size=1)
    network = MaskRCNN(model, config.detection, execution.choose(config.execution, mesh))
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(MaskRCNN(model).init, key, *example_inputs(model))
    batch = batch_shapes(config, (64, 96), 1, masks=False)
    return stages.trace(network, variables, batch, "train", "box_head")


def main(platform, *chosen):
    programs = PROGRAMS.keys() | {"box_head"} if not chosen else chosen
    TEXTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if platform == "tpu":
            jax.config.update("jax_platforms", "cpu")  # Otherwise jax would initialise a TPU.
            if set(programs) <= set(SIMULATED):
                (Path(folder) / "profiles").mkdir()
                profiles = f"--xla_jf_dump_static_llo_profile_to={folder}/profiles"
                os.environ["LIBTPU_INIT_ARGS"] = profiles
            device, *_ = devices.topology("v5e:2x2", Path(folder))
        else:
            (device,) = devices.gpus("h100", 1)
        mesh = sharding.make_mesh(1, 1, [device])
        for name in sorted(programs):
            function, arguments = box_head(mesh) if name == "box_head" else PROGRAMS[name]
            arguments = jax.tree.map(
                partial(place, NamedSharding(mesh, PartitionSpec())), arguments
            )
            record(jax.jit(function).lower(*arguments), platform, name, Path(folder))
            print(platform, name, flush=True)


def place(where, x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)


def record(lowered, platform, name, folder):
    for path in folder.rglob("*.*"):
        path.unlink()
    options = devices.GPU_OPTIONS | {"xla_dump_to": str(folder)} if platform == "gpu" else None
    text = lowered.compile(options).as_text()
    named = re.sub(r'"[^"]*/(maskrcnn_jax|tests)/', r'"\1/', text)
    named = re.sub(r'^(\d+) "/.*/', r'\1 "', named, flags=re.MULTILINE)  # Of other packages.
    (TEXTS / f"{platform}_{name}.txt").write_text(named)
    if platform == "gpu":
        thunks = launches.find_dump(folder).read_text()
        (TEXTS / f"gpu_{name}.thunks.txt").write_text(thunks)
        return
    numbers = {"bundles": bundles.read_dump(folder, hlo.parse(text))}
    if (folder / "profiles").is_dir():
        numbers["simulated_cycles"] = dict(map(read_profile, (folder / "profiles").iterdir()))
    (TEXTS / f"tpu_{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")


def read_profile(path):
    text = path.read_text()
    (name,) = re.findall(r'hlo_op_name: "(.*)"', text)
    (cycles,) = re.findall(r"^  estimated_cycles: (\d+)", text, re.MULTILINE)
    return name, int(cycles)


if __name__ == "__main__":
    main(*sys.argv[1:])
