// Ray caster for packed analytic scenes; raycast_torch.py computes the same picture, function by function.
// Compiles with NVRTC (kernel `raycast`) and as C++ (function `raycast_host`): tests compare it with the twin anywhere.
// Rays are cast with camera direction (x, y, 1): the ray parameter t is the z-depth, and affine maps to a primitive's
// local frame keep it. The layouts of the rows are those of scene.py.

#include "raycast_shade.cuh"

#ifdef __CUDACC__
#define ARRAY static __device__ const
#else
#define ARRAY static const
#endif

#define MAX_PRIMITIVES 160
#define TILE 16

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

FN void render_pixel(const Scene& s, const unsigned int* masks, const float* camera, int x, int y, int samples,
                     float bias, unsigned int seed, V3* color, float* depth) {
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
    const unsigned char* atlas, float* image, float* depth, int primitives, int views, int height, int width,
    int samples, float bias, unsigned int seed) {
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
extern "C" void raycast_host(
    const float* geometry, const float* material, const float* environment, const float* camera, const float* counts,
    const unsigned char* atlas, float* image, float* depth, int scenes, int primitives, int views, int height, int width,
    int samples, float bias, unsigned int seed) {
  unsigned int masks[MAX_PRIMITIVES / 32];
  for (int view = 0; view < scenes * views; view++) {
    int scene = view / views, count = (int)counts[scene];
    for (int w = 0; w < MAX_PRIMITIVES / 32; w++) {
      int left = count - 32 * w;
      masks[w] = left >= 32 ? ~0u : (left > 0 ? (1u << left) - 1 : 0);
    }
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
