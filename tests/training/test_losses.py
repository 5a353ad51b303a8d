"""The losses are zero for a perfect prediction in any frame and scale of the ground truth."""

import dataclasses
import math

import pytest
import torch

from lite3r_cli.layers.heads.camera import rotation_from_6d
from lite3r_cli.networks.base import RawOutput
from lite3r_cli.training.losses import FAR, Targets, compute_losses
from lite3r_cli.training.train_data import with_outsider

B, S, H, W = 2, 3, 42, 70
FOCAL = 60.0


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(3)
    rotation = rotation_from_6d(torch.randn(B, S, 6, generator=generator))
    pose = torch.cat([rotation, torch.randn(B, S, 3, 1, generator=generator)], dim=-1)
    K = torch.tensor([[FOCAL, 0, W / 2], [0, FOCAL, H / 2], [0, 0, 1]]).expand(B, S, 3, 3)
    depth = torch.rand(B, S, H, W, generator=generator) + 1
    depth[:, :, :5] = 0  # sky
    return Targets(depth, K, pose, reference=torch.tensor([1, 2]))


def perfect(target: Targets) -> RawOutput:
    valid = target.depth > 0
    shift = torch.where(valid, target.depth, 1).log().flatten(1).sum(1) / valid.flatten(1).sum(1)
    world_from_cam = target.cam_from_world[..., :3].transpose(-1, -2)
    centre = -(world_from_cam @ target.cam_from_world[..., 3:]).squeeze(-1)
    ref = target.cam_from_world[torch.arange(B), target.reference]
    centre = (ref[:, None, :, :3] @ centre[..., None]).squeeze(-1) + ref[:, None, :, 3]
    log_depth = torch.where(valid, target.depth, 1).log() - shift[:, None, None, None]
    return RawOutput(
        torch.where(valid, log_depth, FAR + 1),
        torch.ones_like(log_depth),
        torch.arange(S),
        ref[:, None, :, :3] @ world_from_cam,
        centre * torch.exp(-shift)[:, None, None],
        torch.full((B, S), math.log(FOCAL / (0.5 * math.hypot(H, W)))),
        None,
    )


def test_a_perfect_answer_costs_nothing(scene):
    for name, value in compute_losses(perfect(scene), scene).items():
        assert abs(float(value)) < 1e-4, name


def test_depth_of_some_views_is_compared_with_those_views(scene):
    out = perfect(scene)
    some = torch.tensor([2, 0])
    part = dataclasses.replace(out, log_depth=out.log_depth[:, some], confidence=out.confidence[:, some], decoded=some)
    for name, value in compute_losses(part, scene).items():
        assert abs(float(value)) < 1e-4, name
    mixed_up = dataclasses.replace(part, decoded=some.flip(0))
    assert compute_losses(mixed_up, scene)["depth"] > 0.1


def test_the_frame_and_scale_of_the_ground_truth_do_not_matter(scene):
    out = perfect(scene)
    out = dataclasses.replace(out, log_depth=out.log_depth + 0.1, rotation=out.rotation.roll(1, 1))
    R, t, s = rotation_from_6d(torch.tensor([1.0, 2, 3, -1, 0.5, 0])), torch.tensor([3.0, -2, 1]), 7.0
    moved = torch.cat([scene.cam_from_world[..., :3] @ R, (scene.cam_from_world[..., :3] @ t)[..., None] * s
                       + scene.cam_from_world[..., 3:] * s], dim=-1)  # fmt: skip
    other = dataclasses.replace(scene, depth=scene.depth * s, cam_from_world=moved)
    for name, value in compute_losses(out, scene).items():
        torch.testing.assert_close(compute_losses(out, other)[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("part, term", [("rotation", "rotation"), ("centre", "position"), ("log_focal", "focal"),
                                        ("log_depth", "depth")])  # fmt: skip
def test_each_error_reaches_its_own_term_and_the_points(scene, part, term):
    out = perfect(scene)
    wrong = getattr(out, part).clone()
    wrong[:, 0] = (
        wrong[:, 0] @ rotation_from_6d(torch.tensor([1.0, 0.2, 0, 0, 1, 0]))
        if part == "rotation"
        else wrong[:, 0] + 0.3
    )
    terms = compute_losses(dataclasses.replace(out, **{part: wrong}), scene)
    assert terms[term] > 0.01 and terms["points"] > 0.003


def test_sparse_ground_truth_has_no_scale_and_says_nothing_elsewhere(scene):
    sparse = torch.where(
        torch.rand(scene.depth.shape, generator=torch.Generator().manual_seed(0)) < 0.05, scene.depth, 0
    )
    target = dataclasses.replace(
        scene,
        depth=sparse * 13,
        sparse=True,
        scattered=True,
        cam_from_world=torch.cat([scene.cam_from_world[..., :3], scene.cam_from_world[..., 3:] * 13], -1),
    )
    out = perfect(scene)
    terms = compute_losses(out, target)
    assert "sky" not in terms and "gradient" not in terms
    assert all(abs(float(v)) < 1e-4 for v in terms.values())


def test_gradients_are_finite_at_the_exact_answer_and_without_any_depth(scene):
    for target in (scene, dataclasses.replace(scene, depth=torch.zeros_like(scene.depth))):
        out = perfect(scene)
        leaves = {f: getattr(out, f).clone().requires_grad_() for f in ("log_depth", "rotation", "centre", "log_focal")}
        compute_losses(dataclasses.replace(out, **leaves), target)["total"].backward()
        assert all(torch.isfinite(leaf.grad).all() for leaf in leaves.values())


def test_a_view_of_another_scene_counts_for_nothing_but_its_focal_length_and_where_it_belongs(scene):
    images = torch.rand(B, S + 1, 3, H, W)
    more = lambda x: torch.cat([x, x[:, :1]], 1)  # noqa: E731  four views
    four = dataclasses.replace(
        scene, depth=more(scene.depth), K=more(scene.K), cam_from_world=more(scene.cam_from_world)
    )
    mixed_images, mixed = with_outsider(images, four)
    slot = (four.reference + 1) % (S + 1)
    foreign = mixed.belongs.logical_not()
    assert torch.equal(foreign.nonzero()[:, 1], slot)
    for b in range(B):
        assert torch.equal(mixed_images[b, slot[b]], images[b - 1, slot[b]])
    members = dataclasses.replace(mixed, depth=torch.where(foreign[..., None, None], 0.0, mixed.depth))
    out = perfect(dataclasses.replace(members, belongs=None))
    wrong = torch.randn(B, S + 1, H, W)
    out = dataclasses.replace(
        out,
        decoded=torch.arange(S + 1),
        log_depth=torch.where(foreign[..., None, None], wrong, out.log_depth),
        centre=torch.where(foreign[..., None], 7.0, out.centre),
        log_focal=out.log_focal[:, :1].expand(-1, S + 1),
        confidence=torch.ones(B, S + 1, H, W),
        belongs=torch.where(mixed.belongs, 20.0, -20.0),
    )
    for name, value in compute_losses(out, mixed).items():
        assert abs(float(value)) < 1e-4, name
    unsure = dataclasses.replace(out, belongs=torch.zeros(B, S + 1))
    assert compute_losses(unsure, mixed)["belongs"] > 0.01
