// `list_blocks` of attention/packed.py: the key blocks each group of queries attends to, and the means that represent the other blocks. One thread
// block per row of `shares`. Shares are compared by 16 bits below the sign: the exponent and 8 bits of the mantissa.

typedef unsigned short u16;
#define THREADS 256
#define WARPS (THREADS / 32)
#define PER 4  // blocks of 16 per mean of 64
#define SPLIT 4  // means of 4 per block of 16

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

// The count-th largest of the keys; uses `parts[0]` and `parts[1]`.
__device__ __forceinline__ int largest(const u16* key, int blocks, int count, int (*parts)[WARPS]) {
    int low = 0, high = 0xFFFF;  // binary search
    for (int step = 0; step < 16; step++) {
        int middle = (low + high + 1) / 2, mine = 0;
        for (int i = threadIdx.x; i < blocks; i += THREADS) mine += key[i] >= middle;
        if (sum_of_all(mine, parts[step & 1]) >= count)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

// The `count` largest keys, of equal ones the first, as a thread meets them that goes through its consecutive blocks.
struct Largest {
    int low, spare, mine, rank;  // the least of them; how many equal to it are among them; of this thread; equal ones before its next block

    __device__ __forceinline__ Largest(const u16* key, int blocks, int count, int first, int last, int (*parts)[WARPS]) {
        low = largest(key, blocks, count, parts);
        int above = 0, equal = 0, all_above, all_equal;
        for (int i = first; i < last; i++) above += key[i] > low, equal += key[i] == low;
        sum_before(above, parts[2], all_above);
        rank = sum_before(equal, parts[3], all_equal);
        spare = count - all_above;
        mine = above + max(0, min(equal, spare - rank));
    }

    __device__ __forceinline__ bool has(u16 key) { return key > low || (key == low && rank++ < spare); }
};

extern "C" __global__ void __launch_bounds__(THREADS) list_blocks(
    const float* shares, const int* loose, int* out, int* rows, int* lengths, int blocks, int supers, int count, int parted, int special_blocks,
    int loose_count, int room, int first_block, int part, int fine, int coarse) {
    extern __shared__ u16 key[];
    __shared__ int parts[7][WARPS];
    long long row = blockIdx.x;
    int thread = threadIdx.x;
    for (int i = thread; i < blocks; i += THREADS) key[i] = __float_as_uint(shares[row * blocks + i]) >> 15;  // shares are never negative
    __syncthreads();
    int each = (blocks + THREADS * PER - 1) / (THREADS * PER) * PER;  // consecutive blocks of a thread
    int first = min(thread * each, blocks), last = min(first + each, blocks);
    Largest best(key, blocks, count, first, last, parts);
    Largest next = best;  // the blocks that are chosen or parted
    if (parted) next = Largest(key, blocks, count + parted, first, last, parts);

    int small = 0, large = 0, picked = best.mine, split = next.mine - best.mine;  // what this thread lists: means of 16 and of 64, blocks whole and in parts
    Largest seen = next;
    for (int i = first; i < last; i += PER) {
        int listed = 0, here = min(PER, last - i);
        for (int j = 0; j < here; j++) listed += seen.has(key[i + j]);
        if (i / PER < supers && listed == 0)
            large++;
        else
            small += here - listed;
    }
    int all_picked, all_split, all_small, all_large;
    int to = sum_before(picked, parts[4], all_picked);
    int to_small = sum_before(small, parts[5], all_small);
    int to_large = sum_before(large, parts[6], all_large);
    int to_split = sum_before(split, parts[0], all_split);

    out += row * (special_blocks + count);
    rows += row * room;
    for (int i = thread; i < special_blocks; i += THREADS) out[i] = i;
    for (int i = thread; i < loose_count; i += THREADS) rows[i] = loose[i];
    out += special_blocks + to;
    int means = loose_count + all_split * SPLIT;
    int* split_to = rows + loose_count + to_split * SPLIT;
    int* fine_to = rows + means + to_small;
    int* coarse_to = rows + means + all_small + to_large;
    for (int i = first; i < last; i += PER) {
        int here = min(PER, last - i), listed = 0;
        bool mine[PER], near[PER];
        for (int j = 0; j < here; j++) {
            mine[j] = best.has(key[i + j]);
            near[j] = next.has(key[i + j]);
            listed += near[j];
        }
        bool untouched = i / PER < supers && listed == 0;
        if (untouched) *coarse_to++ = coarse + i / PER;
        for (int j = 0; j < here; j++) {
            if (mine[j])
                *out++ = first_block + i + j;
            else if (near[j])
                for (int k = 0; k < SPLIT; k++) *split_to++ = part + (i + j) * SPLIT + k;
            else if (!untouched)
                *fine_to++ = fine + i + j;
        }
    }
    if (thread == 0) lengths[row] = means + all_small + all_large;
}
