"""A long strip of drawn photographs with GPS: how far `--refine --world enu` is off with the positions beside the
matches, and without them, where the scene is only moved onto the positions when it is finished.

A flight in a line 50 m above houses, one picture every 10 m. GPS has 2 m of noise (5 m upwards), one fix in ten is
200 m off. `--k1` is the lens; with another value than 0 it is taken for a pinhole, which bends the strip. A table, then
one JSON line.

    python benchmarks/gps_strip.py [--pictures 60] [--k1 0 -0.02] [--seeds 0] [--device cpu] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from georeference import HOME, NOISE, WILD, degrees, gimbal
from PIL import Image
from refine_lenses import distorted_camera, through
from walk_scenes import Walk, _cover, render_walk

from lite3r_cli.config import PredictConfig, WorldConfig
from lite3r_cli.data.procedural.materials import MASONRY, THINGS
from lite3r_cli.data.procedural.sampling import light
from lite3r_cli.data.procedural.sampling.draw import Draw
from lite3r_cli.data.procedural.scene import Builder, Kind, Scene, Stage, yaw
from lite3r_cli.data.procedural.textures import Atlas, Catalog, build_atlas
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.anchoring import anchor, with_gps
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.refine.pipeline import refine
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene import geometry
from lite3r_cli.scene.posed_view import View
from lite3r_cli.world.geodesy import LocalFrame

WIDTH, HEIGHT, FOCAL = 640, 480, 520.0
STEP, ABOVE = 10.0, 50.0  # metres
# the drawn world is +x right, +y up, +z towards the viewer; the map's is +x east, +y north, +z up
MAP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def town(d: Draw, catalog: Catalog, length: float) -> Scene:
    """Houses and things along a strip."""
    b = Builder()
    ground = (0.5 * length + 80, 1.0, 80.0)
    b.add(Kind.BOX, (0.5 * length, -1, 0), ground, _cover(d, catalog, ("gravel", "ashlar"), (6.0, 9.0), ground))
    for k in range(148):
        small = k % 3 == 0
        size = [d.uniform(*((1, 3) if small else (3, 8))) for _ in range(3)]
        at = (d.uniform(-40, length + 40), size[1], d.uniform(-38, 38))
        look = _cover(d, catalog, THINGS if small else ("windows", *MASONRY), (1.5, 5.0), size)
        b.add(Kind.BOX, at, tuple(size), look, rotation=yaw(d.uniform(0, 6.28)))
    half = np.array([length + 100, 20, 100])
    return b.finish(light.outdoor(d, catalog, 60.0), Stage(-half, half, np.zeros((1, 3)), {"strip": 1.0}), "strip")


def flight(pictures: int, seed: int, atlas: Atlas) -> Walk:
    rng = np.random.default_rng([seed, pictures])
    poses = []
    for i in range(pictures):
        centre = np.array([STEP * i + rng.normal(), ABOVE + rng.normal(), rng.normal()])
        down = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
        turn = cv2.Rodrigues(np.radians(3) * rng.normal(size=3))[0] @ down
        poses.append(np.column_stack([turn, -turn @ centre]))
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])
    scene = town(Draw(rng), atlas.catalog, STEP * (pictures - 1))
    return Walk(scene, K, np.stack(poses).astype(np.float64), HEIGHT)


def write(folder: Path, walk: Walk, atlas: Atlas, k1: float, seed: int) -> tuple[np.ndarray, list[int]]:
    """Photographs with GPS and gimbal in `folder`; true centres (S, 3) in the map's frame, and which fixes are wild."""
    rng = np.random.default_rng(seed)
    centres = geometry.camera_centres(walk.cam_from_world) @ MAP.T
    fixes = centres + rng.normal(size=centres.shape) * NOISE
    wild = np.sort(rng.permutation(len(centres))[: len(centres) // 10])
    angle = rng.uniform(0, 2 * math.pi, len(wild))
    fixes[wild, :2] += WILD * np.stack([np.cos(angle), np.sin(angle)], -1)
    places = HOME.places(fixes)
    for i, (rgb, _) in enumerate(render_walk(walk, atlas, HEIGHT, WIDTH)):
        if k1:
            view = View("", WIDTH, HEIGHT, walk.K, walk.cam_from_world[i])
            rgb = through(rgb, view, distorted_camera(view, k1))
        latitude, longitude, height = places[i].tolist()
        exif = Image.Exif()
        gps = {1: "N", 2: degrees(latitude), 3: "E", 4: degrees(longitude), 5: b"\0", 6: height}
        exif.get_ifd(0x8825).update(gps)
        xmp = gimbal(
            walk.cam_from_world[i] @ np.block([[MAP.T, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]), rng
        )
        Image.fromarray(rgb).save(folder / f"{i:04d}.jpg", exif=exif, xmp=xmp, quality=95)
    return centres, wild.tolist()


def judge(predictor: Predictor, folder: Path, centres: np.ndarray, wild: list[int]) -> dict[str, object]:
    images, world = discover([folder]), WorldConfig(world="enu")
    predicted = predictor.predict_pictures(images, predictor.read(images))
    rows = {}
    for name, found in (("afterwards", predicted), ("beside_matches", with_gps(world, images, predicted))):
        start, positions = time.perf_counter(), found.priors.positions
        config = RefineConfig(depth=False, camera_model=predictor.config.camera_model)
        answer = refine(found.views, images.read, config=config, positions=positions)
        placed = anchor(world, images, replace(found, views=answer.views))
        assert placed.anchor is not None
        origin = LocalFrame(*(placed.anchor["origin"][key] for key in ("latitude", "longitude", "height")))
        mine = geometry.camera_centres(np.stack([view.cam_from_world for view in placed.views]))
        off = HOME.local(origin.places(mine)) - centres
        named = [i for i, entry in enumerate(placed.anchor["residuals"].values()) if not entry["used"]]
        rows[name] = {
            "metres": float(np.linalg.norm(off, axis=1).mean()),
            "worst": float(np.linalg.norm(off, axis=1).max()),
            "upwards": float(np.abs(off[:, 2]).mean()),
            "wild_named": set(wild) <= set(named),
            "others_named": len(set(named) - set(wild)),
            "refined": sum(verdict["cameras"] != "kept" for verdict in answer.verdicts),
            "positions": (answer.account or {}).get("positions"),
            "lenses": [lens["params"] for lens in (answer.account or {}).get("lenses", [])][:1],
            "seconds": round(time.perf_counter() - start, 1),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--k1", type=float, nargs="+", default=[0.0, -0.02])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu", help="of the network")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    atlas, rows = build_atlas(None), []
    for k1 in options.k1:
        lens = "pinhole" if k1 else "auto"
        predictor = Predictor(PredictConfig(options.model, device=options.device, refine=True, camera_model=lens))
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                walk = flight(options.pictures, seed, atlas)
                centres, wild = write(Path(scratch), walk, atlas, k1, seed)
                rows.append({"k1": k1, "seed": seed, **judge(predictor, Path(scratch), centres, wild)})
            for name in ("afterwards", "beside_matches"):
                row = rows[-1][name]
                print(
                    f"k1 {k1}, seed {seed}, GPS {name:15} off by {row['metres']:.2f} m (worst {row['worst']:.2f}), "
                    f"upwards {row['upwards']:.2f} m, {row['refined']} refined",
                    flush=True,
                )
            document = json.dumps({"benchmark": "gps_strip", "pictures": options.pictures, "metres": STEP,
                                   "cpu": platform.machine(), "strips": rows})  # fmt: skip
            if options.json is not None:
                options.json.write_text(document + "\n", encoding="utf-8")
    print(document)


if __name__ == "__main__":
    main()
