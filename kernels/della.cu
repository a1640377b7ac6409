// DELLA: drop elements of each τi at random, small ones more often; then add up, or elect signs as TIES does.
//
// Shapes: base and inputs of rows of `row` elements. The element of rank r by |τi| in its row, equal ones by index, is
// kept where the upper 31 bits of its random word are below start[i] + (r · rise[i] >> 16).
//
// della_marks makes a mask, one block for each row of each input: a histogram of the row bounds the rank of each
// element, which decides nearly all; where the word lies between the bounds, the element is ranked among those of its
// bin. Reads n + 1 elements and writes n bits for each position, the row being read again from the caches. The other
// kernels read the mask: n + 1 elements and n bits, and write one element.
// Source: Deep, Bhardwaj, Poria, DELLA-Merging, arXiv 2406.11617.
#include "philox.cuh"
#include "task.cuh"

#define BINS 4096
#define THREADS 256
// Rows up to this length are put in order of their bins.
#define PLACED 8192
// Elements that wait for their rank.
#define UNSURE 1024

struct Ranked {
    Tile t;
    u64 marks;   // zeroed beforehand; see Marked
    u64 stride;
    i64 row;     // elements of a row, at most 2^20
    Keys keys;
    u32 stream[MOST];
    u64 start[MOST];
    u64 rise[MOST];
    u32 whole;   // a bit for each input of which nothing is dropped
    u32 unused;
};

// 12 bits that order as x does, for x up to the largest.
INLINE u32 bin_of(float x, float scale) { return to_bits(fabsf(x) * scale + 8388608.0f) & (BINS - 1); }

INLINE u32 bound(u64 start, u64 rise, u32 rank) { return (u32)(start + ((u64)rank * rise >> 16)); }

template <class In> INLINE float tau_at(const Ranked& a, u32 i, i64 e) {
    return In::one(a.t.input[i] + (u64)(e * In::SIZE)) - In::one(a.t.base + (u64)(e * In::SIZE));
}

template <class In, int W> INLINE void taus(const Ranked& a, u32 i, i64 at, Vec<W>& tau) {
    Vec<W> base;
    one<In>(a.t.base, at, base);
    one<In>(a.t.input[i], at, tau);
    tau_of(tau, base);
}

// Sets bits of a mask, the first of them for element e.
INLINE void mark(u64 marks, i64 e, u32 bits) {
    u64 two = (u64)bits << (e & 31);
    u32* at = (u32*)marks + (e >> 5);
    if ((u32)two) atomicOr(at, (u32)two);
    if (two >> 32) atomicOr(at + 1, (u32)(two >> 32));
}

template <class In> INLINE void della_marks(const Ranked& a) {
    SHARED u32 ends[BINS + 1];  // counts of the bins; then where each begins; then where it ends
    SHARED u16 order[PLACED];
    SHARED u32 unsure[UNSURE];
    SHARED u32 room[THREADS];
    SHARED u32 waiting;
    const u32 i = blockIdx.y;
    const i64 begin = (i64)blockIdx.x * a.row, end = begin + a.row < a.t.len ? begin + a.row : a.t.len;
    const u64 marks = a.marks + i * a.stride;
    const u64 start = a.start[i], rise = a.rise[i];

    // The largest magnitude.
    u32 largest = 0;
    for_chunks_of_block(a.t, begin, end, [&](auto w, i64 at) {
        WIDTH(w);
        Vec<W> tau;
        taus<In>(a, i, at, tau);
        UNROLL for (int j = 0; j < W; j++) {
            u32 key = magnitude(tau.x[j]);
            largest = key > largest ? key : largest;
        }
        if (a.whole >> i & 1) mark(marks, at, (1u << W) - 1);
    });
    if (a.whole >> i & 1) return;
    room[threadIdx.x] = largest;
    for (u32 b = threadIdx.x; b <= BINS; b += THREADS) ends[b] = 0;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half && room[threadIdx.x + half] > room[threadIdx.x])
            room[threadIdx.x] = room[threadIdx.x + half];
        __syncthreads();
    }
    const float most = from_bits(room[0]);
    const float scale = (BINS - 1) / (most < 1.17549435e-38f ? 1.17549435e-38f : most);
    __syncthreads();

    // How many elements each bin has.
    for_chunks_of_block(a.t, begin, end, [&](auto w, i64 at) {
        WIDTH(w);
        Vec<W> tau;
        taus<In>(a, i, at, tau);
        UNROLL for (int j = 0; j < W; j++) atomicAdd(&ends[bin_of(tau.x[j], scale)], 1u);
    });
    __syncthreads();

    // Where each begins.
    u32 own = 0;
    for (int b = 0; b < BINS / THREADS; b++) own += ends[threadIdx.x * (BINS / THREADS) + b];
    room[threadIdx.x] = own;
    __syncthreads();
    for (int back = 1; back < THREADS; back *= 2) {
        u32 before = (int)threadIdx.x >= back ? room[threadIdx.x - back] : 0;
        __syncthreads();
        room[threadIdx.x] += before;
        __syncthreads();
    }
    u32 at = room[threadIdx.x] - own;
    for (int b = 0; b < BINS / THREADS; b++) {
        u32 n = ends[threadIdx.x * (BINS / THREADS) + b];
        ends[threadIdx.x * (BINS / THREADS) + b] = at;
        at += n;
    }
    __syncthreads();

    // Puts the elements in order of their bins, after which each entry has moved on to where its bin ends.
    const bool placed = a.row <= PLACED;
    for_chunks_of_block(a.t, begin, end, [&](auto w, i64 at) {
        WIDTH(w);
        Vec<W> tau;
        taus<In>(a, i, at, tau);
        UNROLL for (int j = 0; j < W; j++) {
            u32 to = atomicAdd(&ends[bin_of(tau.x[j], scale)], 1u);
            if (placed) order[to] = (u16)(at + j - begin);
        }
    });
    __syncthreads();

    // Decides, in rounds of so many chunks that the elements that wait have room.
    Chunks chunks(a.t, begin, end);
    const i64 count = chunks.count();
    for (i64 round = 0; round < count; round += UNSURE / WIDE) {
        if (threadIdx.x == 0) waiting = 0;
        __syncthreads();
        if (threadIdx.x < UNSURE / WIDE && round + threadIdx.x < count) {
            chunks.see(round + threadIdx.x, [&](auto w, i64 at) {
                WIDTH(w);
                Vec<W> tau;
                taus<In>(a, i, at, tau);
                u32 words[W], bits = 0;
                words_of(a.keys, a.stream[i], a.t.offset + (u64)at, words);
                UNROLL for (int j = 0; j < W; j++) {
                    const u32 bin = bin_of(tau.x[j], scale), word = words[j] >> 1;
                    const u32 first = bin ? ends[bin - 1] : 0, last = ends[bin] - 1;
                    const bool low = word < bound(start, rise, first), high = word < bound(start, rise, last);
                    bits |= (u32)low << j;
                    // A zero is 0 whether it is kept or not.
                    if (low != high && tau.x[j] != 0.0f) unsure[atomicAdd(&waiting, 1u)] = (u32)(at + j - begin);
                }
                mark(marks, at, bits);
            });
        }
        __syncthreads();
        for (u32 u = threadIdx.x; u < waiting; u += THREADS) {
            const u32 e = unsure[u];
            const float tau = tau_at<In>(a, i, begin + e);
            const u32 key = magnitude(tau), bin = bin_of(tau, scale);
            const u32 first = bin ? ends[bin - 1] : 0;
            u32 rank = first;
            if (placed) {
                for (u32 m = first; m < ends[bin]; m++) {
                    const u32 other = order[m], theirs = magnitude(tau_at<In>(a, i, begin + other));
                    rank += theirs < key || (theirs == key && other < e);
                }
            } else {
                for (u32 other = 0; (i64)other < end - begin; other++) {
                    const float x = tau_at<In>(a, i, begin + other);
                    const u32 theirs = magnitude(x);
                    rank += bin_of(x, scale) == bin && (theirs < key || (theirs == key && other < e));
                }
            }
            u32 words[1];
            words_of(a.keys, a.stream[i], a.t.offset + (u64)(begin + e), words);
            if (words[0] >> 1 < bound(start, rise, rank)) mark(marks, begin + e, 1);
        }
        __syncthreads();
    }
}

KERNEL(della_marks_f32, Ranked, THREADS, 4) { della_marks<f32_t>(a); }
KERNEL(della_marks_f16, Ranked, THREADS, 4) { della_marks<f16_t>(a); }
KERNEL(della_marks_bf16, Ranked, THREADS, 4) { della_marks<bf16_t>(a); }

TASK_KERNELS(della, Marked, sum_tasks, 4)
TASK_KERNELS(della_elected, Marked, elect_tasks, 2)
NORM_KERNELS(norms_marked, Marked, 6)
