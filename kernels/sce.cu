// SCE: keep the positions where the task vectors vary most, weigh each by its energy there, drop minority signs.
//
// With τi' = τi where the cut keeps the variance of the position and 0 elsewhere, s = sign(Σ τi'):
// out = θ0 + Σ_{sign τi' = s} ci τi' / max(Σ_{sign τi' = s} ci, 1e-6). `sce_energies` sums τi'² for the ci.
// Shapes: base and inputs of `len` elements. Both read n + 1 elements of each position, `sce` writes one; the inputs
// are read again from the first-level cache.
// Source: Wan et al., FuseChat, arXiv 2408.07990.
#include "task.cuh"

struct Sce {
    Tile t;
    Out out;
    Cut cut;
    u32 all;  // whether every position is kept, whatever its variance
    u32 unused;
    float weight[MOST];  // ci
};

// A bit for each element that is kept; nothing to compute where all are.
template <class In, int W>
INLINE u32 kept(const Tile& t, const Cut& cut, u32 all, i64 at, const Vec<W>& base) {
    if (all) return 0xFF;
    Vec<W> v;
    variance<In, W>(t, at, base, v);
    Least lower(cut, (i64)t.offset + at);
    u32 bits = 0;
    UNROLL for (int j = 0; j < W; j++) bits |= (u32)(to_bits(v.x[j]) >= lower.of(j)) << j;
    return bits;
}

template <class In, int W> INLINE void sce(const Sce& a, i64 at) {
    Vec<W> base, sum, merged, weight;
    one<In>(a.t.base, at, base);
    const u32 bits = kept<In, W>(a.t, a.cut, a.all, at, base);
    UNROLL for (int j = 0; j < W; j++) sum.x[j] = merged.x[j] = weight.x[j] = 0.0f;
    each<In, W>(a.t.input, a.t.inputs, at, [&](u32, Vec<W>& x) {
        tau_of(x, base);
        UNROLL for (int j = 0; j < W; j++) sum.x[j] += bits >> j & 1 ? x.x[j] : 0.0f;
    });
    each<In, W>(a.t.input, a.t.inputs, at, [&](u32 i, Vec<W>& x) {
        tau_of(x, base);
        float ci = a.weight[i];
        UNROLL for (int j = 0; j < W; j++) {
            float tau = bits >> j & 1 ? x.x[j] : 0.0f;
            gather_agreeing(tau * ci, ci, sum.x[j], merged.x[j], weight.x[j]);
        }
    });
    UNROLL for (int j = 0; j < W; j++) sum.x[j] = base.x[j] + merged.x[j] / fmaxf(weight.x[j], 1e-6f);
    store(a.out, at, sum);
}

template <class In> INLINE void sce_all(const Sce& a) {
    for_chunks(a.t, 0, a.t.len, [&](auto w, i64 at) {
        WIDTH(w);
        sce<In, W>(a, at);
    });
}

KERNEL(sce_f32, Sce, 256, 2) { sce_all<f32_t>(a); }
KERNEL(sce_f16, Sce, 256, 2) { sce_all<f16_t>(a); }
KERNEL(sce_bf16, Sce, 256, 2) { sce_all<bf16_t>(a); }

struct Energies {
    Tile t;
    i64 begin, end;  // the section of the tile
    u64 partials;    // address of f64: partials[block][input]
    Cut cut;
    u32 all;
    u32 unused;
};

// Inputs whose sums one thread keeps; blocks of one y share them.
#define SUMS 8

template <class In, int W> INLINE void energies(const Energies& a, i64 at, u32 first, double* sums) {
    Vec<W> base;
    one<In>(a.t.base, at, base);
    const u32 bits = kept<In, W>(a.t, a.cut, a.all, at, base);
    UNROLL for (int i = 0; i < SUMS; i++) {
        if (first + i < a.t.inputs) {
            Vec<W> x;
            one<In>(a.t.input[first + i], at, x);
            tau_of(x, base);
            UNROLL for (int j = 0; j < W; j++) {
                double tau = bits >> j & 1 ? (double)x.x[j] : 0.0;
                sums[i] = plus_product(sums[i], tau, tau);
            }
        }
    }
}

template <class In> INLINE void sce_energies(const Energies& a) {
    SHARED double room[256];
    const u32 first = blockIdx.y * SUMS;
    double sums[SUMS];
    UNROLL for (int i = 0; i < SUMS; i++) sums[i] = 0.0;
    for_chunks(a.t, a.begin, a.end, [&](auto w, i64 at) {
        WIDTH(w);
        energies<In, W>(a, at, first, sums);
    });
    UNROLL for (int i = 0; i < SUMS; i++) {
        double sum = block_sum(sums[i], room, 256);
        if (threadIdx.x == 0 && first + i < a.t.inputs)
            ((double*)a.partials)[(u64)blockIdx.x * a.t.inputs + first + i] = sum;
    }
}

KERNEL(sce_energies_f32, Energies, 256, 2) { sce_energies<f32_t>(a); }
KERNEL(sce_energies_f16, Energies, 256, 2) { sce_energies<f16_t>(a); }
KERNEL(sce_energies_bf16, Energies, 256, 2) { sce_energies<bf16_t>(a); }
