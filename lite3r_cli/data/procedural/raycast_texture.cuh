// Textures: mip pyramids of 256² RGBA8, alpha = height.
#pragma once
#include "raycast_math.cuh"

#define TEXELS 87381  // 256² + 128² + … + 1

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
  uchar4 a = __ldg(t + y0 * size + x0), b = __ldg(t + y0 * size + x1);
  uchar4 c = __ldg(t + y1 * size + x0), d = __ldg(t + y1 * size + x1);
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
