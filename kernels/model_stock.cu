// Model Stock by rows: for each row, out = (1−t) θ0 + Σ (t/n) θi with t = n c / (1 + (n−1) c), c the mean cosine of
// pairs of the row's task vectors, at least −1/n: t lies between −n and 1.
//
// Shapes: base and n <= 8 inputs of rows of `row` elements; one block for each row, which is read twice, the second
// time from the caches. Over a whole tensor it is gram.cu and then linear.cu.
// Source: Jang, Yun, Han, Model Stock, arXiv 2403.19522.
#include "glue.cuh"

struct Stock {
    Tile t;
    Out out;
    i64 row;
};

template <class In, int N, int W> INLINE void products(const Stock& a, i64 at, double* sums) {
    Vec<W> base;
    one<In>(a.t.base, at, base);
    Group<In, N, W> g;
    g.load(a.t.input, at);
    UNROLL for (int j = 0; j < W; j++) {
        double x[N];
        UNROLL for (int i = 0; i < N; i++) x[i] = (double)(g.get(i, j) - base.x[j]);
        UNROLL for (int i = 0; i < N; i++) {
            UNROLL for (int k = 0; k <= i; k++) {
                double& sum = sums[i * (i + 1) / 2 + k];
                sum = plus_product(sum, x[i], x[k]);
            }
        }
    }
}

template <class In, int W> INLINE void interpolate(const Stock& a, i64 at, float kept, float share) {
    Vec<W> out;
    one<In>(a.t.base, at, out);
    UNROLL for (int j = 0; j < W; j++) out.x[j] = kept * out.x[j];
    each<In, W>(a.t.input, a.t.inputs, at, [&](u32, Vec<W>& x) {
        UNROLL for (int j = 0; j < W; j++) out.x[j] += share * x.x[j];
    });
    store(a.out, at, out);
}

// N vectors, of which those beyond the n-th are the first again.
template <class In, int N> INLINE void model_stock(const Stock& a) {
    SHARED double room[256];
    SHARED double dots[N * (N + 1) / 2];
    const i64 begin = (i64)blockIdx.x * a.row, end = begin + a.row < a.t.len ? begin + a.row : a.t.len;
    double sums[N * (N + 1) / 2];
    UNROLL for (int p = 0; p < N * (N + 1) / 2; p++) sums[p] = 0.0;
    for_chunks_of_block(a.t, begin, end, [&](auto w, i64 at) {
        WIDTH(w);
        products<In, N, W>(a, at, sums);
    });
    UNROLL for (int p = 0; p < N * (N + 1) / 2; p++) {
        double sum = block_sum(sums[p], room, 256);
        if (threadIdx.x == 0) dots[p] = sum;
    }
    __syncthreads();
    const int n = (int)a.t.inputs;
    double cosines = 0.0;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++) {
            double norms = sqrt(dots[i * (i + 3) / 2] * dots[k * (k + 3) / 2]);
            double cosine = norms > 0.0 ? dots[i * (i + 1) / 2 + k] / norms : 0.0;
            cosines += fmin(fmax(cosine, -1.0), 1.0);
        }
    }
    const double mean = fmax(cosines / (double)(n * (n - 1) / 2), -1.0 / (double)n);
    const double t = (double)n * mean / (1.0 + ((double)n - 1.0) * mean);
    const float kept = (float)(1.0 - t), share = (float)(t / (double)n);
    for_chunks_of_block(a.t, begin, end, [&](auto w, i64 at) {
        WIDTH(w);
        interpolate<In, W>(a, at, kept, share);
    });
}

#define STOCK_KERNELS(n, blocks)                                                                                       \
    KERNEL(model_stock##n##_f32, Stock, 256, blocks) { model_stock<f32_t, n>(a); }                                     \
    KERNEL(model_stock##n##_f16, Stock, 256, blocks) { model_stock<f16_t, n>(a); }                                     \
    KERNEL(model_stock##n##_bf16, Stock, 256, blocks) { model_stock<bf16_t, n>(a); }

STOCK_KERNELS(4, 2)
STOCK_KERNELS(8, 1)
