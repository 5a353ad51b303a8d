"""VGGT and Depth-Anything-3 against what their authors' code computed and what their checkpoints hold."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from lite3r_cli.attention.module import attach, attention_modules
from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.networks.da3.network import DA3, SIZES
from lite3r_cli.networks.parity import TOLERANCE, errors_of
from lite3r_cli.networks.vggt.network import VGGT, VGGT_1B, VGGTConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"
SMALL = sorted(path.stem for path in FIXTURES.glob("*.npz"))
LARGE = ("da3_large_3x196x252", "vggt_1b_2x196x252", "da3_small_5x140x182")


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_those_of_the_original_code(name):
    errors = errors_of(FIXTURES / f"{name}.npz")
    assert {"depth", "extrinsics", "fov_xy"} <= errors.keys() or {
        "local_points",
        "camera_poses",
        "fov_xy",
    } <= errors.keys()
    assert all(value <= TOLERANCE for value in errors.values()), errors


def test_sparse_attention_that_keeps_every_key_gives_them_too():
    """benchmarks/parity.py --forms does this for all fixtures and forms."""
    errors = errors_of(FIXTURES / "da3_small_2x140x182.npz", "packed tokens")
    assert 0 < max(errors.values()) <= TOLERANCE, errors


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_outputs_of_large_models_are_those_of_the_original_code(name, request):
    folder = request.config.getoption("--fixture-dir")
    if folder is None:
        pytest.skip("needs --fixture-dir DIR, a folder with the larger parity fixtures")
    errors = errors_of(folder / f"{name}.npz")
    assert all(value <= TOLERANCE for value in errors.values()), errors


def published_keys(name: str) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor in a published checkpoint."""
    text = gzip.decompress((FIXTURES / "keys" / f"{name}.json.gz").read_bytes())
    return {key: tuple(shape) for key, shape in json.loads(text).items()}


def on_meta(name: str, **changes) -> torch.nn.Module:
    with torch.device("meta"):
        return VGGT(VGGTConfig(**changes)) if name == "vggt-1b" else DA3(SIZES[name])


@pytest.mark.parametrize("name", ["vggt-1b", *SIZES])
def test_state_dict_is_the_published_one(name):
    ours = {key: tuple(t.shape) for key, t in on_meta(name).state_dict().items()}
    published = published_keys(name)
    left_out = {key for key in published if key.startswith(("track_head.", "gs_head."))}
    assert ours == {key: shape for key, shape in published.items() if key not in left_out}


@pytest.mark.parametrize("name", ["vggt-1b", "da3-large"])
def test_sparse_linear_state_dict_is_that_of_the_official_checkpoints(name):
    model = on_meta(name, point_head=False)
    attach(model, SparseConfig(tuple(attention_modules(model)), official=True))
    assert {key: tuple(t.shape) for key, t in model.state_dict().items()} == published_keys(f"lite3r-{name}")


# Beginning of a module's name, end of it → epsilon; a wrong one hardly shows in the outputs.
VGGT_EPS = {
    ("aggregator.patch_embed.", ""): 1e-6,
    ("aggregator.frame_blocks.", ""): 1e-5,
    ("aggregator.global_blocks.", ""): 1e-5,
    ("camera_head.adaln_norm", ""): 1e-6,
    ("camera_head.trunk.", ""): 1e-5,
    ("camera_head.token_norm", ""): 1e-5,
    ("camera_head.trunk_norm", ""): 1e-5,
    ("depth_head.norm", ""): 1e-5,
    ("point_head.norm", ""): 1e-5,
}
DA3_EPS = {
    ("backbone.pretrained.blocks.", "norm1"): 1e-6,
    ("backbone.pretrained.blocks.", "norm2"): 1e-6,
    ("backbone.pretrained.blocks.", "q_norm"): 1e-5,
    ("backbone.pretrained.blocks.", "k_norm"): 1e-5,
    ("backbone.pretrained.norm", ""): 1e-5,
    ("head.", ""): 1e-5,
    ("cam_enc.", ""): 1e-5,
}


@pytest.mark.parametrize("name, table, count", [
    ("vggt-1b", VGGT_EPS, 24 * 2 + 1 + 48 * 4 + 4 * 2 + 3 + 2),
    ("da3-small", DA3_EPS, 12 * 2 + 8 * 2 + 1 + 2 + 4 * 2 + 2),
    ("da3-giant", DA3_EPS, 40 * 2 + 27 * 2 + 1 + 2 + 4 * 2 + 2),
])  # fmt: skip
def test_every_epsilon(name, table, count):
    norms = {n: m.eps for n, m in on_meta(name).named_modules() if isinstance(m, torch.nn.LayerNorm)}
    assert len(norms) == count
    for norm, eps in norms.items():
        (expected,) = {e for (start, end), e in table.items() if norm.startswith(start) and norm.endswith(end)}
        assert eps == expected, norm


def test_configurations_are_those_of_the_published_models():
    assert VGGT_1B == VGGTConfig() and [SIZES[n].alternate_from for n in SIZES] == [4, 4, 8, 13]
    assert {n: [i for i in range(c.depth) if c.is_global(i)][:2] for n, c in SIZES.items()} == {
        "da3-small": [5, 7], "da3-base": [5, 7], "da3-large": [9, 11], "da3-giant": [13, 15]
    }  # fmt: skip
