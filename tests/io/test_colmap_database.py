"""database.db has the same contents as sparse/0, as COLMAP reads it."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from odd_scene import odd_cloud, odd_views  # noqa: F401

from lite3r_cli.errors import OutputError
from lite3r_cli.io.colmap import write_colmap
from lite3r_cli.io.colmap_database import matched_pairs
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.scene.facing import Facing
from lite3r_cli.scene.geometry import relative_pose
from lite3r_cli.scene.posed_view import View
from lite3r_cli.scene.sparse_points import SparseModel

pycolmap = pytest.importorskip("pycolmap")


def seen_by(*images: list[int]) -> SparseModel:
    """A model whose point k is seen by the views images[k], at random pixels."""
    rng = np.random.default_rng(3)
    rows = sorted((i, k) for k, views in enumerate(images) for i in views)
    image, point = np.array(rows).T
    colors = np.zeros((len(images), 3), np.uint8)
    return SparseModel(
        rng.normal(size=(len(images), 3)),
        colors,
        np.ones(len(images)),
        image,
        point,
        rng.uniform(0, 37, (len(rows), 2)),
    )


def test_the_database_holds_the_model_and_the_matches_of_its_adjusted_points(tmp_path, odd_views, odd_cloud) -> None:
    odd_views[2] = replace(odd_views[2], name="no\udcfftext.jpg")
    facings = [Facing("p.jpg", number, 40) for number in (1, 2)]
    views = odd_views + [
        View(f"p-{f.number}.jpg", 40, 40, f.K, f.turn @ odd_views[0].cam_from_world, facing=f) for f in facings
    ]
    sparse = seen_by([0, 1, 2], [1, 2], [0, 3, 4], [0, 1])  # the last one is of the dense cloud
    files = write_colmap(SceneExport(tmp_path, views, odd_cloud, sparse, adjusted=3))
    assert tmp_path / "database.db" in files and {p.name for p in tmp_path.iterdir()} == {"database.db", "sparse"}
    names = [name for (name,) in sqlite3.connect(f"file:{tmp_path}/database.db?immutable=1", uri=True).execute(
        "SELECT CAST(name AS BLOB) FROM images ORDER BY image_id")]  # fmt: skip
    assert names[2] == b"no\xfftext.jpg" and names[1] == "ü.png".encode()

    with pycolmap.Database.open(tmp_path / "database.db") as database:
        assert (database.num_images(), database.num_rigs(), database.num_frames()) == (5, 3, 4)
        for i in range(5):
            assert np.allclose(database.read_keypoints(i + 1)[:, :2], sparse.of_view(i)[1], atol=1e-5)
        pairs = {(1, 2): [[0, 0]], (1, 3): [[0, 0]], (2, 3): [[0, 0], [1, 1]], (1, 4): [[1, 0]], (1, 5): [[1, 0]]}
        pairs[4, 5] = [[0, 0]]
        assert database.num_verified_image_pairs() == len(pairs)
        for (i, j), rows in pairs.items():
            assert database.read_matches(i, j).tolist() == rows
            found = database.read_two_view_geometry(i, j)
            expected = relative_pose(views[i - 1].cam_from_world, views[j - 1].cam_from_world)
            expected[:, 3] /= np.linalg.norm(expected[:, 3]) or 1
            assert found.inlier_matches.tolist() == rows and np.allclose(found.cam2_from_cam1.matrix(), expected)


def test_only_a_refined_scene_has_one_and_a_failure_is_told(tmp_path, odd_views, odd_cloud) -> None:
    sparse = seen_by([0, 1], [0, 2])
    write_colmap(SceneExport(tmp_path, odd_views, odd_cloud, sparse))
    assert not (tmp_path / "database.db").exists()
    strange = tmp_path / os.fsdecode(b"no\xfftext")
    write_colmap(SceneExport(strange, odd_views, odd_cloud, sparse, adjusted=2))
    assert (strange / "database.db").stat().st_size > 10_000
    (tmp_path / "database.db").mkdir()
    with pytest.raises(OutputError, match="database.db: cannot be written"):
        write_colmap(SceneExport(tmp_path, odd_views, odd_cloud, sparse, adjusted=2))


def test_each_two_pictures_of_a_track_match() -> None:
    tracks = np.array([[0, 1, 5], [0, 2, 6], [0, 4, 7], [3, 1, 8], [3, 4, 9]])
    found = {pair: rows.tolist() for pair, rows in matched_pairs(tracks)}
    assert found == {(1, 2): [[5, 6]], (1, 4): [[5, 7], [8, 9]], (2, 4): [[6, 7]]}
    assert list(matched_pairs(tracks[:0])) == []
