import io

import numpy as np
import pytest

from maskrcnn_jax import images
from tests.image_files import files
from tests.image_files.files import pixels


def write(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, ">u2", ">f8"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 13)])
@pytest.mark.parametrize("order", "CF")
def test_arrays_are_read(tmp_path, dtype, shape, order):
    dtype = np.dtype(dtype)
    array = pixels(*shape, dtype=dtype.newbyteorder("=")).astype(dtype)
    path = write(tmp_path, files.npy(np.asarray(array, order=order)))
    expected = array.reshape(5, 7, -1)
    read = images.read_image(path, expected.shape[2], None)
    np.testing.assert_array_equal(read, expected.astype(read.dtype))
    assert read.dtype == (np.float32 if dtype.kind == "f" else dtype.newbyteorder("="))
    assert images.check_image(path, expected.shape[2]) == (5, 7)
    assert images.header(path).num_channels == expected.shape[2]


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "opened").touch, ()

    path = write(tmp_path, files.npy(np.array([Trap(), None], object)))
    for read in (images.read_image, images.check_image):
        with pytest.raises(OSError, match="a.npy: it holds Python objects, which are not read"):
            read(path)
    assert not (tmp_path / "opened").exists()


def declared(shape):
    """A file of 96 bytes of pixels whose header declares another shape."""
    file = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": "<u2"}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(96)


GOOD = files.npy(pixels(4, 6, 2))
BAD = {
    "by its header, but has 95: it is cut off": GOOD[:-1],
    "but has 97": GOOD + b"x",
    "should have 240000 bytes": declared((40_000, 3)),
    "should have 2000000000000000000 ": declared((10**9, 10**9)),
    "its NumPy header is broken": GOOD[:60],
    "header is broken: EOF": b"\x93NUMPY\x02\0\xff\xff\xff\x7f" + GOOD[10:],
    "header is broken: .*3, 0": b"\x93NUMPY\x03\0" + GOOD[8:],
    r"or \(H, W, C\), got the shape \(0, 6, 2\)": files.npy(np.zeros((0, 6, 2), np.uint8)),
    r"or \(H, W, C\), got the shape \(3,\)": files.npy(np.zeros(3, np.uint8)),
    "pixels of type int64": files.npy(np.zeros((4, 6), np.int64)),
    "pixels of type str32": files.npy(np.array([["a"]])),
    "pixels of type void": files.npy(np.zeros((4, 6), [("a", "u1")])),
}


@pytest.mark.parametrize("message", BAD)
def test_broken_files_are_named(tmp_path, message):
    path = write(tmp_path, BAD[message])
    for read in (images.read_image, images.check_image):
        with pytest.raises(OSError, match=f"a.npy: .*{message}"):
            read(path)
