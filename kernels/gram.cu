// Inner products of all pairs of up to 8 vectors in one pass: partials[block][i (i + 1) / 2 + j] = Σ vi vj, j <= i.
//
// Shapes: N vectors, of which those beyond the last are the first again; vi = θi, or θi − θ0 where there is a base.
// Products are exact in f64. Each block sums what it reads in a fixed order, sums.cu adds up the blocks: the number of
// blocks depends on the tensor alone, so the sums are the same on every device. Reads N elements for each position.
// More than 8 vectors are covered by groups of 4, two groups at a time.
#include "glue.cuh"

struct GramArgs {
    Tile t;
    i64 begin, end;  // the section of the tile
    u64 partials;    // address of f64
};

template <class In, int N, int W> INLINE void products(const GramArgs& a, i64 at, double* sums) {
    Group<In, N, W> g;
    Group<In, 1, W> b;
    const bool from_base = a.t.base != 0;
    g.load(a.t.input, at);
    b.load(from_base ? &a.t.base : a.t.input, at);
    UNROLL for (int j = 0; j < W; j++) {
        double x[N];
        UNROLL for (int i = 0; i < N; i++) {
            float v = g.get(i, j);
            if (from_base) v -= b.get(0, j);
            x[i] = (double)v;
        }
        UNROLL for (int i = 0; i < N; i++) {
            UNROLL for (int k = 0; k <= i; k++) {
                double& sum = sums[i * (i + 1) / 2 + k];
                sum = plus_product(sum, x[i], x[k]);
            }
        }
    }
}

template <class In, int N> INLINE void gram(const GramArgs& a) {
    SHARED double room[256];
    double sums[N * (N + 1) / 2];
    UNROLL for (int p = 0; p < N * (N + 1) / 2; p++) sums[p] = 0.0;
    for_chunks(a.t, a.begin, a.end, [&](auto w, i64 at) {
        WIDTH(w);
        products<In, N, W>(a, at, sums);
    });
    UNROLL for (int p = 0; p < N * (N + 1) / 2; p++) {
        double sum = block_sum(sums[p], room, 256);
        if (threadIdx.x == 0) ((double*)a.partials)[(u64)blockIdx.x * (N * (N + 1) / 2) + p] = sum;
    }
}

#define GRAM_KERNELS(n, blocks)                                                                                        \
    KERNEL(gram##n##_f32, GramArgs, 256, blocks) { gram<f32_t, n>(a); }                                                \
    KERNEL(gram##n##_f16, GramArgs, 256, blocks) { gram<f16_t, n>(a); }                                                \
    KERNEL(gram##n##_bf16, GramArgs, 256, blocks) { gram<bf16_t, n>(a); }

GRAM_KERNELS(2, 5)
GRAM_KERNELS(4, 2)
GRAM_KERNELS(8, 1)
