// Weighted sum: out = c1 x1 + c2 x2 + ... + cm xm, added in that order.
//
// Shapes: m vectors of `len` elements, the base first where it has a coefficient; terms whose coefficient is 0 are not
// passed. Reads m elements and writes one for each element of the result.
// Sources: Wortsman et al., Model soups, arXiv 2203.05482. Slerp (Shoemake, SIGGRAPH 1985), Model Stock (arXiv
// 2403.19522) and spherical means are this sum with coefficients that follow from inner products; see gram.cu.
#include "glue.cuh"

struct Linear {
    Tile t;
    Out out;
    float c[MOST];
};

template <class In, int W> INLINE void linear(const Linear& a, i64 at) {
    Vec<W> sum;
    UNROLL for (int j = 0; j < W; j++) sum.x[j] = 0.0f;
    each<In, W>(a.t.input, a.t.inputs, at, [&](u32 i, Vec<W>& x) {
        float ci = a.c[i];
        // 0 + c x would turn a negative zero positive.
        UNROLL for (int j = 0; j < W; j++) sum.x[j] = i == 0 ? ci * x.x[j] : sum.x[j] + ci * x.x[j];
    });
    store(a.out, at, sum);
}

template <class In> INLINE void linear_all(const Linear& a) {
    for_chunks(a.t, 0, a.t.len, [&](auto w, i64 at) {
        WIDTH(w);
        linear<In, W>(a, at);
    });
}

KERNEL(linear_f32, Linear, 256, 5) { linear_all<f32_t>(a); }
KERNEL(linear_f16, Linear, 256, 5) { linear_all<f16_t>(a); }
KERNEL(linear_bf16, Linear, 256, 5) { linear_all<bf16_t>(a); }
