// Ray caster for packed analytic scenes; raycast_torch.py computes the same picture, function by function.
// Compiles with NVRTC (kernel `raycast`) and as C++ (function `raycast_host`), so that the tests can compare both on any machine.
// Rays are cast with camera direction (x, y, 1): the ray parameter t is the z-depth, and affine maps to a primitive's
// local frame keep it. The layouts of the rows are those of scene.py.

#ifdef __CUDACC__
#define FN __device__ __forceinline__
#define ARRAY static __device__ const
#else
#include <math.h>
#define FN static inline
#define ARRAY static const
#endif

#define GEOMETRY 28
#define MATERIAL 28
#define ENVIRONMENT 72
#define MAX_PRIMITIVES 160
#define TILE 16
#define TEXELS 87381  // 256² + 128² + … + 1
#define FAR 1e9f

enum Kind { BOX = 0, ELLIPSOID = 1, FRUSTUM = 2, SHELL = 3, BOX_MINUS_ARCH = 4, SDF = 5, HEIGHT = 6 };

struct V3 { float x, y, z; };
struct Texel { float r, g, b, a, du, dv; };
struct Ray { V3 o, d; };

FN V3 v3(float x, float y, float z) { V3 v = {x, y, z}; return v; }
FN V3 operator+(V3 a, V3 b) { return v3(a.x + b.x, a.y + b.y, a.z + b.z); }
FN V3 operator-(V3 a, V3 b) { return v3(a.x - b.x, a.y - b.y, a.z - b.z); }
FN V3 operator*(V3 a, float s) { return v3(a.x * s, a.y * s, a.z * s); }
FN V3 operator*(V3 a, V3 b) { return v3(a.x * b.x, a.y * b.y, a.z * b.z); }
FN float dot(V3 a, V3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
FN float clampf(float x, float lo, float hi) { return fminf(fmaxf(x, lo), hi); }
FN V3 normalize(V3 a) { return a * (1.0f / sqrtf(fmaxf(dot(a, a), 1e-20f))); }
FN V3 mix(V3 a, V3 b, float t) { return a + (b - a) * t; }
FN V3 load3(const float* p) { return v3(p[0], p[1], p[2]); }
FN V3 affine(const float* m, V3 p) {
  return v3(m[0] * p.x + m[1] * p.y + m[2] * p.z + m[3], m[4] * p.x + m[5] * p.y + m[6] * p.z + m[7],
            m[8] * p.x + m[9] * p.y + m[10] * p.z + m[11]);
}
FN V3 linear(const float* m, V3 p) {
  return v3(m[0] * p.x + m[1] * p.y + m[2] * p.z, m[4] * p.x + m[5] * p.y + m[6] * p.z, m[8] * p.x + m[9] * p.y + m[10] * p.z);
}
// Gradients (normals, texture axes) go back to the world with the transpose.
FN V3 transposed(const float* m, V3 n) {
  return v3(m[0] * n.x + m[4] * n.y + m[8] * n.z, m[1] * n.x + m[5] * n.y + m[9] * n.z, m[2] * n.x + m[6] * n.y + m[10] * n.z);
}

FN unsigned int hash(unsigned int x) {
  x ^= x >> 16; x *= 0x7feb352du; x ^= x >> 15; x *= 0x846ca68bu; x ^= x >> 16;
  return x;
}
FN float uniform(unsigned int x) { return (float)(hash(x) >> 8) * (1.0f / 16777216.0f); }

// ---- textures: mip pyramid of 256² RGBA8, alpha = height -----------------------------------------------------------

FN int wrap_texel(int i, int size, bool mirror) {
  if (mirror) return i < 0 ? 0 : (i >= size ? size - 1 : i);
  return i & (size - 1);
}

FN float wrap_coordinate(float u, bool mirror, float* sign) {
  *sign = 1.0f;
  if (!mirror) return u - floorf(u);
  float w = u - 2.0f * floorf(u * 0.5f);
  if (w > 1.0f) { *sign = -1.0f; w = 2.0f - w; }
  return w;
}

FN Texel fetch_level(const unsigned char* atlas, int texture, int level, float u, float v, bool mirror) {
  int size = 256 >> level;
  float su, sv;
  float x = wrap_coordinate(u, mirror, &su) * size - 0.5f, y = wrap_coordinate(v, mirror, &sv) * size - 0.5f;
  float xf = floorf(x), yf = floorf(y);
  float fx = x - xf, fy = y - yf;
  int x0 = wrap_texel((int)xf, size, mirror), x1 = wrap_texel((int)xf + 1, size, mirror);
  int y0 = wrap_texel((int)yf, size, mirror), y1 = wrap_texel((int)yf + 1, size, mirror);
  size_t base = (size_t)texture * TEXELS + (262144 - (262144 >> (2 * level))) / 3;
#ifdef __CUDACC__
  const uchar4* t = (const uchar4*)atlas + base;
  uchar4 a = __ldg(t + y0 * size + x0), b = __ldg(t + y0 * size + x1), c = __ldg(t + y1 * size + x0), d = __ldg(t + y1 * size + x1);
#else
  struct uchar4 { unsigned char x, y, z, w; };
  const uchar4* t = (const uchar4*)atlas + base;
  uchar4 a = t[y0 * size + x0], b = t[y0 * size + x1], c = t[y1 * size + x0], d = t[y1 * size + x1];
#endif
  float w00 = (1 - fx) * (1 - fy), w10 = fx * (1 - fy), w01 = (1 - fx) * fy, w11 = fx * fy;
  const float s = 1.0f / 255.0f;
  Texel r;
  r.r = (w00 * a.x + w10 * b.x + w01 * c.x + w11 * d.x) * s;
  r.g = (w00 * a.y + w10 * b.y + w01 * c.y + w11 * d.y) * s;
  r.b = (w00 * a.z + w10 * b.z + w01 * c.z + w11 * d.z) * s;
  r.a = (w00 * a.w + w10 * b.w + w01 * c.w + w11 * d.w) * s;
  float aw = a.w, bw = b.w, cw = c.w, dw = d.w;
  r.du = ((bw - aw) * (1 - fy) + (dw - cw) * fy) * s * size * su;
  r.dv = ((cw - aw) * (1 - fx) + (dw - bw) * fx) * s * size * sv;
  return r;
}

FN Texel fetch(const unsigned char* atlas, int texture, float lod, float u, float v, bool mirror) {
  lod = clampf(lod, 0.0f, 8.0f);
  int level = (int)lod;
  if (level > 7) level = 7;
  float f = lod - level;
  Texel p = fetch_level(atlas, texture, level, u, v, mirror), q = fetch_level(atlas, texture, level + 1, u, v, mirror);
  p.r += (q.r - p.r) * f; p.g += (q.g - p.g) * f; p.b += (q.b - p.b) * f; p.a += (q.a - p.a) * f;
  p.du += (q.du - p.du) * f; p.dv += (q.dv - p.dv) * f;
  return p;
}

// ---- intersections, all in local coordinates -----------------------------------------------------------------------

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
  float a = nonzero(d.x * d.x + d.z * d.z - k * k * d.y * d.y), b = o.x * d.x + o.z * d.z - k * d.y * r, c = o.x * o.x + o.z * o.z - r * r;
  float disc = b * b - a * c;
  if (disc <= 0) return a < 0 && *t0 < *t1;
  float s = sqrtf(disc), p = (-b - s) / a, q = (-b + s) / a;
  float lo = fminf(p, q), hi = fmaxf(p, q);
  if (a > 0) { *t0 = fmaxf(*t0, lo); *t1 = fminf(*t1, hi); }
  else if (*t0 < lo) *t1 = fminf(*t1, lo);
  else *t0 = fmaxf(*t0, hi);
  return *t0 < *t1;
}

// Arch prism, open towards +z: p = centre x, bottom y, half width, springing y, rise, back z. Convex, hence one interval.
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

// ---- the scene as a whole ------------------------------------------------------------------------------------------

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
      if (intersect(s.geometry + i * GEOMETRY, s.atlas, ray.o, ray.d, 1e-4f, h.t, &t, &part)) { h.t = t; h.index = i; h.part = part; }
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

ARRAY float OFFSETS[8][2] = {{0.0f, 0.0f}, {0.25f, 0.375f}, {-0.375f, 0.125f}, {0.125f, -0.25f},
                             {-0.125f, -0.375f}, {0.375f, -0.125f}, {-0.25f, 0.25f}, {0.4375f, -0.4375f}};

// camera: K (9), cam_from_world (12).
FN Ray camera_ray(const float* camera, float x, float y) {
  const float* m = camera + 9;
  V3 d = v3((x - camera[2]) / camera[0], (y - camera[5]) / camera[4], 1);
  V3 t = v3(m[3], m[7], m[11]);
  Ray r = {transposed(m, t) * -1.0f, transposed(m, d)};
  return r;
}

FN void render_pixel(const Scene& s, const unsigned int* masks, const float* camera, int x, int y, int samples, float bias,
                     unsigned int seed, V3* color, float* depth) {
  V3 sum = v3(0, 0, 0);
  float pixel = exp2f(bias) / sqrtf(camera[0] * camera[4]);
  for (int k = 0; k < samples; k++) {
    Ray ray = camera_ray(camera, x + 0.5f + OFFSETS[k & 7][0], y + 0.5f + OFFSETS[k & 7][1]);
    Hit h = nearest(s, masks, ray);
    if (k == 0) *depth = h.index < 0 ? 0.0f : h.t;
    sum = sum + (h.index < 0 ? sky(s, normalize(ray.d)) : shade(s, ray, h, pixel, hash(seed + 64u * k)));
  }
  *color = sum * (1.0f / samples);
}

// Cone around the rays of a tile against a bounding sphere; conservative.
FN bool tile_sees(const float* g, Ray axis, V3 unit, float cosine, float sine) {
  V3 v = load3(g + 12) - axis.o;
  float a = dot(v, unit), q = sqrtf(fmaxf(dot(v, v) - a * a, 0.0f)), r = g[15] * 1.001f;
  return dot(v, v) <= r * r || q * cosine - a * sine <= r;
}

FN unsigned int pixel_seed(unsigned int seed, int view, int y, int x) {
  return hash(seed ^ hash((unsigned int)view * 0x9e3779b9u + (unsigned int)y * 65536u + (unsigned int)x));
}

#ifdef __CUDACC__
extern "C" __global__ __launch_bounds__(TILE* TILE) void raycast(
    const float* geometry, const float* material, const float* environment, const float* camera, const float* counts,
    const unsigned char* atlas, float* image, float* depth, int primitives, int views, int height, int width, int samples,
    float bias, unsigned int seed) {
  __shared__ float rows[MAX_PRIMITIVES * GEOMETRY];
  __shared__ float surroundings[ENVIRONMENT];
  __shared__ unsigned int masks[MAX_PRIMITIVES / 32];
  int view = blockIdx.z, scene = view / views, thread = threadIdx.y * TILE + threadIdx.x;
  int count = (int)counts[scene];
  const float* g = geometry + (size_t)scene * primitives * GEOMETRY;
  for (int i = thread; i < count * GEOMETRY; i += TILE * TILE) rows[i] = g[i];
  if (thread < ENVIRONMENT) surroundings[thread] = environment[scene * ENVIRONMENT + thread];
  __syncthreads();

  const float* cam = camera + (size_t)view * 21;
  float left = blockIdx.x * TILE - 0.5f, top = blockIdx.y * TILE - 0.5f, span = TILE + 1.0f;
  Ray axis = camera_ray(cam, left + 0.5f * span, top + 0.5f * span);
  V3 unit = normalize(axis.d);
  float cosine = 1;
  for (int k = 0; k < 4; k++) {
    V3 corner = normalize(camera_ray(cam, left + (k & 1) * span, top + (k >> 1) * span).d);
    cosine = fminf(cosine, dot(corner, unit));
  }
  cosine -= 1e-6f;
  float sine = sqrtf(fmaxf(1 - cosine * cosine, 0.0f));
  if (thread < MAX_PRIMITIVES) {
    bool keep = thread < count && tile_sees(rows + thread * GEOMETRY, axis, unit, cosine, sine);
    unsigned int mask = __ballot_sync(0xffffffffu, keep);
    if ((thread & 31) == 0) masks[thread >> 5] = mask;
  }
  __syncthreads();

  int x = blockIdx.x * TILE + threadIdx.x, y = blockIdx.y * TILE + threadIdx.y;
  if (x >= width || y >= height) return;
  Scene s = {rows, material + (size_t)scene * primitives * MATERIAL, surroundings, atlas, count};
  V3 c;
  float z;
  render_pixel(s, masks, cam, x, y, samples, bias, pixel_seed(seed, view, y, x), &c, &z);
  size_t plane = (size_t)height * width, at = (size_t)view * plane + (size_t)y * width + x;
  depth[at] = z;
  float* out = image + (size_t)view * 3 * plane + (size_t)y * width + x;
  out[0] = c.x; out[plane] = c.y; out[2 * plane] = c.z;
}
#else
extern "C" void raycast_host(const float* geometry, const float* material, const float* environment, const float* camera,
                             const float* counts, const unsigned char* atlas, float* image, float* depth, int scenes,
                             int primitives, int views, int height, int width, int samples, float bias, unsigned int seed) {
  unsigned int masks[MAX_PRIMITIVES / 32];
  for (int view = 0; view < scenes * views; view++) {
    int scene = view / views, count = (int)counts[scene];
    for (int w = 0; w < MAX_PRIMITIVES / 32; w++) masks[w] = count >= 32 * (w + 1) ? ~0u : (count > 32 * w ? (1u << (count - 32 * w)) - 1 : 0);
    Scene s = {geometry + (size_t)scene * primitives * GEOMETRY, material + (size_t)scene * primitives * MATERIAL,
               environment + scene * ENVIRONMENT, atlas, count};
    for (int y = 0; y < height; y++)
      for (int x = 0; x < width; x++) {
        V3 c;
        float z;
        render_pixel(s, masks, camera + (size_t)view * 21, x, y, samples, bias, pixel_seed(seed, view, y, x), &c, &z);
        size_t plane = (size_t)height * width, at = (size_t)view * plane + (size_t)y * width + x;
        depth[at] = z;
        float* out = image + (size_t)view * 3 * plane + (size_t)y * width + x;
        out[0] = c.x; out[plane] = c.y; out[2 * plane] = c.z;
      }
  }
}
#endif
