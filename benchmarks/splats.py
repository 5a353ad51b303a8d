"""Trains Gaussian splats on refined scenes and on pycolmap's, and reports PSNR and SSIM of held-out photos.

    python benchmarks/splats.py prepare --scenes scene.ply… --out DIR     # on any machine: cameras, starts, photographs
    python benchmarks/splats.py train DIR [--seeds 0 1 2] [--set depth_weight=0 …] [--json FILE]      # on a GPU

`prepare` takes scenes of `lite3r reconstruct PHOTOS -o scene.ply --refine -f colmap`, and lets pycolmap alone (SIFT,
exhaustive matching, incremental mapping, one SIMPLE_PINHOLE) reconstruct the same images/. `train` first compares the
kernels with their twin.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lite3r_cli.io.gaussians import gaussians
from lite3r_cli.io.splat_start import point_normals
from lite3r_cli.pipelines.splat_scene import START_POINTS
from lite3r_cli.pipelines.written_scene import WrittenScene
from lite3r_cli.scene.posed_view import PointCloud, View
from lite3r_cli.scene.tracks import tracks_from_depth
from lite3r_cli.splats.fit import Recipe, draw, fit, look_at
from lite3r_cli.splats.gaussian_set import GaussianSet
from lite3r_cli.splats.rasteriser import bin_ellipses, rasterise_torch
from lite3r_cli.splats.shapes import ellipses
from lite3r_cli.splats.shots import held_out, moved_columns, shots_of, size_one
from lite3r_cli.splats.uncovered import MARGIN, cover

STARTS = ("refined", "pycolmap")


def store(path: Path, views: list[View], cloud: PointCloud, normals: np.ndarray) -> None:
    depth = {f"depth{i}": view.depth for i, view in enumerate(views) if view.depth is not None}
    scales = {name: np.float32(values.max() / 65535) for name, values in depth.items()}
    coded = {name: np.round(values / scales[name]).astype(np.uint16) for name, values in depth.items()}
    np.savez_compressed(
        path,
        names=[view.name for view in views],
        sizes=[(view.width, view.height) for view in views],
        K=[view.K for view in views],
        poses=[view.cam_from_world for view in views],
        points=cloud.points.astype(np.float32),
        colors=cloud.colors,
        confidence=cloud.confidence.astype(np.float16),
        normals=np.round(normals * 127).astype(np.int8),
        scales=[scales.get(f"depth{i}", 0) for i in range(len(views))],
        **coded,
    )


def load(path: Path) -> tuple[list[View], np.ndarray]:
    """Views with depth where there is one, and the columns of the start."""
    data = np.load(path)
    views = []
    for i, name in enumerate(data["names"]):
        depth = data[f"depth{i}"] * data["scales"][i] if f"depth{i}" in data else None
        views.append(View(str(name), *map(int, data["sizes"][i]), data["K"][i], data["poses"][i], depth, None))
    normals = data["normals"] / np.maximum(np.linalg.norm(data["normals"], axis=1, keepdims=True), 1)
    cloud = PointCloud(data["points"], data["colors"], data["confidence"].astype(np.float32))
    return views, gaussians(cloud, normals)


def prepare(scenes: list[Path], out: Path) -> None:
    for path in scenes:
        scene = WrittenScene.at(path)
        folder = out / scene.layout.title
        shutil.copytree(scene.folder / "images", folder / "images", dirs_exist_ok=True)
        views = [view for view in scene.views(load_depth=True) if (folder / "images" / view.name).is_file()]
        model = tracks_from_depth(views, scene.cloud(print), START_POINTS)
        cloud = PointCloud(model.points, model.colors, model.confidence)
        store(folder / "refined.npz", views, cloud, point_normals(views, model.points, model))
        print(path, len(views), "views,", len(model), "points", flush=True)
        views, cloud = pycolmap_alone(folder / "images")
        store(folder / "pycolmap.npz", views, cloud, np.zeros((len(cloud), 3)))
        print("  pycolmap alone:", len(views), "views,", len(cloud), "points", flush=True)


def pycolmap_alone(images: Path) -> tuple[list[View], PointCloud]:
    import pycolmap

    with tempfile.TemporaryDirectory() as work:
        database = Path(work) / "database.db"
        pycolmap.extract_features(
            database, images, camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE"),
        )  # fmt: skip
        pycolmap.match_exhaustive(database)
        models = pycolmap.incremental_mapping(database, images, Path(work) / "models")
    model = max(models.values(), key=lambda each: each.num_reg_images())
    views = []
    for image in sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name):
        camera, pose = model.cameras[image.camera_id], image.cam_from_world()
        K = camera.calibration_matrix()
        views.append(View(image.name, camera.width, camera.height, K, pose.matrix(), None, None))
    points = list(model.points3D.values())
    seen = np.array([point.track.length() for point in points], np.float32)
    xyz = np.array([point.xyz for point in points], np.float32)
    return views, PointCloud(xyz, np.array([point.color for point in points], np.uint8), seen)


def check(device: torch.device) -> float:
    """The largest difference of picture and gradient between the kernels and their twin, relative to the largest."""
    from lite3r_cli.splats.raster_kernels import Rasterised
    from lite3r_cli.splats.shapes import Camera

    torch.manual_seed(0)
    count = 3000
    columns = np.random.default_rng(0).normal(size=(count, 17))
    columns[:, 2] = columns[:, 2] * 0.5 + 3
    columns[:, 10:13] = columns[:, 10:13] * 0.5 - 3.5
    K = torch.tensor([[90.0, 0, 50], [0, 90, 40], [0, 0, 1]])
    camera = Camera(K, torch.eye(4)[:3], 101, 83)
    splats = GaussianSet.of_columns(columns, torch.device("cpu"))
    rows, boxes = (value.detach() for value in ellipses(splats, camera, 2))
    results = []
    for function, place in ((rasterise_torch, torch.device("cpu")), (Rasterised.apply, device)):
        mine = rows.clone().to(place).requires_grad_()
        out = function(mine, bin_ellipses(boxes.to(place), mine.detach()[:, 9], 101, 83), 101, 83)
        out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).to(place))
        results.append([value.detach().cpu() for value in (out, mine.grad)])
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*results))


def time_parts(splats: GaussianSet, shot, degree: int) -> dict[str, float]:
    """Milliseconds of drawing, and of drawing with its gradient, in the middle of 20."""

    def once(backward: bool) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        picture, inverse, _ = draw(splats, shot.camera, degree)
        if backward:
            (picture.sum() + inverse.sum()).backward()
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - began)

    return {name: round(sorted(once(flag) for _ in range(20))[10], 2) for name, flag in (("draw", 0), ("gradient", 1))}


def fastest_tile(args: argparse.Namespace, device: torch.device) -> dict:
    """Milliseconds per tile side and number of warps for the first scene; sets the fastest."""
    from lite3r_cli.splats import raster_kernels, rasteriser

    folder = min(path.parent for path in args.folder.glob("*/refined.npz"))
    views, columns = load(folder / "refined.npz")
    frame = size_one(views)
    shot = shots_of(views[:1], pictures_of(folder, views[:1]), frame, args.size, device)[0]
    splats = GaussianSet.of_columns(moved_columns(columns, frame), device, 2)

    def use(tile: int, warps: int) -> None:
        rasteriser.TILE = raster_kernels.SIZES["TILE"] = tile
        raster_kernels.WARPS = warps

    times = {}
    for tile in args.tiles:
        for warps in (1, 2, 4)[: 1 + tile // 8]:
            use(tile, warps)
            time_parts(splats, shot, 2)
            times[tile, warps] = time_parts(splats, shot, 2)
    best = min(times, key=lambda key: times[key]["gradient"])
    use(*best)
    return {"chosen": best, "times": [[*key, value] for key, value in times.items()]}


def pictures_of(folder: Path, views: list[View]) -> list[np.ndarray]:
    paths = [str(folder / "images" / view.name) for view in views]
    return [cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB) for path in paths]


def train_one(
    folder: Path, start: str, recipe: Recipe, margin: float, args: argparse.Namespace, device: torch.device
) -> dict:
    views, columns = load(folder / f"{start}.npz")
    frame = size_one(views)
    shots = shots_of(views, pictures_of(folder, views), frame, args.size, device)
    kept = held_out(len(shots))
    splats = GaussianSet.of_columns(moved_columns(columns, frame), device, recipe.degree)
    parts = time_parts(splats, shots[0], recipe.degree) if device.type == "cuda" else {}
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seen = [shot for i, shot in enumerate(shots) if i not in kept]
    sync()
    began = time.perf_counter()
    splats = cover(splats, seen, margin)
    covered, first = len(splats), look_at(splats, [shots[i] for i in kept], recipe.degree, 0)
    fitted = fit(splats, seen, [shots[i] for i in kept], recipe)
    sync()
    seconds = time.perf_counter() - began
    best = fitted.best
    if args.pictures is not None and recipe.seed == 0:
        args.pictures.mkdir(parents=True, exist_ok=True)
        for i in kept:
            with torch.no_grad():
                drawn = draw(fitted.splats, shots[i].camera, recipe.degree)[0].clamp(0, 1)
            both = torch.cat([shots[i].picture, drawn], 2).mul(255).byte().permute(1, 2, 0).cpu().numpy()
            name = args.pictures / f"{folder.name}-{start}-{Path(shots[i].name).stem}.jpg"
            cv2.imwrite(str(name), np.ascontiguousarray(both[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 90])
    trained = look_at(fitted.splats, seen, recipe.degree, best.step)
    return {
        "scene": folder.name, "start": start, "seed": recipe.seed, "points": len(columns), "views": len(views),
        "held_out": [shots[i].name for i in kept], "psnr": round(best.psnr, 3), "ssim": round(best.ssim, 4),
        "step": best.step, "gaussians": best.gaussians, "seconds": round(seconds, 1), "steps": fitted.looks[-1].step,
        "psnr_seen": round(trained.psnr, 2), "size": [shots[0].camera.width, shots[0].camera.height],
        "covered": covered, "psnr_start": round(first.psnr, 2),
        "looks": [[look.step, round(look.psnr, 2), round(look.ssim, 4)] for look in fitted.looks], **parts,
    }  # fmt: skip


def train(args: argparse.Namespace) -> None:
    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report: dict = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU", "runs": []}
    report["torch"] = torch.__version__
    if device.type == "cuda":
        report["kernels_differ_by"] = check(device)
        print("kernels and twin differ by", report["kernels_differ_by"], flush=True)
        if args.tiles:
            report["tiles"] = fastest_tile(args, device)
            print("tiles:", report["tiles"], flush=True)
            report["kernels_differ_by"] = max(report["kernels_differ_by"], check(device))
        if not report["kernels_differ_by"] < 1e-3:
            sys.exit("the kernels do not draw what their twin draws")
    folders = sorted(path.parent for path in args.folder.glob("*/refined.npz"))
    variants = [dict(pair.split("=") for pair in text.split(",") if pair) for text in args.variants]

    def one(variant: dict, seed: int, start: str, folder: Path, budget: float = args.budget) -> None:
        done = [(run["variant"], run["seed"], run["start"], run["scene"]) for run in report["runs"]]
        if (variant, seed, start, folder.name) in done:
            return
        if time.perf_counter() - began > budget:
            print("no time left for", variant, seed, start, folder.name, flush=True)
            return
        chosen = {
            name: type(getattr(Recipe(), name))(json.loads(value))
            for name, value in variant.items()
            if name != "margin"
        }
        recipe = replace(Recipe(seed=seed), **chosen)
        run = train_one(folder, start, recipe, float(variant.get("margin", MARGIN)), args, device)
        report["runs"].append({**run, "variant": variant})
        print(json.dumps({**run, "variant": variant}), flush=True)
        if args.json is not None:
            args.json.write_text(json.dumps(report, indent=1))

    if args.choose:
        for variant in variants:
            for folder in folders:
                one(variant, args.seeds[0], args.starts[0], folder, args.choose)
        whole = [v for v in variants if len(runs_of(report, v, args.starts[0])) == len(folders)]
        variants = [max(whole or variants[:1], key=lambda v: mean_of(runs_of(report, v, args.starts[0]), "psnr"))]
        report["chosen"] = variants[0]
        print("chosen:", variants[0], flush=True)
    for variant in variants:
        for seed in args.seeds:
            for start in args.starts:
                for folder in folders:
                    one(variant, seed, start, folder)
    for variant in variants:
        for start in args.starts:
            if runs := runs_of(report, variant, start):
                psnr, ssim, seconds = (mean_of(runs, key) for key in ("psnr", "ssim", "seconds"))
                print(f"{variant} {start}: {len(runs)} runs, PSNR {psnr:.2f}, SSIM {ssim:.4f}, {seconds:.0f} s")


def runs_of(report: dict, variant: dict, start: str) -> list[dict]:
    return [run for run in report["runs"] if run["start"] == start and run["variant"] == variant]


def mean_of(runs: list[dict], key: str) -> float:
    return float(np.mean([run[key] for run in runs] or [0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare")
    one.add_argument("--scenes", type=Path, nargs="+", required=True)
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("train")
    two.add_argument("folder", type=Path)
    two.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    two.add_argument("--starts", nargs="+", default=list(STARTS))
    two.add_argument("--variants", nargs="+", default=[""], help="e.g. depth_weight=0 margin=0,grow=false")
    two.add_argument(
        "--choose", type=float, metavar="SECONDS",
        help="first train the variants with the first seed and start as long as time allows, then the best with all",
    )  # fmt: skip
    two.add_argument("--tiles", type=int, nargs="+", help="tile sides to time; the faster one is used")
    two.add_argument("--size", type=int, default=768)
    two.add_argument("--budget", type=float, default=600, help="seconds after which no training begins")
    two.add_argument("--pictures", type=Path, help="held-out photographs beside their renderings")
    two.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.command == "prepare":
        prepare(args.scenes, args.out)
    else:
        train(args)


if __name__ == "__main__":
    main()
