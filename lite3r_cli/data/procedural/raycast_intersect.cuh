// Intersections, all in local coordinates; the kinds of primitives are those of scene.py.
#pragma once
#include "raycast_texture.cuh"

FN float nonzero(float d) { return fabsf(d) < 1e-8f ? (d < 0 ? -1e-8f : 1e-8f) : d; }

FN void slab(float o, float d, float lo, float hi, float* t0, float* t1) {
  float inv = 1.0f / nonzero(d), a = (lo - o) * inv, b = (hi - o) * inv;
  *t0 = fmaxf(*t0, fminf(a, b));
  *t1 = fminf(*t1, fmaxf(a, b));
}

FN bool box_interval(V3 o, V3 d, float* t0, float* t1) {
  *t0 = -FAR; *t1 = FAR;
  slab(o.x, d.x, -1, 1, t0, t1); slab(o.y, d.y, -1, 1, t0, t1); slab(o.z, d.z, -1, 1, t0, t1);
  return *t0 < *t1;
}

// The closest approach is computed first: exact for far and for small spheres in single precision.
FN bool sphere_interval(V3 o, V3 d, float radius, float* t0, float* t1) {
  float a = dot(d, d), m = -dot(o, d) / a;
  V3 q = o + d * m;
  float h = radius * radius - dot(q, q);
  if (h <= 0) return false;
  h = sqrtf(h / a);
  *t0 = m - h; *t1 = m + h;
  return true;
}

FN bool frustum_interval(V3 o, V3 d, float top, float* t0, float* t1) {
  *t0 = -FAR; *t1 = FAR;
  slab(o.y, d.y, -1, 1, t0, t1);
  float k = 0.5f * (top - 1), r = 0.5f * (top + 1) + k * o.y;
  float a = nonzero(d.x * d.x + d.z * d.z - k * k * d.y * d.y), b = o.x * d.x + o.z * d.z - k * d.y * r;
  float c = o.x * o.x + o.z * o.z - r * r;
  float disc = b * b - a * c;
  if (disc <= 0) return a < 0 && *t0 < *t1;
  float s = sqrtf(disc), p = (-b - s) / a, q = (-b + s) / a;
  float lo = fminf(p, q), hi = fmaxf(p, q);
  if (a > 0) { *t0 = fmaxf(*t0, lo); *t1 = fminf(*t1, hi); }
  else if (*t0 < lo) *t1 = fminf(*t1, lo);
  else *t0 = fmaxf(*t0, hi);
  return *t0 < *t1;
}

// Arch prism, open towards +z; convex, hence one interval. p = centre x, bottom y, half width, springing y, rise, back z.
FN bool arch_interval(V3 o, V3 d, const float* p, float* t0, float* t1) {
  float z0 = -FAR, z1 = FAR;
  slab(o.z, d.z, p[5], 4.0f, &z0, &z1);
  float a0 = z0, a1 = z1;
  slab(o.x, d.x, p[0] - p[2], p[0] + p[2], &a0, &a1);
  slab(o.y, d.y, p[1], p[3], &a0, &a1);
  bool rectangle = a0 < a1, disc = false;
  float e0 = 0, e1 = 0;
  if (p[4] > 0) {
    V3 eo = v3((o.x - p[0]) / p[2], (o.y - p[3]) / p[4], 0), ed = v3(nonzero(d.x / p[2]), d.y / p[4], 0);
    disc = sphere_interval(eo, ed, 1.0f, &e0, &e1);
    e0 = fmaxf(e0, z0); e1 = fminf(e1, z1);
    disc = disc && e0 < e1;
  }
  if (rectangle && disc) { *t0 = fminf(a0, e0); *t1 = fmaxf(a1, e1); }
  else if (rectangle) { *t0 = a0; *t1 = a1; }
  else { *t0 = e0; *t1 = e1; }
  return rectangle || disc;
}

// Signed distances: 0 torus, 1 rounded box, 2 turned profile (column, vase, baluster), 3 rock or sculpture.
FN float signed_distance(V3 q, const float* p) {
  int shape = (int)p[7];
  if (shape == 0) {
    float w = sqrtf(q.x * q.x + q.z * q.z) - p[1];
    return sqrtf(w * w + q.y * q.y) - p[0];
  }
  if (shape == 1) {
    float x = fabsf(q.x) - p[0] + p[3], y = fabsf(q.y) - p[1] + p[3], z = fabsf(q.z) - p[2] + p[3];
    float ax = fmaxf(x, 0), ay = fmaxf(y, 0), az = fmaxf(z, 0);
    return sqrtf(ax * ax + ay * ay + az * az) + fminf(fmaxf(x, fmaxf(y, z)), 0) - p[3];
  }
  if (shape == 2) {
    float radius = p[1] + p[2] * sinf(p[3] * q.y + p[4]) + p[5] * sinf(2.7f * p[3] * q.y + 1.3f * p[4]) + p[6] * q.y;
    float side = (sqrtf(q.x * q.x + q.z * q.z) - radius) * 0.55f;
    return fmaxf(side, fabsf(q.y) - p[0]);
  }
  float wave = sinf(p[1] * q.x + p[4]) * sinf(p[2] * q.y + p[5]) * sinf(p[3] * q.z + p[6]);
  return (sqrtf(dot(q, q)) - 0.8f - p[0] * wave) * 0.6f;
}

FN bool march_sdf(V3 o, V3 d, const float* p, float tmin, float tmax, float* t) {
  float t0, t1;
  if (!sphere_interval(o, d, 1.01f, &t0, &t1)) return false;
  t0 = fmaxf(t0, tmin); t1 = fminf(t1, tmax);
  float inv = 1.0f / sqrtf(dot(d, d));
  for (int i = 0; i < 64 && t0 < t1; i++) {
    float s = signed_distance(o + d * t0, p);
    if (s < 1e-4f) { *t = t0; return i > 0 || s > -0.02f; }
    t0 += fmaxf(s, 5e-4f) * inv;
  }
  return false;
}

// Height field over (x, z): p = texture, uv scale, u offset, v offset, level, base, amplitude, steps.
FN float height_at(const unsigned char* atlas, const float* p, float x, float z) {
  return p[5] + p[6] * fetch_level(atlas, (int)p[0], (int)p[4], x * p[1] + p[2], z * p[1] + p[3], true).a;
}

FN bool march_height(const unsigned char* atlas, V3 o, V3 d, const float* p, float tmin, float tmax, float* t) {
  float t0, t1;
  if (!box_interval(o, d, &t0, &t1)) return false;
  bool outside = t0 > tmin;
  t0 = fmaxf(t0, tmin); t1 = fminf(t1, tmax);
  if (t0 >= t1) return false;
  V3 q = o + d * t0;
  if (q.y < height_at(atlas, p, q.x, q.z)) { *t = t0; return outside; }
  int steps = (int)p[7];
  float dt = (t1 - t0) / steps, lo = t0;
  for (int i = 1; i <= steps; i++) {
    float hi = t0 + dt * i;
    q = o + d * hi;
    if (q.y < height_at(atlas, p, q.x, q.z)) {
      for (int k = 0; k < 8; k++) {
        float mid = 0.5f * (lo + hi);
        q = o + d * mid;
        if (q.y < height_at(atlas, p, q.x, q.z)) hi = mid; else lo = mid;
      }
      *t = 0.5f * (lo + hi);
      return true;
    }
    lo = hi;
  }
  return false;
}

FN bool in_opening(V3 q, const float* p) {
  int face = (int)p[0];
  if (face < 0) return false;
  float n = face < 2 ? q.x : (face < 4 ? q.y : q.z), a = face < 2 ? q.z : q.x, b = face < 4 && face >= 2 ? q.z : q.y;
  n = face & 1 ? n : -n;
  return n > 0.999f && a > p[1] && a < p[2] && b > p[3] && b < p[4];
}

// `part` is 1 where the hit lies on the wall of an opening.
FN bool intersect(const float* g, const unsigned char* atlas, V3 o, V3 d, float tmin, float tmax, float* t, int* part) {
  V3 lo = affine(g, o), ld = linear(g, d);
  const float* p = g + 20;
  int kind = (int)g[16];
  float t0, t1;
  *part = 0;
  if (kind == SDF) return march_sdf(lo, ld, p, tmin, tmax, t);
  if (kind == HEIGHT) return march_height(atlas, lo, ld, p, tmin, tmax, t);
  bool hit;
  if (kind == ELLIPSOID) hit = sphere_interval(lo, ld, 1.0f, &t0, &t1);
  else if (kind == FRUSTUM) hit = frustum_interval(lo, ld, p[0], &t0, &t1);
  else hit = box_interval(lo, ld, &t0, &t1);
  if (!hit) return false;
  if (kind == SHELL) {
    *t = t1;
    return t1 > tmin && t1 < tmax && !in_opening(lo + ld * t1, p);
  }
  if (kind == BOX_MINUS_ARCH) {
    float s0, s1;
    if (arch_interval(lo, ld, p, &s0, &s1) && s0 <= t0 + 1e-5f * fabsf(t0) && s1 > t0) {
      *t = s1; *part = 1;
      return s1 > tmin && s1 < tmax && s1 < t1;
    }
  }
  *t = t0;
  return t0 > tmin && t0 < tmax;
}

FN V3 axis_normal(V3 q) {
  float x = fabsf(q.x), y = fabsf(q.y), z = fabsf(q.z);
  if (x >= y && x >= z) return v3(q.x < 0 ? -1 : 1, 0, 0);
  if (y >= z) return v3(0, q.y < 0 ? -1 : 1, 0);
  return v3(0, 0, q.z < 0 ? -1 : 1);
}

FN V3 arch_normal(V3 q, const float* p) {
  float back = fabsf(q.z - p[5]), bottom = fabsf(q.y - p[1]), side = fabsf(p[2] - fabsf(q.x - p[0]));
  V3 n = v3(q.x < p[0] ? 1 : -1, 0, 0);
  if (q.y > p[3] - 1e-4f) {
    if (p[4] > 0) {
      float ex = (q.x - p[0]) / p[2], ey = (q.y - p[3]) / p[4];
      side = fabsf(1 - sqrtf(ex * ex + ey * ey)) * fminf(p[2], p[4]);
      n = v3(-ex / p[2], -ey / p[4], 0);
    } else {
      side = fabsf(q.y - p[3]);
      n = v3(0, -1, 0);
    }
  }
  if (back < side && back < bottom) return v3(0, 0, 1);
  return bottom < side ? v3(0, 1, 0) : n;
}

FN V3 local_normal(const float* g, const unsigned char* atlas, V3 q, int part) {
  const float* p = g + 20;
  int kind = (int)g[16];
  if (kind == ELLIPSOID) return q;
  if (kind == FRUSTUM) {
    float k = 0.5f * (p[0] - 1), r = 0.5f * (p[0] + 1) + k * q.y, rho = sqrtf(q.x * q.x + q.z * q.z);
    if (1 - fabsf(q.y) < fabsf(r - rho)) return v3(0, q.y < 0 ? -1 : 1, 0);
    return v3(q.x, -k * rho, q.z);
  }
  if (kind == SDF) {
    const float e = 2e-3f;
    float a = signed_distance(q + v3(e, -e, -e), p), b = signed_distance(q + v3(-e, -e, e), p);
    float c = signed_distance(q + v3(-e, e, -e), p), f = signed_distance(q + v3(e, e, e), p);
    return v3(a - b - c + f, -a - b + c + f, -a + b - c + f);
  }
  if (kind == HEIGHT) {
    V3 box = axis_normal(q);
    if (fmaxf(fabsf(q.x), fabsf(q.z)) > 0.9999f && q.y < height_at(atlas, p, q.x, q.z) - 1e-3f) return box;
    float e = 0.5f * (float)(1 << (int)p[4]) / (256.0f * p[1]);
    return v3((height_at(atlas, p, q.x - e, q.z) - height_at(atlas, p, q.x + e, q.z)) / (2 * e), 1,
              (height_at(atlas, p, q.x, q.z - e) - height_at(atlas, p, q.x, q.z + e)) / (2 * e));
  }
  if (part) return arch_normal(q, p);
  return axis_normal(q);
}
