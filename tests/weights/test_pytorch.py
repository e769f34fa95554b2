"""PyTorch's two formats: state dicts byte by byte, and compared with PyTorch if installed."""

from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from maskrcnn_jax.weights import files
from tests.weights import pytorch_bytes as build

COUNT = np.arange(12, dtype=np.float32)


def read(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    return files.read(tmp_path / "w.pth")


def formats(items, storages, start=build.ORDERED_DICT):
    """Writes a state dict in both formats; the legacy format declares an empty view of storages."""
    zipped = build.mapping({key: make() for key, make in items.items()}, start)
    legacy = build.mapping({key: make(b"N") for key, make in items.items()}, start)
    return [
        build.zip_file(zipped, {key: array.tobytes() for key, array in storages.items()}),
        build.legacy_file(legacy, storages),
    ]


def test_tensors_may_be_views_of_one_storage_in_any_order(tmp_path):
    def view(shape, strides, offset=0):
        return lambda *more: build.tensor(
            build.storage("0", 12, "FloatStorage", *more), shape, strides, offset
        )

    items = {
        "z": view((3, 4), (4, 1)),
        "transposed": view((4, 3), (1, 4)),
        "column": view((3,), (4,), 2),
    }
    items |= {
        "scalar": view((), (), 11),
        "nothing": view((0, 3), (3, 1)),
        "end": view((0,), (1,), 12),
    }
    expected = {
        "z": COUNT.reshape(3, 4),
        "transposed": COUNT.reshape(3, 4).T,
        "column": COUNT[2::4],
    }
    expected |= {"scalar": COUNT[11], "nothing": np.zeros((0, 3)), "end": np.zeros(0)}
    for content in formats(items, {"0": COUNT}):
        arrays, metadata = read(tmp_path, content)
        assert list(arrays) == list(expected) and metadata == {}
        for name, array in expected.items():
            np.testing.assert_array_equal(
                arrays[name], array, strict=name not in ("nothing", "end")
            )


@pytest.mark.parametrize(
    "kind, dtype",
    [
        *(
            ("Double", np.float64),
            ("Float", np.float32),
            ("Half", np.float16),
            ("BFloat16", ml_dtypes.bfloat16),
        ),
        *(
            ("Long", np.int64),
            ("Int", np.int32),
            ("Short", np.int16),
            ("Char", np.int8),
            ("Byte", np.uint8),
        ),
        ("Bool", np.bool_),
    ],
)
def test_dtypes(tmp_path, kind, dtype):
    array = np.array([0, 1, 1, 0]).astype(dtype)
    items = {
        "x": lambda *more: build.tensor(build.storage("0", 4, f"{kind}Storage", *more), (4,), (1,))
    }
    for content in formats(items, {"0": array}):
        np.testing.assert_array_equal(read(tmp_path, content).arrays["x"], array, strict=True)
    swapped = build.mapping({"x": items["x"]()})
    big = array.view(f"u{array.itemsize}").byteswap().tobytes()
    content = build.zip_file(swapped, {"0": big}, byteorder=b"big")
    np.testing.assert_array_equal(read(tmp_path, content).arrays["x"], array, strict=True)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict"])
def test_a_checkpoint_round_the_state_dict_may_hold_numbers_text_and_other_tensors(
    tmp_path, wrapper
):
    inner = build.mapping(
        {"x": build.parameter(build.tensor(build.storage("1", 2), (2,), (1,)))}, build.ORDERED_DICT
    )
    inner += b"}" + build.text("_metadata") + build.ORDERED_DICT + b"sb"
    optimizer = build.mapping({"momentum": build.tensor(build.storage("0", 3), (3,), (1,))})
    counter = build.call(build.name("collections", "Counter"), build.mapping({"16": b"K\x01"}))
    other = {
        "optimizer": optimizer,
        "milestones": counter,
        "epoch": b"K\x07",
        "rates": b"](G?\xb9\x99\x99\x99\x99\x99\x9aNe",
    }
    content = build.mapping(other | {wrapper: inner})
    storages = {"0": COUNT[:3].tobytes(), "1": COUNT[5:7].tobytes()}
    arrays = read(tmp_path, build.zip_file(content, storages)).arrays
    assert list(arrays) == ["x"]
    np.testing.assert_array_equal(arrays["x"], [5, 6])


def test_an_ordered_dict_and_byte_strings_of_python_2(tmp_path):
    pair = b"](U\x01x" + build.tensor(build.storage("0", 2), (2,), (1,)) + b"e"
    content = build.call(build.name("collections", "OrderedDict"), b"](" + pair + b"e")
    arrays = read(tmp_path, build.zip_file(content, {"0": COUNT[:2].tobytes()})).arrays
    np.testing.assert_array_equal(arrays["x"], [0, 1])


def test_a_tensor_may_repeat_its_storage_within_bounds(tmp_path):
    def content(size):
        expanded = build.tensor(build.storage("0", 1), (size,), (0,))
        return build.zip_file(build.mapping({"x": expanded}), {"0": COUNT[1:2].tobytes()})

    np.testing.assert_array_equal(read(tmp_path, content(1000)).arrays["x"], np.ones(1000))
    with pytest.raises(ValueError, match="1152921504606846976"):
        read(tmp_path, content(1 << 60))


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def tensors(torch):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 6, generator=generator)
    whole = {f"i{x}": torch.arange(-3, 3).to(getattr(torch, f"int{x}")) for x in (8, 16, 32, 64)}
    floats = {
        f"f{x}": torch.randn(5, generator=generator).to(getattr(torch, f"float{x}"))
        for x in (16, 32, 64)
    }
    views = {
        "t": matrix.t(),
        "part": matrix[1:3, ::2],
        "row": matrix[2],
        "matrix": matrix,
        "expanded": matrix[0, :1].expand(3),
    }
    other = {
        "b": torch.tensor([True, False]),
        "u8": torch.tensor([7], dtype=torch.uint8),
        "bf": matrix.bfloat16(),
    }
    shapes = {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(matrix[0].clone()),
    }
    return OrderedDict(whole | floats | views | other | shapes)


def assert_same(torch, arrays, tensors):
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        assert str(tensor.dtype) == f"torch.{arrays[name].dtype}"
        values = tensor.detach().double().numpy()
        np.testing.assert_array_equal(arrays[name].astype(np.float64), values, strict=True)


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_saves(torch, tensors, tmp_path, zipped, protocol):
    path = tmp_path / "w.pth"
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save(tensors, path, **options)
    assert_same(torch, files.read(path).arrays, tensors)
    torch.save({"epoch": 3, "size": tensors["t"].shape, "model": dict(tensors)}, path, **options)
    assert_same(torch, files.read(path).arrays, tensors)


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_module_and_its_training_saved_by_torch(torch, tmp_path, zipped):
    path = tmp_path / "w.pth"
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [16, 22])
    model(torch.ones(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": scheduler.state_dict(),
    }
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    assert_same(torch, files.read(path).arrays, model.state_dict())
    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match=r"torch.nn.modules.container.Sequential.*save model.state_dict\(\)"
    ):
        files.read(path)


@pytest.mark.parity
@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_what_is_written(torch, tensors, tmp_path, mmap):
    torch.save(tensors, tmp_path / "theirs.pth")
    arrays = files.read(tmp_path / "theirs.pth").arrays
    files.write(tmp_path / "ours.pth", arrays, {"classes": "a, b"})
    loaded = torch.load(tmp_path / "ours.pth", weights_only=True, mmap=mmap)
    assert type(loaded) is OrderedDict
    assert_same(torch, arrays, loaded)
    filled = [tensor.untyped_storage().data_ptr() for tensor in loaded.values() if tensor.numel()]
    assert len(set(filled)) == len(filled)
    assert all(pointer % 64 == 0 for pointer in filled) or not mmap
