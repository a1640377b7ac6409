// What the operators on task vectors share: trim each τi = θi − θ0 to τi', weigh, optionally elect signs, add to the
// base.
//
// With di = fi τi': θ0 + scale Σ di; or, with s = sign(Σ di) where 0 counts as +, θ0 + λ Σ_{sign di = s} di, divided
// by Σ_{sign di = s} wi when `normalize`. A trim is a type with `trim(tile, i, at, τ)`, and MANY
// inputs that are read at once.
#pragma once
#include "glue.cuh"

struct Task {
    Tile t;
    Out out;
    float factor[MOST];  // fi
    float weight[MOST];  // wi
    float lambda;        // λ, or scale where no signs are elected
    u32 normalize;
};

struct Nothing {
    static constexpr int MANY = 4;
    u32 unused[2];
    template <int W> INLINE void trim(const Tile&, u32, i64, Vec<W>&) const {}
};

// Keeps what the first cut keeps and the second one does not.
struct Between {
    static constexpr int MANY = 4;
    Cut cut[MOST][2];

    template <int W> INLINE void trim(const Tile& t, u32 i, i64 at, Vec<W>& tau) const {
        Least lower(cut[i][0], (i64)t.offset + at), upper(cut[i][1], (i64)t.offset + at);
        UNROLL for (int j = 0; j < W; j++) {
            u32 key = magnitude(tau.x[j]);
            tau.x[j] = key >= lower.of(j) && key < upper.of(j) ? tau.x[j] : 0.0f;
        }
    }
};

// Keeps what has a bit in a mask: element e of input i is bit e % 8 of byte e / 8 from marks + i · stride on.
struct Marked {
    static constexpr int MANY = 4;
    u64 marks;
    u64 stride;

    template <int W> INLINE void trim(const Tile&, u32 i, i64 at, Vec<W>& tau) const {
        const u8* byte = (const u8*)(marks + i * stride) + at / 8;
        u32 bits = ((u32)byte[0] | (u32)byte[1] << 8) >> (at % 8);
        UNROLL for (int j = 0; j < W; j++) tau.x[j] = bits >> j & 1 ? tau.x[j] : 0.0f;
    }
};

template <class In, class Trim, int W> INLINE void summed(const Task& a, const Trim& trim, i64 at) {
    Vec<W> base, sum;
    one<In>(a.t.base, at, base);
    UNROLL for (int j = 0; j < W; j++) sum.x[j] = 0.0f;
    each<In, W, Trim::MANY>(a.t.input, a.t.inputs, at, [&](u32 i, Vec<W>& x) {
        tau_of(x, base);
        trim.trim(a.t, i, at, x);
        float f = a.factor[i];
        UNROLL for (int j = 0; j < W; j++) sum.x[j] += f * x.x[j];
    });
    UNROLL for (int j = 0; j < W; j++) sum.x[j] = base.x[j] + a.lambda * sum.x[j];
    store(a.out, at, sum);
}

// Adds what has the sign of `sum` and is not 0, and its weight.
INLINE void gather_agreeing(float d, float w, float sum, float& merged, float& weight) {
    // Adding 0 makes -0 positive.
    bool agrees = (to_bits(sum + 0.0f) ^ to_bits(d)) >> 31 == 0 && d != 0.0f;
    merged += agrees ? d : 0.0f;
    weight += agrees ? w : 0.0f;
}

template <class In, class Trim, int W> INLINE void elected(const Task& a, const Trim& trim, i64 at) {
    Vec<W> base, sum, merged, weight;
    one<In>(a.t.base, at, base);
    UNROLL for (int j = 0; j < W; j++) sum.x[j] = merged.x[j] = weight.x[j] = 0.0f;
    each<In, W, Trim::MANY>(a.t.input, a.t.inputs, at, [&](u32 i, Vec<W>& x) {
        tau_of(x, base);
        trim.trim(a.t, i, at, x);
        float f = a.factor[i];
        UNROLL for (int j = 0; j < W; j++) sum.x[j] += f * x.x[j];
    });
    // The inputs are read a second time, from the first-level cache.
    each<In, W, Trim::MANY>(a.t.input, a.t.inputs, at, [&](u32 i, Vec<W>& x) {
        tau_of(x, base);
        trim.trim(a.t, i, at, x);
        float f = a.factor[i], w = a.weight[i];
        UNROLL for (int j = 0; j < W; j++) gather_agreeing(x.x[j] * f, w, sum.x[j], merged.x[j], weight.x[j]);
    });
    UNROLL for (int j = 0; j < W; j++) {
        float m = merged.x[j];
        if (a.normalize) m /= fabsf(weight.x[j]) < 1e-8f ? 1.0f : weight.x[j];
        sum.x[j] = base.x[j] + a.lambda * m;
    }
    store(a.out, at, sum);
}

template <class Trim> struct TaskArgs {
    Task task;
    Trim trim;
};

template <class In, class Trim> INLINE void sum_tasks(const TaskArgs<Trim>& a) {
    for_chunks(a.task.t, 0, a.task.t.len, [&](auto w, i64 at) {
        WIDTH(w);
        summed<In, Trim, W>(a.task, a.trim, at);
    });
}

template <class In, class Trim> INLINE void elect_tasks(const TaskArgs<Trim>& a) {
    for_chunks(a.task.t, 0, a.task.t.len, [&](auto w, i64 at) {
        WIDTH(w);
        elected<In, Trim, W>(a.task, a.trim, at);
    });
}

// Kernels of one trim for every type: `name_f32`, `name_f16`, `name_bf16`.
#define TASK_KERNELS(name, Trim, how, blocks)                                                                          \
    KERNEL(name##_f32, TaskArgs<Trim>, 256, blocks) { how<f32_t, Trim>(a); }                                           \
    KERNEL(name##_f16, TaskArgs<Trim>, 256, blocks) { how<f16_t, Trim>(a); }                                           \
    KERNEL(name##_bf16, TaskArgs<Trim>, 256, blocks) { how<bf16_t, Trim>(a); }

// Σ|τi| and Σ|τi'|, a partial for each block: partials[block][i][0 and 1].
template <class Trim> struct NormArgs {
    Tile t;
    i64 begin, end;  // the section of the tile
    u64 partials;    // address of f64
    Trim trim;
};

template <class In, class Trim> INLINE void norms(const NormArgs<Trim>& a) {
    SHARED double room[256];
    u32 i = blockIdx.y;
    double before = 0.0, after = 0.0;
    for_chunks(a.t, a.begin, a.end, [&](auto w, i64 at) {
        WIDTH(w);
        Vec<W> base, tau;
        one<In>(a.t.base, at, base);
        one<In>(a.t.input[i], at, tau);
        tau_of(tau, base);
        UNROLL for (int j = 0; j < W; j++) before += (double)fabsf(tau.x[j]);
        a.trim.trim(a.t, i, at, tau);
        UNROLL for (int j = 0; j < W; j++) after += (double)fabsf(tau.x[j]);
    });
    before = block_sum(before, room, 256);
    after = block_sum(after, room, 256);
    if (threadIdx.x == 0) {
        double* to = (double*)a.partials + ((u64)blockIdx.x * gridDim.y + i) * 2;
        to[0] = before;
        to[1] = after;
    }
}

#define NORM_KERNELS(name, Trim, blocks)                                                                               \
    KERNEL(name##_f32, NormArgs<Trim>, 256, blocks) { norms<f32_t, Trim>(a); }                                         \
    KERNEL(name##_f16, NormArgs<Trim>, 256, blocks) { norms<f16_t, Trim>(a); }                                         \
    KERNEL(name##_bf16, NormArgs<Trim>, 256, blocks) { norms<bf16_t, Trim>(a); }
