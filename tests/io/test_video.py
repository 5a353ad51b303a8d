import struct

import cv2
import numpy as np
import pytest

from lite3r_cli.errors import InputError, OutputError
from lite3r_cli.io import frame_spool
from lite3r_cli.io.images import discover
from lite3r_cli.io.video import DEFAULT_VIEWS, Clip, even_indices

WIDTH, HEIGHT = 64, 48
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "MJPG", ".webm": "VP80"}


def write_video(path, frames, codec=None):
    """In frame i the first 10 + i columns are white (up to frame 50), so that each frame can be told apart."""
    fourcc = cv2.VideoWriter_fourcc(*(codec or CODECS[path.suffix.lower()]))
    writer = cv2.VideoWriter(str(path), fourcc, 30, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for i in range(frames):
        frame = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
        frame[:, : 10 + min(i, 50)] = 230
        writer.write(frame)
    writer.release()
    return path


def frame_numbers(images):
    """What frame each picture really shows."""
    return [int((images.read(i).mean(axis=(0, 2)) > 125).sum()) - 10 for i in range(len(images))]


@pytest.mark.parametrize(
    "count, wanted, expected", [(10, 4, [0, 3, 6, 9]), (5, 9, [0, 1, 2, 3, 4]), (7, 1, [0]), (0, 3, [])]
)
def test_even_indices(count, wanted, expected):
    assert even_indices(count, wanted) == expected


@pytest.mark.parametrize("suffix", CODECS)
def test_every_container_gives_the_frames_asked_for(tmp_path, suffix):
    path = write_video(tmp_path / f"clip{suffix}", 31)
    images = discover([path], max_views=4)
    assert [record.name for record in images.records] == [f"frame_{i:06d}.png" for i in (0, 10, 20, 30)]
    assert images.records[0].width == WIDTH and images.records[0].height == HEIGHT
    assert frame_numbers(images) == [0, 10, 20, 30]
    assert images.read(1).shape == (HEIGHT, WIDTH, 3)


def test_stride_comes_before_max_views(tmp_path):
    path = write_video(tmp_path / "clip.MP4", 31, "mp4v")
    assert [r.frame for r in discover([path], stride=10).records] == [0, 10, 20, 30]
    assert [r.frame for r in discover([path], stride=10, max_views=2).records] == [0, 30]


def test_long_video_is_thinned_with_a_warning(tmp_path):
    images = discover([write_video(tmp_path / "long.mp4", 100)])
    frames = [record.frame for record in images.records]
    assert len(frames) == DEFAULT_VIEWS and frames[0] == 0 and frames[-1] == 99
    assert "--max-views" in images.warnings[0]
    assert set(np.diff(frames)) == {1, 2}


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_video_that_ends_early_gives_what_it_has(tmp_path, suffix):
    path = write_video(tmp_path / f"cut{suffix}", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    images = discover([path], max_views=5)
    frames = [record.frame for record in images.records]
    assert len(frames) == 5 and frames[0] == 0 and 8 < frames[-1] < 35  # evenly over the part that is there
    assert np.ptp(np.diff(frames)) <= 1
    assert frame_numbers(images) == frames
    assert "ends early" in images.warnings[0]
    with pytest.raises(InputError, match="ends early"):
        discover([path], max_views=5, strict=True)


def test_stated_frame_count_that_is_too_small_or_unknown_is_corrected(tmp_path):
    for stated in (0, 12):
        clip = Clip(write_video(tmp_path / "clip.mp4", 31))
        clip.count = stated
        assert not clip.fetch([0])
        assert clip.count == 31 and clip.fetch([30]) and list(clip.frames) == [30]


def test_mp4_without_its_index_or_frames_fails(tmp_path):
    path = write_video(tmp_path / "cut.mp4", 20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cut.mp4: truncated"):
        discover([path])
    for name, content in (("empty.mp4", b""), ("text.mkv", b"hello " * 100), ("head.avi", b"RIFF\x10\0\0\0AVI LIST")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            discover([tmp_path / name])
    with pytest.raises(InputError, match="none.avi"):
        discover([write_video(tmp_path / "none.avi", 0)])


@pytest.mark.parametrize(
    "linear, turn",  # track header's a, b, c, d in pixels (ISO 14496-12, section 6.2.2), x right and y down
    [
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
        ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda picture: np.rot90(picture, 2).transpose(1, 0, 2)),
        ((0, 0, 0, 0), lambda picture: picture),
    ],
    ids=["quarter", "half", "left-right", "upside-down", "transposed", "transverse", "nothing"],
)
def test_turns_and_mirrors_of_the_container_are_applied(linear, turn, tmp_path):
    path = tmp_path / "phone.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 30, (WIDTH, HEIGHT))
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[: HEIGHT // 2, : WIDTH // 2] = 255
    for _ in range(3):
        writer.write(frame)
    writer.release()
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 4 + 40  # track header, version 0 (ISO 14496-12, section 8.3.2)
    a, b, c, d = (value << 16 for value in linear)
    data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    images = discover([path])
    shown = turn(frame)
    assert (images.records[0].height, images.records[0].width) == shown.shape[:2]
    assert np.abs(images.read(0).astype(int) - shown).mean() < 12


def test_videos_and_images_mix_in_order(tmp_path):
    write_video(tmp_path / "b1.mp4", 3)
    write_video(tmp_path / "b2.avi", 3)
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    images = discover([tmp_path / "b2.avi", tmp_path / "b1.mp4", tmp_path / "a.jpg"])
    names = [record.name for record in images.records]
    assert names[0] == "a.jpg" and names[1] == "b1_frame_000000.png" and names[-1] == "b2_frame_000002.png"
    assert len({record.stem for record in images.records}) == 7


def test_video_in_a_folder(tmp_path):
    write_video(tmp_path / "only.mp4", 3)
    assert len(discover([tmp_path])) == 3
    write_video(tmp_path / "two.mp4", 3)
    with pytest.raises(InputError, match="2 videos"):
        discover([tmp_path])
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    images = discover([tmp_path])
    assert [record.name for record in images.records] == ["a.jpg"] and "only.mp4 and 1 more" in images.warnings[0]


def test_progress_is_told(tmp_path):
    told = []
    discover([write_video(tmp_path / "clip.mp4", 5)], on_frame=lambda done, total: told.append((done, total)))
    assert told == [(i, 5) for i in range(1, 6)]


def test_frames_beyond_the_memory_are_the_same(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 20)
    held = [discover([path]).read_picture(i).rgb for i in range(20)]
    monkeypatch.setattr(frame_spool, "MOST_IN_MEMORY", 2000)
    images = discover([path])
    assert {type(record.encoded) for record in images.records} == {bytes, frame_spool.SpooledFrame}
    assert all((images.read(i) == rgb).all() for i, rgb in enumerate(held))


def test_a_full_disk_for_frames_says_so(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 5)
    monkeypatch.setattr(frame_spool, "MOST_IN_MEMORY", 0)

    def full(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frame_spool.tempfile, "TemporaryFile", full)
    with pytest.raises(OutputError, match="TMPDIR"):
        discover([path])
