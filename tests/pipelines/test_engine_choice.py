"""The table that decides in which form a network runs: every combination of request, checkpoint and machine by name."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from lite3r_cli.attention.sparse_config import PRESETS, SparseConfig, settle
from lite3r_cli.config.prediction import ATTENTION, ENGINES, FP8_BACKENDS
from lite3r_cli.errors import BackendError, UsageError
from lite3r_cli.networks.checkpoint_facts import RECIPE_KEY, NetworkFacts, fp8_trained, training_of
from lite3r_cli.networks.da3.network import GIANT, SIZES
from lite3r_cli.networks.mini.network import MiniConfig
from lite3r_cli.networks.vggt.network import VGGT_1B
from lite3r_cli.pipelines.engine_choice import ATTENTION_TABLE, Asked, Machine, held, resolve

ACROSS = tuple(f"global.{i}" for i in range(8))
VGGT = NetworkFacts("vggt-1b", VGGT_1B, ACROSS)
MACHINES = {
    "cpu": Machine("cpu", "float32", triton="no GPU", scaled_mm="a CPU has no FP8 arithmetic", te="needs a GPU"),
    "amx": Machine("cpu", "bfloat16", amx=True, triton="no GPU", scaled_mm="a CPU has no FP8 arithmetic", te="no GPU"),
    "gpu": Machine("cuda", "bfloat16", te="Transformer Engine is not installed"),
    "old gpu": Machine("cuda", "bfloat16", scaled_mm="compute capability 8.0, row-wise scales need 9.0", te="no"),
}
CHECKPOINTS = {
    "dense": VGGT,
    "converted": replace(VGGT, sparse=SparseConfig(ACROSS)),
    "converted to 0.5": replace(VGGT, sparse=settle(ACROSS, None, 0.5)),
    "converted to 0.1": replace(VGGT, sparse=settle(ACROSS, None, 0.1)),
    "distilled": replace(VGGT, sparse=settle(ACROSS, None, 0.5), training="branch", fp8_trained=True),
    "all trained": replace(VGGT, sparse=settle(ACROSS, None, 0.5), training="weights", fp8_trained=True),
    "official": replace(
        VGGT, sparse=SparseConfig(("encoder.0", *ACROSS), 0.3, official=True), training="weights", fp8_trained=True
    ),
    "official, 1.0": replace(VGGT, sparse=SparseConfig(ACROSS, 1.0, official=True), training="weights"),
}

# What becomes of attention: `dense`, or `keep ratio` of sparse attention, `>N`: dense below N tokens.
OUTCOMES = """
asked    | checkpoint       | cpu       | amx   | gpu       | old gpu
auto     | dense            | dense     | dense | dense     | dense
auto     | converted        | dense     | dense | dense     | dense
auto     | converted to 0.5 | dense     | dense | 0.5 >4096 | 0.5 >4096
auto     | converted to 0.1 | 0.1 >7408 | 0.1 >14816 | 0.1 >4096 | 0.1 >4096
auto     | distilled        | 0.5       | 0.5   | 0.5       | 0.5
auto     | all trained      | 0.5       | 0.5   | 0.5       | 0.5
auto     | official         | 0.3       | 0.3   | 0.3       | 0.3
auto     | official, 1.0    | 1.0       | 1.0   | 1.0       | 1.0
sla      | dense            | 0.25      | 0.25  | 0.25      | 0.25
sla      | converted        | 0.25      | 0.25  | 0.25      | 0.25
sla      | converted to 0.5 | 0.5       | 0.5   | 0.5       | 0.5
sla      | converted to 0.1 | 0.1       | 0.1   | 0.1       | 0.1
sla      | distilled        | 0.5       | 0.5   | 0.5       | 0.5
sla      | all trained      | 0.5       | 0.5   | 0.5       | 0.5
sla      | official         | 0.3       | 0.3   | 0.3       | 0.3
sla      | official, 1.0    | 1.0       | 1.0   | 1.0       | 1.0
auto 0.1 | dense            | 0.1       | 0.1   | 0.1       | 0.1
auto 0.1 | converted        | 0.1       | 0.1   | 0.1       | 0.1
auto 0.1 | converted to 0.5 | 0.1       | 0.1   | 0.1       | 0.1
auto 0.1 | converted to 0.1 | 0.1       | 0.1   | 0.1       | 0.1
auto 0.1 | distilled        | 0.1       | 0.1   | 0.1       | 0.1
auto 0.1 | all trained      | 0.1       | 0.1   | 0.1       | 0.1
auto 0.1 | official         | 0.1       | 0.1   | 0.1       | 0.1
auto 0.1 | official, 1.0    | 0.1       | 0.1   | 0.1       | 0.1
lite     | dense            | 0.25      | 0.25  | 0.25 >4096 | 0.25 >4096
lite     | converted        | 0.25      | 0.25  | 0.25 >4096 | 0.25 >4096
lite     | converted to 0.5 | 0.5       | 0.5   | 0.5 >4096 | 0.5 >4096
lite     | converted to 0.1 | 0.1 >7408 | 0.1 >14816 | 0.1 >4096 | 0.1 >4096
lite     | distilled        | 0.5       | 0.5   | 0.5       | 0.5
lite     | all trained      | 0.5       | 0.5   | 0.5       | 0.5
lite     | official         | 0.3       | 0.3   | 0.3       | 0.3
lite     | official, 1.0    | 1.0       | 1.0   | 1.0       | 1.0
"""
ASKED = {
    "auto": Asked(),
    "sla": Asked("sla"),
    "auto 0.1": Asked(keep_ratio=0.1),
    "auto, 400 views": Asked(keep_views=400),
    "sla 0.1": Asked("sla", 0.1),
    "dense": Asked("dense"),
    "lite": Asked(prefer_lite=True),
}


def outcomes() -> dict[tuple[str, str, str], str]:
    head, *rows = ([cell.strip() for cell in line.split("|")] for line in OUTCOMES.strip().splitlines())
    found = {(row[0], row[1], m): cell for row in rows for m, cell in zip(head[2:], row[2:])}
    for same, as_ in (("sla 0.1", "auto 0.1"), ("auto, 400 views", "sla")):
        found |= {(same, c, m): found[as_, c, m] for c, m in product(CHECKPOINTS, MACHINES)}
    return found | {("dense", c, m): "dense" for c, m in product(CHECKPOINTS, MACHINES)}


def test_every_combination_of_request_checkpoint_and_machine() -> None:
    expected = outcomes()
    assert expected.keys() == set(product(ASKED, CHECKPOINTS, MACHINES))
    found = {}
    for asked, checkpoint, machine in expected:
        if asked == "auto, 400 views" and checkpoint.startswith("official"):
            with pytest.raises(UsageError, match="--keep-views"):
                resolve(ASKED[asked], CHECKPOINTS[checkpoint], MACHINES[machine])
            found[asked, checkpoint, machine] = expected[asked, checkpoint, machine]
            continue
        plan = resolve(ASKED[asked], CHECKPOINTS[checkpoint], MACHINES[machine])
        assert plan.attention.asked == ASKED[asked].attention and plan.attention.reason
        assert (plan.sparse is None) == (plan.attention.chosen == "dense")
        text = "dense" if plan.sparse is None else f"{plan.sparse.keep_ratio}"
        found[asked, checkpoint, machine] = text + (f" >{plan.crossover}" if plan.crossover else "")
    assert found == expected
    wishes = {asked.wish for asked in ASKED.values()}
    assert ATTENTION_TABLE.keys() == set(product(wishes, {held(facts) for facts in CHECKPOINTS.values()}))
    assert {asked.attention for asked in ASKED.values()} == set(ATTENTION)


def test_a_form_that_was_trained_never_gives_way_to_dense_attention() -> None:
    """Without its branch, or with weights trained for something else, dense attention is another network."""
    trained = [c for c, facts in CHECKPOINTS.items() if facts.training != "none"]
    for asked, checkpoint, machine in product(("auto", "sla", "lite"), trained, MACHINES):
        plan = resolve(ASKED[asked], CHECKPOINTS[checkpoint], MACHINES[machine])
        assert plan.crossover == 0 and plan.sparse == CHECKPOINTS[checkpoint].sparse and plan.query_tiles == 1


def test_on_a_cpu_parted_blocks_cost_what_sparse_attention_saves() -> None:
    few = ACROSS[:5]
    for parts, chosen in ((0.0, "sla"), (1.0, "dense")):
        facts = replace(VGGT, across=few, sparse=replace(settle(few, None, 0.1), parts=parts))
        for machine in ("cpu", "amx"):
            assert resolve(Asked(), facts, MACHINES[machine]).attention.chosen == chosen
    assert settle(few, None, 0.1).parts > 0 and settle(ACROSS, None, 0.1).parts == 0


def test_settings_are_the_checkpoints_or_the_presets() -> None:
    shallow = ACROSS[:5]
    of_blocks = {"summaries": True}
    cases = (
        (ACROSS, "deep", {}),
        (shallow, "shallow", {}),
        (ACROSS, "deep blocks", of_blocks),
        (shallow, "shallow blocks", of_blocks),
        (shallow, "shallow", {"packed": True}),
    )
    for across, preset, asked in cases:
        for stored in (None, SparseConfig(across)):
            found = settle(across, stored, 0.25, **asked)
            assert {name: getattr(found, name) for name in PRESETS[preset]} == PRESETS[preset]
            assert found.mean_ratio == pytest.approx(0.25) and len(set(found.keep_ratios)) > 1
    packed = settle(ACROSS, settle(ACROSS, None, 0.5), 0.2, keep_views=10)
    assert packed.packed and packed.keep_views == 10 and packed.mean_ratio == pytest.approx(0.2)
    assert packed.formula(ACROSS[0]).ratio(8) == packed.keep_ratios[0]  # a share, up to ten views
    assert sum(packed.formula(name).ratio(100) for name in ACROSS) / len(ACROSS) == pytest.approx(0.1)
    assert not settle(ACROSS, packed, 0.2, scores="mass").packed
    without = settle(ACROSS, settle(ACROSS, None, 0.5, tiles=True, walk=True), 0.5, tiles=False)
    assert not without.tiles and not without.walk
    kept = settle(shallow, SparseConfig(shallow, 0.5, block=32, scores="mass"), 0.2)
    assert (kept.block, kept.scores, kept.tiles, kept.mean_ratio) == (32, "mass", False, pytest.approx(0.2))
    assert settle(shallow, SparseConfig(shallow, mix="convex")).mix == "convex"
    assert settle(shallow, None, 0.5, layers=["encoder.0"]).keep_ratios == ()  # no schedule but for those across views
    assert settle(shallow, None, 0.5, block=32).key_block == 32
    official = SparseConfig(("encoder.0", *shallow), 0.3, official=True)
    assert settle(shallow, official) == official
    assert settle(shallow, official, 0.1) == replace(official, keep_ratio=0.1)
    with pytest.raises(UsageError, match="keep ratio"):
        settle(shallow, None, 0.0)


@pytest.mark.parametrize("backend, checkpoint, machine", [*product(FP8_BACKENDS, ("dense", "distilled"), MACHINES)])
def test_every_fp8_back_end(backend: str, checkpoint: str, machine: str) -> None:
    facts, device = CHECKPOINTS[checkpoint], MACHINES[machine]
    against = {"scaled-mm": device.scaled_mm, "te": device.te}.get(backend)
    if against is not None:
        with pytest.raises(BackendError, match="use emulate") as caught:
            resolve(Asked(fp8_backend=backend), facts, device)
        assert against in str(caught.value)
        return
    chosen = resolve(Asked(fp8_backend=backend), facts, device).fp8
    if backend == "auto":
        assert chosen.chosen == ("scaled-mm" if checkpoint == "distilled" and machine == "gpu" else "off")
        assert chosen.reason == (device.scaled_mm or "the GPU has it") or "not trained" in chosen.reason
    else:
        assert (chosen.chosen, chosen.reason) == (backend, "asked for")


def test_the_lite_form_multiplies_fp8_where_the_device_does() -> None:
    chosen = {name: resolve(ASKED["lite"], VGGT, machine).fp8.chosen for name, machine in MACHINES.items()}
    assert chosen == {"cpu": "off", "amx": "off", "gpu": "scaled-mm", "old gpu": "off"}


ENGINE_CASES = {  # what stands against the fast engine → the words of the reason
    "nothing": (Asked("sla"), VGGT, "gpu", None),
    "a CPU": (Asked("sla"), VGGT, "cpu", "for GPUs"),
    "no Triton": (Asked("sla"), VGGT, "no triton", "Triton is not installed"),
    "float32": (Asked("sla"), VGGT, "float32", "half precision"),
    "emulation": (Asked("sla", fp8_backend="emulate"), VGGT, "gpu", "not by emulate"),
    "rays": (Asked("sla", ray_poses=True), VGGT, "gpu", "cameras from rays"),
    "a gated MLP": (Asked("sla"), replace(VGGT, name="da3-giant", config=GIANT), "gpu", None),
    "an official checkpoint": (Asked(), CHECKPOINTS["official"], "gpu", None),
    "kept by mass": (Asked(), replace(VGGT, sparse=settle(ACROSS, None, 0.5, scores="mass")), "gpu", "pooled scores"),
    "another feature": (Asked(), replace(VGGT, sparse=settle(ACROSS, None, 0.5, feature="relu")), "gpu", "relu"),
    "dropped blocks": (Asked(), replace(VGGT, sparse=settle(ACROSS, None, 0.5, drop_ratio=0.1)), "gpu", "drops no"),
    "another network": (Asked("sla"), replace(VGGT, name="other", config=object()), "gpu", "no fast path for other"),
}
MACHINES_MORE = MACHINES | {
    "no triton": replace(MACHINES["gpu"], triton="Triton is not installed"),
    "float32": replace(MACHINES["gpu"], dtype="float32"),
}


@pytest.mark.parametrize("engine, case", [*product(ENGINES, ENGINE_CASES)])
def test_every_engine(engine: str, case: str) -> None:
    asked, facts, machine, words = ENGINE_CASES[case]
    asked = replace(asked, engine=engine)
    if engine == "fast" and words is not None:
        with pytest.raises(BackendError, match="--engine auto") as caught:
            resolve(asked, facts, MACHINES_MORE[machine])
        assert words in str(caught.value)
        return
    choice = resolve(asked, facts, MACHINES_MORE[machine]).engine
    assert choice.chosen == ("ordinary" if engine == "ordinary" or words else "fast")
    assert choice.asked == engine and (engine == "ordinary" or (words or "") in choice.reason)


def test_auto_leaves_what_is_exact_to_the_ordinary_engine() -> None:
    assert "--engine fast" in resolve(Asked(), VGGT, MACHINES["gpu"]).engine.reason
    assert resolve(Asked(engine="fast"), VGGT, MACHINES["gpu"]).engine.chosen == "fast"
    assert resolve(Asked(), replace(VGGT, fp8_trained=True), MACHINES["gpu"]).engine.chosen == "fast"


def test_a_network_without_attention_across_views() -> None:
    plain = NetworkFacts("plain", MiniConfig(), ())
    assert resolve(Asked(), plain, MACHINES["cpu"]).sparse is None
    assert resolve(ASKED["lite"], plain, MACHINES["cpu"]).sparse is None
    with pytest.raises(UsageError, match="plain has no attention across views"):
        resolve(Asked("sla"), plain, MACHINES["cpu"])


def test_what_training_changed_is_read_from_the_metadata() -> None:
    sparse = SparseConfig(("a",), 0.5)
    trained = {"attention": sparse.to_json(), RECIPE_KEY: '{"fp8_from": 0.5, "trainable": []}'}
    assert training_of({}, None) == "none"
    assert training_of({"attention": sparse.to_json()}, sparse) == "none"  # converted
    assert training_of(trained, sparse) == "branch" and fp8_trained(trained, sparse)
    assert training_of(trained | {RECIPE_KEY: '{"trainable": ["*.norm*"]}'}, sparse) == "weights"
    assert training_of({}, sparse) == "weights"  # linear branches of unknown origin
    official = replace(sparse, official=True)
    assert training_of({}, official) == "weights" and fp8_trained({}, official)
    assert not fp8_trained({RECIPE_KEY: '{"fp8_from": 1}'}, sparse) and not fp8_trained({}, None)


def test_facts_of_published_networks_have_a_fast_form() -> None:
    for name, config in SIZES.items():
        plan = resolve(Asked("sla"), NetworkFacts(name, config, ACROSS), MACHINES["gpu"])
        assert plan.engine.chosen == "fast", name
    plan = resolve(Asked("sla"), NetworkFacts("mini", MiniConfig(), ACROSS[:5]), MACHINES["gpu"])
    assert plan.engine.chosen == "fast" and plan.sparse is not None and plan.sparse.group == 64
