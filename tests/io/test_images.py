"""Every row of the bad-input contract that touches reading pictures."""

import io
import os
import socket
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from lite3r_cli.errors import InputError, UsageError
from lite3r_cli.io.images import ImageRecord, discover
from lite3r_cli.io.probe import probe

HEIGHT, WIDTH = 35, 51


def picture(height=HEIGHT, width=WIDTH, seed=0):
    """Smooth and colourful, and without any symmetry."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)


def save(path, rgb=None, **options):
    Image.fromarray(picture() if rgb is None else rgb).save(path, **options)
    return path


def names(images):
    return [record.name for record in images.records]


def oriented(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


# --- what is found, in what order -----------------------------------------------------------------


def test_natural_order_and_upper_case_suffixes(tmp_path):
    for name in ("img10.jpg", "IMG2.JPG", "img1.PNG", "img3.tif", ".hidden.jpg", "._img1.jpg"):
        save(tmp_path / name, format="PNG")
    (tmp_path / "cameras.json").write_text("{}")
    images = discover([tmp_path])
    assert names(images) == ["img1.PNG", "IMG2.JPG", "img3.tif", "img10.jpg"]
    assert images.skipped == [] and images.warnings == [] and len(images) == 4


def test_files_named_in_any_order_are_sorted_and_folders_keep_theirs(tmp_path):
    for folder in ("z", "a"):
        (tmp_path / folder).mkdir()
        for name in (f"{folder}10.jpg", f"{folder}9.jpg"):
            save(tmp_path / folder / name)
    files = [tmp_path / "z" / "z10.jpg", tmp_path / "a", tmp_path / "z" / "z9.jpg", tmp_path / "a" / "a9.jpg"]
    images = discover(files)
    assert names(images) == ["z9.jpg", "z10.jpg", "a9.jpg", "a10.jpg"]
    assert "twice" in images.warnings[0]
    again = discover([tmp_path / "z" / "z9.jpg", tmp_path / "z" / "z9.jpg"])  # the very same words
    assert names(again) == ["z9.jpg"] and again.warnings[0].endswith("z9.jpg")


def test_stride_then_max_views(tmp_path):
    for i in range(11):
        save(tmp_path / f"{i}.png")
    assert names(discover([tmp_path], max_views=3)) == ["0.png", "5.png", "10.png"]
    assert names(discover([tmp_path], stride=4)) == ["0.png", "4.png", "8.png"]
    assert names(discover([tmp_path], stride=2, max_views=2)) == ["0.png", "10.png"]
    assert len(discover([tmp_path], max_views=99)) == 11
    for wrong in ({"stride": 0}, {"max_views": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            discover([tmp_path], **wrong)


def test_missing_path_is_a_usage_error(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="nowhere.jpg"):
        discover([tmp_path, tmp_path / "nowhere.jpg"])


def test_inputs_without_images_name_the_suffixes(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "notes.txt", tmp_path / "empty", tmp_path):
        with pytest.raises(InputError, match=r"\.jpg .*\.mp4") as caught:
            discover([path])
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no images given"):
        discover([])


def test_images_in_a_sub_folder_are_hinted_at(tmp_path):
    (tmp_path / "images").mkdir()
    save(tmp_path / "images" / "a.jpg")
    with pytest.raises(InputError, match=r"sub-folder images: name that one, or take all with --recursive"):
        discover([tmp_path])


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="these names do not exist on Windows")
def test_odd_names_read_and_never_collide(tmp_path):
    odd = ["größe 1.jpg", "日本.png", "two\nlines.jpg", 'q"uote:.jpg', os.fsdecode(b"raw\xff.jpg")]
    odd += ["a.jpg", "a.png", "A.JPG", "a_jpg.jpg"]
    for name in odd:
        save(tmp_path / name, format="PNG")
    (tmp_path / "other").mkdir()
    save(tmp_path / "other" / "a.jpg", np.full((HEIGHT, WIDTH, 3), 7, np.uint8), format="PNG")
    images = discover([tmp_path, tmp_path / "other"])
    assert len(images) == len(odd) + 1
    assert {"größe 1.jpg", "日本.png", "two_lines.jpg", "A.JPG", "a.png", 'q"uote:.jpg', "raw_.jpg"} <= set(
        names(images)
    )
    for labels in (names(images), [record.stem for record in images.records]):
        assert len({label.casefold() for label in labels}) == len(labels)
        assert all(label.isprintable() and label.encode() for label in labels)
    assert "other/a.jpg" in names(images) and not any("/" in r.stem for r in images.records)
    stems = {record.name: record.stem for record in images.records}
    assert stems["a.png"] == "a_png" and stems["größe 1.jpg"] == "größe 1" and stems['q"uote:.jpg'] == "q_uote_"
    assert (images.read(len(images) - 1) == 7).all()  # the second a.jpg is the other folder's
    assert all(images.read(i).shape == (HEIGHT, WIDTH, 3) for i in range(len(images)))


def test_stem_of_a_record_made_by_hand():
    assert ImageRecord("a.b.jpg", "a.b.jpg", 20, 20).stem == "a.b"
    assert ImageRecord(".jpg", ".jpg", 20, 20).stem == "jpg"


# --- what is skipped ------------------------------------------------------------------------------


def truncations():
    """(name, bytes of a cut file) for every format that can be cut."""
    for name, options in (
        ("cut.jpg", {"format": "JPEG", "quality": 98}),
        ("progressive.jpg", {"format": "JPEG", "quality": 98, "progressive": True}),
        ("cut.png", {"format": "PNG"}),
        ("cut.webp", {"format": "WEBP", "lossless": True}),
        ("cut.bmp", {"format": "BMP"}),
        ("cut.tif", {"format": "TIFF"}),
        ("cut.ppm", {"format": "PPM"}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(picture(120, 160)).save(buffer, **options)
        whole = buffer.getvalue()
        for part in ("head", "half", "end"):
            cut = {"head": 21, "half": len(whole) // 2, "end": len(whole) - 30}[part]
            # A TIFF's directory may stand at its end, so that any cut hits it.
            yield pytest.param(name, whole[:cut], whole, id=f"{name}-{part}")


@pytest.mark.parametrize("name, cut, whole", list(truncations()))
def test_truncated_files_are_skipped_and_listed(tmp_path, name, cut, whole):
    (tmp_path / name).write_bytes(cut)
    save(tmp_path / "good.png")
    images = discover([tmp_path])
    assert names(images) == ["good.png"]
    assert [skipped.name for skipped in images.skipped] == [name]
    assert images.skipped[0].reason.startswith(("truncated", "damaged"))
    with pytest.raises(InputError, match=name):
        discover([tmp_path], strict=True)
    with pytest.raises(InputError, match=name):
        discover([tmp_path / name])
    (tmp_path / name).write_bytes(whole)
    assert len(discover([tmp_path], strict=True)) == 2


def test_zero_bytes_text_and_lfs_pointers_are_skipped(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "pointer.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match=r"empty\.jpg: the file is empty.*2 more"):
        discover([tmp_path])
    save(tmp_path / "good.png")
    reasons = {skipped.name: skipped.reason for skipped in discover([tmp_path]).skipped}
    assert set(reasons) == {"empty.jpg", "text.png", "pointer.jpg"} and "git lfs pull" in reasons["pointer.jpg"]


def test_a_folder_of_hidden_things_is_not_called_empty(tmp_path):
    with pytest.raises(InputError, match="the folder is empty"):
        discover([tmp_path])
    for name in (".scene.ply.lite3r-98b9ac5113f2", ".scene.ply.lite3r-chunks"):  # ours: the user knows nothing of them
        (tmp_path / name).mkdir()
    (tmp_path / ".scene.ply.lock").touch()
    with pytest.raises(InputError, match="the folder is empty"):
        discover([tmp_path])
    (tmp_path / ".batch").mkdir()
    save(tmp_path / ".batch/a.png")
    with pytest.raises(InputError, match=r"nothing in it but what is hidden \(\.batch\)"):
        discover([tmp_path])


def test_what_phones_append_to_a_jpeg_is_no_damage(tmp_path):
    save(tmp_path / "plain.jpg", quality=90)
    whole = (tmp_path / "plain.jpg").read_bytes()
    thumbnail_exif = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(whole)) + b"Exif\0\0" + whole  # holds a whole JPEG
    for name, data in {
        "padding.jpg": whole + bytes(5000),
        "motion.jpg": whole + b"\0\0\0\x18ftypmp42" + bytes(range(1, 200)) * 100,
        "second_cut.jpg": whole + whole[:-2],
        "fill.jpg": whole[:2] + b"\xff\xff" + whole[2:],
        "thumbnail.jpg": whole[:2] + thumbnail_exif + whole[2:],
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "thumbnail_cut.jpg").write_bytes(
        whole[:2] + thumbnail_exif + whole[2:-40]
    )  # whole in the thumbnail only
    images = discover([tmp_path])
    assert [skipped.name for skipped in images.skipped] == ["thumbnail_cut.jpg"]
    assert len(images) == 6
    for i in range(1, 6):
        assert np.array_equal(images.read(i), images.read(0))


def test_damage_inside_the_pixels_shows_at_reading_and_spares_the_others(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / name, picture(200, 300))
    data = bytearray((tmp_path / "b.png").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    (tmp_path / "b.png").write_bytes(data)
    images = discover([tmp_path])
    assert len(images) == 3
    with pytest.raises(InputError, match=r"b\.png: damaged"):
        images.read(1)
    results = list(images.read_each(lambda rgb, record: rgb.shape))
    assert [i for i, _ in results] == [0, 1, 2]
    assert results[0][1] == results[2][1] == (200, 300, 3) and isinstance(results[1][1], InputError)
    assert [i for i, _ in images.read_each(lambda rgb, record: rgb.shape, indices=[2, 0], workers=1)] == [2, 0]


def test_file_that_changes_after_discovery(tmp_path):
    images = discover([save(tmp_path / "a.png")])
    save(tmp_path / "a.png", picture(40, 40))
    with pytest.raises(InputError, match="changed"):
        images.read(0)
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="a.png"):
        images.read(0)


def png_header(width, height):
    """A whole PNG file that promises width × height pixels and holds none."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "width, height, reason",
    [
        (100_000, 100_000, "1 GiB"),  # 30 GB of pixels: judged by the header
        (20_000, 15_000, "--max-pixels"),
        (1, 1, "too small"),
        (13, 60, "too small"),
        (900, 100, "too elongated"),
        (100, 801, "too elongated"),
    ],
)
def test_sizes_that_cannot_be_used(tmp_path, width, height, reason):
    (tmp_path / "odd.png").write_bytes(png_header(width, height))
    with pytest.raises(InputError, match=rf"odd\.png: {width}×{height} .*{reason}"):
        discover([tmp_path / "odd.png"])
    save(tmp_path / "good.png")
    assert reason in discover([tmp_path]).skipped[0].reason


def test_sizes_at_the_limits_are_used(tmp_path):
    save(tmp_path / "a.png", picture(14, 112))
    save(tmp_path / "b.png", picture(100, 100))
    assert len(discover([tmp_path], max_pixels=10_000)) == 2
    assert len(discover([tmp_path], max_pixels=9_999)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX special files")
def test_special_files_never_hang(tmp_path):
    os.symlink(tmp_path / "loop.jpg", tmp_path / "loop.jpg")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "broken.jpg")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.jpg").mkdir()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s.png"))
    server.close()
    save(tmp_path / "good.png")
    os.symlink(tmp_path / "good.png", tmp_path / "link.png")
    images = discover([tmp_path])
    assert names(images) == ["good.png"] and any("two paths" in text for text in images.warnings)
    reasons = {skipped.name: skipped.reason for skipped in images.skipped}
    expected = {"loop.jpg": "leads back", "broken.jpg": "link", "zero.png": "device", "pipe.jpg": "pipe"}
    expected["folder.jpg"] = "folder"
    assert set(reasons) == {*expected, "s.png"}
    assert all(word in reasons[name] for name, word in expected.items())
    for name in ("loop.jpg", "zero.png", "pipe.jpg", "pipe.mp4"):
        with pytest.raises(InputError, match=name):
            discover([tmp_path / name])


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_probing_damaged_headers_ends_with_a_reason(name):
    """Every byte of the first 80 set to 0xFF, and every cut: an InputError or a header, never another error."""
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, name)
    whole = buffer.getvalue()
    assert (probe(io.BytesIO(whole)).width, probe(io.BytesIO(whole)).height) == (WIDTH, HEIGHT)
    broken = [whole[:i] + b"\xff" + whole[i + 1 :] for i in range(80)] + [whole[:i] for i in range(200)]
    refused = 0
    for data in broken:
        try:
            probe(io.BytesIO(data))
        except InputError:
            refused += 1
    assert refused >= 200  # every cut at least


def test_a_header_of_impossible_numbers_is_no_missing_header(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 999999999999 999999999999 255\n" + bytes(100))
    with pytest.raises(InputError, match=r"a\.pgm.*header.*impossible numbers"):
        discover([tmp_path])
