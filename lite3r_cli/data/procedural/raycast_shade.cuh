// The scene as a whole: nearest hit, shadows, sky, ambient occlusion, texturing, lights.
#pragma once
#include "raycast_intersect.cuh"

struct Scene {
  const float *geometry, *material, *environment;
  const unsigned char* atlas;
  int count;
};
struct Hit { float t; int index, part; };

FN Hit nearest(const Scene& s, const unsigned int* masks, Ray ray) {
  Hit h = {FAR, -1, 0};
  for (int w = 0; w * 32 < s.count; w++) {
    unsigned int m = masks[w];
    while (m) {
#ifdef __CUDACC__
      int i = w * 32 + __ffs(m) - 1;
#else
      int i = w * 32 + __builtin_ctz(m);
#endif
      m &= m - 1;
      float t;
      int part;
      if (intersect(s.geometry + i * GEOMETRY, s.atlas, ray.o, ray.d, 1e-4f, h.t, &t, &part)) {
        h.t = t; h.index = i; h.part = part;
      }
    }
  }
  return h;
}

FN bool occluded(const Scene& s, V3 o, V3 d, float length) {
  for (int i = 0; i < s.count; i++) {
    const float* g = s.geometry + i * GEOMETRY;
    if (g[18] == 0) continue;
    V3 c = load3(g + 12) - o;
    float m = dot(c, d), r = g[15], along = clampf(m, 0, length);
    V3 q = c - d * along;
    if (dot(q, q) > r * r) continue;
    float t;
    int part;
    if (intersect(g, s.atlas, o, d, 1e-3f, length, &t, &part)) return true;
  }
  return false;
}

FN V3 sky(const Scene& s, V3 d) {
  const float* e = s.environment;
  if (d.y < 0) return mix(load3(e + 13), load3(e + 16), clampf(-d.y * 4, 0, 1));
  float up = sqrtf(d.y);
  V3 c = mix(load3(e + 13), load3(e + 10), up);
  if (e[20] > 0) {
    float k = e[21] / (d.y + 0.15f);
    Texel t = fetch(s.atlas, (int)e[19], 0, d.x * k + e[22], d.z * k + e[23], true);
    float w = clampf((t.a - 0.45f) * 3, 0, 1) * e[20] * clampf(d.y * 5, 0, 1);
    c = mix(c, v3(0.9f, 0.9f, 0.92f) * (e[10] + e[11] + e[12]), w);
  }
  return c;
}

FN float ambient_occlusion(const Scene& s, V3 p, V3 n, int own) {
  float ao = 1, strength = s.environment[66];
  for (int i = 0; i < s.count; i++) {
    const float* g = s.geometry + i * GEOMETRY;
    float r = g[19];
    if (r <= 0 || i == own) continue;
    V3 v = load3(g + 12) - p;
    float d2 = dot(v, v);
    if (d2 > 25 * r * r) continue;
    float c = dot(v, n) / sqrtf(d2 + 1e-9f);
    ao *= 1 - strength * clampf(clampf(c + 0.2f, 0, 1) * r * r / (d2 + 1e-6f), 0, 0.85f);
  }
  const float* g = s.geometry + own * GEOMETRY;
  if ((int)g[16] == SHELL) {  // corners of a room are darker
    V3 q = affine(g, p), f = v3(fabsf(q.x), fabsf(q.y), fabsf(q.z));
    float k = 4.0f, b = 1 - strength * 0.45f * expf((fminf(f.x, fminf(f.y, f.z)) - 1) * k);
    float mid = f.x + f.y + f.z - fminf(f.x, fminf(f.y, f.z)) - fmaxf(f.x, fmaxf(f.y, f.z));
    ao *= b * (1 - strength * 0.45f * expf((mid - 1) * k));
  }
  return ao;
}

struct Mapping { float u, v; V3 gu, gv; float cap; };

// Texture coordinates and their world gradients.
FN Mapping texture_mapping(const float* m, const float* g, V3 q, V3 n) {
  int mode = (int)m[8];
  V3 s = load3(m + 9), gu, gv;
  float u, v;
  V3 f = axis_normal(n);
  if (mode == 2) f = v3(0, 0, 1);
  if (mode == 3) f = v3(0, 1, 0);
  bool cap = f.y != 0;
  if (mode == 1 && !cap) {
    float rho2 = fmaxf(q.x * q.x + q.z * q.z, 1e-6f);
    u = atan2f(q.z, q.x) * 0.15915494f * s.x; v = q.y * s.y;
    gu = v3(-q.z, 0, q.x) * (0.15915494f * s.x / rho2); gv = v3(0, s.y, 0);
  } else if (f.x != 0) { u = q.z * s.z; v = q.y * s.y; gu = v3(0, 0, s.z); gv = v3(0, s.y, 0); }
  else if (f.y != 0) { u = q.x * s.x; v = q.z * s.z; gu = v3(s.x, 0, 0); gv = v3(0, 0, s.z); }
  else { u = q.x * s.x; v = q.y * s.y; gu = v3(s.x, 0, 0); gv = v3(0, s.y, 0); }
  float shift = m[25] * (f.x * 0.37f + f.y * 0.61f + f.z * 0.83f);
  gu = transposed(g, gu); gv = transposed(g, gv);
  Mapping r;
  r.u = m[12] * u - m[13] * v + m[14] + shift; r.v = m[13] * u + m[12] * v + m[15] + shift;
  r.gu = gu * m[12] - gv * m[13]; r.gv = gu * m[13] + gv * m[12];
  r.cap = cap && mode != 3 ? 1.0f : 0.0f;
  return r;
}

FN V3 squared(V3 c) { return c * c; }

FN V3 surface(const Scene& s, V3 q, V3 n_local, int index, V3* n, float footprint) {
  const float *g = s.geometry + index * GEOMETRY, *m = s.material + index * MATERIAL;
  Mapping map = texture_mapping(m, g, q, n_local);
  float rate = sqrtf(fmaxf(dot(map.gu, map.gu), dot(map.gv, map.gv)));
  float lod = log2f(fmaxf(256.0f * footprint * rate, 1e-6f));
  int texture = map.cap > 0 && m[26] >= 0 ? (int)m[26] : (int)m[7];
  bool mirror = m[16] > 0;
  Texel t = fetch(s.atlas, texture, lod, map.u, map.v, mirror);
  V3 c = mix(load3(m), v3(t.r, t.g, t.b), m[3]) * load3(m + 4);
  if (m[20] > 0) {
    float k = m[19];
    Texel b = fetch(s.atlas, (int)m[18], lod + log2f(k), map.u * k + 0.31f, map.v * k + 0.57f, true);
    float grey = 0.299f * b.r + 0.587f * b.g + 0.114f * b.b;
    c = c * (1 + m[20] * (2 * grey - 1));
  }
  if (m[17] > 0) *n = normalize(*n - (map.gu * t.du + map.gv * t.dv) * m[17]);
  return squared(v3(clampf(c.x, 0, 1), clampf(c.y, 0, 1), clampf(c.z, 0, 1)));
}

FN V3 light_direction(const float* l, V3 p, unsigned int seed, float* length, float* fall) {
  V3 target = load3(l), to = target;
  if (l[3] > 0) to = target - p;
  if (l[7] > 0) {  // a light with an extent: one random point of it a sample gives soft shadows
    float spread = l[7] * (l[3] > 0 ? 1.0f : sqrtf(dot(to, to)));
    to = to + v3(uniform(seed) - 0.5f, uniform(seed + 1) - 0.5f, uniform(seed + 2) - 0.5f) * (2 * spread);
  }
  float d2 = dot(to, to), d = sqrtf(fmaxf(d2, 1e-12f));
  *length = l[3] > 0 ? d : FAR;
  *fall = l[3] > 0 ? 1.0f / (1 + d2 / (l[9] * l[9])) : 1.0f;
  return to * (1.0f / d);
}

FN V3 shade(const Scene& s, Ray ray, Hit h, float pixel, unsigned int seed) {
  const float *g = s.geometry + h.index * GEOMETRY, *m = s.material + h.index * MATERIAL, *e = s.environment;
  V3 p = ray.o + ray.d * h.t, q = affine(g, p), nl = local_normal(g, s.atlas, q, h.part);
  V3 n = normalize(transposed(g, nl)), view = normalize(ray.d * -1.0f);
  if (dot(n, view) < 0) n = n * -1.0f;
  V3 flat = n;
  float cosine = fmaxf(dot(n, view), 0.05f), distance = h.t * sqrtf(dot(ray.d, ray.d));
  V3 albedo = surface(s, q, nl, h.index, &n, h.t * pixel / sqrtf(cosine));
  float ao = ambient_occlusion(s, p, flat, h.index);
  V3 c = albedo * mix(load3(e + 3), load3(e), 0.5f + 0.5f * n.y) * ao + albedo * m[24];
  V3 start = p + flat * (2e-4f * distance + e[67]);
  for (int i = 0; i < (int)e[24]; i++) {
    const float* l = e + 25 + 10 * i;
    float length, fall;
    V3 to = light_direction(l, start, seed + 16u * i, &length, &fall);
    float lambert = dot(n, to);
    if (lambert <= 0 || dot(flat, to) <= 0) continue;
    if (l[8] > 0 && occluded(s, start, to, length)) continue;
    float gloss = m[21] * powf(fmaxf(dot(n, normalize(to + view)), 1e-4f), m[22]);
    c = c + (albedo * lambert + v3(gloss, gloss, gloss)) * load3(l + 4) * fall;
  }
  if (m[23] > 0) {
    float k = 1 - fmaxf(dot(n, view), 0), k2 = k * k;
    V3 mirrored = n * (2 * dot(n, view)) - view;
    c = c + sky(s, mirrored) * (m[23] * (0.08f + 0.92f * k2 * k2 * k) * ao);
  }
  float haze = 1 - expf(-e[6] * distance);
  return mix(c, load3(e + 7), haze);
}
