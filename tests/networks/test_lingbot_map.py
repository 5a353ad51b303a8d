"""LingBot-Map: the original's outputs, a cache of fixed size that shows what it should, windows, sizes."""

import json

import numpy as np
import pytest
import torch

from lite3r_cli import export
from lite3r_cli.attention.module import SparseConfig, attach
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.packing import Shape
from lite3r_cli.errors import UsageError
from lite3r_cli.networks import fast_form
from lite3r_cli.networks.base import Streaming
from lite3r_cli.networks.checkpoint import frames_of_video
from lite3r_cli.networks.family import family_of, global_layers_of
from lite3r_cli.networks.lingbot_map.cache import SPECIALS, FrameCache, Room
from lite3r_cli.networks.lingbot_map.network import LINGBOT_MAP, LingBotMap, LingBotMapConfig, Stream
from lite3r_cli.networks.lingbot_map.plan import StreamPlan
from lite3r_cli.networks.lingbot_map.recompute import aligned
from lite3r_cli.networks.parity import TOLERANCE, errors_of
from lite3r_cli.networks.recognise import recognise
from lite3r_cli.networks.sparsify import sparsify

TINY = LingBotMapConfig(
    dim=64, pairs=4, heads=1, encoder_depth=1, encoder_heads=1, taps=(0, 1, 2, 3), head_features=16,
    head_stages=(8, 8, 8, 8), camera_depth=1, camera_heads=2, position_grid=5,
)  # fmt: skip
SMALL = ("keyframes_12x84x70",)
OTHERS = (
    "small_oneshot_5x112x140", "small_stream_12x70x98", "small_anchors_8x70x70", "small_windowed_12x70x84",
    "small_windowed_kf_14x56x84", "map_4x70x98",
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(4)
    made = LingBotMap(TINY).eval()
    for token in (made.aggregator.camera_token, made.aggregator.register_token, made.aggregator.scale_token):
        torch.nn.init.normal_(token)
    for block in (*made.aggregator.global_blocks, *made.aggregator.frame_blocks):
        block.ls1.gamma.data.fill_(0.5)
    made.camera_head.pose_branch.fc2.bias.data[6:] = 1.0  # a usable rotation and field of view
    return made


def pictures(count, height=28, width=42):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, height, width, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_those_of_the_original_code(reference, name):
    errors = errors_of(reference / f"lingbot_small_{name}.npz")
    assert len(errors) >= 10 and all(value <= TOLERANCE for value in errors.values()), errors
    assert errors["time"] == errors["keys"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_outputs_of_the_other_fixtures_are_those_of_the_original_code(large_reference, name):
    errors = errors_of(large_reference / f"lingbot_{name}.npz")
    assert all(value <= TOLERANCE for value in errors.values()), errors


@pytest.mark.parametrize("name", ["align_3", "align_kf_2"])
def test_windows_are_chained_as_by_the_authors(reference, name):
    with np.load(reference / f"lingbot_{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    found = aligned(json.loads(str(arrays["config"])), arrays)
    assert len(found) == 6
    for key, value in found.items():
        torch.testing.assert_close(value, torch.from_numpy(arrays[key]), rtol=1e-6, atol=1e-6, equal_nan=True)


def test_the_published_file_is_recognised_beside_vggt(reference, tmp_path):
    published = json.loads((reference / "lingbot-map.keys.json").read_text())
    shapes = {key: tuple(shape) for key, (shape, _) in published.items()}
    with torch.device("meta"):
        assert shapes == {key: tuple(t.shape) for key, t in LingBotMap().state_dict().items()}
    found = recognise(shapes, {}, tmp_path)
    assert (found.name, found.config) == ("lingbot-map", LINGBOT_MAP)
    assert "not said" in found.family.models[0].licence


@pytest.mark.parametrize("anchors, window, interval", [(2, 3, 1), (0, 1, 1), (3, 2, 2), (5, 4, 3)])
def test_the_cache_shows_anchors_window_and_special_tokens_in_fixed_memory(anchors, window, interval):
    """Keys and values count frames: which ones are visible is read off them."""
    size, count = SPECIALS + 3, 14
    cache = FrameCache(Room(anchors, window, -(-count // interval)))
    stored: list[int] = []
    for i in range(count):
        k = torch.full((1, 2, size, 4), float(i))
        k[:, :, :SPECIALS] += 0.5
        if i % interval:
            seen = cache.visible_with(k, -k)
        else:
            cache.store(k, -k)
            stored.append(i)
            seen = cache.visible()
        latest = stored[anchors:][-window:]
        expected = [f + half for f in stored for half, n in ((0.5, SPECIALS), (0, 3)) for _ in range(n)
                    if half or f in stored[:anchors] or f in latest]  # fmt: skip
        expected += [i + half for half, n in ((0.5, SPECIALS), (0, 3)) for _ in range(n)] if i % interval else []
        assert sorted(seen[0][0, 1, :, 2].tolist()) == sorted(expected)
        assert torch.equal(seen[1], -seen[0]) and seen[0].data_ptr() == cache._both.data_ptr()
    assert cache._both.shape[3] == cache.room.tokens(size)


def test_a_stream_answers_frame_by_frame_and_says_its_memory(model):
    frames = pictures(7)
    model.plan = StreamPlan(first=2, anchors=2, window=2, interval=2, rounds=2)
    assert isinstance(model, Streaming)
    asked = []
    answers = model.stream((asked.append(i) or frame for i, frame in enumerate(frames)), 7)
    first = next(answers)
    assert len(asked) == 2 and first.depth.shape == (28, 42)
    rest = list(answers)
    prediction = model.predict(frames)
    for i, answer in enumerate([first, *rest]):
        torch.testing.assert_close(answer.depth, prediction.depth[i])
        torch.testing.assert_close(answer.cam_from_world, prediction.cam_from_world[i])
    assert len(asked) == 7 and len(rest) == 6
    stream = Stream(model, model.plan, 7)
    with torch.inference_mode():
        stream.first(torch.stack(frames[:2])[None])
        for i in range(2, 7):
            stream.next(frames[i][None, None], model.plan.is_key(i))
    caches = [*stream.frames, *(cache for layers in stream.cameras for cache in layers)]
    assert sum(cache._both.nbytes for cache in caches) == model.stream_memory(28, 42, 7)
    longer = model.stream_memory(28, 42, 1007) - model.stream_memory(28, 42, 7)
    assert longer == 500 * (2 * 4 * SPECIALS * 64 + 2 * 2 * 128) * 4  # six tokens, and one for each round, of 500


def test_windows_give_every_frame_once_and_agree_where_nothing_is_forgotten(model):
    frames = pictures(9)
    model.plan = StreamPlan(first=9, rounds=2)
    whole = model.predict(frames)
    model.plan = StreamPlan(first=2, anchors=2, window=9, rounds=2, cut=4, overlap=3)
    assert [list(w) for w in model.plan.windows(9)] == [[k, k + 1, k + 2, k + 3] for k in range(6)]
    asked = []
    answers = list(model.stream((asked.append(i) or frame for i, frame in enumerate(frames)), 9))
    assert asked == list(range(9)) and len(answers) == 9
    assert all(a.depth.shape == d.shape and a.depth.isfinite().all() for a, d in zip(answers, whole.depth))
    R = torch.stack([a.cam_from_world[:, :3] for a in answers])
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand(9, 3, 3), rtol=0, atol=1e-5)


def test_plans_are_the_authors():
    assert StreamPlan.for_frames(320) == StreamPlan() and StreamPlan.for_frames(321).interval == 2
    assert StreamPlan.for_frames(1000).cut is None and len(StreamPlan.for_frames(1000).windows(1000)) == 1
    long = StreamPlan.for_frames(5000)
    first, second = long.windows(5000)[:2]
    assert (len(first), second.start) == (248, 216) and long.windows(5000)[-1].stop == 5000
    assert StreamPlan().stored(5) == 5 and StreamPlan(interval=3).stored(12) == 10


@pytest.mark.parametrize("given, count", [(7, 14), (4, 5), (0, 3), (3, 0)])
def test_a_stream_of_too_few_frames_says_so(model, given, count):
    model.plan = StreamPlan(first=2, anchors=2, window=4, cut=6, overlap=2)
    answers = []
    with pytest.raises(UsageError, match="frame"):
        for answer in model.stream(iter(torch.rand(given, 3, 28, 42)), count):
            answers.append(answer)
    assert len(answers) <= given
    assert len(list(model.stream(iter(torch.rand(6, 3, 28, 42)), 5))) == 5


def test_smaller_pictures_are_shown_in_white_and_streams_have_one_size(model):
    frames = [*pictures(2, 28, 42), *pictures(1, 14, 28)]
    prediction = model.predict(frames)
    assert [d.shape for d in prediction.depth] == [(28, 42), (28, 42), (14, 28)]
    middle = prediction.K[2, :2, 2] - prediction.K[0, :2, 2]
    torch.testing.assert_close(middle, torch.tensor([-7.0, -7.0]))
    with pytest.raises(UsageError, match="one size"):
        list(model.stream(frames, 3))


def test_the_answer_with_gradients_is_that_of_predict_and_of_every_key_kept(model):
    frames = pictures(4)
    prediction = model.predict(frames)
    raw = family_of(model).answer(model, torch.stack(frames)[None], torch.tensor([0, 2]))
    torch.testing.assert_close(raw.log_depth[0, 1].exp(), prediction.depth[2], rtol=1e-4, atol=1e-5)
    raw.log_depth.sum().backward()
    assert model.aggregator.scale_token.grad[0, 0].abs().sum() > 0
    model.plan = StreamPlan(first=2, anchors=1, window=1, rounds=2)
    streamed = model.predict(frames)
    attach(model, SparseConfig(tuple(global_layers_of(model)), keep_ratio=1.0))
    again = model.predict(frames)
    torch.testing.assert_close(again.depth[3], streamed.depth[3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.cam_from_world, streamed.cam_from_world, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("interval, anchors, window", [(1, 1, 2), (2, 2, 1)])
def test_the_fast_stream_is_the_ordinary_one(model, interval, anchors, window):
    """While the cache fills, when it is full, with frames that are not stored, in windows, and once more."""
    frames = pictures(8)
    plan = StreamPlan(first=2, anchors=anchors, window=window, interval=interval, rounds=2)
    cut = StreamPlan(first=2, anchors=anchors, window=window, interval=interval, rounds=2, cut=5, overlap=3)
    for model.plan in (plan, cut):
        expected = model.predict(frames)
        runner = fast_form.fast_runner(model, Settings(dtype=torch.float32), torch.device("cpu"))
        for _ in range(1 if model.plan is plan else 2):  # the second stream uses the memory of the first
            found = fast_form.predict(runner, frames)
            for a, b in ((found.depth, expected.depth), (found.confidence, expected.confidence)):
                torch.testing.assert_close(torch.stack(a), torch.stack(b), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.cam_from_world, expected.cam_from_world, rtol=1e-4, atol=1e-5)
    assert runner(frames[:5]).depth[0].shape == (5, 28, 42)


def test_the_first_frames_of_a_fast_stream_may_be_sparse(model):
    frames = pictures(7, 56, 70)
    model.plan = StreamPlan(first=5, anchors=2, window=3, rounds=2)
    sparsify(model, 0.4, backend="torch", packed=True)
    expected = model.predict(frames)
    runner = fast_form.fast_runner(model, Settings(dtype=torch.float32), torch.device("cpu"))
    found = fast_form.predict(runner, frames)
    torch.testing.assert_close(torch.stack(found.depth), torch.stack(expected.depth), rtol=1e-4, atol=1e-5)
    assert 0 < runner.skipped(Shape.of(frames)) < 1


def test_a_file_of_the_network_takes_as_many_frames_of_a_video_as_its_name(model, tmp_path):
    (file,) = export(model, tmp_path / "mine.safetensors", licence="MIT", weights="float32")
    (tmp_path / "none.safetensors").write_bytes(b"no checkpoint")
    for name in ("lingbot-map", "lingbot-map-short", "hf:robbyant/lingbot-map@abc", str(file)):
        assert frames_of_video(name) == 1000
    none = ("mini", "vggt-1b", "hf:facebook/VGGT-1B", tmp_path / "none.safetensors", tmp_path / "gone", "a" * 300)
    for name in map(str, none):
        assert frames_of_video(name) is None
