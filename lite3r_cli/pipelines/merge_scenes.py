"""`lite3r merge`: merges two overlapping scenes.

Photographs of both scenes that overlap are predicted together in one pass. The depth maps of a pass align it with both
scenes; photographs that are in both scenes align the scenes directly. Scenes and passes are the nodes of a pose graph,
as for long sets (long/pose_graph.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..config.adding import MergeConfig
from ..console import Progress, Tell
from ..errors import InputError, UsageError
from ..io.atomic import OutputSet
from ..io.images import ImageSet
from ..io.names import printable, unique_names
from ..io.output_layout import output_layout
from ..io.same_entry import is_same_entry
from ..long.loop_search import halves_agree
from ..long.pose_graph import OFF, Edge, solve, spread_out
from ..long.sim3_fit import BAD, Tie, tie
from ..scene.frame import move_views
from ..scene.geometry import Similarity
from ..scene.metrics import resample_depth
from ..scene.posed_view import View, known_depth
from ..world.undistort import UndistortedImages
from .add_photos import network_of
from .lens_hints import no_lens_warnings
from .place_in_scene import fits, mean_pose
from .predict import Pictures, Predictor
from .retrieval import Matches, Retrieval
from .rewritten import Rewriting, Written, adjusted, rewrite
from .scene_members import Member, members_of, stored_config
from .written_scene import WrittenScene

_PASSES = 6  # maximum number of passes, around the pairs of photographs with the strongest matches
_ASKED = 40  # evenly spread photographs of the second scene that are searched in the first
_FIRST, _SECOND = 0, 1  # nodes of the graph; passes follow


@dataclass(frozen=True)
class Merged:
    """The result of a merge."""

    written: Written
    similarity: Similarity  # from the second scene's world to the first one's
    edges: list[dict[str, Any]]
    both: int  # photographs that are in both
    choices: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        matrix = np.eye(4)
        matrix[:3, :3] = self.similarity.scale * self.similarity.rotation
        matrix[:3, 3] = self.similarity.translation
        return {
            "scene": self.written.document(), "first_from_second": matrix.tolist(), "edges": self.edges,
            "in_both": self.both, "runtime": self.choices,
        }  # fmt: skip


def merge(config: MergeConfig, progress: Progress | None = None, warn: Tell = lambda text: None) -> Merged:
    """Merge two scenes in the frame and scale of the first. Raises InputError if they do not overlap, or if a path is
    no scene; UsageError if the result would overwrite one of them; OutputError if it cannot be written.
    """
    progress = progress or Progress()
    first, second = WrittenScene.at(config.first), WrittenScene.at(config.second)
    _require_a_new_place(config, first, second)
    stored = [stored_config(scene) for scene in (first, second)]
    with OutputSet(config.output, overwrite=config.overwrite) as out:
        made = stored[0]
        predict = network_of(made, config.device, config.dtype, config.adjust)
        groups = [members_of(scene, settings, warn) for scene, settings in zip((first, second), stored)]
        predictor = Predictor(predict, progress)
        predictor.lens_warnings = no_lens_warnings  # the scenes were warned of when they were made
        doubles = _doubles(*groups)
        with progress.stage("Tie"):
            edges = _direct(groups, doubles)
            passes, more = _by_passes(_Both(first, second, groups, predictor), config.views, doubles)
            edges += more
        nodes = _solved(edges, config)
        similarity = nodes[_SECOND]
        moved = move_views([m.view for m in groups[1]], similarity)
        _require_agreement([m.view for m in groups[0]], moved, config)
        views = _blended([*(m.view for m in groups[0]), *moved], passes, nodes)
        old = [_placed(m, view) for m, view in zip(groups[0], views)]
        beside = zip(groups[1], views[len(old) :])
        added = _renamed(old, [(m, v) for k, (m, v) in enumerate(beside) if k not in doubles])
        told = [{"nodes": [edge.first, edge.second], **edge.tie.as_dict()} for edge in edges]
        step = {"command": "merge", "scenes": [str(config.first), str(config.second)], "adjust": config.adjust,
                "edges": told}  # fmt: skip
        asked = replace(
            made,
            input=replace(made.input, inputs=(*made.input.inputs, *stored[1].input.inputs)),
            output=config.output,
            overwrite=config.overwrite,
        )
        plan = Rewriting(asked, [*old, *added], first.facts, first.frame, first.up, [], [], step)
        if config.adjust:
            plan = adjusted(plan, predictor, progress)
        written = rewrite(out, plan, predictor, progress, warn)
    return Merged(written, similarity, told, len(doubles), predictor.choices())


def _require_a_new_place(config: MergeConfig, first: WrittenScene, second: WrittenScene) -> None:
    """The result must not overwrite a scene, because the scenes do not change."""
    there = output_layout(config.output)
    for path, scene in ((config.first, first), (config.second, second)):
        here = scene.layout
        pairs = ((there.root / there.folder, scene.folder), (there.root / there.cloud, here.root / here.cloud))
        if any(is_same_entry(new, old) for new, old in pairs):
            raise UsageError(
                f"-o {config.output}: there lies {path}, which is merged and stays as it is: name another place"
            )


class _Both:
    """The photographs of both scenes as one set of images, those of the first scene first."""

    def __init__(
        self, first: WrittenScene, second: WrittenScene, groups: Sequence[Sequence[Member]], predictor: Predictor
    ) -> None:
        self.members = [*groups[0], *groups[1]]
        self.split = len(groups[0])
        names = [f"{k}/{member.record.name}" for k, group in enumerate(groups) for member in group]
        records = [replace(m.record, name=n, stem="") for m, n in zip(self.members, names)]
        lenses = {name: m.lens for m, name in zip(self.members, names) if m.lens is not None}
        self.images = UndistortedImages.through(ImageSet(records), lenses)
        self.predictor = predictor
        pictures = predictor.read(self.images)
        self.inputs = dict(zip(pictures.indices, pictures.inputs, strict=True))
        kept = [scene.memory(m.view) for scene, group in zip((first, second), groups) for m in group]
        self.features = [None if each is None else each.features for each in kept]

    def look(self, which: Sequence[int]) -> list[View]:
        """One prediction of some of the photographs."""
        found = self.predictor.predict_pictures(self.images, Pictures(list(which), [self.inputs[i] for i in which]))
        return self.predictor.refine(self.images, found).views


def _doubles(first: Sequence[Member], second: Sequence[Member]) -> dict[int, int]:
    """Photographs that are in both scenes: index in the second → index in the first."""
    places = {member.source.identity: k for k, member in enumerate(first) if member.source is not None}
    return {
        k: places[member.source.identity]
        for k, member in enumerate(second)
        if member.source is not None and member.source.identity in places
    }


def _direct(groups: Sequence[Sequence[Member]], doubles: Mapping[int, int]) -> list[Edge]:
    """The edge from the photographs that are in both scenes."""
    if not doubles:
        return []
    mine, others = [groups[0][k].view for k in doubles.values()], [groups[1][k].view for k in doubles]
    return _edges([(_FIRST, _SECOND, mine, others)])


@dataclass(frozen=True)
class _Pass:
    """A prediction of photographs of both scenes."""

    number: int  # of its node in the graph
    which: list[int]  # indices into the photographs of both scenes
    views: list[View]


def _by_passes(both: _Both, views: int, doubles: Mapping[int, int]) -> tuple[list[_Pass], list[Edge]]:
    """Predictions of photographs of both scenes, and the edges between them and the scenes."""
    mine = [i for i in range(both.split) if i in both.inputs]
    others = [i for i in range(both.split, len(both.members)) if i in both.inputs]
    if not mine or not others:
        return [], []
    retrieval = Retrieval([*mine, *others], lambda i: both.inputs[i].rgb, both.images.read, lambda i: both.features[i])
    new = [i for i in others if i - both.split not in doubles]
    asked = new[:: max(1, -(-len(new) // _ASKED))]
    found = {i: retrieval.find(i, set(mine)) for i in asked}
    passes: list[_Pass] = []
    edges: list[Edge] = []
    for seed, matches in _surest(found):
        here = [match.image for match in matches.matches[:views]]
        beside = [seed, *(m.image for m in retrieval.find(seed, set(others)).matches[: views - 1])]
        number, predicted = 2 + len(passes), both.look([*here, *beside])
        own, far = ([both.members[i].view for i in which] for which in (here, beside))
        sides = [(_FIRST, number, own, predicted[: len(here)]), (_SECOND, number, far, predicted[len(here) :])]
        if len(pair := _edges(sides)) == 2:
            passes.append(_Pass(number, [*here, *beside], predicted))
            edges += pair
    return passes, edges


def _surest(found: Mapping[int, Matches]) -> list[tuple[int, Matches]]:
    """The pairs with the strongest matches, with different photographs of the first scene for each pass."""
    tied = [(i, matches) for i, matches in found.items() if matches.tied]
    tied.sort(key=lambda each: min(match.evidence for match in each[1].matches))
    chosen: list[tuple[int, Matches]] = []
    nearest: set[int] = set()
    for i, matches in tied:
        if matches.matches[0].image not in nearest and len(chosen) < _PASSES:
            nearest.add(matches.matches[0].image)
            chosen.append((i, matches))
    return chosen


def _edges(sides: Sequence[tuple[int, int, Sequence[View], Sequence[View]]]) -> list[Edge]:
    """Edges between nodes with common views; none if they do not agree."""
    made = []
    for one, other, own, seen in sides:
        sized = [
            replace(view, depth=resample_depth(known_depth(view), known_depth(mine).shape), confidence=None)
            for view, mine in zip(seen, own, strict=True)
        ]
        found: Tie | None = tie(own, sized)
        if found is not None and found.verdict != BAD:
            depths = np.concatenate([d[d > 0] for d in (known_depth(view)[::8, ::8] for view in own)])
            made.append(Edge(one, other, found, float(np.median(depths)), "loop"))
    return made


def _solved(edges: Sequence[Edge], config: MergeConfig) -> list[Similarity]:
    """For every node the transform into the first scene's world. Raises InputError if nothing connects the scenes."""
    count = max([1, *(edge.second for edge in edges)]) + 1
    start = spread_out(count, edges)
    if start[_SECOND] is None:
        raise InputError(
            f"{printable(config.second)} does not overlap with {printable(config.first)}, according to features and "
            "the network: add photos of the area between them first (lite3r add)"
        )
    solved = solve([node for node in start if node is not None], edges)  # every pass is connected to both scenes
    if min(solved.off) > OFF:
        raise InputError(
            f"{printable(config.second)} and {printable(config.first)}: their connections contradict each other"
        )
    return solved.nodes


def _blended(views: Sequence[View], passes: Sequence[_Pass], nodes: Sequence[Similarity]) -> list[View]:
    """Each view at the mean of its poses in its scene and in the passes: a scene is accurate within itself, passes are
    accurate between the scenes.
    """
    proposals = [[view.cam_from_world] for view in views]
    for each in passes:
        for i, view in zip(each.which, each.views, strict=True):
            proposals[i].append(nodes[each.number].apply_to_poses(view.cam_from_world))
    return [
        view if len(poses) == 1 else replace(view, cam_from_world=mean_pose(np.stack(poses), np.ones(len(poses))))
        for view, poses in zip(views, proposals)
    ]


def _placed(member: Member, view: View) -> Member:
    """The member with another camera and the same depth map."""
    if np.array_equal(view.cam_from_world, member.view.cam_from_world):
        return member
    camera = None if member.camera is None else {**member.camera, "cam_from_world": view.cam_from_world.tolist()}
    return replace(member, view=view, camera=camera)


def _require_agreement(first: Sequence[View], second: Sequence[View], config: MergeConfig) -> None:
    """Raises InputError if the depth of the scenes does not agree in their overlap."""
    some = [views[:: max(1, len(views) // 12)] for views in (first, second)]
    together = [*some[0], *some[1]]
    sides = range(len(some[0])), range(len(some[0]), len(together))
    seen, agree = halves_agree(together, *sides)
    if not fits(seen, agree):
        raise InputError(
            f"{printable(config.second)} looks like {printable(config.first)}, but their geometry does not fit: "
            f"only {agree:.0%} of the depth in their overlap agrees within a tenth"
        )


def _renamed(first: Sequence[Member], second: Sequence[tuple[Member, View]]) -> list[Member]:
    """The second scene's members as views of the first, with unused names."""
    names = unique_names([*(m.record.name for m in first), *(m.record.name for m, _ in second)])[len(first) :]
    stems = unique_names([*(m.record.stem for m in first), *(m.record.stem for m, _ in second)])[len(first) :]
    made = []
    for (member, view), name, stem in zip(second, names, stems):
        record = replace(member.record, name=name, stem=stem)
        kept = None if member.kept is None else replace(member.kept, scale=None)  # the unit of depth has changed
        made.append(replace(member, view=replace(view, name=name), record=record, camera=None, kept=kept))
    return made
