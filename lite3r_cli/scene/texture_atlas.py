"""A texture for a mesh from the photos of its views: charts are parts of photos, packed into one picture by xatlas.

Each triangle has the pixels of one photo (`face_views`), so that the texture is as sharp as the photos. Photos differ
in exposure: along seams the colours of both sides are moved to their mean, and the change fades inside a chart
(Lempitsky & Ivanov, CVPR 2007, solved by relaxation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from . import geometry
from .face_views import charts_of, choose_views, neighbours
from .frame import move_views, translation
from .fusion import ReadImage
from .posed_view import View
from .surface_nets import Mesh, TexturedMesh

LARGEST = 8192  # pixels along the side of the texture: what graphics cards and viewers read
FILLED = 0.65  # share of a packed texture that charts fill, roughly
PADDING = 4  # texels between charts
BLEED = 1.5  # texels around a chart that have its colours, too, for interpolation and smaller copies
STRETCHED = 0.2  # share by which packing may change the edges of a triangle
FADES = 50  # relaxation steps of the colour change
REWEIGHTED = 6  # rounds of iteratively reweighted means
USUAL = 8.0  # grey levels by which the changes of a photo usually differ
EXACT = 2.0  # weight of the change at a seam, relative to that of an edge between vertices
STAYS = 0.05  # weight of the usual change of the photo
CHUNK = 1 << 20  # texels that are tested at a time


@dataclass(frozen=True)
class _Charts:
    """A mesh that is cut along the seams."""

    vertices: np.ndarray  # (N, 3)
    triangles: np.ndarray  # (T, 3) int64
    original: np.ndarray  # (N,) vertex of the uncut mesh
    view: np.ndarray  # (N,) view of a vertex, the same for all vertices of a triangle
    pixel: np.ndarray  # (N, 2) its place in the photo
    beside: np.ndarray  # (T, 3) triangles of the same chart across the edges, -1 at its border


def textured(
    views: Sequence[View], mesh: Mesh, read_rgb: ReadImage, step: Callable[[], None] = lambda: None
) -> TexturedMesh:
    """The mesh with a texture of at most LARGEST pixels a side. Triangles that no view sees are left out.

    `read_rgb(i)` returns the photo of view i at any size. Needs xatlas.
    """
    middle = np.median(mesh.vertices, axis=0).astype(np.float64) if len(mesh.vertices) else np.zeros(3)
    local = Mesh((mesh.vertices - middle).astype(np.float32), mesh.triangles, mesh.colors)
    near = move_views(views, translation(-middle))
    charts = _cut(near, local, choose_views(near, local, step))
    if not len(charts.triangles):
        nothing = np.zeros((1, 1, 3), np.uint8)
        return TexturedMesh(mesh.vertices[:0], mesh.triangles[:0], np.zeros((0, 2), np.float32), nothing)
    charts, place, size, scale = _packed(charts)
    change = _seam_change(charts, _vertex_colors(charts, near, read_rgb))
    texture = np.zeros((size[1], size[0], 3), np.uint8)
    for i in np.unique(charts.view).tolist():
        _paint(texture, near[i], read_rgb(i), charts, charts.view[charts.triangles[:, 0]] == i, place, change, scale)
        step()
    uv = (place / size).astype(np.float32)
    return TexturedMesh(mesh.vertices[charts.original], charts.triangles.astype(np.int32), uv, texture)


def _cut(views: Sequence[View], mesh: Mesh, label: np.ndarray) -> _Charts:
    seen = label >= 0
    triangles, label = mesh.triangles[seen].astype(np.int64), label[seen]
    beside = neighbours(triangles)
    chart = charts_of(label, beside)
    beside = np.where((beside >= 0) & (chart[beside] == chart[:, None]), beside, -1) if len(chart) else beside
    key = chart[:, None] * (len(mesh.vertices) + 1) + triangles
    names, corner = np.unique(key.ravel(), return_inverse=True)
    original = names % (len(mesh.vertices) + 1)
    corners = corner.reshape(-1, 3)
    view = np.zeros(len(names), np.int64)
    view[corners] = label[:, None]
    pixel = np.zeros((len(names), 2))
    for i in np.unique(label).tolist():
        mine = view == i
        pixel[mine], _ = geometry.project(mesh.vertices[original[mine]], views[i].K, views[i].cam_from_world)
    return _Charts(mesh.vertices[original], corners, original, view, pixel, beside)


def _packed(charts: _Charts) -> tuple[_Charts, np.ndarray, np.ndarray, float]:
    """The charts, texels (N, 2) of their vertices, the size (width, height) of the texture, and texels per pixel of the
    photos. xatlas parts a chart at degenerate triangles: the few triangles across such a cut are left out.
    """
    import xatlas

    a, b, c = (charts.pixel[charts.triangles[:, k]] for k in range(3))
    area = float(np.abs(_cross(b - a, c - a)).sum()) / 2
    scale = min(1.0, LARGEST * np.sqrt(FILLED / max(area, 1.0)))
    while True:
        atlas = xatlas.Atlas()
        material = charts.view[charts.triangles[:, 0]].astype(np.uint32)[:, None]
        atlas.add_uv_mesh(charts.pixel.astype(np.float32), charts.triangles.astype(np.uint32), material)
        options = xatlas.PackOptions()
        options.padding, options.texels_per_unit = PADDING, scale
        options.rotate_charts = options.rotate_charts_to_axis = False  # photos are not turned: one interpolation less
        atlas.generate(xatlas.ChartOptions(), options)
        size = np.array([atlas.width, atlas.height])
        if size.max() <= LARGEST:
            break
        scale *= 0.97 * LARGEST / float(size.max())
    source, triangles, uv = atlas.get_mesh(0)
    place, triangles = uv.astype(np.float64) * size, triangles.astype(np.int64)
    pixel, whole = charts.pixel[source], np.ones(len(triangles), bool)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        was = scale * np.linalg.norm(pixel[triangles[:, a]] - pixel[triangles[:, b]], axis=1)
        now = np.linalg.norm(place[triangles[:, a]] - place[triangles[:, b]], axis=1)
        whole &= np.abs(now - was) < 2 + STRETCHED * was
    number = np.where(whole, np.cumsum(whole) - 1, -1)
    beside = np.where(charts.beside >= 0, number[charts.beside], -1)[whole]
    used, corners = np.unique(triangles[whole], return_inverse=True)
    row = source[used]
    rows = charts.vertices[row], corners.reshape(-1, 3), charts.original[row], charts.view[row], charts.pixel[row]
    return _Charts(*rows, beside), place[used], size, scale


def _vertex_colors(charts: _Charts, views: Sequence[View], read_rgb: ReadImage) -> np.ndarray:
    """(N, 3) float32 colours of the vertices in their own photos, at the size of the depth map: without fine detail."""
    colors = np.zeros((len(charts.pixel), 3), np.float32)
    for i in np.unique(charts.view).tolist():
        mine, view = np.flatnonzero(charts.view == i), views[i]
        assert view.depth is not None
        height, width = view.depth.shape
        small = cv2.resize(read_rgb(i), (width, height), interpolation=cv2.INTER_AREA)
        colors[mine] = _sampled(small, charts.pixel[mine] * [width / view.width, height / view.height])
    return colors


def _seam_change(charts: _Charts, colors: np.ndarray) -> np.ndarray:
    """(N, 3) float32 that is added to the photo at each vertex, so that both sides of a seam have nearly the same
    colour. Differences that are unlike the usual one of the photo count little: they show an edge of something in
    front, or two photos that do not fit exactly.
    """
    count = np.bincount(charts.original)
    mean = _sums(charts.original, colors) / np.maximum(count, 1)[:, None]
    seam = count[charts.original] > 1
    wanted = np.where(seam[:, None], mean[charts.original] - colors, 0)
    trust = seam.astype(np.float64)
    for _ in range(REWEIGHTED):
        usual = _sums(charts.view, trust[:, None] * wanted) / np.maximum(np.bincount(charts.view, trust), 1e-9)[:, None]
        usual = usual[charts.view]
        trust = seam / (1 + (np.linalg.norm(wanted - usual, axis=1) / USUAL) ** 2)
    trust *= EXACT
    corners = charts.triangles.ravel()
    faces = np.maximum(np.bincount(corners, minlength=len(colors)), 1)[:, None]
    inside = _sums(corners, np.repeat(_faded(charts, trust, wanted, usual), 3, axis=0), len(colors)) / faces
    result: np.ndarray = ((trust[:, None] * wanted + inside) / (trust[:, None] + 1)).astype(np.float32)
    return result


def _faded(charts: _Charts, trust: np.ndarray, wanted: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """(T, 3) float32 smooth change of each triangle: near `wanted` (N, 3) of vertices with `trust` (N,), else between
    its neighbours' and the `usual` one.
    """
    of = charts.triangles
    held = trust[of].mean(axis=1)[:, None] + STAYS
    pull = ((trust[:, None] * wanted)[of].mean(axis=1) + STAYS * usual[of[:, 0]]).astype(np.float32)
    known = (charts.beside >= 0).astype(np.float32)
    weight = (held + known.sum(axis=1, keepdims=True)).astype(np.float32)
    change: np.ndarray = usual[of[:, 0]].astype(np.float32)
    for _ in range(FADES):
        total = pull.copy()
        for side in range(3):
            total += known[:, side, None] * change[charts.beside[:, side]]
        change = total / weight
    return change


def _sums(group: np.ndarray, values: np.ndarray, count: int = 0) -> np.ndarray:
    """(largest group + 1, 3) sums of values (N, 3) over their groups (N,); at least `count` rows."""
    return np.stack([np.bincount(group, values[:, k], minlength=count) for k in range(3)], axis=1)


def _sampled(image: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """(N, 3) float32 bilinear colours of an image at pixels (N, 2), the centre of the first at (0.5, 0.5)."""
    found = np.empty((len(pixel), 3), np.float32)
    wide = 16_384  # cv2 allows fewer than 32,768 columns and rows
    for start in range(0, len(pixel), wide):
        x, y = (pixel[start : start + wide].astype(np.float32) - 0.5).T[:, None]
        found[start : start + wide] = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
    return found


def _paint(
    texture: np.ndarray,
    view: View,
    photo: np.ndarray,
    charts: _Charts,
    mine: np.ndarray,
    place: np.ndarray,
    change: np.ndarray,
    scale: float,
) -> None:
    """Draw the triangles `mine` (T,) bool of one view into the texture."""
    if scale < 1:
        size = max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    shown = charts.pixel * [photo.shape[1] / view.width, photo.shape[0] / view.height]
    rim = np.zeros(len(charts.pixel), bool)
    rim[charts.triangles[(charts.beside < 0).any(axis=1)]] = True
    at_rim = rim[charts.triangles].any(axis=1)
    for bleed, drawn in ((BLEED, mine & at_rim), (0.0, mine)):  # a triangle's own texels last, over the bleed
        corners = charts.triangles[drawn]
        for which, column, row, weights in _texels(place[corners], texture.shape[:2], bleed):
            triangle = corners[which]
            source = (weights[:, :, None] * shown[triangle]).sum(axis=1)
            inner = weights.clip(0, 1)
            inner /= inner.sum(axis=1, keepdims=True)
            shift = (inner[:, :, None] * change[triangle]).sum(axis=1)
            texture[row, column] = (_sampled(photo, source) + shift + 0.5).clip(0, 255).astype(np.uint8)


def _texels(
    corners: np.ndarray, shape: tuple[int, int], bleed: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """The texels whose centres are at most `bleed` outside triangles (T, 3, 2): index of the triangle (n,), column and
    row, barycentric weights (n, 3). In parts of triangles of similar size.
    """
    low = np.ceil(corners.min(axis=1) - bleed - 0.5).astype(np.int64)  # the centre of texel 0 is at 0.5
    extent = (np.floor(corners.max(axis=1) + bleed + 0.5).astype(np.int64) - low).max(axis=1)
    sides = np.where(extent <= 8, extent, 2 ** np.ceil(np.log2(np.maximum(extent, 1))).astype(np.int64))
    a, b, c = (corners[:, k] for k in range(3))
    area = _cross(b - a, c - a)
    solid = (np.abs(area) > 1e-9) & (extent > 0)
    edges = np.stack([np.linalg.norm(c - b, axis=1), np.linalg.norm(a - c, axis=1), np.linalg.norm(b - a, axis=1)], 1)
    for side in np.unique(sides[solid]).tolist():
        group = np.flatnonzero((sides == side) & solid)
        offset = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
        together = max(1, CHUNK // len(offset))
        for start in range(0, len(group), together):
            part = group[start : start + together]
            texel = low[part, None] + offset
            weights = _barycentric(texel + 0.5, corners[part], area[part])
            outside = -weights * np.abs(area[part])[:, None, None] / np.maximum(edges[part], 1e-9)[:, None]
            inside = (outside <= bleed).all(axis=2)
            inside &= ((texel >= 0) & (texel < [shape[1], shape[0]])).all(axis=2)
            which, where = np.nonzero(inside)
            column, row = texel[which, where].T
            yield part[which], column, row, weights[which, where]


def _barycentric(points: np.ndarray, corners: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Weights (n, m, 3) of the corners (n, 3, 2) at points (n, m, 2); `area` (n,) is twice the signed area."""
    a, b, c = (corners[:, None, k] for k in range(3))
    first = _cross(b - points, c - points) / area[:, None]
    second = _cross(c - points, a - points) / area[:, None]
    return np.stack([first, second, 1 - first - second], axis=-1)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """z of the cross product (...) of vectors (..., 2)."""
    result: np.ndarray = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return result
