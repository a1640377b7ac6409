// Histograms of the bits of magnitudes, or of variances: the passes that find an exact threshold without sorting.
//
// For each target (a stream, a least key `low`, a shift): counts[target][(key − low) >> shift] for the keys of the 2048
// bins from `low` on; after the bins, how many keys lie above them and how many are 0. Counts are whole numbers, the
// same in any order, and are added to what is there.
// Shapes: base and inputs of `len` elements; counts u32 [targets][2050]. Reads two elements for each position and
// target (n + 1 for the variance); with `step` above 1 only every so many groups of 256 chunks.
// Source: selection by radix, as in the host's selection.
#include "glue.cuh"

#define BINS 2048
#define THREADS 512
#define TARGETS (2 * MOST)

struct Histogram {
    Tile t;
    u64 counts;
    u32 low[TARGETS];
    u8 stream[TARGETS];
    u8 shift[TARGETS];
    u32 step;
    u32 unused;
};

// |τi| of the input that the stream names.
struct Magnitudes {
    template <class In, int W> static INLINE void keys(const Tile& t, u32 stream, i64 at, u32 (&keys)[W]) {
        Vec<W> base, x;
        one<In>(t.base, at, base);
        one<In>(t.input[stream], at, x);
        tau_of(x, base);
        UNROLL for (int j = 0; j < W; j++) keys[j] = magnitude(x.x[j]);
    }
};
struct Variances {
    template <class In, int W> static INLINE void keys(const Tile& t, u32, i64 at, u32 (&keys)[W]) {
        Vec<W> base, v;
        one<In>(t.base, at, base);
        variance<In, W>(t, at, base, v);
        UNROLL for (int j = 0; j < W; j++) keys[j] = to_bits(v.x[j]);
    }
};

template <class In, class Ranking> INLINE void histogram(const Histogram& a) {
    SHARED u32 bins[BINS];
    SHARED u32 above, zeros;
    const u32 target = blockIdx.y, stream = a.stream[target], low = a.low[target], shift = a.shift[target];
    for (u32 b = threadIdx.x; b < BINS; b += THREADS) bins[b] = 0;
    if (threadIdx.x == 0) above = zeros = 0;
    __syncthreads();

    const u32 span = (u32)BINS << shift;
    u32 own_above = 0, own_zeros = 0;
    Chunks chunks(a.t, 0, a.t.len);
    const i64 count = chunks.count(), step = (i64)gridDim.x * THREADS;
    for (i64 s = (i64)blockIdx.x * THREADS + threadIdx.x;; s += step) {
        const i64 k = s / 256 * 256 * a.step + s % 256;
        if (k >= count) break;
        chunks.see(k, [&](auto w, i64 at) {
            WIDTH(w);
            u32 keys[W];
            Ranking::template keys<In, W>(a.t, stream, at, keys);
            UNROLL for (int j = 0; j < W; j++) {
                const u32 key = keys[j];
                if (key - low < span) {
                    atomicAdd(&bins[(key - low) >> shift], 1u);
                } else if (key > low) {
                    own_above++;
                }
                own_zeros += key == 0;
            }
        });
    }
    if (own_above) atomicAdd(&above, own_above);
    if (own_zeros) atomicAdd(&zeros, own_zeros);
    __syncthreads();
    u32* to = (u32*)a.counts + (u64)target * (BINS + 2);
    for (u32 b = threadIdx.x; b < BINS; b += THREADS) {
        if (bins[b]) atomicAdd(to + b, bins[b]);
    }
    if (threadIdx.x == 0) {
        if (above) atomicAdd(to + BINS, above);
        if (zeros) atomicAdd(to + BINS + 1, zeros);
    }
}

#define HISTOGRAM_KERNELS(name, Ranking, blocks)                                                                       \
    KERNEL(histogram_##name##_f32, Histogram, THREADS, blocks) { histogram<f32_t, Ranking>(a); }                       \
    KERNEL(histogram_##name##_f16, Histogram, THREADS, blocks) { histogram<f16_t, Ranking>(a); }                       \
    KERNEL(histogram_##name##_bf16, Histogram, THREADS, blocks) { histogram<bf16_t, Ranking>(a); }

HISTOGRAM_KERNELS(magnitude, Magnitudes, 2)
HISTOGRAM_KERNELS(variance, Variances, 2)

// How many keys equal a threshold, segment by segment: where more elements equal it than may be kept, three such passes
// over ever smaller parts find after which element the count is reached.
// Shapes: counts u32 [segments]; segment s is the elements begin + s · segment .. of the tile, up to `end`.
struct Equals {
    Tile t;
    i64 begin, end;
    i64 segment;
    u64 counts;
    u32 stream;
    u32 bits;
};

template <class In, class Ranking> INLINE void equals(const Equals& a) {
    SHARED u32 total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    const i64 begin = a.begin + (i64)blockIdx.x * a.segment;
    const i64 end = begin + a.segment < a.end ? begin + a.segment : a.end;
    u32 own = 0;
    for_chunks_of_block(a.t, begin, end, [&](auto w, i64 at) {
        WIDTH(w);
        u32 keys[W];
        Ranking::template keys<In, W>(a.t, a.stream, at, keys);
        UNROLL for (int j = 0; j < W; j++) own += keys[j] == a.bits;
    });
    if (own) atomicAdd(&total, own);
    __syncthreads();
    if (threadIdx.x == 0) ((u32*)a.counts)[blockIdx.x] = total;
}

#define EQUALS_KERNELS(name, Ranking, blocks)                                                                          \
    KERNEL(equals_##name##_f32, Equals, 256, blocks) { equals<f32_t, Ranking>(a); }                                    \
    KERNEL(equals_##name##_f16, Equals, 256, blocks) { equals<f16_t, Ranking>(a); }                                    \
    KERNEL(equals_##name##_bf16, Equals, 256, blocks) { equals<bf16_t, Ranking>(a); }

EQUALS_KERNELS(magnitude, Magnitudes, 8)
EQUALS_KERNELS(variance, Variances, 3)
