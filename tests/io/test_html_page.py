"""The HTML page of a scene: its parts, and its behaviour in Chromium with a software renderer."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from odd_scene import odd_cloud, odd_views  # noqa: F401

from lite3r_cli.io import html_page, point_packing
from lite3r_cli.io.html_page import page, write_html
from lite3r_cli.io.point_packing import PackedPoints, pack
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.scene.posed_view import PointCloud, View

HOSTILE = "<img src=x onerror=\"document.title='hacked'\">&amp;</script>.jpg"
CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def unpacked(packed: PackedPoints, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What viewer/unpack.js does: places (N, 3) and the five bytes of each point."""
    places, rest = np.zeros((count, 3), np.int64), np.zeros((count, 5), np.int64)
    first = packed.levels[packed.first_level]
    for data, part in ((packed.first, slice(first)), (packed.rest, slice(first, count))):
        planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(11, len(places[part])).astype(np.int64)
        places[part] = (np.cumsum(planes[0:6:2] + 256 * planes[1:6:2], axis=1) % 65536).T
        rest[part] = (np.cumsum(planes[6:], axis=1) % 256).T
    return places, rest


@pytest.mark.parametrize("count", [0, 1, 2, 37, 5000])
def test_packed_points_are_the_points(count: int, monkeypatch) -> None:
    monkeypatch.setattr(point_packing, "FIRST_POINTS", 1300)
    rng = np.random.default_rng(count)
    points = rng.normal(size=(count, 3)).astype("f4")
    cloud = PointCloud(points, rng.integers(0, 256, (count, 3), dtype=np.uint8), rng.random(count).astype("f4"))
    packed = pack(cloud)
    places, rest = unpacked(packed, count)
    assert packed.levels[-1] == count and packed.levels == sorted(packed.levels)
    assert packed.levels[packed.first_level] == min(count, 1250)
    found = packed.low + packed.step * places
    nearest = np.array([np.abs(points - place).max(1).argmin() for place in found], dtype=int)
    assert sorted(nearest) == list(range(count))
    assert np.abs(found - points[nearest]).max(initial=0) <= 0.51 * packed.step
    assert np.array_equal(rest[:, :3], cloud.colors[nearest])
    order = np.argsort(cloud.confidence[nearest])
    assert (np.diff(rest[order, 3]) >= 0).all()


def test_spacing_follows_the_density() -> None:
    rng = np.random.default_rng(0)
    dense, thin = rng.random((4000, 3)) * [1, 1, 0], rng.random((250, 3)) * [1, 1, 0] + [3, 0, 0]
    points = np.concatenate([dense, thin]).astype("f4")
    packed = pack(PointCloud(points, np.zeros((4250, 3), np.uint8), np.ones(4250, "f4")))
    places, rest = unpacked(packed, 4250)
    size = packed.spacing * 2 ** (rest[:, 4] / 16)
    left = (packed.low + packed.step * places)[:, 0] < 2
    assert 2.5 < np.median(size[~left]) / np.median(size[left]) < 6  # four times apart
    assert 0.5 < np.median(size[left]) * np.sqrt(4000) < 2


@pytest.fixture
def wall() -> SceneExport:
    """Three cameras before a wall at z = 5 that is red at the left and green at the right, the left half unsure."""
    x, y = np.meshgrid(np.linspace(-3, 3, 200), np.linspace(-2, 2, 140))
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, 5.0)], axis=1).astype("f4")
    colors = np.where(points[:, :1] < 0, np.uint8([[220, 30, 30]]), np.uint8([[30, 200, 60]]))
    confidence = np.where(points[:, 0] < 0, 1, 2).astype("f4") + np.linspace(0, 0.5, len(points)).astype("f4")
    K = np.array([[100.0, 0, 60], [0, 100, 40], [0, 0, 1]])
    poses = [np.hstack([np.eye(3), [[-shift], [0], [0]]]) for shift in (0.0, 0.8, -0.8)]
    views = [View(name, 120, 80, K, pose) for name, pose in zip(("a.jpg", HOSTILE, "ü c.png"), poses)]
    picture = np.full((80, 120, 3), (20, 60, 240), np.uint8)
    return SceneExport(
        Path(), views, PointCloud(points, colors, confidence), title=HOSTILE, read_picture=lambda _: picture
    )


def test_nothing_from_outside_and_names_are_text(wall) -> None:
    text = page(wall).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1 and f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    rest = re.sub(r"<(script|title).*?</\1>", "", text, flags=re.S)
    assert not re.search(r"(src|href)\s*=|https?://|url\(", rest)
    assert "<img src=x" not in text and text.count("</script>") == 4
    (scene,) = re.findall(r'id="scene">(.*?)</script>', text, re.S)
    assert json.loads(scene)["cameras"][1]["name"] == HOSTILE


def test_a_page_keeps_to_its_size(wall, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    count = 60_000
    cloud = PointCloud(
        rng.random((count, 3), "f4"), rng.integers(0, 256, (count, 3), np.uint8), rng.random(count, "f4")
    )
    noise = rng.integers(0, 256, (900, 1200, 3), np.uint8)
    monkeypatch.setattr(html_page, "LARGEST", 500_000)
    monkeypatch.setattr(html_page, "PICTURES", 100_000)
    data = page(replace(wall, cloud=cloud, read_picture=lambda _: noise))
    assert 300_000 < len(data) <= 500_000
    assert json.loads(re.findall(r'id="scene">(.*?)</script>', data.decode(), re.S)[0])["levels"][-1] > 5000


def test_no_points_and_no_pictures(tmp_path, odd_views) -> None:
    nothing = PointCloud(np.zeros((0, 3), "f4"), np.zeros((0, 3), "u1"), np.zeros(0, "f4"))
    assert write_html(SceneExport(tmp_path, odd_views[:1], nothing)) == [tmp_path / "view.html"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """opened(scene) → the page in a browser of 900×700 pixels, and what it complained of."""
    contexts = []

    def show(scene: SceneExport, **options):
        (path,) = write_html(replace(scene, directory=tmp_path))
        context = browser.new_context(viewport={"width": 900, "height": 700}, reduced_motion="reduce", **options)
        contexts.append(context)
        tab, complaints = context.new_page(), []
        tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-all-points], .failure", state="attached")
        return tab, complaints

    yield show
    for context in contexts:
        context.close()


def seen(tab) -> np.ndarray:
    """(700, 900, 3) float: what the canvas shows."""
    import cv2

    tab.wait_for_timeout(400)  # all points are drawn once the view rests
    data = np.frombuffer(tab.locator("#canvas").screenshot(), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(float)


def share(picture: np.ndarray, color: tuple[int, int, int]) -> float:
    """Of the pixels, how many have about this hue."""
    unit = picture / np.maximum(np.linalg.norm(picture, axis=-1, keepdims=True), 1)
    return float((unit @ (np.array(color) / np.linalg.norm(color)) > 0.985).mean())


RED, GREEN, BLUE = (220, 30, 30), (30, 200, 60), (20, 60, 240)


def test_a_browser_shows_points_and_cameras(opened, wall, monkeypatch) -> None:
    monkeypatch.setattr(point_packing, "FIRST_POINTS", 5000)  # the others are read after the first frame
    tab, complaints = opened(wall, color_scheme="dark")
    tab.wait_for_selector("html[data-pictures]", state="attached")
    picture = seen(tab)
    assert tab.evaluate("[lite3r.scene.firstLevel, lite3r.finest, lite3r.style.level]") == [0, 3, 3]
    assert share(picture, RED) > 0.1 and share(picture, GREEN) > 0.1
    assert np.flatnonzero(share_columns(picture, RED)).mean() < np.flatnonzero(share_columns(picture, GREEN)).mean()
    assert share(picture, BLUE) > 0.001  # the pictures in the frusta and in the strip
    assert tab.title() == HOSTILE and tab.locator("#title").text_content() == HOSTILE
    assert tab.locator("#strip button").nth(1).text_content() == HOSTILE and tab.locator("[onerror]").count() == 0
    assert complaints == []


def share_columns(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    unit = picture / np.maximum(np.linalg.norm(picture, axis=-1, keepdims=True), 1)
    return (unit @ (np.array(color) / np.linalg.norm(color)) > 0.985).sum(0) > 20


def test_confidence_colours_size_and_theme(opened, wall) -> None:
    tab, complaints = opened(wall, color_scheme="dark")
    before = seen(tab)
    tab.locator("#floor").fill("60")  # the left half is the less sure one
    after = seen(tab)
    assert share(after, RED) < 0.01 and 0.5 < share(after, GREEN) / share(before, GREEN) < 1.1
    tab.locator("#floor").fill("0")
    tab.locator("#colours button").nth(1).click()
    assert share(seen(tab), RED) < 0.5 * share(before, RED)
    tab.locator("#colours button").nth(0).click()
    tab.locator("#size").fill("20")
    assert share(seen(tab), RED) < 0.9 * share(before, RED)
    tab.keyboard.press("t")
    assert tab.locator("html").get_attribute("data-theme") == "light" and seen(tab)[690, 890].min() > 150
    assert complaints == []


def test_a_camera_is_looked_through_with_its_photograph(opened, wall) -> None:
    tab, complaints = opened(wall, color_scheme="dark")
    tab.wait_for_selector("html[data-pictures]", state="attached")
    place = tab.evaluate(
        """() => { const v = lite3r.navigation.view(), c = lite3r.scene.cameras[2].corners;
        const m = [0, 1, 2].map((i) => (c[0][i] + c[2][i]) / 2 - v.eye[i]);
        const p = [0, 1, 2].map((i) => v.R[3 * i] * m[0] + v.R[3 * i + 1] * m[1] + v.R[3 * i + 2] * m[2]);
        return [v.lens.fx * p[0] / p[2] + v.lens.cx, v.lens.fy * p[1] / p[2] + v.lens.cy]; }"""
    )
    tab.mouse.click(*place)
    assert tab.locator("#camera-name").text_content() == "ü c.png"
    box = tab.locator("#photo").bounding_box()
    assert abs(box["width"] / box["height"] - 1.5) < 0.01
    tab.locator("#blend").fill("100")
    inside = seen(tab)[round(box["y"]) + 60 : round(box["y"] + box["height"]) - 60, 320:860]
    assert share(inside, BLUE) > 0.95
    tab.locator("#blend").fill("0")
    inside = seen(tab)[round(box["y"]) + 60 : round(box["y"] + box["height"]) - 60]
    # the camera stands at x = -0.8: red and green meet right of its middle, at u = 60 + 100 · 0.8 / 5 = 76 of 120
    meeting = np.flatnonzero(share_columns(inside, GREEN)).min()
    assert abs(meeting - (box["x"] + box["width"] * 76 / 120)) < 4
    tab.keyboard.press("Escape")
    assert tab.locator("#looking").is_hidden() and complaints == []


def test_a_distance_is_measured(opened, wall) -> None:
    tab, complaints = opened(wall)
    tab.locator("#strip button").nth(0).click()
    box = tab.locator("#photo").bounding_box()
    tab.keyboard.press("m")
    for u in (20, 100):
        tab.mouse.click(box["x"] + box["width"] * u / 120, box["y"] + box["height"] / 2)
    value = float(tab.locator("#distance").text_content().split()[0])
    assert abs(value - 80 / 100 * 5) < 0.08 and complaints == []


def test_moving_by_hand(opened, wall) -> None:
    tab, complaints = opened(wall)
    eye = "() => lite3r.navigation.eye"
    places = [tab.evaluate(eye)]
    tab.mouse.move(600, 350)
    tab.mouse.wheel(0, -300)
    places.append(tab.evaluate(eye))
    tab.mouse.down()
    tab.mouse.move(680, 380, steps=4)
    tab.mouse.up()
    places.append(tab.evaluate(eye))
    tab.locator("#canvas").press("ArrowLeft", delay=150)
    places.append(tab.evaluate(eye))
    assert all(np.linalg.norm(np.subtract(a, b)) > 0.01 for a, b in pairwise(places))
    tab.set_viewport_size({"width": 420, "height": 800})
    assert share(seen(tab), GREEN) > 0.02 and complaints == []
