"""Blocks: which tokens they hold, which of them are kept, and how many that makes."""

import pytest
import torch

from lite3r_cli.attention.block_map import block_map, keep_schedule
from lite3r_cli.attention.layout import Frames, frame_layout, packed_layout
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
    layout = frame_layout(groups, block, reference=3)
    frames, special = frame_of(groups)
    assert layout.index.shape[1] <= block
    assert layout.occupants.sort().values.tolist() == list(range(len(frames)))
    for i in range(layout.blocks):
        tokens = layout.index[i][layout.valid[i]]
        assert special[tokens].all() or not special[tokens].any()
        assert special[tokens].all() or len(frames[tokens].unique()) == 1
        assert layout.protected[i] == (special[tokens].all() or bool((frames[tokens] == 3).all()))
        assert layout.exact[i] == special[tokens].all()


def test_a_block_of_a_grid_is_a_rectangle_of_neighbours():
    layout = frame_layout((Frames(1, 25 * 37, 0, (25, 37)),), 64, reference=None)
    rows, columns = layout.index // 37, layout.index % 37
    assert layout.blocks <= 20
    assert int((rows.amax(1) - rows.amin(1)).max()) < 10 and int((columns.amax(1) - columns.amin(1)).max()) < 10


def test_tiling_and_back_is_the_identity():
    layout = frame_layout(GROUPS, 16)
    x = torch.randn(2, 3, len(frame_of(GROUPS)[0]), 4)
    assert torch.equal(layout.untile(layout.tile(x), x.shape[2]), x)
    torch.testing.assert_close(layout.means(layout.tile(x))[:, :, 2], x[:, :, layout.index[2][layout.valid[2]]].mean(2))


@pytest.mark.parametrize("keep", [0.05, 0.3, 1.0])
def test_counts_of_kept_and_dropped_blocks(keep):
    layout = frame_layout(GROUPS, 8)
    q, k = (layout.tile(torch.randn(1, 2, len(frame_of(GROUPS)[0]), 8)) for _ in range(2))
    found = block_map(q, k, layout, keep, drop_ratio=0.4)
    count = max(int(keep * layout.blocks), int(layout.protected.sum()))
    usual = ~layout.exact
    assert found.critical[..., layout.protected].all() and found.critical[:, :, layout.exact].all()
    assert (found.critical[:, :, usual].sum(-1) == count).all()
    dropped = ~(found.critical | found.linear)
    assert (dropped[:, :, usual].sum(-1) == min(int(0.4 * layout.blocks), layout.blocks - count)).all()
    assert not (found.critical & found.linear).any()
    computed = count * int(usual.sum()) + layout.blocks * int(layout.exact.sum())
    assert found.skipped.item() == pytest.approx(1 - computed / layout.blocks**2, abs=1e-6)


def test_the_highest_pooled_scores_are_kept_and_the_lowest_dropped():
    layout = packed_layout(40, 4)
    k = torch.arange(10.0).repeat_interleave(4).view(1, 1, 40, 1)
    found = block_map(layout.tile(torch.ones_like(k)), layout.tile(k), layout, 0.3, 0.2)
    assert found.critical[0, 0].nonzero()[:, 1].unique().tolist() == [7, 8, 9]
    assert found.linear[0, 0].nonzero()[:, 1].unique().tolist() == [2, 3, 4, 5, 6]


def test_a_schedule_keeps_its_mean():
    schedule = keep_schedule(24, 0.25, dense=(-1, 0))
    assert schedule[0] == schedule[-1] == 1 and sum(schedule) / 24 == pytest.approx(0.25)
    with pytest.raises(UsageError, match="leaves nothing"):
        keep_schedule(4, 0.25, dense=(-1,))
    with pytest.raises(UsageError):
        keep_schedule(4, 0.5, dense=(4,))


@pytest.mark.parametrize("values", [(0, 5), (1, 3, 3), (1, 10, 1, (2, 4))])
def test_impossible_frames_are_refused(values):
    with pytest.raises(UsageError):
        Frames(*values)
