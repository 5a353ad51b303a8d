"""Ray-primitive intersections in local coordinates: the torch twins of the functions in raycast.cu.

Rays are origins `o` (N, 3) and directions `d` (N, 3); `p` is the shape part of a geometry row (see scene.Kind).
An interval is (hit (N,) bool, entry t (N,), exit t (N,)). raycast.cu explains each method.
"""

from __future__ import annotations

import torch

from lite3r_cli.data.procedural.scene import Kind
from lite3r_cli.data.procedural.texture_fetch import fetch_level

FAR = 1e9
Tensor = torch.Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over the last axis."""
    return (a * b).sum(-1)


def nonzero(d: Tensor) -> Tensor:
    """`d` with values near 0 replaced by ±1e-8, so that it can be divided by."""
    return torch.where(d.abs() < 1e-8, torch.where(d < 0, -1e-8, 1e-8), d)


def slab(o: Tensor, d: Tensor, lo, hi, t0, t1) -> tuple[Tensor, Tensor]:
    """The interval [t0, t1] clipped to lo <= o + t d <= hi, for one axis."""
    inv = 1.0 / nonzero(d)
    a, b = (lo - o) * inv, (hi - o) * inv
    return torch.maximum(t0, torch.minimum(a, b)), torch.minimum(t1, torch.maximum(a, b))


def line(o: Tensor) -> tuple[Tensor, Tensor]:
    """The interval of the whole line, [-FAR, FAR]."""
    return torch.full_like(o[:, 0], -FAR), torch.full_like(o[:, 0], FAR)


def box_interval(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Interval inside the box [-1, 1]³."""
    t0, t1 = line(o)
    for k in range(3):
        t0, t1 = slab(o[:, k], d[:, k], -1.0, 1.0, t0, t1)
    return t0 < t1, t0, t1


def sphere_interval(o: Tensor, d: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Interval inside the sphere of `radius` around the origin."""
    a = dot(d, d)
    m = -dot(o, d) / a
    q = o + d * m[:, None]
    h = radius * radius - dot(q, q)
    half = (h.clamp(min=0) / a).sqrt()
    return h > 0, m - half, m + half


def frustum_interval(o: Tensor, d: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Interval inside the frustum about y whose radius is 1 at y = -1 and `top` at y = 1."""
    t0, t1 = slab(o[:, 1], d[:, 1], -1.0, 1.0, *line(o))
    k = 0.5 * (top - 1)
    r = 0.5 * (top + 1) + k * o[:, 1]
    dx, dy, dz = d.unbind(1)
    ox, _, oz = o.unbind(1)
    a = nonzero(dx * dx + dz * dz - k * k * dy * dy)
    b = ox * dx + oz * dz - k * dy * r
    disc = b * b - a * (ox * ox + oz * oz - r * r)
    s = disc.clamp(min=0).sqrt()
    p, q = (-b - s) / a, (-b + s) / a
    lo, hi = torch.minimum(p, q), torch.maximum(p, q)
    within, before = a > 0, t0 < lo
    miss = disc <= 0
    u0 = torch.where(within | ~before, torch.maximum(t0, torch.where(within, lo, hi)), t0)
    u1 = torch.where(within, torch.minimum(t1, hi), torch.where(before, torch.minimum(t1, lo), t1))
    u0, u1 = torch.where(miss, t0, u0), torch.where(miss, t1, u1)
    return (u0 < u1) & ~(miss & within), u0, u1


def arch_interval(o: Tensor, d: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Interval inside the arched opening `p`: a rectangle and the half ellipse above it, open towards +z."""
    z0, z1 = slab(o[:, 2], d[:, 2], p[5], 4.0, *line(o))
    a0, a1 = slab(o[:, 0], d[:, 0], p[0] - p[2], p[0] + p[2], z0, z1)
    a0, a1 = slab(o[:, 1], d[:, 1], p[1], p[3], a0, a1)
    rectangle = a0 < a1
    if p[4] <= 0:
        return rectangle, a0, a1
    zero = torch.zeros_like(o[:, 0])
    eo = torch.stack([(o[:, 0] - p[0]) / p[2], (o[:, 1] - p[3]) / p[4], zero], 1)
    ed = torch.stack([nonzero(d[:, 0] / p[2]), d[:, 1] / p[4], zero], 1)
    disc, e0, e1 = sphere_interval(eo, ed, 1.0)
    e0, e1 = torch.maximum(e0, z0), torch.minimum(e1, z1)
    disc = disc & (e0 < e1)
    both = rectangle & disc
    t0 = torch.where(both, torch.minimum(a0, e0), torch.where(rectangle, a0, e0))
    t1 = torch.where(both, torch.maximum(a1, e1), torch.where(rectangle, a1, e1))
    return rectangle | disc, t0, t1


def signed_distance(q: Tensor, p: Tensor) -> Tensor:
    """Lower bound of the signed distance (N,) of points `q` (N, 3): torus, rounded box, turned profile or rock."""
    shape = int(p[7])
    x, y, z = q.unbind(-1)
    if shape == 0:
        w = (x * x + z * z).sqrt() - p[1]
        return (w * w + y * y).sqrt() - p[0]
    if shape == 1:
        e = q.abs() - p[:3] + p[3]
        return e.clamp(min=0).square().sum(-1).sqrt() + e.amax(-1).clamp(max=0) - p[3]
    if shape == 2:
        radius = p[1] + p[2] * torch.sin(p[3] * y + p[4]) + p[5] * torch.sin(2.7 * p[3] * y + 1.3 * p[4]) + p[6] * y
        return torch.maximum(((x * x + z * z).sqrt() - radius) * 0.55, y.abs() - p[0])
    wave = torch.sin(p[1] * x + p[4]) * torch.sin(p[2] * y + p[5]) * torch.sin(p[3] * z + p[6])
    return (dot(q, q).sqrt() - 0.8 - p[0] * wave) * 0.6


def march_sdf(o: Tensor, d: Tensor, p: Tensor, tmin: float, tmax: Tensor) -> tuple[Tensor, Tensor]:
    """Sphere tracing of `signed_distance`: hit (N,) bool and t (N,)."""
    valid, t0, t1 = sphere_interval(o, d, 1.01)
    t, t1 = t0.clamp(min=tmin), torch.minimum(t1, tmax)
    inv = 1.0 / dot(d, d).sqrt()
    found = torch.zeros_like(valid)
    rays = (valid & (t < t1)).nonzero()[:, 0]
    for i in range(64):
        if not len(rays):
            break
        s = signed_distance(o[rays] + d[rays] * t[rays, None], p)
        done = s < 1e-4
        found[rays[done]] = True if i else s[done] > -0.02
        t[rays] = torch.where(done, t[rays], t[rays] + s.clamp(min=5e-4) * inv[rays])
        rays = rays[~done & (t[rays] < t1[rays])]
    return found, t


def height_at(atlas: Tensor, p: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Height (N,) of the height field `p` at local (x, z): base plus amplitude times the texture's alpha."""
    texture, level = p[0].long().expand(x.shape), p[4].long().expand(x.shape)
    texel = fetch_level(atlas, texture, level, x * p[1] + p[2], z * p[1] + p[3], torch.ones_like(x, dtype=torch.bool))
    return p[5] + p[6] * texel[:, 3]


def march_height(atlas: Tensor, o: Tensor, d: Tensor, p: Tensor, tmin: float, tmax: Tensor) -> tuple[Tensor, Tensor]:
    """Equal steps through the height field, then bisection of the first step that ends below it: hit and t (N,)."""

    def below(rays: Tensor, t: Tensor) -> Tensor:
        q = o[rays] + d[rays] * t[:, None]
        return q[:, 1] < height_at(atlas, p, q[:, 0], q[:, 2])

    valid, t0, t1 = box_interval(o, d)
    outside = t0 > tmin
    t0, t1 = t0.clamp(min=tmin), torch.minimum(t1, tmax)
    found, t = torch.zeros_like(valid), t0.clone()
    rays = (valid & (t0 < t1)).nonzero()[:, 0]
    start = below(rays, t0[rays])
    found[rays[start]] = outside[rays[start]]
    rays = rays[~start]
    steps = int(p[7])
    dt = (t1 - t0) / steps
    lo = t0.clone()
    for i in range(1, steps + 1):
        if not len(rays):
            break
        hi = t0[rays] + dt[rays] * i
        hit = below(rays, hi)
        some = rays[hit]
        if len(some):
            a, b = lo[some], hi[hit]
            for _ in range(8):
                mid = 0.5 * (a + b)
                under = below(some, mid)
                a, b = torch.where(under, a, mid), torch.where(under, mid, b)
            found[some], t[some] = True, 0.5 * (a + b)
        lo[rays] = hi
        rays = rays[~hit]
    return found, t


def in_opening(q: Tensor, p: Tensor) -> Tensor:
    """Whether points `q` (N, 3) of a shell's faces lie in its opening; (N,) bool."""
    face = int(p[0])
    if face < 0:
        return torch.zeros_like(q[:, 0], dtype=torch.bool)
    axis = face // 2
    a, b = ((2, 1), (0, 2), (0, 1))[axis]
    n = q[:, axis] if face & 1 else -q[:, axis]
    return (n > 0.999) & (q[:, a] > p[1]) & (q[:, a] < p[2]) & (q[:, b] > p[3]) & (q[:, b] < p[4])


def intersect(
    g: Tensor, atlas: Tensor, o: Tensor, d: Tensor, tmin: float, tmax: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rays (N, 3) in world coordinates against one geometry row `g`.

    Returns hit (N,) bool for tmin < t < tmax, t (N,), and part (N,): 1 = inner wall of an arched opening, else 0.
    """
    m = g[:12].reshape(3, 4)
    lo, ld = o @ m[:, :3].T + m[:, 3], d @ m[:, :3].T
    p, kind = g[20:28], int(g[16])
    part = torch.zeros_like(o[:, 0], dtype=torch.int64)
    if kind == Kind.SDF:
        return *march_sdf(lo, ld, p, tmin, tmax), part
    if kind == Kind.HEIGHT:
        return *march_height(atlas, lo, ld, p, tmin, tmax), part
    if kind == Kind.ELLIPSOID:
        hit, t0, t1 = sphere_interval(lo, ld, 1.0)
    elif kind == Kind.FRUSTUM:
        hit, t0, t1 = frustum_interval(lo, ld, p[0])
    else:
        hit, t0, t1 = box_interval(lo, ld)
    if kind == Kind.SHELL:
        return hit & (t1 > tmin) & (t1 < tmax) & ~in_opening(lo + ld * t1[:, None], p), t1, part
    t = t0
    solid = hit & (t0 > tmin) & (t0 < tmax)
    if kind == Kind.BOX_MINUS_ARCH:
        hole, s0, s1 = arch_interval(lo, ld, p)
        hole = hit & hole & (s0 <= t0 + 1e-5 * t0.abs()) & (s1 > t0)
        solid = torch.where(hole, (s1 > tmin) & (s1 < tmax) & (s1 < t1), solid)
        t, part = torch.where(hole, s1, t0), hole.long()
    return solid, t, part


def axis_normal(q: Tensor) -> Tensor:
    """Unit vector (N, 3) along the largest component of `q`, with its sign."""
    x, y, z = q.abs().unbind(-1)
    axis = torch.where((x >= y) & (x >= z), 0, torch.where(y >= z, 1, 2))
    unit = torch.nn.functional.one_hot(axis, 3).to(q.dtype)
    return unit * torch.where(q < 0, -1.0, 1.0)


def arch_normal(q: Tensor, p: Tensor) -> Tensor:
    """Normal (N, 3), not normalised, of the inner walls of the arched opening `p` at points `q` (N, 3)."""
    x, y, z = q.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    back, bottom, side = (z - p[5]).abs(), (y - p[1]).abs(), (p[2] - (x - p[0]).abs()).abs()
    n = torch.stack([torch.where(x < p[0], 1.0, -1.0), zero, zero], 1)
    upper = y > p[3] - 1e-4
    if p[4] > 0:
        ex, ey = (x - p[0]) / p[2], (y - p[3]) / p[4]
        curve = (1 - (ex * ex + ey * ey).sqrt()).abs() * torch.minimum(p[2], p[4])
        above = torch.stack([-ex / p[2], -ey / p[4], zero], 1)
    else:
        curve, above = (y - p[3]).abs(), torch.stack([zero, -one, zero], 1)
    side, n = torch.where(upper, curve, side), torch.where(upper[:, None], above, n)
    n = torch.where((bottom < side)[:, None], torch.stack([zero, one, zero], 1), n)
    return torch.where(((back < side) & (back < bottom))[:, None], torch.stack([zero, zero, one], 1), n)


def local_normal(g: Tensor, atlas: Tensor, q: Tensor, part: Tensor) -> Tensor:
    """Outward normal (N, 3), not normalised, at local points of one primitive."""
    p, kind = g[20:28], int(g[16])
    x, y, z = q.unbind(-1)
    if kind == Kind.ELLIPSOID:
        return q
    if kind == Kind.FRUSTUM:
        k = 0.5 * (p[0] - 1)
        rho = (x * x + z * z).sqrt()
        cap = 1 - y.abs() < (0.5 * (p[0] + 1) + k * y - rho).abs()
        zero = torch.zeros_like(x)
        lid = torch.stack([zero, torch.where(y < 0, -1.0, 1.0), zero], 1)
        return torch.where(cap[:, None], lid, torch.stack([x, -k * rho, z], 1))
    if kind == Kind.SDF:
        e = 2e-3 * q.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
        a, b, c, f = (signed_distance(q + k, p) for k in e)
        return torch.stack([a - b - c + f, -a - b + c + f, -a + b - c + f], 1)
    if kind == Kind.HEIGHT:
        e = 0.5 * 2 ** int(p[4]) / (256.0 * p[1])
        dx = (height_at(atlas, p, x - e, z) - height_at(atlas, p, x + e, z)) / (2 * e)
        dz = (height_at(atlas, p, x, z - e) - height_at(atlas, p, x, z + e)) / (2 * e)
        wall = (torch.maximum(x.abs(), z.abs()) > 0.9999) & (y < height_at(atlas, p, x, z) - 1e-3)
        return torch.where(wall[:, None], axis_normal(q), torch.stack([dx, torch.ones_like(x), dz], 1))
    if kind == Kind.BOX_MINUS_ARCH:
        return torch.where(part[:, None] > 0, arch_normal(q, p), axis_normal(q))
    return axis_normal(q)
