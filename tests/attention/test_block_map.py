"""Blocks: their tokens, which blocks are kept, and how many."""

import pytest
import torch

from lite3r_cli.attention.block_map import block_map, kept_blocks, mass
from lite3r_cli.attention.keep_schedule import keep_ratios
from lite3r_cli.attention.tiling import Frames, frame_tiling, packed_tiling
from lite3r_cli.errors import UsageError

GROUPS = (Frames(3, 1 + 6 * 11, 1, (6, 11)), Frames(2, 1 + 7 * 5, 1, (7, 5)))


def frame_of(groups):
    """(N,) frame of each token, and whether it is special."""
    lengths = [(g.tokens, g.specials) for g in groups for _ in range(g.count)]
    frames = torch.cat([torch.full((n,), i) for i, (n, _) in enumerate(lengths)])
    return frames, torch.cat([torch.arange(n) < s for n, s in lengths])


@pytest.mark.parametrize("grid", [True, False])
@pytest.mark.parametrize("block", [5, 16, 64])
def test_blocks_partition_the_tokens_and_stay_inside_one_frame(block, grid):
    groups = GROUPS if grid else tuple(Frames(g.count, g.tokens, g.specials) for g in GROUPS)
    layout = frame_tiling(groups, block, reference=3)
    frames, special = frame_of(groups)
    assert layout.index.shape[1] <= block
    assert layout.occupants.sort().values.tolist() == list(range(len(frames)))
    for i in range(layout.blocks):
        tokens = layout.index[i][layout.valid[i]]
        assert special[tokens].all() or not special[tokens].any()
        assert special[tokens].all() or len(frames[tokens].unique()) == 1
        assert layout.protected[i] == (special[tokens].all() or bool((frames[tokens] == 3).all()))
        assert layout.exact[i] == special[tokens].all()


@pytest.mark.parametrize("protect", [True, False])
@pytest.mark.parametrize("keep", [0.1, 0.3, 1.0])
def test_keys_cut_finer_than_queries(keep, protect):
    layout = frame_tiling(GROUPS, 16, 0, protect, key_block=4)
    layout = layout.with_reference(torch.arange(5)[None] == 3) if protect else layout
    keys = layout.keys
    assert keys.blocks > 2 * layout.blocks and keys.index.shape[1] <= 4 < layout.index.shape[1]
    assert keys.occupants.sort().values.tolist() == layout.occupants.sort().values.tolist()
    q, k, _ = layout.tiles(*torch.randn(3, 1, 2, len(frame_of(GROUPS)[0]), 8))
    found = block_map(q, k, layout, keep, drop_ratio=0.4)
    assert found.critical.shape[2:] == (layout.blocks, keys.blocks)
    rows = found.critical.sum(-1)
    assert (rows[:, :, layout.exact] == keys.blocks).all() and (
        rows[:, :, ~layout.exact] == kept_blocks(layout, keep)
    ).all()
    seen_by_all = keys.protected.view(-1, keys.blocks)[0]
    assert found.critical[..., seen_by_all].all()
    assert {-1, 3} == set(keys.frame[seen_by_all].tolist()) if protect else not seen_by_all.any()
    if kept_blocks(layout, keep) > keys.most_protected:
        assert 1 - keep <= found.skipped + 1e-6 < 1 - keep + 1 / keys.blocks


def test_a_block_of_a_grid_is_a_rectangle_of_neighbours():
    layout = frame_tiling((Frames(1, 25 * 37, 0, (25, 37)),), 64, reference=None)
    rows, columns = layout.index // 37, layout.index % 37
    assert layout.blocks <= 20
    assert int((rows.amax(1) - rows.amin(1)).max()) < 10 and int((columns.amax(1) - columns.amin(1)).max()) < 10


@pytest.mark.parametrize("grid", [(25, 37), (28, 37), (37, 37), (3, 50), (40, 2)])
@pytest.mark.parametrize("block", [16, 64])
def test_a_walk_makes_few_blocks_of_neighbours(grid, block):
    rows, columns = grid
    layout = frame_tiling((Frames(2, rows * columns, 0, grid),), block, reference=None, walk=True)
    assert layout.blocks == 2 * -(-rows * columns // block)
    assert layout.occupants.sort().values.tolist() == list(range(2 * rows * columns))
    for tokens, valid in zip(layout.index, layout.valid):
        patch = tokens[valid] % (rows * columns)
        apart = (patch[:, None] // columns - patch // columns).abs() + (
            patch[:, None] % columns - patch % columns
        ).abs()
        assert ((apart == 1).sum(1) >= 1).all()
        assert min(grid) <= block**0.5 or apart.float().mean() < block**0.5


def test_tiling_and_back_is_the_identity():
    layout = frame_tiling(GROUPS, 16)
    x = torch.randn(2, 3, len(frame_of(GROUPS)[0]), 4)
    assert torch.equal(layout.untile(layout.tile(x), x.shape[2]), x)
    torch.testing.assert_close(layout.means(layout.tile(x))[:, :, 2], x[:, :, layout.index[2][layout.valid[2]]].mean(2))


@pytest.mark.parametrize("keep", [0.05, 0.3, 1.0])
def test_counts_of_kept_and_dropped_blocks(keep):
    layout = frame_tiling(GROUPS, 8)
    q, k = (layout.tile(torch.randn(1, 2, len(frame_of(GROUPS)[0]), 8)) for _ in range(2))
    found = block_map(q, k, layout, keep, drop_ratio=0.4)
    count = kept_blocks(layout, keep)
    usual = ~layout.exact
    assert found.critical[..., layout.protected].all() and found.critical[:, :, layout.exact].all()
    assert (found.critical[:, :, usual].sum(-1) == count).all()
    dropped = ~(found.critical | found.linear)
    assert (dropped[:, :, usual].sum(-1) == min(int(0.4 * layout.blocks), layout.blocks - count)).all()
    assert not (found.critical & found.linear).any()
    computed = count * int(usual.sum()) + layout.blocks * int(layout.exact.sum())
    assert found.skipped.item() == pytest.approx(1 - computed / layout.blocks**2, abs=1e-6)
    if count > layout.most_protected:
        assert 1 - keep <= found.skipped + 1e-6 < 1 - keep + 1 / layout.blocks  # rows that see everything included


def test_the_highest_pooled_scores_are_kept_and_the_lowest_dropped():
    layout = packed_tiling(40, 4)
    k = torch.arange(10.0).repeat_interleave(4).view(1, 1, 40, 1)
    found = block_map(layout.tile(torch.ones_like(k)), layout.tile(k), layout, 0.3, 0.2)
    assert found.critical[0, 0].nonzero()[:, 1].unique().tolist() == [7, 8, 9]
    assert found.linear[0, 0].nonzero()[:, 1].unique().tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("key_block", [None, 7])
def test_the_mass_of_keys_that_hardly_differ_is_their_share_of_dense_attention(key_block, monkeypatch):
    monkeypatch.setattr("lite3r_cli.attention.block_map.SAMPLED", 1)
    layout = frame_tiling(GROUPS, 16, key_block=key_block)
    keys, make = layout.keys, torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, len(frame_of(GROUPS)[0]), 8, generator=make, dtype=torch.float64)
    k = torch.randn(2, 3, keys.blocks, 1, 8, generator=make, dtype=torch.float64)
    k = keys.untile(k.expand(-1, -1, -1, keys.index.shape[1], -1), q.shape[2])
    weights = (q @ k.mT / 8**0.5).softmax(-1)
    parts = [
        [weights[:, :, i[a]][..., j[b]].sum((2, 3)) for j, b in zip(keys.index, keys.valid)]
        for i, a in zip(layout.index, layout.valid)
    ]
    expected = torch.stack([torch.stack(row, -1) for row in parts], -2)
    torch.testing.assert_close(mass(layout.tile(q), keys.tile(k), layout), expected)


def test_what_some_queries_need_badly_is_kept():
    layout = packed_tiling(64, 8)
    directions = torch.eye(8).repeat_interleave(8, 0)
    q = torch.zeros(1, 1, 64, 8)
    q[:, :, 0::2, 3], q[:, :, 1::2, 3] = 20, -24  # on the mean of both nobody needs block 3
    tiles = layout.tile(q), layout.tile(directions[None, None])
    assert not block_map(*tiles, layout, 0.13).critical[..., 3].any()
    assert block_map(*tiles, layout, 0.13, scores="mass").critical[..., 3].all()


@pytest.mark.parametrize("layers", [1, 2, 5, 8, 24])
@pytest.mark.parametrize("keep", [0.02, 0.1, 0.25, 0.6, 0.95, 1.0])
def test_a_schedule_has_the_mean_that_was_asked(layers, keep):
    ratios = keep_ratios(layers, keep)
    assert len(ratios) == layers and all(0 < ratio <= 1 for ratio in ratios)
    assert sum(ratios) / layers == pytest.approx(keep)


def test_the_middle_of_a_deep_network_keeps_more_than_its_beginning_and_its_end_nearly_everything():
    ratios = keep_ratios(24, 0.25)
    assert ratios[0] < 0.6 * ratios[12] and ratios[-2] == ratios[-1] > 0.7
    assert keep_ratios(24, 0.6)[-1] == 1
    with pytest.raises(UsageError, match="keep ratio"):
        keep_ratios(24, 0.0)


@pytest.mark.parametrize("values", [(0, 5), (1, 3, 3), (1, 10, 1, (2, 4))])
def test_impossible_frames_are_refused(values):
    with pytest.raises(UsageError):
        Frames(*values)


@pytest.mark.parametrize("walk", [False, True])
def test_the_blocks_of_every_frame_are_those_of_the_first(walk):
    groups = (Frames(2, 3 + 4 * 5, 3, (4, 5)), Frames(3, 3 + 6 * 2, 3, (6, 2)))
    layout, alone = frame_tiling(groups, 6, walk=walk), frame_tiling((Frames(1, 3 + 6 * 2, 3, (6, 2)),), 6, walk=walk)
    patches = [layout.index[i][layout.valid[i]] for i in range(layout.blocks) if layout.frame[i] == 3]
    first = [alone.index[i][alone.valid[i]] for i in range(alone.blocks) if alone.frame[i] == 0]
    if walk:  # an odd frame is walked backwards
        first.reverse()
    start = 2 * 23 + 15
    assert [(p - start).tolist() for p in patches] == [f.tolist() for f in first]
