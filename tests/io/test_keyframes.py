"""Key frames follow motion, not time; blurred and repeated frames are reported."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lite3r_cli.errors import InputError
from lite3r_cli.io.images import discover
from lite3r_cli.io.keyframes import STEP, Looks, look_through

WIDTH, HEIGHT = 160, 96


def wall(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = np.full((HEIGHT, 1600), 110, np.uint8)
    for _ in range(1500):
        centre = int(rng.integers(0, 1600)), int(rng.integers(0, HEIGHT))
        cv2.circle(picture, centre, int(rng.integers(2, 7)), int(rng.integers(0, 256)), -1)
    return picture


def pan(places, blurred=()) -> list[np.ndarray]:
    """Frames of a camera that looks at `places` (columns) of a wall."""
    picture = wall()
    frames = [np.ascontiguousarray(picture[:, int(p) : int(p) + WIDTH]) for p in places]
    return [cv2.GaussianBlur(f, (0, 0), 4) if i in blurred else f for i, f in enumerate(frames)]


SLOW = np.arange(40) * 2.0  # 80 pixels in 40 frames
STILL = np.full(40, 78.0)
FAST = 78 + np.arange(1, 31) * 10.0  # 300 in 30
PLACES = np.concatenate([SLOW, STILL, FAST])


def test_key_frames_lie_at_even_steps_of_motion():
    looks = look_through(pan(PLACES))
    assert looks.motion[1:40].mean() * WIDTH == pytest.approx(2.0, abs=0.3)
    assert looks.motion[41:80].max() < 1e-3 and looks.same[41:80].all() and not looks.same[80:].any()
    chosen = looks.key_frames()
    steps = np.diff(PLACES[chosen]) / WIDTH
    assert len(chosen) == pytest.approx(378 / WIDTH / STEP, abs=3)
    assert (np.diff(chosen) > 0).all() and 0.5 * STEP < np.median(steps) < 1.6 * STEP and steps.max() < 2.5 * STEP
    assert sum(42 <= i < 79 for i in chosen) <= 1


def test_the_sharpest_of_its_place_is_taken_and_blur_is_told():
    blurred = set(range(0, 40, 3)) | {90, 100}
    looks = look_through(pan(PLACES, blurred))
    assert not blurred & {i for i in looks.key_frames() if 5 < i < 36}
    assert set(looks.blurred) <= blurred and len(looks.blurred) > len(blurred) / 2


@pytest.mark.parametrize("count", [1, 2, 5, 30, 1000])
def test_a_number_of_frames_is_kept_to(count):
    looks = look_through(pan(PLACES))
    chosen = looks.key_frames(count)
    assert len(chosen) == min(count, len(PLACES)) == len(set(chosen)) and chosen == sorted(chosen)
    assert len(looks.key_frames(None, most=7)) == 7


def test_a_camera_that_stands_and_no_frames_at_all():
    looks = look_through(pan(np.zeros(30)))
    assert looks.key_frames() == sorted(set(np.linspace(0, 29, 8).round().astype(int).tolist()))
    nothing = np.zeros(0)
    assert Looks(nothing, nothing, nothing.astype(bool)).key_frames() == []


def write(path, frames) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (WIDTH, HEIGHT))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()


def test_discover_takes_key_frames_of_a_video(tmp_path):
    path = tmp_path / "walk.avi"
    write(path, pan(PLACES))
    images = discover([path], frames="auto", of_video=None)
    frames = [record.frame for record in images.records]
    assert 20 < len(frames) < 40 and sum(42 <= i < 79 for i in frames) <= 1
    account = images.videos[0]
    assert account["frames"] == len(PLACES) and account["used"] == len(frames) and len(account["duplicates"]) >= 35
    assert len(discover([path], frames="9").records) == 9
    assert len(discover([path], frames="auto", max_views=5).records) == 5
    assert len(discover([path], frames="all").records) == len(PLACES)
    thinned = discover([path], frames="auto", of_video=12)
    assert len(thinned.records) == 12 and f"12 of {len(frames)} key frames" in " ".join(thinned.warnings)


def test_a_video_that_ends_early_gives_the_key_frames_it_has(tmp_path):
    path = tmp_path / "cut.avi"
    write(path, pan(PLACES))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    images = discover([path], frames="auto", of_video=None)
    assert 3 < len(images.records) < 30 and "ends early" in " ".join(images.warnings)
    (tmp_path / "none.avi").write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(InputError):
        discover([tmp_path / "none.avi"], frames="auto")
