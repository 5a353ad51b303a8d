"""Names of the files that lite3r writes into the folder of a scene. A list of files may be forged; a file with another
name is a user's, and never replaced or removed.
"""

from __future__ import annotations

import re

_TABLES = ("cameras", "images", "points3D", "rigs", "frames")  # of COLMAP
_FILES = frozenset(
    ["run.json", "cameras.json", "frames.json", "geo.json", "preview.png", "view.html", "scene.glb", "scene.las"]
    + ["scene.laz", "scene.rrd", "splats.ply", "mesh.ply", "mesh.obj", "mesh.glb", "trajectory.txt", "rgb.txt"]
    + [f"textured-mesh.{suffix}" for suffix in ("obj", "mtl", "jpg", "glb")]
    + ["depth.txt", "groundtruth.txt", "transforms.json", "sparse_pc.ply", "database.db", "sparse/0/points3D.ply"]
    + [f"sparse/0/{table}.{suffix}" for table in _TABLES for suffix in ("txt", "bin")]
)  # fmt: skip
_MAPS = {"depth": "png|npy", "depth_preview": "png", "confidence": "png", "memory": "safetensors"}  # no sub-folders
_PICTURES = {"images": "jpe?g|png", "masks": "png"}  # with the sub-folders of the photos
_IN_FOLDERS = re.compile(
    "|".join(f"{folder}/[^/]+\\.({suffixes})" for folder, suffixes in _MAPS.items())
    + "|"
    + "|".join(f"{folder}/.+\\.({suffixes})" for folder, suffixes in _PICTURES.items()),
    re.IGNORECASE | re.DOTALL,
)
_PART = re.compile(r"part-[0-9]+/")  # a further scene of the same photos, with a cloud of its own
FOLDERS = (*_MAPS, *_PICTURES, "sparse", "sparse/0")


def is_written(name: str) -> bool:
    """Whether lite3r writes a file of this name, relative to the folder of the scene; not the cloud beside it."""
    part = _PART.match(name)
    inside = name[part.end() :] if part else name
    return inside in _FILES or (part is not None and inside == "scene.ply") or bool(_IN_FOLDERS.fullmatch(inside))
