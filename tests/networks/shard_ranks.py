"""One process of `test_shards.py`: small networks predict together with the other processes; rank 0 says where the
answers differ from those of one process, as a JSON document.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import torch
import torch.distributed as dist

from lite3r_cli.engine.layers import Settings
from lite3r_cli.layers import view_shards as shards
from lite3r_cli.networks import fast_form, standin
from lite3r_cli.networks.base import KnownCameras, Prediction
from lite3r_cli.networks.da3.network import DA3, DA3Config
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.networks.sparsify import sparse_modules, sparsify
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig

# Of all networks: heads for 2 and for 3 processes, of 32 channels: torch computes the exponentials of what is left over
# of an array after whole pairs of vectors in another way, with other last bits
HEADS, DIM = 6, 192
HEAD = {"head_features": 16, "head_stages": (8, 8, 16, 16)}
NETWORKS = {
    "vggt": lambda: VGGT(VGGTConfig(DIM, 4, HEADS, 2, 2, (0, 1, 2, 3), **HEAD, camera_depth=1, camera_heads=2)),
    "da3": lambda: DA3(DA3Config(DIM, 8, HEADS, 3, (4, 5, 6, 7), **HEAD, camera_heads=2, camera_depth=1)),
    "mini": lambda: Mini(MiniConfig(DIM, 6, HEADS, taps=(2, 3, 4, 5), **HEAD, camera_hidden=16)),
}
SPARSE = {
    "dense": None,
    "packed": {"packed": True, "mix": "convex"},
    "mass": {"block": 32},
    "pooled": {"scores": "pooled", "block": 32, "key_block": 32, "linear_over": "all"},
    "convex": {"scores": "pooled", "block": 32, "key_block": 32, "mix": "convex", "protect": "reference"},
}
IMAGES = 5


def images_of(kind: str) -> list[torch.Tensor]:
    """`mixed`: three sizes, so that the packed sequence is another order than that of the views."""
    images = list(standin.image_batch(IMAGES, 84, 112, 3)[0])
    if kind == "mixed":
        sizes = [(84, 112), (56, 112), (84, 98)]
        images = [image[:, : sizes[i % 3][0], : sizes[i % 3][1]] for i, image in enumerate(images)]
    return images


def masks_of(images: list[torch.Tensor]) -> list[torch.Tensor | None]:
    masks = [None if i % 2 else torch.zeros(image.shape[-2:], dtype=torch.bool) for i, image in enumerate(images)]
    for mask in masks:
        if mask is not None:
            mask[:30, :50] = True
    return masks


def network(name: str, sparse: dict | None) -> torch.nn.Module:
    model = NETWORKS[name]()
    standin.fill(model, 3)
    if sparse is not None:
        sparsify(model, 0.4, backend="torch", **sparse)
        for module in sparse_modules(model).values():
            if module.config.mix == "convex":  # of each head its own
                module.mix_logit.data = torch.linspace(-1, 1, HEADS)
            else:
                torch.nn.init.normal_(module.proj_lin.weight, std=0.05, generator=torch.Generator().manual_seed(1))
    return model.eval()


def cameras_of(views: int) -> KnownCameras:
    poses = torch.eye(3, 4).repeat(views, 1, 1)
    poses[:, 0, 3] = -0.3 * torch.arange(views) ** 1.3
    K = torch.tensor([[100.0, 0, 56], [0, 100, 42], [0, 0, 1]]).repeat(views, 1, 1)
    return KnownCameras(poses, K)


def cases():
    """Every network, every form of attention, equal and mixed sizes; not all with all, to be done in seconds."""
    for name in NETWORKS:
        yield name, "mixed", "packed", network(name, SPARSE["packed"]), {}
    for label, sparse in SPARSE.items():
        if label == "packed":
            continue  # above
        yield "mini", "mixed", label, network("mini", sparse), {}
    yield "mini", "equal", "dense", network("mini", None), {}
    yield "vggt", "mixed", "masked", network("vggt", SPARSE["pooled"]), {"masks": True}
    yield "da3", "mixed", "cameras", network("da3", None), {"cameras": cameras_of(IMAGES)}


def run(model, images, engine: str, masks, cameras) -> Prediction:
    more = {} if cameras is None else {"cameras": cameras}
    if engine == "ordinary":
        return model.predict(images, **more, **({} if masks is None else {"unseen": masks}))
    runner = fast_form.fast_runner(model, Settings(dtype=torch.float32, query_tiles=1), torch.device("cpu"))
    return fast_form.predict(runner, images, cameras)


def flat(found: Prediction, views: range) -> list[torch.Tensor]:
    """What a process knows: depth of its own views, cameras of all."""
    own = [t for maps in (found.depth, found.confidence) for t in maps]
    if len(own) > 2 * len(views):
        own = [maps[i] for maps in (found.depth, found.confidence) for i in views]
    return [*own, found.cam_from_world, found.K]


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    edges = [IMAGES * r // ranks for r in range(ranks + 1)]
    runs = tuple(range(a, b) for a, b in pairwise(edges))
    differences: dict[str, float] = {}
    for name, kind, label, model, more in cases():
        images = images_of(kind)
        masks = masks_of(images) if more.get("masks") else None
        for engine in ("ordinary", "fast"):
            if engine == "fast" and (masks is not None or label == "mass"):
                continue  # what the fast path does not have
            whole = [run(model, images, engine, masks, more.get("cameras")) if rank == 0 else None]
            dist.broadcast_object_list(whole)
            alone = flat(whole[0], runs[rank])
            sizes = tuple((im.shape[-2], im.shape[-1]) for im in images)
            divided = shards.Shards(rank, runs, sizes, 14, masks)
            own = [images[i] for i in runs[rank]]
            with shards.divided(divided):
                mine = None if masks is None else [masks[i] for i in runs[rank]]
                together = flat(run(model, own, engine, mine, more.get("cameras")), runs[rank])
            worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(together, alone, strict=True))
            gathered = [None] * ranks
            dist.all_gather_object(gathered, worst)
            differences[f"{name}, {kind}, {label}, {engine}"] = max(gathered)
    if rank == 0:
        json.dump(differences, sys.stdout)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
