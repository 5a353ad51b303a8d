// `list_blocks` of attention/packed.py: the key blocks each group of queries attends to, and the means that represent the other blocks. One thread
// block per row of `shares`. Shares are compared by 16 bits below the sign: the exponent and 8 bits of the mantissa.

typedef unsigned short u16;
#define THREADS 256
#define WARPS (THREADS / 32)
#define PER 4  // blocks of 16 per mean of 64

__device__ __forceinline__ int sum_of_all(int value, int* parts) {  // consecutive calls need different `parts`
#pragma unroll
    for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(~0u, value, step);
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = value;
    __syncthreads();
    int total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) total += parts[w];
    return total;
}

__device__ __forceinline__ int sum_before(int value, int* parts, int& total) {  // exclusive prefix sum over the threads; `total`: the sum over all
    int lane = threadIdx.x & 31, sum = value;
#pragma unroll
    for (int step = 1; step < 32; step <<= 1) {
        int other = __shfl_up_sync(~0u, sum, step);
        if (lane >= step) sum += other;
    }
    if (lane == 31) parts[threadIdx.x >> 5] = sum;
    __syncthreads();
    int before = 0;
    total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        if (w < (threadIdx.x >> 5)) before += parts[w];
        total += parts[w];
    }
    return before + sum - value;
}

extern "C" __global__ void __launch_bounds__(THREADS) list_blocks(
    const float* shares, const int* loose, int* out, int* rows, int* lengths, int blocks, int supers, int count, int special_blocks,
    int loose_count, int room, int first_block, int fine, int coarse) {
    extern __shared__ u16 key[];
    __shared__ int parts[6][WARPS];
    long long row = blockIdx.x;
    int thread = threadIdx.x;
    for (int i = thread; i < blocks; i += THREADS) key[i] = __float_as_uint(shares[row * blocks + i]) >> 15;  // shares are never negative
    __syncthreads();
    int low = 0, high = 0xFFFF;  // binary search for the count-th largest
    for (int step = 0; step < 16; step++) {
        int middle = (low + high + 1) / 2, mine = 0;
        for (int i = thread; i < blocks; i += THREADS) mine += key[i] >= middle;
        if (sum_of_all(mine, parts[step & 1]) >= count)
            low = middle;
        else
            high = middle - 1;
    }
    int each = (blocks + THREADS * PER - 1) / (THREADS * PER) * PER;  // consecutive blocks of a thread
    int first = min(thread * each, blocks), last = min(first + each, blocks);
    int above = 0, equal = 0;
    for (int i = first; i < last; i++) above += key[i] > low, equal += key[i] == low;
    int all_above, all_equal;
    sum_before(above, parts[2], all_above);
    int rank = sum_before(equal, parts[3], all_equal), spare = count - all_above;
    int picked = above + max(0, min(equal, spare - rank));

    int small = 0, large = 0, seen = rank;  // number of means of 16 and of 64 that this thread lists
    for (int i = first; i < last; i += PER) {
        int chosen = 0, here = min(PER, last - i);
        for (int j = 0; j < here; j++) chosen += key[i + j] > low || (key[i + j] == low && seen++ < spare);
        bool whole = i / PER < supers;
        if (whole && chosen == 0)
            large++;
        else
            small += here - chosen;
    }
    int all_picked, all_small, all_large;
    int to = sum_before(picked, parts[4], all_picked);
    int to_small = sum_before(small, parts[5], all_small);
    int to_large = sum_before(large, parts[0], all_large);

    out += row * (special_blocks + count);
    rows += row * room;
    for (int i = thread; i < special_blocks; i += THREADS) out[i] = i;
    for (int i = thread; i < loose_count; i += THREADS) rows[i] = loose[i];
    out += special_blocks + to;
    int* fine_to = rows + loose_count + to_small;
    int* coarse_to = rows + loose_count + all_small + to_large;
    for (int i = first; i < last; i += PER) {
        int here = min(PER, last - i), chosen = 0;
        bool mine[PER];
        for (int j = 0; j < here; j++) {
            mine[j] = key[i + j] > low || (key[i + j] == low && rank++ < spare);
            chosen += mine[j];
        }
        bool untouched = i / PER < supers && chosen == 0;
        if (untouched) *coarse_to++ = coarse + i / PER;
        for (int j = 0; j < here; j++) {
            if (mine[j])
                *out++ = first_block + i + j;
            else if (!untouched)
                *fine_to++ = fine + i + j;
        }
    }
    if (thread == 0) lengths[row] = loose_count + all_small + all_large;
}
