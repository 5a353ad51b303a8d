"""Videos with holes, odd names and odd pixels."""

import io
import struct

import av
import cv2
import numpy as np
import pytest
from test_video import HEIGHT, WIDTH

from lite3r_cli.errors import InputError
from lite3r_cli.io.images import discover


def film(path, codec="libx264", frames=40, container=None, pixels="yuv420p", aspect=None, **options):
    """A moving texture, encoded by FFmpeg."""
    import av

    texture = cv2.resize(
        np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC
    )
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[i : i + 96, i : i + 128]), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "name, codec, options, pixels",
    [
        ("a.mp4", "libx264", {"g": "10"}, "yuv420p"),
        ("a.mkv", "libx264", {"g": "10", "bf": "0"}, "yuv420p"),
        ("a.mpg", "mpeg2video", {}, "yuv420p"),
        ("a.avi", "mpeg4", {}, "yuv420p"),
        ("a.mov", "mjpeg", {}, "yuvj420p"),
        ("b.mkv", "ffv1", {"slicecrc": "1", "level": "3"}, "yuv420p"),
    ],
)
def test_damaged_frames_are_left_out_and_said(tmp_path, name, codec, options, pixels, capfd):
    path = film(tmp_path / name, codec, pixels=pixels, **options)
    whole = discover([path], strict=True)
    assert len(whole) == 40
    data = path.read_bytes()
    start = len(data) // 2
    path.write_bytes(data[:start] + b"\x5a" * 400 + data[start + 400 :])
    images = discover([path], max_views=30)
    assert any("damaged" in text or "ends early" in text for text in images.warnings), images.warnings
    sound = [whole.read(i).astype(int) for i in range(len(whole))]
    for i, record in enumerate(images.records):  # no picture comes from a damaged frame
        assert min(np.abs(images.read(i) - frame).mean() for frame in sound) < 1, record.name
    with pytest.raises(InputError, match="damaged|ends early"):
        discover([path], max_views=30, strict=True)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_frame_that_was_wanted_is_replaced(tmp_path):
    path = film(tmp_path / "a.mov", "mjpeg", pixels="yuvj420p")
    data = path.read_bytes()
    start = data.index(b"\xff\xd8", len(data) // 2) + 700
    path.write_bytes(data[:start] + b"\x5a" * 60 + data[start + 60 :])
    images = discover([path], max_views=20)
    assert len(images) == 20 and len({record.frame for record in images.records}) == 20
    assert "damaged" in images.warnings[0]


def test_names_that_are_no_text(tmp_path):
    import os

    folder = tmp_path / os.fsdecode(b"d\xe9")
    folder.mkdir()
    for name in (b"caf\xe9.mp4", b"100%03d.mp4", b"http:a.mp4"):
        path = film(tmp_path / "plain.mp4", frames=4).rename(folder / os.fsdecode(name))
        assert len(discover([path], strict=True)) == 4


@pytest.mark.parametrize(
    "name, codec, old, new",
    [
        ("a.mp4", "libx264", b"avc1", b"zzzz"),
        ("a.avi", "mpeg4", b"FMP4", b"ZZZZ"),
        ("a.mkv", "ffv1", b"V_FFV1", b"V_NONE"),
    ],
)
def test_a_codec_without_a_decoder_is_named(tmp_path, name, codec, old, new):
    path = film(tmp_path / name, codec, frames=3)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(InputError, match=rf"codec \({new.decode()}\).*ffmpeg -i"):
        discover([path])


@pytest.mark.parametrize("aspect, size", [((4, 3), (171, 96)), ((3, 4), (128, 128)), ((1, 1), (128, 96))])
def test_pixels_that_are_not_square_are_stretched(tmp_path, aspect, size):
    from fractions import Fraction

    path = film(tmp_path / "a.mp4", frames=3, aspect=Fraction(*aspect))
    record = discover([path]).records[0]
    assert (record.width, record.height) == size


def test_audio_with_a_cover_is_no_video(tmp_path):
    import av

    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(InputError, match="no video"):
        discover([path])


def test_av1_is_decoded(tmp_path):
    import av

    if "libsvtav1" not in av.codecs_available:
        pytest.skip("no AV1 encoder here")
    assert len(discover([film(tmp_path / "a.mp4", "libsvtav1", frames=5)], strict=True)) == 5


def test_a_packet_that_promises_more_than_the_file_ends_the_video(tmp_path):
    """FFmpeg raises a MemoryError of its own over it, which is no lack of memory here."""
    path = film(tmp_path / "a.mp4", frames=12)
    data = bytearray(path.read_bytes())
    sizes = data.index(b"stsz") + 4 + 12  # ISO 14496-12, section 8.7.3: the table of sizes
    data[sizes + 4 * 6 : sizes + 4 * 7] = struct.pack(">I", 0x7FFFFFF0)
    path.write_bytes(data)
    try:
        images = discover([path])
    except InputError:
        return
    assert 0 < len(images) < 12 and images.warnings


def moving_noise(codec: str, container: str, frames: int = 12) -> bytes:
    """Noise that moves, so that every packet has hundreds of bytes; a key frame every third frame."""
    stream = io.BytesIO()
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    with av.open(stream, "w", format=container) as out:
        track = out.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt, track.gop_size = 128, 96, "yuv420p", 3
        for i in range(frames):
            frame = np.ascontiguousarray(np.roll(picture, 5 * i, 1))
            out.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(track.encode())
    return stream.getvalue()


@pytest.mark.parametrize("byte", [0, 255])
@pytest.mark.parametrize("codec, container", [("libvpx", "webm"), ("libvpx-vp9", "webm"), ("libx264", "matroska")])
def test_a_hole_in_a_video_is_never_shown(tmp_path, codec, container, byte):
    """VP8 and VP9 decode any bytes without a word: the hole is looked for in the packets."""
    data = moving_noise(codec, container)
    (tmp_path / "sound.mkv").write_bytes(data)
    at = len(data) * 2 // 3
    (tmp_path / "hole.mkv").write_bytes(data[:at] + bytes([byte]) * 300 + data[at + 300 :])
    sound, holed = (discover([tmp_path / name], max_views=12) for name in ("sound.mkv", "hole.mkv"))
    whole = {record.frame: sound.read(i) for i, record in enumerate(sound.records)}
    assert len(sound) == 12 and not sound.warnings and 0 < len(holed) < 12 and holed.warnings
    for i, record in enumerate(holed.records):
        np.testing.assert_array_equal(holed.read(i), whole[record.frame])


def never_wrong(whole, images, tolerance=1.0):
    """Every picture is one of the whole video's."""
    sound = [whole.read(i).astype(int) for i in range(len(whole))]
    return all(min(np.abs(images.read(i) - frame).mean() for frame in sound) < tolerance for i in range(len(images)))


def remuxed(path, target, keep):
    """Copy the packets i for which keep(i) is true; the file does not mention the others."""
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for i, packet in enumerate(packets):
            if keep(i):
                packet.stream = stream
                out.mux(packet)
    return target


CODED = {
    "a.mkv": ("libx264", {"g": "12"}),
    "a.mp4": ("libx264", {"g": "12", "bf": "0"}),
    "a.ts": ("libx264", {"g": "12"}),
    "a.flv": ("libx264", {"g": "12"}),
    "b.mkv": ("libx265", {"x265-params": "keyint=12:log-level=none:pools=none:frame-threads=1"}),
    "c.mkv": ("mpeg4", {"g": "12"}),
    "a.webm": ("libvpx-vp9", {"g": "12", "lag-in-frames": "0"}),
}


@pytest.mark.parametrize("name", CODED)
def test_missing_packets_are_said_and_what_hangs_on_them_is_left_out(tmp_path, name):
    codec, options = CODED[name]
    path = film(tmp_path / "whole.mp4", codec, **options)  # every packet in it has both its times
    whole = discover([path], strict=True)
    assert len(discover([remuxed(path, tmp_path / name, lambda i: True)], strict=True)) == 40
    holed = remuxed(path, tmp_path / f"holed_{name}", lambda i: not 14 <= i < 19)
    images = discover([holed])
    assert 10 < len(images) <= 35 and any("missing" in text or "damaged" in text for text in images.warnings)
    assert not any("ends early" in text for text in images.warnings), images.warnings
    assert never_wrong(whole, images)
    with pytest.raises(InputError, match="missing|damaged"):
        discover([holed], strict=True)


def test_a_rate_that_varies_is_no_damage(tmp_path):
    """A telephone drops a frame now and then; a screen is recorded when something moves."""
    path = film(tmp_path / "a.mkv", frames=40, g="40", bf="0")
    for name, steps in {"dropped": [1] * 20 + [2] + [1] * 18, "screen": [1, 3, 1, 1, 7, 2, 1, 4, 1, 1] * 4}.items():
        times = np.cumsum(steps) * 40
        with av.open(str(path)) as source, av.open(str(tmp_path / f"{name}.mkv"), "w") as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.dts = packet.pts = int(times[min(round(packet.pts / 40), len(times) - 1)])
                    packet.stream = stream
                    out.mux(packet)
        images = discover([tmp_path / f"{name}.mkv"], max_views=100)
        assert len(images) >= 39 and not any("missing" in text for text in images.warnings), images.warnings


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "b.mkv", "a.avi"])
def test_a_hole_within_a_key_frame(tmp_path, name):
    """The decoder of H.264 takes zeros for a picture; an encoder never writes three of them."""
    codec, options = CODED.get(name, CODED["a.mp4"])
    path = film(tmp_path / name, codec, **options)
    whole = discover([path], strict=True)
    with av.open(str(path)) as source:
        key = [bytes(packet) for packet in source.demux(video=0) if packet.is_keyframe and packet.size][1]
    data = path.read_bytes()
    at = data.index(key[len(key) // 2 :][:40])
    for hole in (bytes(90), b"\xff" * 90):
        path.write_bytes(data[:at] + hole + data[at + 90 :])
        images = discover([path])
        assert 20 < len(images) <= 29 and any("damaged" in text for text in images.warnings)
        assert never_wrong(whole, images)


@pytest.mark.parametrize(
    "name, codec, pixels, rate",
    [
        ("a.avi", "mjpeg", "yuvj420p", 1),
        ("b.avi", "huffyuv", "yuv422p", 40),  # as of a time base of milliseconds
        ("c.avi", "mpeg4", "yuv420p", 1),
        ("d.mp4", "mpeg4", "yuv420p", 1),
        ("e.mkv", "mjpeg", "yuvj420p", 1),
    ],
)
@pytest.mark.parametrize("lost", [[9], [9, 10, 11, 12, 13, 20]])
def test_frames_that_a_camera_dropped_are_no_damage(tmp_path, name, codec, pixels, rate, lost):
    """AVI holds empty chunks for them, and counts those as frames."""
    from fractions import Fraction

    with av.open(str(tmp_path / name), "w") as out:
        stream = out.add_stream(codec, rate=25 * rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for i in range(24):
            if i not in lost:
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * i, np.uint8), format="rgb24")
                picture.pts, picture.time_base = i * rate, Fraction(1, 25 * rate)
                out.mux(stream.encode(picture))
        out.mux(stream.encode())
    images = discover([tmp_path / name], max_views=100, strict=True)
    assert len(images) == 24 - len(lost) and not images.warnings, images.warnings
    data = (tmp_path / name).read_bytes()
    if len(lost) == 1 and codec in ("mjpeg", "huffyuv") and name.endswith("avi"):
        (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
        assert any("ends early" in text for text in discover([tmp_path / name], max_views=100).warnings)


def test_two_videos_joined_in_one_file_are_said(tmp_path):
    data = film(tmp_path / "a.mp4", frames=5).read_bytes()
    (tmp_path / "b.mp4").write_bytes(data + data)
    images = discover([tmp_path / "b.mp4"])
    assert len(images) == 5 and any("two videos joined" in text for text in images.warnings)
    assert not discover([tmp_path / "a.mp4"]).warnings


def test_filler_of_a_constant_rate_is_no_damage(tmp_path):
    options = {"x264-params": "nal-hrd=cbr:filler=1:vbv-maxrate=4000:vbv-bufsize=4000:bitrate=4000:keyint=10"}
    assert len(discover([film(tmp_path / "a.ts", "libx264", **options)], strict=True)) == 40


def test_a_video_without_a_whole_frame_says_so(tmp_path):
    data = moving_noise("libvpx-vp9", "webm", 2)
    at = len(data) // 3  # in its only key frame
    (tmp_path / "a.webm").write_bytes(data[:at] + bytes(300) + data[at + 300 :])
    with pytest.raises(InputError, match="a.webm: damaged: none of its 2 frames is whole"):
        discover([tmp_path / "a.webm"])
    data = film(tmp_path / "b.wmv", "wmv2", 24).read_bytes()
    (tmp_path / "b.wmv").write_bytes(data[: len(data) // 2] + bytes(600) + data[len(data) // 2 + 600 :])
    with pytest.raises(InputError, match="b.wmv: damaged: none of its 24 frames is whole"):
        discover([tmp_path / "b.wmv"])


def test_a_picture_named_like_a_video_is_called_a_picture(tmp_path):
    ok, jpeg = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert ok
    (tmp_path / "a.jpg").write_bytes(jpeg)
    (tmp_path / "b.mp4").write_bytes(jpeg)
    images = discover([tmp_path])
    assert len(images) == 1
    assert any("holds an image" in warning and "b.mp4" in warning for warning in images.warnings)
