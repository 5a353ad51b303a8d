"""Every entry of a folder is accounted for: used, named in a warning, or counted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lite3r_cli.errors import InputError
from lite3r_cli.io.images import discover


def save(path, seed=0, kind=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(cv2.resize(noise, (51, 35))).save(path, kind, **options)
    return path


def names(images):
    return [record.name for record in images.records]


def warned(images, *words):
    assert any(all(word in text for word in words) for text in images.warnings), images.warnings


def test_each_entry_is_in_the_account(tmp_path):
    for name in ("a.jpg", "b.jpe", "c.gif", "d.PNG", "raw/x.jpg", "deep/er/y.jpg", "@eaDir/t.jpg", "__MACOSX/a.jpg"):
        save(tmp_path / name, kind={".jpe": "JPEG"}.get(os.path.splitext(name)[1]))
    for name in ("notes.txt", "a.xmp", "b.xmp", "Makefile", ".hidden.jpg", "new.jxl", "photo.nef"):
        (tmp_path / name).write_bytes(b"\xff\x0a junk" if name.endswith("jxl") else b"junk" * 20)
    images = discover([tmp_path])
    assert names(images) == ["a.jpg", "b.jpe", "c.gif", "d.PNG"]
    account = images.folders[0]
    assert account["images"] == 4 and account["hidden"] == 3 and account["unread"] == {".jxl": 1, ".nef": 1}
    assert account["others"] == {".txt": 1, ".xmp": 2, "": 1} and account["sub_folders"] == {"raw": 1, "deep": 1}
    entries = sum(account[key] for key in ("images", "videos", "hidden", "outputs"))
    entries += sum(sum(account[key].values()) for key in ("unread", "others")) + len(account["sub_folders"])
    assert entries == len(os.listdir(tmp_path))
    assert {s.name: s.reason for s in images.skipped} == {
        "new.jxl": "JPEG XL is not read: convert it to JPEG, PNG or TIFF first",
        "photo.nef": "a raw photo (.nef) is not read: develop it to JPEG or TIFF first",
    }
    warned(images, "sub-folders", "raw (1)", "deep (1)", "--recursive")
    with pytest.raises(InputError, match=r"new\.jxl: JPEG XL"):
        discover([tmp_path], strict=True)


def test_videos_without_a_container_are_named(tmp_path):
    save(tmp_path / "a.jpg")
    for name, start in {
        "b.h264": b"\0\0\0\1\x67\x42",
        "c.265": b"\0\0\0\1\x40\1",
        "d.ivf": b"DKIF\0\0",
        "e.dv": b"?",
    }.items():
        (tmp_path / name).write_bytes(start + bytes(300))
    images = discover([tmp_path])
    said = {skipped.name: skipped.reason for skipped in images.skipped}
    assert said["b.h264"].startswith("a raw stream of H.264 is not read: put it into a container")
    assert said["c.265"].startswith("a raw stream of HEVC is not read") and "IVF video" in said["d.ivf"]
    assert said["e.dv"].startswith("a video of kind .dv is not read") and images.folders[0]["unread"][".dv"] == 1
    with pytest.raises(InputError, match="raw stream of H.264 is not read"):
        discover([tmp_path / "b.h264"])


def test_an_animation_has_as_many_pictures_as_it_holds(tmp_path):
    path = save(tmp_path / "a.png", save_all=True, append_images=[Image.new("RGB", (51, 35), "red")] * 2)
    data = path.read_bytes()
    at = data.index(b"acTL") + 4  # an encoder that cannot go back leaves another count there
    path.write_bytes(data[:at] + b"\xff" * 4 + data[at + 4 :])
    warned(discover([tmp_path]), "a.png (3)")


def test_raw_beside_a_picture_of_its_name_is_no_loss(tmp_path):
    save(tmp_path / "IMG_1.JPG", kind="JPEG")
    (tmp_path / "IMG_1.dng").write_bytes(b"II*\0" + bytes(50))
    warned(discover([tmp_path], strict=True), "1 raw photo is left out")


@pytest.mark.parametrize(
    "name, head, word",
    [
        ("a.jpg", b"GIF12a", "no known format"),
        ("a.png", b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        ("a.jpg", b"8BPS", "Photoshop"),
        ("a.tif", b"II*\0\x10\0\0\0CR\2\0", "Canon CR2"),
        ("a.jpg", b"\0\0\0\x18ftypcrx ", "Canon CR3"),
        ("a.jpg", b"\n <!DOCTYPE html>", "HTML"),
        ("a.jpg", b"%PDF-1.4", "PDF"),
        ("a.exr", b"\x76\x2f\x31\x01", "OpenEXR"),
        ("a.zip", b"PK\3\4", "ZIP"),
        ("a.ppm", b"P7\n", "PAM"),
    ],
)
def test_files_of_other_kinds_are_called_by_their_name(tmp_path, name, head, word):
    (tmp_path / name).write_bytes(head + bytes(300))
    with pytest.raises(InputError, match=word) as caught:
        discover([tmp_path / name])
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.heic", "b.jp2", "c.tga", "d", "e.JPG_large"])
def test_content_counts_not_the_name(tmp_path, name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    assert len(discover([save(tmp_path / name, kind="JPEG")], strict=True)) == 1


def test_pictures_under_other_names_are_mentioned(tmp_path):
    save(tmp_path / "a.jpg")
    for name in ("IMG_0001", "b.jpg_original"):
        save(tmp_path / name, kind="PNG")
    warned(discover([tmp_path]), "2 files hold images", "IMG_0001")


def test_plain_text_pictures(tmp_path):
    grey = np.arange(20 * 30).reshape(20, 30) % 200
    (tmp_path / "a.pgm").write_text("P2\n# c\n30 20\n199\n" + "\n".join(" ".join(map(str, row)) for row in grey))
    (tmp_path / "b.pbm").write_text("P1\n30 20\n" + "".join("01"[int(v > 99)] for v in grey.ravel()))
    images = discover([tmp_path], strict=True)
    assert np.abs(images.read(0)[..., 0].astype(int) - grey * 255 / 199).max() <= 0.5
    assert np.array_equal(images.read(1)[..., 0], np.where(grey > 99, 0, 255))


# --- sub-folders ------------------------------------------------------------------------------------------------------


def test_recursive_takes_sub_folders_and_names_keep_them(tmp_path):
    for name in ("z.jpg", "left/0.jpg", "left/10.jpg", "right/0.jpg", "right/in/1.jpg", ".git/a.jpg", "@eaDir/b.jpg"):
        save(tmp_path / name, seed=len(name))
    os.symlink(tmp_path, tmp_path / "right" / "loop")
    images = discover([tmp_path], recursive=True)
    assert names(images) == ["z.jpg", "left/0.jpg", "left/10.jpg", "right/0.jpg", "right/in/1.jpg"]
    assert [r.stem for r in images.records] == ["z", "left_0", "left_10", "right_0", "right_in_1"]
    assert not images.warnings
    assert names(discover([tmp_path / "left", tmp_path / "right"])) == ["left/0.jpg", "10.jpg", "right/0.jpg"]


def test_folders_beyond_the_limits_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr("lite3r_cli.io.picture_sources._MAX_DEPTH", 2)
    for name in ("a/0.jpg", "a/b/1.jpg", "a/b/c/2.jpg", "a/b/d/3.jpg", "e/4.j2c"):
        save(tmp_path / name, seed=len(name), kind="JPEG2000" if name.endswith("j2c") else None)
    images = discover([tmp_path], recursive=True)
    assert names(images) == ["a/0.jpg", "a/b/1.jpg", "e/4.j2c"]
    warned(images, "2 sub-folders are not searched (at most 10000 folders, 2 levels down)")
    monkeypatch.setattr("lite3r_cli.io.picture_sources._MAX_FOLDERS", 3)
    warned(discover([tmp_path], recursive=True), "3 sub-folders are not searched (at most 3 folders")


def test_a_scene_folder_points_to_its_images():
    """The folder `depth` has images too, and comes first in the alphabet."""
    with pytest.raises(InputError, match="in its sub-folder images: name that one"):
        discover([Path(__file__).parents[2] / "sample_scenes" / "desk"])


def test_masks_of_sub_folders(tmp_path):
    for side in ("left", "right"):
        save(tmp_path / "photos" / side / "0.jpg")
    black = np.zeros((35, 51), np.uint8)
    for name, level in (("masks/left/0.jpg.png", 0), ("masks/right/0.png", 255)):
        (tmp_path / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / name), black + level)
    images = discover([tmp_path / "photos"], recursive=True, masks=tmp_path / "masks")
    assert [images.read_mask(i).mean() for i in range(2)] == [0, 1]


# --- several pictures in a file ---------------------------------------------------------------------------------------


def test_further_pictures_of_a_file_are_mentioned(tmp_path):
    two = [Image.fromarray(np.full((40, 60, 3), v, np.uint8)) for v in (40, 200)]
    two[0].save(tmp_path / "a.gif", "GIF", save_all=True, append_images=[*two[1:], *two])
    warned(discover([tmp_path]), "a.gif (4)")
    (tmp_path / "a.gif").unlink()
    for name, kind in (("a.tif", "TIFF"), ("b.mpo", "MPO"), ("c.webp", "WEBP"), ("d.gif", "GIF"), ("e.png", "PNG")):
        two[0].save(tmp_path / name, kind, save_all=True, append_images=two[1:])
    images = discover([tmp_path])
    assert len(images) == 5
    warned(images, "5 files hold several", "a.tif (2)", "b.mpo (2)", "first one of each")
    assert all(abs(int(images.read(i).mean()) - 40) < 3 for i in range(5))


def test_thumbnails_and_gain_maps_are_no_further_pictures(tmp_path):
    one, small = Image.fromarray(np.zeros((40, 60, 3), np.uint8)), Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    one.save(tmp_path / "a.tif", "TIFF", save_all=True, append_images=[small])
    one.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[small])
    data = (tmp_path / "b.jpg").read_bytes()
    second = data.index(b"\xff\xd8", 10)
    (tmp_path / "b.jpg").write_bytes(data[: second + 11] + b"hdrgm" + data[second + 16 :])
    assert not discover([tmp_path]).warnings


# --- what runs wrote --------------------------------------------------------------------------------------------------


def wrote(root, *files, run_json):
    """A finished output that lists `files`."""
    listing = {}
    for name in files:
        path = save(root / name) if name.endswith(".png") else root / name
        if not path.exists():
            path.write_bytes(b"ply")
        listing[name] = {"bytes": path.stat().st_size, "sha256": "0"}
    (root / run_json).parent.mkdir(parents=True, exist_ok=True)
    (root / run_json).write_text(json.dumps({"files": listing}))


def test_outputs_of_a_run_are_no_input(tmp_path):
    photos = tmp_path / "house"
    for i in range(2):
        save(photos / f"{i}.jpg", seed=i)
    wrote(tmp_path, "house.ply", "house/preview.png", "house/depth/0.png", run_json="house/run.json")
    images = discover([photos])
    assert names(images) == ["0.jpg", "1.jpg"]
    warned(images, "1 file that an earlier run wrote is no input")
    save(photos / "preview.png", seed=9, compress_level=0)  # now the user's own
    assert len(discover([photos])) == 3


@pytest.mark.parametrize("layout", ["inside", "folder"])
def test_outputs_inside_the_photographs_folder(tmp_path, layout):
    for i in range(2):
        save(tmp_path / f"{i}.jpg", seed=i)
    if layout == "inside":  # -o photos/scene.ply
        wrote(tmp_path, "scene.ply", "scene/preview.png", "scene/depth/0.png", run_json="scene/run.json")
    else:  # -o photos/
        wrote(tmp_path, "scene.ply", "preview.png", "depth/0.png", "depth_preview/0.png", run_json="run.json")
    for recursive in (False, True):
        images = discover([tmp_path], recursive=recursive)
        assert names(images) == ["0.jpg", "1.jpg"]
        assert not any("sub-folder" in text for text in images.warnings)


PARTS = ("depth", "depth_preview", "confidence", "masks", "left")  # folders of an output, named as input themselves


def finished(tmp_path, target):
    """An output of that layout: the folder in which everything but the cloud may lie."""
    folder = tmp_path / "scene"
    inside = "scene/" if target == "scene.ply" else ""
    files = [f"{inside}{part}/0.png" for part in PARTS] + [f"{inside}images/left/0.png", f"{inside}preview.png"]
    root = tmp_path if inside else folder
    root.mkdir(exist_ok=True)
    wrote(root, *files, "scene.ply", f"{inside}cameras.json", run_json=f"{inside}run.json")
    return folder


@pytest.mark.parametrize("moved", ["scene", "renamed", "else/where", "linked"])
@pytest.mark.parametrize("target", ["scene.ply", "scene/"])
def test_a_folder_of_an_output_is_no_input_by_its_own_name(tmp_path, target, moved):
    folder = finished(tmp_path, target)
    place = tmp_path / moved
    place.parent.mkdir(exist_ok=True)
    if moved == "linked":
        place.symlink_to(folder)
    elif place != folder:
        folder.rename(place)
    for part in PARTS:
        with pytest.raises(InputError, match="files that an earlier run wrote"):
            discover([place / part])
        with pytest.raises(InputError, match=r"0\.png: an earlier run of lite3r wrote it"):
            discover([place / part / "0.png"])
    for whole in (place, place / "depth" / ".." / "confidence"):
        with pytest.raises(InputError, match="earlier run wrote"):
            discover([whole], recursive=True)
    save(place / "depth" / "mine.png", seed=3, compress_level=0)
    assert names(discover([place / "depth"])) == ["mine.png"]


def test_exported_photographs_are_input_for_whoever_names_them(tmp_path):
    folder = finished(tmp_path, "scene.ply")
    assert names(discover([folder / "images" / "left"])) == ["0.png"]
    assert names(discover([folder / "images"], recursive=True)) == ["left/0.png"]
    assert names(discover([folder / "images" / "left" / "0.png"])) == ["0.png"]


def test_a_run_json_that_is_not_ours_lists_nothing(tmp_path):
    save(tmp_path / "preview.png")
    for text in ("[]", '{"files": {"preview.png": 3}}', "{", "[" * 100_000, '{"files": {"/etc/passwd": {"bytes": 1}}}'):
        (tmp_path / "run.json").write_text(text)
        assert names(discover([tmp_path])) == ["preview.png"]
    (tmp_path / "run.json").unlink()
    os.mkfifo(tmp_path / "run.json")
    assert names(discover([tmp_path])) == ["preview.png"]


# --- one file, two ways -----------------------------------------------------------------------------------------------


def test_one_picture_by_two_paths_counts_once(tmp_path):
    save(tmp_path / "x" / "a.png")
    os.symlink(tmp_path / "x", tmp_path / "y")
    images = discover([tmp_path / "x" / "a.png", tmp_path / "x" / ".." / "x" / "a.png", tmp_path / "y"])
    assert names(images) == ["a.png"]
    warned(images, "by two paths", "a.png")
    os.link(tmp_path / "x" / "a.png", tmp_path / "x" / "b.png")
    images = discover([tmp_path / "x"])
    assert names(images) == ["a.png"]
    warned(images, "by two paths", "b.png")


@pytest.mark.parametrize("name", ["photo", "clip.mp4", "a.jpg.bak"])
def test_pictures_by_other_names_are_pointed_to(tmp_path, name):
    save(tmp_path / name, kind="PNG")
    with pytest.raises(InputError, match=f"1 file holds an image.*first: {name}.*rename"):
        discover([tmp_path])
    assert names(discover([tmp_path / name])) == [name]


# --- damage found late ------------------------------------------------------------------------------------------------


def test_a_damaged_picture_is_replaced_under_max_views(tmp_path):
    for i in range(9):
        save(tmp_path / f"{i}.png", seed=i)
    for i in (4, 5):  # chosen, and its nearest neighbour
        data = bytearray((tmp_path / f"{i}.png").read_bytes())
        data[-40] ^= 255
        (tmp_path / f"{i}.png").write_bytes(data)
    images = discover([tmp_path], max_views=3)
    assert names(images) == ["0.png", "4.png", "8.png"]
    results = list(images.read_each(lambda rgb, record: rgb.shape))
    assert [shape for _, shape in results] == [(35, 51, 3)] * 3
    assert names(images) == ["0.png", "3.png", "8.png"]
    assert any("3.png is used instead" in skipped.reason for skipped in images.skipped)
    with pytest.raises(InputError, match=r"4\.png"):
        results = dict(discover([tmp_path], max_views=3, strict=True).read_each(lambda rgb, record: rgb.shape))
        raise results[1]
