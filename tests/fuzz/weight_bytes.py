"""Small valid weight files of every format, and changes that keep their outer form."""

import io
import json
import pickle
import zipfile
from random import Random

import numpy as np

from tests.fuzz import mutations
from tests.weights import pytorch_bytes as build

ARRAYS = {
    "backbone.body.conv1.weight": np.arange(8, dtype=np.float32).reshape(2, 4),
    "rpn.head.bias": np.arange(3, dtype=np.float16),
    "counter": np.array(7),
}
METADATA = {"maskrcnn_jax.config": '{"model": {}}', "maskrcnn_jax.categories": "[]"}


def _state() -> bytes:
    """A pickle of three tensors, one of them a part of the storage of another."""
    items = {
        "conv1.weight": build.tensor(build.storage("0", 8), (2, 4), (4, 1)),
        "conv1.bias": build.tensor(build.storage("0", 8), (4,), (2,), 1),
        "counter": build.parameter(build.tensor(build.storage("1", 1, "LongStorage"), (), ())),
    }
    return build.mapping(items, build.ORDERED_DICT)


STORAGES = {"0": ARRAYS["backbone.body.conv1.weight"], "1": np.array([7])}
CLASS = build.name("argparse", "Namespace") + b")\x81" + build.mapping({"rate": b"K\x05"}) + b"b"


def _checkpoint() -> bytes:
    meta = {"CLASSES": build.sequence(build.text("cat")), "cfg": build.text("model = dict()")}
    parts = {"meta": build.mapping(meta), "state_dict": _state(), "epoch": b"K\x05", "args": CLASS}
    return build.mapping(parts)


def _in_zip(content: bytes) -> bytes:
    return build.zip_file(content, {key: x.tobytes() for key, x in STORAGES.items()})


def _in_legacy(content: bytes) -> bytes:
    old = content
    for key, kind in (("0", "FloatStorage"), ("1", "LongStorage")):
        count = STORAGES[key].size
        old = old.replace(build.storage(key, count, kind), build.storage(key, count, kind, b"N"))
    return build.legacy_file(old, STORAGES)


def _npz(metadata: bool) -> bytes:
    file = io.BytesIO()
    np.savez(file, **ARRAYS)
    if metadata:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("maskrcnn_jax.json", json.dumps(METADATA))
    return file.getvalue()


def _safetensors() -> bytes:
    header = {"__metadata__": METADATA, "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header["y"] = {"dtype": "BF16", "shape": [1, 2], "data_offsets": [8, 12]}
    return _with_header(header, bytes(12))


def _with_header(header: object, rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


FILES = {
    "torch zip": _in_zip(_state()),
    "checkpoint in zip": _in_zip(_checkpoint()),
    "torch legacy": _in_legacy(_state()),
    "checkpoint in legacy": _in_legacy(_checkpoint()),
    "npz": _npz(False),
    "our npz": _npz(True),
    "safetensors": _safetensors(),
    "Detectron2": pickle.dumps({"model": ARRAYS, "__author__": "us"}, 4),
    "Detectron2, protocol 2": pickle.dumps({"model": ARRAYS, "matching_heuristics": True}, 2),
    "Detectron 1": pickle.dumps({"blobs": ARRAYS, "cfg": "A: 1"}, 2),
    "Caffe2": pickle.dumps(ARRAYS, 0),
}


def changed(rng: Random, kind: str) -> bytes:
    """A valid file of a kind with a few changes."""
    given = FILES[kind]
    if rng.random() < 0.25:
        return mutations.content(rng, given)
    if given.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(given)) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        return mutations.archive(rng, records)
    if kind == "safetensors":
        size = int.from_bytes(given[:8], "little")
        header = mutations.value(rng, json.loads(given[8 : 8 + size]))
        return _with_header(header, given[8 + size :])
    if "legacy" in kind:
        end = given.rindex(build.protocol2(b"](")[:4])  # The list of keys, the last of the pickles.
        start = given.index(build.MACHINE) + len(build.MACHINE)
        return given[:start] + mutations.pickled(rng, given[start:end]) + given[end:]
    return mutations.pickled(rng, given)
