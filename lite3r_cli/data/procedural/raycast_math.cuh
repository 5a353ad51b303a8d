// Vectors, affine maps and the integer hash; `FN` makes every function compile for the GPU and as C++.
#pragma once

#ifdef __CUDACC__
#define FN __device__ __forceinline__
#else
#include <math.h>
#define FN static inline
#endif

#define GEOMETRY 28
#define MATERIAL 28
#define ENVIRONMENT 72
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
  return v3(m[0] * p.x + m[1] * p.y + m[2] * p.z, m[4] * p.x + m[5] * p.y + m[6] * p.z,
            m[8] * p.x + m[9] * p.y + m[10] * p.z);
}
// Gradients (normals, texture axes) go back to the world with the transpose.
FN V3 transposed(const float* m, V3 n) {
  return v3(m[0] * n.x + m[4] * n.y + m[8] * n.z, m[1] * n.x + m[5] * n.y + m[9] * n.z,
            m[2] * n.x + m[6] * n.y + m[10] * n.z);
}

FN unsigned int hash(unsigned int x) {
  x ^= x >> 16; x *= 0x7feb352du; x ^= x >> 15; x *= 0x846ca68bu; x ^= x >> 16;
  return x;
}
FN float uniform(unsigned int x) { return (float)(hash(x) >> 8) * (1.0f / 16777216.0f); }
