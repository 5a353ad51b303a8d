"""Models from matches by pycolmap: triangulation, incremental mapping (Schönberger & Frahm, CVPR 2016) and global
mapping (Pan et al., ECCV 2024). One thread and one seed, so that equal matches give equal models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .backend import require_pycolmap
from .lens import Lenses
from .matching import Matches, Pair, TwoView
from .refine_config import RefineConfig
from .rigs import add_posed, write_database

_GLOBAL_TRACKS = 4000  # tracks that global mapping uses to place cameras


class Workshop:
    """A pycolmap database of the selected matches, with the lenses of the pictures, in its own folder."""

    def __init__(
        self, name: str, matches: Matches, rows: Mapping[Pair, np.ndarray], lenses: Lenses, config: RefineConfig
    ) -> None:
        self.name, self.matches, self.rows, self.lenses, self.config = name, matches, rows, lenses, config
        self.folder = matches.folder / name
        self.folder.mkdir()
        self.database = self.folder / "matches.db"
        self._write()

    def _write(self) -> None:
        pycolmap = require_pycolmap()
        with pycolmap.Database.open(self.database) as database:
            write_database(database, self.lenses, self.matches.keypoints)
            for (i, j), rows in sorted(self.rows.items()):
                if len(rows):
                    database.write_matches(i + 1, j + 1, rows.astype(np.uint32))
                    database.write_two_view_geometry(i + 1, j + 1, _geometry(self.matches.pairs[i, j], rows))

    def with_lenses(self, name: str, lenses: Lenses) -> Workshop:
        """The same matches with other lenses."""
        return Workshop(name, self.matches, self.rows, lenses, self.config)

    def dressed(self, model):
        """A copy of a model with the lenses of this workshop."""
        pycolmap = require_pycolmap()
        copy = self.model({i - 1: model.image(i).cam_from_world().matrix() for i in sorted(model.reg_image_ids())})
        for number in sorted(model.point3D_ids()):
            point = model.point3D(number)
            copy.add_point3D(point.xyz, pycolmap.Track(point.track.elements))
        return copy

    def model(self, poses: Mapping[int, np.ndarray]):
        """A model of the pictures that have a pose (cam_from_world, 3 × 4), without points."""
        pycolmap = require_pycolmap()
        model = pycolmap.Reconstruction()
        add_posed(model, self.lenses, poses, self.matches.keypoints)
        return model

    def triangulate(self, model):
        """The model with new points for its cameras, which do not change."""
        pycolmap = require_pycolmap()
        options = self._pipeline(min_angle=self.config.min_angle_deg)
        options.ba_global_max_refinements = 1
        return pycolmap.triangulate_points(model, self.database, self.folder, self._output("points"), True, options)

    def incremental(self) -> Sequence:
        """Models by incremental mapping, the largest first."""
        pycolmap = require_pycolmap()
        options = self._pipeline()
        options.min_model_size = 3
        options.ba_refine_extra_params = any(lens.distorted and not lens.fixed for lens in self.lenses.lenses)
        options.constant_cameras = self.lenses.fixed
        return _largest_first(
            pycolmap.incremental_mapping(self.database, self.folder, self._output("incremental"), options)
        )

    def globally(self) -> Sequence:
        """Models by global mapping, the largest first."""
        pycolmap = require_pycolmap()
        seed = self.config.seed
        options = pycolmap.GlobalPipelineOptions(random_seed=seed, num_threads=1)
        mapper = options.mapper
        mapper.random_seed, mapper.num_threads = seed, 1
        mapper.rotation_averaging.random_seed = mapper.global_positioning.random_seed = seed
        mapper.retriangulation.random_seed = seed
        mapper.global_positioning.use_gpu = mapper.bundle_adjustment.ceres.use_gpu = False
        mapper.bundle_adjustment.ceres.solver_options.num_threads = 1
        mapper.bundle_adjustment.refine_extra_params = False
        for step in (mapper, mapper.rotation_averaging, mapper.global_positioning, mapper.bundle_adjustment):
            if hasattr(step, "refine_sensor_from_rig"):  # pycolmap before 4.2 lacks some of these options
                step.refine_sensor_from_rig = False
        mapper.keep_max_num_tracks = _GLOBAL_TRACKS
        mapper.skip_retriangulation = True
        return _largest_first(pycolmap.global_mapping(self.database, self.folder, self._output("global"), options))

    def _output(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def _pipeline(self, min_angle: float | None = None):
        pycolmap = require_pycolmap()
        options = pycolmap.IncrementalPipelineOptions(random_seed=self.config.seed, num_threads=1, extract_colors=False)
        options.mapper.random_seed, options.mapper.num_threads = self.config.seed, 1
        options.triangulation.random_seed = self.config.seed
        options.triangulation.ignore_two_view_tracks = False
        options.ba_refine_sensor_from_rig = False
        if min_angle is not None:
            options.triangulation.min_angle = options.mapper.filter_min_tri_angle = min_angle
        return options


def _geometry(pair: TwoView, rows: np.ndarray):
    pycolmap = require_pycolmap()
    found = pycolmap.TwoViewGeometry()
    found.config = pycolmap.TwoViewGeometryConfiguration(pair.kind)
    found.inlier_matches = rows.astype(np.uint32)
    if pair.second_from_first is not None:
        found.cam2_from_cam1 = pycolmap.Rigid3d(pair.second_from_first)
    return found


def _largest_first(models: Mapping[int, object]) -> list:
    found = [models[k] for k in sorted(models)]
    return sorted(found, key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
