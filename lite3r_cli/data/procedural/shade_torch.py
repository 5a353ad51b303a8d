"""Texturing, lights, shadows, ambient occlusion and sky for N rays: the torch twins of the functions in raycast.cu."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lite3r_cli.data.procedural.intersect_torch import axis_normal, dot, intersect, local_normal
from lite3r_cli.data.procedural.scene import Kind
from lite3r_cli.data.procedural.texture_fetch import fetch

FAR = 1e9
Tensor = torch.Tensor


@dataclass(frozen=True)
class View:
    """The scene, textures and pixel size for the rays of one view."""

    geometry: Tensor  # (P, GEOMETRY)
    material: Tensor  # (>= P, MATERIAL)
    environment: Tensor  # (ENVIRONMENT,)
    atlas: Tensor  # (T, 87381, 4) uint8
    pixel: float  # size of a pixel at depth 1


def hash32(x: Tensor) -> Tensor:
    """Integer hash ("lowbias32") of int64 tensors that hold unsigned 32-bit values."""
    mask = 0xFFFFFFFF
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & mask
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & mask
    return x ^ (x >> 16)


def uniform(seed: Tensor) -> Tensor:
    """A number in [0, 1) per seed."""
    return (hash32(seed & 0xFFFFFFFF) >> 8).float() * (1.0 / 16777216.0)


def unit(v: Tensor) -> Tensor:
    """`v` (N, 3), normalised."""
    return v * (1.0 / dot(v, v).clamp(min=1e-20).sqrt())[:, None]


def mix(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Linear interpolation from `a` to `b` (N, 3) by `t` (N,)."""
    return a + (b - a) * t[:, None]


def transposed(g: Tensor, n: Tensor) -> Tensor:
    """World gradients (N, 3) from local gradients `n` (N, 3); `g` (N, GEOMETRY) is the geometry row of each."""
    return torch.einsum("nij,ni->nj", g[:, :12].reshape(-1, 3, 4)[:, :, :3], n)


def to_local(g: Tensor, p: Tensor) -> Tensor:
    """Local coordinates (N, 3) of world points `p` (N, 3); `g` (N, GEOMETRY) is the geometry row of each."""
    m = g[:, :12].reshape(-1, 3, 4)
    return torch.einsum("nij,nj->ni", m[:, :, :3], p) + m[:, :, 3]


def occluded(view: View, o: Tensor, d: Tensor, length: Tensor) -> Tensor:
    """Whether a shadow caster lies within `length` (N,) along each ray; (N,) bool."""
    shadow = torch.zeros(len(o), dtype=torch.bool, device=o.device)
    for g in view.geometry:
        if g[18] == 0:
            continue
        c = g[12:15] - o
        along = torch.minimum(dot(c, d).clamp(min=0), length)
        q = c - d * along[:, None]
        rays = (~shadow & (dot(q, q) <= g[15] * g[15])).nonzero()[:, 0]
        if len(rays):
            shadow[rays] = intersect(g, view.atlas, o[rays], d[rays], 1e-3, length[rays])[0]
    return shadow


def sky(view: View, d: Tensor) -> Tensor:
    """Linear colour (N, 3) of the sky in unit directions `d` (N, 3)."""
    e = view.environment
    y = d[:, 1]
    below = mix(e[13:16].expand_as(d), e[16:19].expand_as(d), (-y * 4).clamp(0, 1))
    above = mix(e[13:16].expand_as(d), e[10:13].expand_as(d), y.clamp(min=0).sqrt())
    if e[20] > 0:
        k = e[21] / (y.clamp(min=0) + 0.15)
        texture = torch.full_like(y, float(e[19])).long()
        mirror = torch.ones_like(texture, dtype=torch.bool)
        t = fetch(view.atlas, texture, torch.zeros_like(y), d[:, 0] * k + e[22], d[:, 2] * k + e[23], mirror)
        w = ((t[:, 3] - 0.45) * 3).clamp(0, 1) * e[20] * (y * 5).clamp(0, 1)
        above = mix(above, (e.new_tensor([0.9, 0.9, 0.92]) * e[10:13].sum()).expand_as(d), w)
    return torch.where((y < 0)[:, None], below, above)


def ambient_occlusion(view: View, p: Tensor, n: Tensor, own: Tensor) -> Tensor:
    """Share (N,) of the ambient light that reaches points `p` with normals `n`, with primitives as spheres.

    `own` (N,) is the primitive each point belongs to; it does not occlude itself.
    """
    ao, strength = torch.ones_like(p[:, 0]), view.environment[66]
    for i, g in enumerate(view.geometry):
        r = g[19]
        if r <= 0:
            continue
        v = g[12:15] - p
        d2 = dot(v, v)
        c = dot(v, n) / (d2 + 1e-9).sqrt()
        cover = ((c + 0.2).clamp(0, 1) * r * r / (d2 + 1e-6)).clamp(0, 0.85)
        ao = ao * torch.where((own == i) | (d2 > 25 * r * r), 1.0, 1 - strength * cover)
    g = view.geometry[own]
    f = to_local(g, p).abs().sort(1).values
    corner = (1 - strength * 0.45 * torch.exp((f[:, 0] - 1) * 4)) * (1 - strength * 0.45 * torch.exp((f[:, 1] - 1) * 4))
    return ao * torch.where(g[:, 16] == Kind.SHELL, corner, 1.0)


def texture_mapping(m: Tensor, g: Tensor, q: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Texture coordinates u, v (N,), their world gradients (N, 3), and whether the cap's texture applies (N,) bool."""
    mode, s = m[:, 8].long(), m[:, 9:12]
    f = axis_normal(n)
    f = torch.where((mode == 2)[:, None], f.new_tensor([0.0, 0, 1]), f)
    f = torch.where((mode == 3)[:, None], f.new_tensor([0.0, 1, 0]), f)
    cap = f[:, 1] != 0
    first = torch.where(f[:, 0] != 0, 2, 0)  # the axis of u: z on the x faces, else x
    second = torch.where(cap, 2, 1)
    scaled = q * s
    u, v = scaled.gather(1, first[:, None])[:, 0], scaled.gather(1, second[:, None])[:, 0]
    one_hot = torch.nn.functional.one_hot
    gu, gv = one_hot(first, 3) * s, one_hot(second, 3) * s
    around = (mode == 1) & ~cap
    rho2 = (q[:, 0] ** 2 + q[:, 2] ** 2).clamp(min=1e-6)
    u = torch.where(around, torch.atan2(q[:, 2], q[:, 0]) * 0.15915494 * s[:, 0], u)
    v = torch.where(around, scaled[:, 1], v)
    swirl = torch.stack([-q[:, 2], torch.zeros_like(rho2), q[:, 0]], 1) * (0.15915494 * s[:, 0] / rho2)[:, None]
    gu = torch.where(around[:, None], swirl, gu)
    gv = torch.where(around[:, None], one_hot(torch.ones_like(first), 3) * s, gv)
    shift = m[:, 25] * (f @ f.new_tensor([0.37, 0.61, 0.83]))
    gu, gv = transposed(g, gu), transposed(g, gv)
    c, si = m[:, 12], m[:, 13]
    return (
        c * u - si * v + m[:, 14] + shift,
        si * u + c * v + m[:, 15] + shift,
        gu * c[:, None] - gv * si[:, None],
        gu * si[:, None] + gv * c[:, None],
        cap & (mode != 3),
    )


def surface(
    view: View, q: Tensor, n_local: Tensor, index: Tensor, n: Tensor, footprint: Tensor
) -> tuple[Tensor, Tensor]:
    """Linear albedo (N, 3) and the bumped normal (N, 3)."""
    g, m = view.geometry[index], view.material[index]
    u, v, gu, gv, cap = texture_mapping(m, g, q, n_local)
    rate = torch.maximum(dot(gu, gu), dot(gv, gv)).sqrt()
    lod = torch.log2((256.0 * footprint * rate).clamp(min=1e-6))
    texture = torch.where(cap & (m[:, 26] >= 0), m[:, 26], m[:, 7]).long()
    t = fetch(view.atlas, texture, lod, u, v, m[:, 16] > 0)
    color = mix(m[:, :3], t[:, :3], m[:, 3]) * m[:, 4:7]
    k = m[:, 19].clamp(min=1e-6)
    b = fetch(view.atlas, m[:, 18].long(), lod + torch.log2(k), u * k + 0.31, v * k + 0.57, torch.ones_like(cap))
    grey = b[:, :3] @ b.new_tensor([0.299, 0.587, 0.114])
    color = color * torch.where(m[:, 20] > 0, 1 + m[:, 20] * (2 * grey - 1), 1.0)[:, None]
    bumped = unit(n - (gu * t[:, 4:5] + gv * t[:, 5:6]) * m[:, 17:18])
    n = torch.where(m[:, 17:18] > 0, bumped, n)
    return color.clamp(0, 1).square(), n


def light_direction(light: Tensor, p: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit directions (N, 3) to a light, and distances and attenuations (N,)."""
    point = bool(light[3] > 0)
    to = light[:3] - p if point else light[:3].expand_as(p)
    if light[7] > 0:
        spread = light[7] if point else light[7] * dot(to, to).sqrt()[:, None]
        to = to + (torch.stack([uniform(seed + k) for k in range(3)], 1) - 0.5) * (2 * spread)
    d2 = dot(to, to)
    d = d2.clamp(min=1e-12).sqrt()
    direction = to * (1.0 / d)[:, None]
    if point:
        return direction, d, 1.0 / (1 + d2 / (light[9] * light[9]))
    return direction, torch.full_like(d, FAR), torch.ones_like(d)


def _normals(view: View, q: Tensor, index: Tensor, part: Tensor) -> Tensor:
    n = torch.empty_like(q)
    for i in index.unique().tolist():
        rays = (index == i).nonzero()[:, 0]
        n[rays] = local_normal(view.geometry[i], view.atlas, q[rays], part[rays])
    return n


def shade(view: View, o: Tensor, d: Tensor, t: Tensor, index: Tensor, part: Tensor, seed: Tensor) -> Tensor:
    """Linear colour (N, 3) at the hits `t` (N,) of the rays; `seed` (N,) int64 samples points on area lights."""
    g, m, e = view.geometry[index], view.material[index], view.environment
    p = o + d * t[:, None]
    q = to_local(g, p)
    nl = _normals(view, q, index, part)
    n, eye = unit(transposed(g, nl)), unit(-d)
    n = torch.where((dot(n, eye) < 0)[:, None], -n, n)
    flat = n
    cosine, distance = dot(n, eye).clamp(min=0.05), t * dot(d, d).sqrt()
    albedo, n = surface(view, q, nl, index, n, t * view.pixel / cosine.sqrt())
    ao = ambient_occlusion(view, p, flat, index)
    ambient = mix(e[3:6].expand_as(n), e[0:3].expand_as(n), 0.5 + 0.5 * n[:, 1])
    color = albedo * ambient * ao[:, None] + albedo * m[:, 24:25]
    start = p + flat * (2e-4 * distance + e[67])[:, None]
    for i in range(int(e[24])):
        color = color + _lit(view, e[25 + 10 * i : 35 + 10 * i], start, n, flat, eye, albedo, m, seed + 16 * i)
    facing = dot(n, eye)
    k = 1 - facing.clamp(min=0)
    mirrored = n * (2 * facing)[:, None] - eye
    glass = m[:, 23] * (0.08 + 0.92 * k**5) * ao
    color = color + torch.where((m[:, 23] > 0)[:, None], sky(view, mirrored) * glass[:, None], 0.0)
    return mix(color, e[7:10].expand_as(color), 1 - torch.exp(-e[6] * distance))


def _lit(view: View, light: Tensor, start, n, flat, eye, albedo, m, seed) -> Tensor:
    to, length, fall = light_direction(light, start, seed)
    lambert = dot(n, to)
    color = torch.zeros_like(albedo)
    rays = ((lambert > 0) & (dot(flat, to) > 0)).nonzero()[:, 0]
    if light[8] > 0 and len(rays):
        rays = rays[~occluded(view, start[rays], to[rays], length[rays])]
    half = unit(to[rays] + eye[rays])
    gloss = m[rays, 21] * torch.pow(dot(n[rays], half).clamp(min=1e-4), m[rays, 22])
    color[rays] = (albedo[rays] * lambert[rays, None] + gloss[:, None]) * light[4:7] * fall[rays, None]
    return color
