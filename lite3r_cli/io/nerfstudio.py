"""`transforms.json` for nerfstudio and instant-ngp: camera-to-world matrices in OpenGL axes (y up, -z ahead)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..scene import geometry
from ..scene.distortion import DistortedCamera
from ..scene.geometry import invert_pose
from ..scene.posed_view import PointCloud, View
from .files import write_json
from .ply import write_ply
from .scene_export import SceneExport

POINTS = "sparse_pc.ply"
NGP_BOX = 4  # side of instant-ngp's box, in its units; a power of two
NGP_SIDE = 3.0  # side of the scene in it
# COLMAP models that transforms.json supports: its name for them, and the keys of their last parameters
_MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "SIMPLE_RADIAL": ("OPENCV", ("k1",)), "RADIAL": ("OPENCV", ("k1", "k2")),
    "OPENCV": ("OPENCV", ("k1", "k2", "p1", "p2")), "SIMPLE_FISHEYE": ("OPENCV_FISHEYE", ()),
    "FISHEYE": ("OPENCV_FISHEYE", ()), "SIMPLE_RADIAL_FISHEYE": ("OPENCV_FISHEYE", ("k1",)),
    "RADIAL_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2")),
    "OPENCV_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")),
}  # fmt: skip
OPENGL_AXES = np.array([1.0, -1.0, -1.0])  # relative to OpenCV's


def write_nerfstudio(scene: SceneExport) -> list[Path]:
    """Write transforms.json and the initial points for a training, and return both files.

    Only the camera axes are OpenGL's: the world frame is that of the PLY file. All paths are relative to the folder.
    For instant-ngp, `scale`, `offset` and `aabb_scale` fit the points into its box, and `up` states that -y is up.
    Raises OutputError, and UsageError for distorted images that the file cannot describe.
    """
    model = _model(scene)
    frames = []
    for view in scene.views:
        pose = np.eye(4)
        pose[:3] = invert_pose(view.cam_from_world)
        pose[:3, :3] *= OPENGL_AXES
        frames.append(
            {
                "file_path": scene.picture(view),
                **({"mask_path": scene.masks[view.name]} if view.name in scene.masks else {}),
                **_depth(scene, view),
                **_intrinsics(scene.lens(view), view.K),
                "w": view.width,
                "h": view.height,
                "transform_matrix": pose.tolist(),
            }
        )
    write_ply(scene.directory / POINTS, _start(scene))
    document = {
        "camera_model": model, "ply_file_path": POINTS, "units": scene.frame.units, **_box(scene), "frames": frames
    }  # fmt: skip
    write_json(scene.directory / "transforms.json", document)
    return [scene.directory / "transforms.json", scene.directory / POINTS]


def _model(scene: SceneExport) -> str:
    """The common camera model of all images. Raises UsageError if there is none."""
    lenses = [lens for lens in map(scene.lens, scene.views) if lens is not None]
    models = {_MODELS.get(lens.model, ("", ()))[0] for lens in lenses}
    if not models:
        return "PINHOLE"
    if models in ({"OPENCV"}, {"OPENCV_FISHEYE"}) and (len(lenses) == len(scene.views) or models == {"OPENCV"}):
        return models.pop()
    names = ", ".join(sorted({lens.model for lens in lenses}))
    raise UsageError(f"--keep-distortion: transforms.json cannot say {names}; leave it out, or write --format colmap")


def _intrinsics(lens: DistortedCamera | None, K: np.ndarray) -> dict[str, float]:
    """fl_x, fl_y, cx, cy, and k1, k2, … of a distorted image."""
    values = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    if lens is not None:
        values = dict(zip(("fl_x", "fl_y", "cx", "cy"), (*lens.focal, *lens.centre), strict=True))
        keys = _MODELS[lens.model][1]
        values |= dict.fromkeys(("k1", "k2", "k3", "k4", "p1", "p2"), 0.0)
        values |= dict(zip(keys, lens.params[len(lens.params) - len(keys) :], strict=True))
    return {key: float(value) for key, value in values.items()}


def _depth(scene: SceneExport, view: View) -> dict[str, object]:
    """`depth_file_path`, and the factor from stored values to depth in scene units."""
    if view.name not in scene.depths or scene.lens(view) is not None:  # depth maps always belong to a pinhole
        return {}
    path, scale = scene.depths[view.name]
    return {"depth_file_path": path, "depth_unit_scale_factor": 1 / scale}


def _start(scene: SceneExport) -> PointCloud:
    """Initial points for splats: each becomes a Gaussian, so a whole cloud is too many."""
    sparse = scene.sparse
    if sparse is None or len(sparse) == 0:
        return scene.cloud
    views = np.bincount(sparse.point, minlength=len(sparse)).astype(np.float32)
    return PointCloud(sparse.points.astype(np.float32), sparse.colors, views)


def _box(scene: SceneExport) -> dict[str, object]:
    """Keys for instant-ngp, whose box has the side `aabb_scale` around (0.5, 0.5, 0.5) in a rotated, scaled and shifted
    world.
    """
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in scene.views]))
    points = scene.cloud.points if len(scene.cloud) else centres
    low, high = np.percentile(np.concatenate([points, np.repeat(centres, 2, 0)]), (2, 98), axis=0)
    low, high = np.minimum(low, centres.min(0)), np.maximum(high, centres.max(0))
    side = float((high - low).max()) or 1.0
    scale = NGP_SIDE / side
    middle = (low + high) / 2
    # its loader permutes the axes (x, y, z) to (y, z, x) after scale and offset
    offset = 0.5 - scale * middle
    return {"aabb_scale": NGP_BOX, "scale": scale, "offset": offset.tolist(), "up": [0.0, -1.0, 0.0]}
