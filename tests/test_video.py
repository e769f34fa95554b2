"""Videos of a white square that moves to the right on black."""

import socket
import sys
from fractions import Fraction

import numpy as np
import pytest

from maskrcnn_jax import video

av = pytest.importorskip("av", reason="PyAV is not installed: pip install av")


def frame(position, size=(48, 65)):
    image = np.zeros((*size, 3), np.uint8)
    image[10:26, position : position + 16] = (250, 40, 40)
    return image


def write(path, count=6, **options):
    with video.write(path, Fraction(12)) as append:
        for i in range(count):
            append(frame(8 * i, **options))
    return path


def test_what_was_written_is_read(tmp_path):
    path = write(tmp_path / "a.mp4")
    assert video.properties(path) == (Fraction(12), 6)
    frames = list(video.read(path))
    assert len(frames) == 6
    for i, found in enumerate(frames):
        assert found.seconds == pytest.approx(i / 12, abs=1e-3)
        assert found.image.shape == (48, 64, 3)  # An odd side loses one pixel.
        error = np.abs(found.image.astype(int) - frame(8 * i)[:, :64])
        assert error.mean() < 6 and error[14:22, 8 * i + 4 : 8 * i + 12].max() < 30


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1), (1, 41)])
def test_a_side_of_a_single_pixel_becomes_two(tmp_path, size):
    image = np.full((*size, 3), 200, np.uint8)
    with video.write(tmp_path / "a.mp4", Fraction(12)) as append:
        append(image)
    (found,) = video.read(tmp_path / "a.mp4")
    assert found.image.shape == (*(max(side // 2 * 2, 2) for side in size), 3)
    assert np.abs(found.image.astype(int) - 200).max() < 6


def test_a_video_of_a_phone_is_turned(tmp_path):
    path = write(tmp_path / "a.mp4", size=(48, 64))
    content = bytearray(path.read_bytes())
    # The matrix in the track header rotates by 90 degrees clockwise.
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 20] = b"".join(
        x.to_bytes(4, "big", signed=True) for x in (0, 1 << 16, 0, -(1 << 16), 0)
    )
    path.write_bytes(content)
    first = next(video.read(path)).image
    assert first.shape == (64, 48, 3)
    error = np.abs(first.astype(int) - np.rot90(frame(0, (48, 64)), -1))
    assert error.mean() < 6


def test_a_broken_video_keeps_what_was_written_before(tmp_path):
    with pytest.raises(RuntimeError), video.write(tmp_path / "a.mp4", Fraction(12)) as append:
        append(frame(0))
        raise RuntimeError
    assert len(list(video.read(tmp_path / "a.mp4"))) == 1


def test_no_frames_at_all(tmp_path):
    with video.write(tmp_path / "a.mp4", Fraction(12)):
        pass


@pytest.mark.parametrize("name", ["none.mp4", "text.mp4", "cut.mp4", "."])
def test_what_is_no_video_is_named(tmp_path, name):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(write(tmp_path / "a.mp4").read_bytes()[:500])
    for read in (video.properties, lambda path: list(video.read(path))):
        with pytest.raises(OSError, match="cannot read the video") as error:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_without_pyav_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match="pip install"):
        video.check_installed()


def test_a_playlist_in_the_place_of_a_video_opens_no_address(tmp_path):
    """FFmpeg knows formats that only name other files."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"
        head = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n"
        (tmp_path / "a.mp4").write_text(f"{head}{address}\n#EXT-X-ENDLIST\n")
        (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile '{address}'\n")
        for name in ("a.mp4", "b.mp4"):
            with pytest.raises(OSError, match="cannot read the video"):
                video.properties(tmp_path / name)
        with pytest.raises(TimeoutError):
            server.accept()
