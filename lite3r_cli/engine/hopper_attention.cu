// Attention of groups of ROWS queries (128 or 64, a compiler option) to gathered keys with wgmma on Hopper (sm_90a). Keys are whole blocks of 16
// first, then single rows, which carry a bias: log2 of the number of tokens that a mean stands for.
//
// A thread block has two warpgroups of 64 queries each. With ROWS = 128 both use the same list and the same keys in shared memory; with 64 each
// has its own list, keys and barriers. Two thread blocks run on one multiprocessor, so that the exponentials of one warpgroup overlap with the
// matrix products of another. cp.async copies keys and values into rows of 128 bytes in wgmma's 128-byte swizzle. The softmax is online and uses
// powers of two (Dao, FlashAttention-2, arXiv 2307.08691, algorithm 1).

typedef unsigned int u32;
typedef unsigned long long u64;

#define D 64
#define UNITS (128 / ROWS)    // of a thread block: lists at a time
#define THREADS (256 / UNITS)  // of a unit
#define TILE ROWS              // keys at a time
#define STAGES 3
#define KEYS 16
#define TILE_BYTES (TILE * D * 2)
#define LINES (THREADS / 8)  // rows that a unit copies at a time
#define NEVER -1e30f

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ u64 matrix_at(u32 address) {  // descriptor: 128-byte swizzle, 1,024 bytes from eight rows to the next eight
    return (u64)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

__device__ __forceinline__ void copy16(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ void meet(int unit) {  // all threads of a unit
#if UNITS == 1
    __syncthreads();
#else
    asm volatile("bar.sync %0, %1;" ::"r"(unit + 1), "n"(THREADS) : "memory");
#endif
}

__device__ __forceinline__ void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void finish_products() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

#define R4(a, i) "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3])
#define R16(a, i) R4(a, i), R4(a, i + 4), R4(a, i + 8), R4(a, i + 12)

// s (64 × TILE) = Q (64 × 16) Kᵀ, plus s if `add`; both factors in shared memory
__device__ __forceinline__ void product_qk(float (&s)[TILE / 2], u64 q, u64 k, int add) {
#if TILE == 128
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63},"
        " %64, %65, p, 1, 1, 0, 0;\n}\n"
        : R16(s, 0), R16(s, 16), R16(s, 32), R16(s, 48)
        : "l"(q), "l"(k), "r"(add));
#else
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31},"
        " %32, %33, p, 1, 1, 0, 0;\n}\n"
        : R16(s, 0), R16(s, 16)
        : "l"(q), "l"(k), "r"(add));
#endif
}

// o (64 × 64) += P (64 × 16, registers) V (16 × 64, one row per key)
__device__ __forceinline__ void product_pv(float (&o)[32], u32 p0, u32 p1, u32 p2, u32 p3, u64 v) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31},"
        " {%32,%33,%34,%35}, %36, 1, 1, 1, 1;\n"
        : R16(o, 0), R16(o, 16)
        : "r"(p0), "r"(p1), "r"(p2), "r"(p3), "l"(v));
}

__device__ __forceinline__ float power(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ u32 halves(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

struct Softmax {  // each thread holds two rows, 8 apart: their maximum logit so far and the sum of their weights
    float top[2], sum[2];

    // Update the maxima with the logits s · scale (plus the bias of each column if BIASED) and rescale o and the sums to them. Returns the factor
    // that s still has to be multiplied by: `scale`, or 1 if BIASED.
    template <bool BIASED>
    __device__ __forceinline__ float raise(float (&s)[TILE / 2], float (&o)[32], float scale, const unsigned short* bias) {
        if (BIASED) {
#pragma unroll
            for (int j = 0; j < TILE / 8; j++) {
                u32 two = *(const u32*)(bias + 8 * j);  // in bfloat16
                float even = __uint_as_float(two << 16), odd = __uint_as_float(two & 0xFFFF0000u);
                s[4 * j] = fmaf(s[4 * j], scale, even);
                s[4 * j + 1] = fmaf(s[4 * j + 1], scale, odd);
                s[4 * j + 2] = fmaf(s[4 * j + 2], scale, even);
                s[4 * j + 3] = fmaf(s[4 * j + 3], scale, odd);
            }
            scale = 1.0f;
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float high = s[2 * r];
#pragma unroll
            for (int j = 0; j < TILE / 8; j++) high = fmaxf(high, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
            high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
            high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
            float now = fmaxf(top[r], high * scale), fade = power(top[r] - now);
            top[r] = now;
            sum[r] *= fade;
#pragma unroll
            for (int j = 0; j < 8; j++) o[4 * j + 2 * r] *= fade, o[4 * j + 2 * r + 1] *= fade;
        }
        return scale;
    }

    // The weights of the keys in half `part` of s, as pairs of bfloat16; adds them to the sums.
    __device__ __forceinline__ void weigh(const float (&s)[TILE / 2], int part, float scale, u32 (&p)[TILE / 8]) {
#pragma unroll
        for (int j = 0; j < TILE / 8; j++) {
            int at = TILE / 4 * part + 2 * j, r = j & 1;
            float a = power(fmaf(s[at], scale, -top[r])), b = power(fmaf(s[at + 1], scale, -top[r]));
            sum[r] += a + b;
            p[j] = halves(a, b);
        }
    }
};

// q (H, q_rows, 64). keys and values (H, table, 64): rows [0, tokens) are tokens, [tokens, fine) means of 4, [fine, coarse) of 16, [coarse, table) of 64.
// The first `exact` groups of ROWS queries attend to the blocks `every` (all_count) and the rows `every_rows` (all_rows). Each other group attends
// to its `blocks` (H, groups − exact, count) and to the first `lengths` (H, groups − exact) of its `rows` (H, groups − exact, room).
// Returns out (H, slots, 64) and, unless null, the natural-log lse (H, slots).
extern "C" __global__ void __launch_bounds__(256, 2) hopper_attention(
    const unsigned short* q, const unsigned short* keys, const unsigned short* values, const int* blocks, const int* rows, const int* lengths,
    const int* every, const int* every_rows, unsigned short* out, float* lse, int heads, int slots, int q_rows, int table, int groups, int exact, int count,
    int room, int all_count, int all_rows, int tokens, int fine, int coarse, float scale) {
    extern __shared__ __align__(1024) unsigned char memory[];  // two thread blocks use all of it: no space to align it here
    int half = threadIdx.x >> 7, unit = half % UNITS;
    unsigned char* tile_q = memory + unit * ROWS * D * 2;
    unsigned char* tile_k = memory + UNITS * ROWS * D * 2 + unit * 2 * STAGES * TILE_BYTES;
    unsigned char* tile_v = tile_k + STAGES * TILE_BYTES;
    unsigned short* bias = (unsigned short*)(memory + UNITS * (ROWS * D * 2 + 2 * STAGES * TILE_BYTES)) + unit * STAGES * TILE;
    if (shared_address(memory) & 1023) __trap();

    int pid = blockIdx.x * UNITS + unit, head, group;
    if (pid >= heads * groups) return;
    if (pid < heads * exact) {  // these take longest, so they start first
        head = pid % heads, group = pid / heads;
    } else {
        pid -= heads * exact;
        head = pid / (groups - exact), group = exact + pid % (groups - exact);
    }
    bool all = group < exact;
    long long at = (long long)head * (groups - exact) + group - exact;
    const int* list = all ? every : blocks + at * count;
    const int* singles = all ? every_rows : rows + at * room;
    int full = (all ? all_count : count) / (TILE / KEYS);
    int wanted = all ? all_rows : lengths[at];
    int rest = (all ? all_count : count) % (TILE / KEYS) * KEYS;  // rows of the blocks left over after the last full tile
    int tiles = full + (rest + wanted + TILE - 1) / TILE;

    int thread = threadIdx.x % THREADS, piece = thread & 7, line = thread >> 3;  // this thread copies 16-byte piece `piece` of rows line, line + LINES, …
    const unsigned short* from_k = keys + (long long)head * table * D + piece * 8;
    const unsigned short* from_v = values + (long long)head * table * D + piece * 8;
    u32 to = line * (D * 2) + ((piece ^ (line & 7)) << 4);
    u32 to_k = shared_address(tile_k) + to, to_v = shared_address(tile_v) + to;

    int next[4];
    auto look = [&](int tile) {  // the rows that this thread copies next, read from the lists one step before they are needed
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = line + LINES * i, beside = (tile - full) * TILE + row;
            bool block = tile < full || beside < rest;
            if (!block && beside - rest >= wanted) {
                next[i] = -1;
            } else {
                int entry = block ? list[tile * (TILE / KEYS) + (row >> 4)] : singles[beside - rest];
                next[i] = block ? entry * KEYS + (row & 15) : entry;
            }
        }
    };
    auto copy = [&](int tile) {
        int stage = tile % STAGES;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = next[i] < 0 ? 0 : next[i];
            copy16(to_k + stage * TILE_BYTES + i * LINES * D * 2, from_k + (long long)row * D);
            copy16(to_v + stage * TILE_BYTES + i * LINES * D * 2, from_v + (long long)row * D);
            if (tile >= full && piece == 0)
                bias[stage * TILE + line + LINES * i] =  // −1e30, 0, log2 4, log2 16, log2 64
                    next[i] < 0 ? 0xF149 : next[i] < tokens ? 0 : next[i] < fine ? 0x4000 : next[i] < coarse ? 0x4080 : 0x40C0;
        }
    };

    const unsigned short* from_q = q + ((long long)head * q_rows + (long long)group * ROWS) * D + piece * 8;
#pragma unroll
    for (int i = 0; i < 4; i++) copy16(shared_address(tile_q) + to + i * LINES * D * 2, from_q + (line + LINES * i) * D);
    if (tiles > 0) look(0);
#pragma unroll
    for (int t = 0; t < STAGES - 1; t++) {
        if (t < tiles) {
            copy(t);
            if (t + 1 < tiles) look(t + 1);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }

    int lane = thread & 31;
    u64 matrix_q = matrix_at(shared_address(tile_q) + (thread >> 7) * 64 * D * 2);
    float s[TILE / 2], o[32];
#pragma unroll
    for (int j = 0; j < 32; j++) o[j] = 0;
    Softmax softmax = {{NEVER, NEVER}, {0, 0}};

    for (int t = 0; t < tiles; t++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        meet(unit);  // tile t has arrived, and no thread still reads tile t − 1
        if (t + STAGES - 1 < tiles) {
            copy(t + STAGES - 1);
            if (t + STAGES < tiles) look(t + STAGES);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        int stage = t % STAGES;
        u64 matrix_k = matrix_at(shared_address(tile_k) + stage * TILE_BYTES);
        fence_products();
#pragma unroll
        for (int k = 0; k < D / 16; k++) product_qk(s, matrix_q + 2 * k, matrix_k + 2 * k, k);
        commit_products();
        finish_products();
        float left = t < full ? softmax.raise<false>(s, o, scale, bias) : softmax.raise<true>(s, o, scale, bias + stage * TILE + 2 * (lane & 3));
        u64 matrix_v = matrix_at(shared_address(tile_v) + stage * TILE_BYTES);
        u32 near[TILE / 8], far[TILE / 8];
        softmax.weigh(s, 0, left, near);
        fence_products();
#pragma unroll
        for (int k = 0; k < TILE / 32; k++)
            product_pv(o, near[4 * k], near[4 * k + 1], near[4 * k + 2], near[4 * k + 3], matrix_v + k * (16 * D * 2 / 16));
        commit_products();
        softmax.weigh(s, 1, left, far);  // overlaps with these products
        fence_products();
#pragma unroll
        for (int k = 0; k < TILE / 32; k++)
            product_pv(o, far[4 * k], far[4 * k + 1], far[4 * k + 2], far[4 * k + 3], matrix_v + (TILE / 32 + k) * (16 * D * 2 / 16));
        commit_products();
        finish_products();
    }

    int row = group * ROWS + (thread >> 5) * 16 + (lane >> 2);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float total = softmax.sum[r];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        float share = 1.0f / total;
        long long here = (long long)head * slots + row + 8 * r;
        u32* target = (u32*)(out + here * D + 2 * (lane & 3));
#pragma unroll
        for (int j = 0; j < 8; j++) target[4 * j] = halves(o[4 * j + 2 * r] * share, o[4 * j + 2 * r + 1] * share);
        if (lse && (lane & 3) == 0) lse[here] = (softmax.top[r] + log2f(total)) * 0.69314718056f;
    }
}
