"""Places a scene on the Earth by the GPS of its images: distance of the cloud from the truth, and whether wrong
positions are named.

A survey of 200 m by 120 m over a town of boxes: camera poses and depth are those of a drawn scene in a frame and scale
of its own, poses disturbed as `--refine` leaves them; JPEG files carry GPS with 2 m (5 m upwards) of noise, one in ten
200 m off. What `lite3r reconstruct --world enu` does after the network is run on them. With `--control N` it is what
`--gcp` does: N surveyed points, each marked to half a pixel in at most six pictures, one of them with the coordinates
of another place. A table, then one JSON line.

    python benchmarks/georeference.py [--scenes 10] [--images 40 120 300] [--control 6] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image

from lite3r_cli.config import WorldConfig
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.anchoring import anchor
from lite3r_cli.pipelines.predict import Predictions
from lite3r_cli.scene import geometry
from lite3r_cli.scene.geometry import Similarity
from lite3r_cli.scene.posed_view import View
from lite3r_cli.world.geodesy import LocalFrame

WIDTH, HEIGHT, FOCAL = 64, 48, 55.0
EXTENT = np.array([200.0, 120.0])  # metres
NOISE = np.array([2.0, 2.0, 5.0])  # metres
WILD = 200.0  # metres
TURN, MOVE = np.radians(0.1), 0.02  # of the cameras, radians and metres: what --refine leaves
HOME = LocalFrame(47.37, 8.54, 410.0)
SURVEYED = 0.02  # metres, the error of a control point
MARKED, MARKS = 0.5 * WIDTH / 4000, 6  # pixels: half of one of a picture 4000 wide; and pictures that show a point
WRONG = 30.0  # metres by which one control point is off


def degrees(value: float) -> tuple[int, int, float]:
    minutes = (value - int(value)) * 60
    return int(value), int(minutes), (minutes - int(minutes)) * 60


def gimbal(pose: np.ndarray, rng: np.random.Generator) -> bytes:
    """XMP as drones write it: pitch and roll, half a degree off."""
    x, y, z = -pose[:, 2]  # gravity in the camera's axes
    pitch, roll = np.degrees([np.arcsin(np.clip(-z, -1, 1)), np.arctan2(x, y)]) + rng.normal(size=2) * 0.5
    return f'<x drone-dji:GimbalPitchDegree="{pitch:.2f}" drone-dji:GimbalRollDegree="{roll:.2f}"/>'.encode()


def write_pictures(folder: Path, views: list[View], places: np.ndarray, rng: np.random.Generator) -> None:
    for i, (latitude, longitude, height) in enumerate(places.tolist()):
        exif = Image.Exif()
        gps = {1: "N", 2: degrees(latitude), 3: "E", 4: degrees(longitude), 5: b"\0", 6: height}
        exif.get_ifd(0x8825).update(gps)
        rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(rgb).save(folder / f"{i:04d}.jpg", exif=exif, xmp=gimbal(views[i].cam_from_world, rng))


def survey(count: int, rng: np.random.Generator) -> list[View]:
    """Views from 60 m above ground with blocks of 0 to 25 m, in metres east, north and up."""
    columns = int(np.ceil(np.sqrt(count * EXTENT[0] / EXTENT[1])))
    blocks = rng.uniform(0, 25, (60, 60))
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    views = []
    for i in range(count):
        row, column = divmod(i, columns)
        place = np.array([column / max(columns - 1, 1), row / max((count - 1) // columns, 1)]) * EXTENT
        centre = np.array([*(place + rng.normal(size=2)), 60 + rng.normal() * 2])
        tilt, heading = np.radians(rng.uniform(-25, 25)), np.radians(rng.uniform(-15, 15) + 180 * (row % 2))
        down = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
        turn = cv2.Rodrigues(np.array([tilt, 0, 0]))[0] @ cv2.Rodrigues(np.array([0, 0, heading]))[0] @ down
        pose = np.concatenate([turn, -turn @ centre[:, None]], axis=1)
        views.append(View(f"{i:04d}.jpg", WIDTH, HEIGHT, K, pose, depth_of(pose, K, blocks)))
    return views


def depth_of(pose: np.ndarray, K: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Depth (h, w) of ground with blocks of 10 m, by marching along the rays."""
    rays = geometry.unproject(np.ones((HEIGHT, WIDTH)), K, pose)
    centre = geometry.camera_centres(pose[None])[0]
    direction = rays - centre
    depth = np.zeros((HEIGHT, WIDTH), np.float32)
    for distance in np.arange(30.0, 130.0):
        points = centre + distance * direction
        cell = np.clip(((points[..., :2] + 200) // 10).astype(int), 0, 59)
        hit = (points[..., 2] <= blocks[cell[..., 0], cell[..., 1]]) & (depth == 0)
        depth[hit] = distance
    return depth


def cloud_of(views: list[View]) -> np.ndarray:
    return np.concatenate([geometry.unproject(v.depth, v.K, v.cam_from_world)[v.depth > 0][::17] for v in views])


def write_control(path: Path, views: list[View], count: int, rng: np.random.Generator) -> str:
    """A gcp_list.txt of points on the ground of `views`; the name of the point whose coordinates are wrong."""
    lines, found = ["EPSG:4326"], 0
    wrong = f"point-{rng.integers(count)}"
    while found < count:
        view = views[int(rng.integers(len(views)))]
        row, column = rng.integers(4, HEIGHT - 4), rng.integers(4, WIDTH - 4)
        depth = np.full((HEIGHT, WIDTH), float(view.depth[row, column]))
        point = geometry.unproject(depth, view.K, view.cam_from_world)[row, column]
        marks = []
        for other in views:
            pixel, z = geometry.project(point[None], other.K, other.cam_from_world)
            x, y = pixel[0]
            if 0 < x < WIDTH and 0 < y < HEIGHT and abs(other.depth[int(y), int(x)] / z[0] - 1) < 0.05:
                marks.append((other.name, *(pixel[0] + rng.normal(size=2) * MARKED)))
        if len(marks) < 3:
            continue
        name = f"point-{found}"
        stated = point + rng.normal(size=3) * SURVEYED + (WRONG * (name == wrong), 0, 0)
        latitude, longitude, height = HOME.places(stated[None])[0]
        for picture, x, y in marks[:MARKS]:
            lines.append(f"{longitude:.9f} {latitude:.9f} {height:.3f} {x:.4f} {y:.4f} {picture} {name}")
        found += 1
    path.write_text("\n".join(lines))
    return wrong


def one(count: int, seed: int, folder: Path, control: int = 0) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    folder.mkdir()
    true = survey(count, rng)
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in true]))
    fixes = centres + rng.normal(size=centres.shape) * NOISE
    wild = np.sort(rng.permutation(count)[: count // 10])
    angle = rng.uniform(0, 2 * np.pi, len(wild))
    fixes[wild, :2] += WILD * np.stack([np.cos(angle), np.sin(angle)], -1)
    write_pictures(folder, true, HOME.places(fixes), rng)
    own = Similarity(float(rng.uniform(0.01, 0.1)), cv2.Rodrigues(rng.normal(size=3))[0], rng.normal(size=3) * 3)
    views = []
    for view in true:
        shaken = cv2.Rodrigues(rng.normal(size=3) * TURN)[0] @ view.cam_from_world
        shaken[:, 3] += rng.normal(size=3) * MOVE
        pose = own.apply_to_poses(shaken)
        views.append(View(view.name, WIDTH, HEIGHT, view.K, pose, view.depth * np.float32(own.scale)))
    inputs = [SimpleNamespace(rgb=np.zeros((HEIGHT, WIDTH, 3), np.uint8), full=(HEIGHT, WIDTH)) for _ in views]
    found = Predictions(views, list(range(count)), [(HEIGHT, WIDTH)] * count, inputs=inputs)
    stated = folder.with_suffix(".txt")
    wrong_point = write_control(stated, true, control, rng) if control else None
    asked = WorldConfig(gcp=stated) if control else WorldConfig(world="enu")
    placed = anchor(asked, discover([folder]), found)
    stated.unlink(missing_ok=True)
    assert placed.anchor is not None
    origin = LocalFrame(*(placed.anchor["origin"][key] for key in ("latitude", "longitude", "height")))
    cloud = HOME.local(origin.places(cloud_of(placed.views)))
    off = cloud - cloud_of(true)
    if wrong_point is not None:
        said = {name for name, entry in placed.anchor["residuals"].items() if not entry["used"]}
        wild_named, others_named = wrong_point in said, len(said - {wrong_point})
    else:
        named = [i for i, entry in enumerate(placed.anchor["residuals"].values()) if not entry["used"]]
        wild_named, others_named = set(wild.tolist()) <= set(named), len(set(named) - set(wild.tolist()))
    return {
        "images": count, "seed": seed, "control": control, "cloud_metres": float(np.linalg.norm(off, axis=1).mean()),
        "cloud_horizontal": float(np.linalg.norm(off[:, :2], axis=1).mean()),
        "scale_percent": 100 * abs(placed.anchor["metres_per_unit"] * own.scale - 1),
        "wild_named": wild_named, "others_named": others_named,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--images", type=int, nargs="+", default=[40, 120, 300])
    parser.add_argument("--control", type=int, default=0, help="control points instead of GPS")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    rows = []
    for count in options.images:
        for seed in range(options.scenes):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                rows.append(one(count, seed, Path(folder) / "photos", options.control))
        mine = [row for row in rows if row["images"] == count]
        cloud, flat, scale = (
            [row[key] for row in mine] for key in ("cloud_metres", "cloud_horizontal", "scale_percent")
        )
        print(
            f"{count} images: cloud off by {np.median(cloud):.2f} m (worst {max(cloud):.2f}), sideways "
            f"{np.median(flat):.2f} m, scale {np.median(scale):.2f} % (worst {max(scale):.2f}), wild fixes named in "
            f"{sum(row['wild_named'] for row in mine)} of {len(mine)}, others in "
            f"{sum(row['others_named'] > 0 for row in mine)}",
            flush=True,
        )
    print(json.dumps({"benchmark": "georeference", "cpu": platform.machine(), "scenes": rows}))


if __name__ == "__main__":
    main()
