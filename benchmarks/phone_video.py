"""A video as of a phone, with exact cameras, and the cloud that one command makes of it.

    python benchmarks/phone_video.py DIR --json phone-video.json [--seconds 6] [--height 288 --width 512] [--draw-only]

A street is filmed from a hand: the camera shakes (2 to 9 Hz), each frame is the mean over its exposure (motion blur),
its rows are exposed one after the other (rolling shutter), the brightness follows the scene with a delay (automatic
exposure), the sensor has noise, and the times between frames vary from 1/30 to 1/12 s. DIR/phone.mp4 (H.264, variable
frame rate) and DIR/truth.json (K, and cam_from_world at the middle row of each frame) are written once. Then

    lite3r reconstruct DIR/phone.mp4 -o DIR/phone.ply [--chunk N]

runs as a user types it. Told are the drift of the key frames (as in long_walk.py), and the share of the cloud's points
whose depth in one of the key frames is within 5 and 10 % of the drawn surface, after one similarity from the cameras.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
KEYS, STEP = 4.0, 0.35  # cameras per second that the path is drawn through, and metres between them
READOUT, EXPOSURE = 1 / 60, 1 / 90  # seconds from the first row to the last, and of one row
PARTS = 4  # pictures that a frame is mixed from
NEAR = (0.05, 0.1)  # relative depth errors of a point on a surface


def main() -> None:
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    if not (options.folder / "truth.json").exists():
        draw(options)
    if not options.draw_only:
        row = measure(options)
        print(json.dumps(row), flush=True)
        options.json.write_text(json.dumps({"benchmark": "phone video", **row}, indent=1) + "\n")


# --- the video --------------------------------------------------------------------------------------------------------


class Path3:
    """A smooth path through cameras, with the shaking of a hand."""

    def __init__(self, poses: np.ndarray, seed: int) -> None:
        from lite3r_cli.scene import geometry

        self.centres = geometry.camera_centres(poses)
        self.turns = geometry.quaternion_from_matrix(poses[:, :, :3])
        for k in range(1, len(self.turns)):
            self.turns[k] *= np.sign(self.turns[k] @ self.turns[k - 1]) or 1.0
        rng = np.random.default_rng(seed)
        self.rate, self.phase = rng.uniform(2, 9, (6, 4)), rng.uniform(0, 6.28, (6, 4))

    def at(self, seconds: float) -> np.ndarray:
        """cam_from_world (3, 4)."""
        from lite3r_cli.scene import geometry

        u = np.clip(seconds * KEYS, 1, len(self.centres) - 2.001)
        k, t = int(u), u - int(u)
        weights = 0.5 * np.array(
            [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
        )  # Catmull and Rom
        shake = np.sin(2 * np.pi * self.rate * seconds + self.phase).sum(1) / self.rate.mean(1)
        centre = weights @ self.centres[k - 1 : k + 3] + 0.02 * shake[:3]
        turn = geometry.matrix_from_quaternion(_unit(weights @ self.turns[k - 1 : k + 3])[None])[0]
        x, y, z = np.radians(1.2) * shake[3:]
        turn = geometry.matrix_from_quaternion(_unit(np.array([x / 2, y / 2, z / 2, 1.0]))[None])[0] @ turn
        return np.concatenate([turn, (-turn @ centre)[:, None]], axis=1)


def _unit(q: np.ndarray) -> np.ndarray:
    return q / np.linalg.norm(q)


def scene_of(options):
    """The street, its path, and the atlas of textures."""
    from walk_scenes import make_walk

    from lite3r_cli.data.procedural.textures import build_atlas

    atlas = build_atlas(None)
    count = int(options.seconds * KEYS) + 4
    walk = make_walk(count, False, options.seed, options.height, options.width, atlas, step=STEP)
    return walk, Path3(walk.cam_from_world, options.seed), atlas


def draw(options) -> None:
    """Write the video and its true cameras."""
    import av
    from walk_scenes import exposure_of, render_walk

    walk, path, atlas = scene_of(options)
    rng = np.random.default_rng(options.seed)
    exposure = exposure_of(walk, atlas, options.height, options.width, options.device)
    times, now = [], 1 / KEYS
    while now < options.seconds + 1 / KEYS:
        times.append(now)
        now += float(rng.choice([1 / 30, 1 / 30, 1 / 24, 1 / 20, 1 / 12]))
    gain, poses = 1.0, []
    rows = np.arange(options.height) / options.height * READOUT
    with av.open(str(options.folder / "phone.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = options.height, options.width, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 90_000)
        stream.options = {"crf": "20"}
        for k, start in enumerate(times):
            moments = start + np.linspace(0, READOUT + EXPOSURE, PARTS)
            some = replace(walk, cam_from_world=np.stack([path.at(t) for t in moments]))
            drawn = [
                rgb.astype(np.float32)
                for rgb, _ in render_walk(some, atlas, options.height, options.width, options.device, 1, exposure)
            ]
            frame = np.zeros_like(drawn[0])
            for moment, rgb in zip(moments, drawn):  # a row sees a moment as far as it is within its exposure
                frame += rgb * _share(moments, moment, start + rows)[:, None, None]
            gain += 0.15 * (np.clip(110 / max(frame.mean(), 1), 0.6, 1.6) - gain)
            frame = np.clip(frame * gain + rng.normal(0, 3, frame.shape), 0, 255).round().astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = round((start - times[0]) * 90_000), stream.time_base
            container.mux(stream.encode(picture))
            poses.append(path.at(start + (READOUT + EXPOSURE) / 2).tolist())
            if k % 20 == 0:
                print(f"frame {k + 1} of {len(times)}", flush=True)
        container.mux(stream.encode())
    truth = {"K": walk.K.tolist(), "cam_from_world": poses, "time": [t - times[0] for t in times]}
    (options.folder / "truth.json").write_text(json.dumps(truth))


def _share(moments: np.ndarray, moment: float, starts: np.ndarray) -> np.ndarray:
    """The weight of one of the `moments` in rows that are exposed from `starts` (H,) on: triangles that overlap."""
    width = max(EXPOSURE, moments[1] - moments[0])
    weights = np.maximum(0, 1 - np.abs(moments[:, None] - (starts + EXPOSURE / 2)[None]) / width)
    return weights[list(moments).index(moment)] / weights.sum(0)


# --- the measurement --------------------------------------------------------------------------------------------------


def measure(options) -> dict:
    """The row of the JSON file."""
    from lite3r_cli.cli import main as lite3r
    from lite3r_cli.io.cameras_json import read_cameras_json
    from lite3r_cli.io.ply import read_ply
    from lite3r_cli.scene import geometry

    output = options.folder / "phone.ply"
    words = ["reconstruct", str(options.folder / "phone.mp4"), "-o", str(output), "--overwrite", *options.more]
    start = time.process_time()
    code = 0 if options.score_only else lite3r(words)
    used = time.process_time() - start
    if code:
        raise SystemExit(f"lite3r {' '.join(words)}: exit code {code}")
    views = read_cameras_json(output.with_suffix("") / "cameras.json", load_depth=False)
    run = json.loads((output.with_suffix("") / "run.json").read_text())
    truth = json.loads((options.folder / "truth.json").read_text())
    frames = [int(view.name.rsplit("frame", 1)[1].split(".")[0].strip("-_")) for view in views]
    true = np.stack([np.array(truth["cam_from_world"][k]) for k in frames])
    found = np.stack([view.cam_from_world for view in views])
    a, b = geometry.camera_centres(found), geometry.camera_centres(true)
    similarity = geometry.umeyama(a, b)
    off = np.linalg.norm(similarity.apply(a) - b, axis=1)
    path = float(np.linalg.norm(np.diff(b, axis=0), axis=1).sum())
    cloud = read_ply(output)
    on = _on_surface(options, similarity.apply(cloud.points.astype(float)), true)
    focal = np.median([view.K[0, 0] for view in views]) / truth["K"][0][0]
    chunks = run.get("chunks", {})
    return {
        "frames": len(truth["time"]),
        "key_frames": len(views),
        "ate_percent": round(100 * float(np.sqrt((off**2).mean())) / path, 3),
        "path_m": round(path, 2),
        "focal_error_percent": round(100 * (float(focal) - 1), 2),
        "points": len(cloud.points),
        "within_percent_of_the_surface": {f"{near:.0%}": round(100 * share, 1) for near, share in zip(NEAR, on)},
        "passes": len(chunks.get("passes", [1])),
        "scenes": len(chunks.get("scenes", [1])),
        "command": " ".join(["lite3r", *words]).replace(str(options.folder), "DIR"),
        "processor_seconds": round(used, 1),
        "size": [options.height, options.width],
    }


def _on_surface(options, points: np.ndarray, poses: np.ndarray) -> list[float]:
    """The shares of points (N, 3) that lie as `NEAR` the drawn surface in one of the cameras (S, 3, 4)."""
    from walk_scenes import exposure_of, render_walk

    walk, _, atlas = scene_of(options)
    some = points[:: max(1, len(points) // 200_000)]
    best = np.full(len(some), np.inf)
    exposure = exposure_of(walk, atlas, options.height, options.width, options.device)
    chosen = replace(walk, cam_from_world=poses)
    drawn = render_walk(chosen, atlas, options.height, options.width, options.device, 1, exposure)
    for pose, (_, depth) in zip(poses, drawn):
        x = some @ pose[:, :3].T + pose[:, 3]
        z = np.maximum(x[:, 2], 1e-6)
        u = x[:, :2] / z[:, None] * walk.K[0, 0] + walk.K[:2, 2]
        inside = (x[:, 2] > 0) & (u >= 0).all(1) & (u[:, 0] < options.width) & (u[:, 1] < options.height)
        j, i = u[inside].astype(int).T
        best[inside] = np.minimum(best[inside], np.abs(z[inside] / np.maximum(depth[i, j], 1e-6) - 1))
    return [float((best < near).mean()) for near in NEAR]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, default=Path("phone-video.json"))
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--draw-only", action="store_true")
    parser.add_argument("--score-only", action="store_true", help="of a cloud that is there")
    parser.add_argument("--device", default="cpu", help="that draws")
    parser.add_argument("--more", nargs="*", default=[], help="further words of the command, without dashes: chunk=12")
    for name, default in (("seed", 1), ("height", 288), ("width", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    options.more = [f"--{word}" for word in options.more]
    return options


if __name__ == "__main__":
    main()
