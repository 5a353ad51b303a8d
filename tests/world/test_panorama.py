"""360° pictures: which ones are, what their views show, and that views of one picture are posed as one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lite3r_cli.config import InputConfig
from lite3r_cli.console import Progress
from lite3r_cli.io.cameras_json import write_cameras_json
from lite3r_cli.io.documents import read_json
from lite3r_cli.io.images import ImageSet
from lite3r_cli.pipelines.as_views import as_rigs
from lite3r_cli.pipelines.finding import find_images
from lite3r_cli.scene import geometry
from lite3r_cli.scene.facing import VIEWS, Facing, rigs_of
from lite3r_cli.scene.posed_view import View
from lite3r_cli.world.panorama import closes, view_of

WIDTH, HEIGHT = 400, 200


def directions() -> np.ndarray:
    v, u = np.indices((HEIGHT, WIDTH)) + 0.5
    lon, lat = (u / WIDTH - 0.5) * 2 * np.pi, (v / HEIGHT - 0.5) * np.pi
    return np.stack([np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)], axis=-1)


def colours(rays: np.ndarray) -> np.ndarray:
    """What a world far away shows along unit rays (…, 3), uint8."""
    waves = np.stack([np.sin(9 * rays[..., k] + 4 * rays[..., (k + 1) % 3] + k) for k in range(3)], axis=-1)
    return np.round(127 + 100 * waves).astype(np.uint8)


def write(path: Path, rgb: np.ndarray) -> None:
    cv2.imwrite(str(path), rgb[..., ::-1])


def found(folder: Path, panorama: str = "auto") -> tuple[ImageSet, list[str]]:
    told: list[str] = []
    return find_images(InputConfig((folder,), panorama=panorama), Progress(), told.append, "mini"), told


def test_whole_spheres_close_and_wide_pictures_do_not():
    sphere = colours(directions())
    assert closes(sphere)
    assert not closes(np.roll(sphere, 40, axis=0))  # the poles are not where they have to be
    cut = cv2.resize(sphere[40:160, 30:270], (WIDTH, HEIGHT))
    assert not closes(cut)
    assert not closes(np.full_like(sphere, 90))  # nothing to see is no evidence


def test_views_show_what_their_rays_say():
    sphere = colours(directions())
    for number in range(VIEWS):
        facing = Facing("a", number, 128)
        v, u = np.indices((128, 128)) + 0.5
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(facing.K).T @ facing.turn
        expected = colours(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
        assert np.abs(view_of(sphere, facing).astype(int) - expected).mean() < 3.0


def test_pictures_are_cut_with_their_masks_and_others_stay(tmp_path):
    sphere = colours(directions())
    write(tmp_path / "a.png", sphere)
    write(tmp_path / "b.png", sphere[20:180, :240])
    opaque = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    opaque[135:] = 0
    cv2.imwrite(str(tmp_path / "c.png"), np.concatenate([sphere, opaque], axis=2))
    images, told = found(tmp_path)
    assert len(images) == 2 * VIEWS + 1 and not told
    assert [r.facing.number for r in images.records if r.facing] == [*range(VIEWS)] * 2
    assert len({r.name for r in images.records} | {r.stem for r in images.records}) == 2 * len(images)
    assert images.read(1).shape == (128, 128, 3)  # a pixel on the axis is as large as on the horizon
    plain = [r.name for r in images.records].index("b.png")
    assert images.records[plain].facing is None and images.read(plain).shape == (160, 240, 3)
    assert images.read_mask(0) is None
    mask = images.read_mask(len(images) - 1)
    assert mask is not None and mask[:64].all() and not mask[-1].any()
    everything = dict(images.read_each(lambda rgb, record: rgb.shape))
    assert all(everything[k] == images.read(k).shape for k in everything)
    assert len(found(tmp_path, "off")[0]) == 3


def test_what_does_not_close_is_cut_on_demand_or_where_its_file_says_so(tmp_path):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    write(tmp_path / "a.jpg", noise)
    assert len(found(tmp_path)[0]) == 1 and len(found(tmp_path, "on")[0]) == VIEWS
    packet = b'<x:xmpmeta><rdf:Description GPano:ProjectionType="equirectangular"/></x:xmpmeta>'
    Image.fromarray(noise).save(tmp_path / "a.jpg", xmp=packet)
    assert len(found(tmp_path)[0]) == VIEWS
    Image.fromarray(noise[:120]).save(tmp_path / "a.jpg", xmp=packet)
    images, told = found(tmp_path)
    assert len(images) == 1 and "part of a 360° image" in told[0]


def test_most_pictures_of_a_size_tell_the_others(tmp_path):
    sphere = colours(directions())
    for i in range(3):
        write(tmp_path / f"{i}.png", np.roll(sphere, 40 * i, axis=1))
    restless = sphere.copy()
    restless[0] = np.random.default_rng(0).integers(0, 256, restless[0].shape)  # a pole that no sphere has
    write(tmp_path / "3.png", restless)
    assert not closes(restless)
    assert len(found(tmp_path)[0]) == 4 * VIEWS
    (tmp_path / "0.png").unlink(), (tmp_path / "1.png").unlink()  # one against one: no majority
    assert len(found(tmp_path)[0]) == VIEWS + 1


def test_predicted_views_of_one_picture_get_one_place_and_its_turns(tmp_path):
    rng = np.random.default_rng(1)
    views = []
    for number in range(VIEWS):
        off = cv2.Rodrigues(np.radians(2) * rng.normal(size=3))[0]
        facing = Facing("a.jpg", number, 64)
        pose = np.column_stack([off @ facing.turn, 0.1 * rng.normal(size=3)])
        views.append(View(f"a-{number}.jpg", 64, 64, facing.K, pose, facing=facing))
    views.append(View("b.jpg", 64, 64, np.eye(3), np.eye(3, 4)))
    poses = np.stack([view.cam_from_world for view in as_rigs(views)])
    assert np.allclose(poses[0], views[0].cam_from_world)
    for number, pose in enumerate(geometry.relative_pose(poses[0], poses[:VIEWS])):
        assert np.allclose(pose[:, :3], views[number].facing.turn) and np.allclose(pose[:, 3], 0)
    assert as_rigs(views, known=range(len(views))) == views  # what is given stays
    write_cameras_json(tmp_path / "cameras.json", views)
    entry = read_json(tmp_path / "cameras.json")["images"]["a-2.jpg"]["panorama"]
    assert entry == {"picture": "a.jpg", "view": 2, "yaw_degrees": pytest.approx(120)}
    assert rigs_of([view.facing for view in views]) == {"a.jpg": [*range(VIEWS)]}
