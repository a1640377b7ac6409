// What all kernels share: operands, how their elements are read and written, and how a tile is cut into chunks.
//
// A tile is a run of elements of a tensor that lies in device memory: the base, the inputs and the result of the same
// positions. A chunk is eight neighbouring elements, what one thread works on at once: one read of 16 bytes of a 16-bit
// type, two of a 32-bit type. Where every pointer has the same distance from a boundary of 16 bytes, chunks begin on
// such boundaries (`head` elements lie before the first) and are read and written whole; the ones cut off at both ends
// of a tile, and all chunks where the pointers disagree, go element by element. A body is written once, for W elements.
//
// Arithmetic is in f32 in the order of the host's operators, compiled without fused multiply-add, so that results are
// the same bits; sums over elements are in f64.
//
// The same source is compiled for the host, where GLUE_HOST is defined, to test it without a device.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifdef GLUE_HOST
#include "host.hpp"
#else
#define INLINE __device__ __forceinline__
#define SHARED __shared__
#define UNROLL _Pragma("unroll")
#define ROLL _Pragma("unroll 1")
// A kernel takes one struct by value, so that whoever launches it passes one pointer. Registers are dealt out so that as
// many blocks fit on a multiprocessor at once: as many as can be without any of them going to memory.
#define KERNEL(name, Args, threads, blocks)                                                                            \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args a)
#endif

// Most operands that a kernel takes besides the base.
#define MOST 32
// Elements of a chunk.
#define WIDE 8

// How elements are stored: the numbers by which the host names the types.
enum Type : u32 { F32 = 0, F16 = 1, BF16 = 2 };

// A tile.
struct Tile {
    u64 base;         // address of element 0 of the base; 0 where there is none
    u64 input[MOST];  // address of element 0 of each input
    i64 len;          // elements
    u64 offset;       // index in the tensor of element 0
    u32 inputs;       // number of inputs
    u32 head;         // elements before the first chunk that begins on a boundary, 0 to 7
    u32 aligned;      // whether all pointers agree in that
    u32 unused;
};

// Where a result goes.
struct Out {
    u64 at;    // address of element 0
    u32 type;  // a Type
    u32 unused;
};

// Vec<W> elements as they are stored.
struct Raw16 {
    uint4 a;
};
struct Raw32 {
    uint4 a, b;
};

INLINE float from_bits(u32 bits) { return __uint_as_float(bits); }
INLINE u32 to_bits(float x) { return __float_as_uint(x); }

INLINE float widen_f16(u32 bits) {
#ifdef GLUE_HOST
    return host_widen_f16((u16)bits);
#else
    float x;
    asm("{ .reg .f16 h; mov.b16 h, %1; cvt.f32.f16 %0, h; }" : "=f"(x) : "h"((u16)bits));
    return x;
#endif
}

// Round to nearest, ties to even.
INLINE u32 narrow_f16(float x) {
#ifdef GLUE_HOST
    return host_narrow_f16(x);
#else
    u16 bits;
    asm("{ .reg .f16 h; cvt.rn.f16.f32 h, %1; mov.b16 %0, h; }" : "=h"(bits) : "f"(x));
    return bits;
#endif
}

// Round to nearest, ties to even; a NaN stays one.
INLINE u32 narrow_bf16(float x) {
    u32 bits = to_bits(x);
    u32 rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (bits & 0x7FFFFFFF) > 0x7F800000 ? (bits >> 16 | 0x40) : rounded;
}

// sum + x y for x and y that are f32 values: their product has at most 48 bits and is exact in f64, so that one rounding,
// in one instruction instead of two, gives the same bits.
INLINE double plus_product(double sum, double x, double y) {
#ifdef GLUE_HOST
    return sum + x * y;
#else
    return fma(x, y, sum);
#endif
}

// A word of four. Where it is used, k is known when compiling.
INLINE u32 word(const uint4& v, int k) { return k == 0 ? v.x : k == 1 ? v.y : k == 2 ? v.z : v.w; }

// A width as a type.
template <int W> struct Width {
    static constexpr int N = W;
};

// The types that operands have.
struct f32_t {
    typedef Raw32 Raw;
    typedef u32 Word;
    static const int SIZE = 4;
    static INLINE void load(u64 at, Raw& raw) {
        raw.a = __ldg((const uint4*)at);
        raw.b = __ldg((const uint4*)at + 1);
    }
    static INLINE float get(const Raw& raw, int j) { return from_bits(j < 4 ? word(raw.a, j) : word(raw.b, j - 4)); }
    static INLINE float one(u64 at) { return from_bits(__ldg((const u32*)at)); }
};
struct bf16_t {
    typedef Raw16 Raw;
    typedef u16 Word;
    static const int SIZE = 2;
    static INLINE void load(u64 at, Raw& raw) { raw.a = __ldg((const uint4*)at); }
    static INLINE float get(const Raw& raw, int j) {
        u32 two = word(raw.a, j / 2);
        return from_bits(j % 2 ? two & 0xFFFF0000 : two << 16);
    }
    static INLINE float one(u64 at) { return from_bits((u32)__ldg((const u16*)at) << 16); }
};
struct f16_t {
    typedef Raw16 Raw;
    typedef u16 Word;
    static const int SIZE = 2;
    static INLINE void load(u64 at, Raw& raw) { raw.a = __ldg((const uint4*)at); }
    static INLINE float get(const Raw& raw, int j) {
        u32 two = word(raw.a, j / 2);
        return widen_f16(j % 2 ? two >> 16 : two & 0xFFFF);
    }
    static INLINE float one(u64 at) { return widen_f16(__ldg((const u16*)at)); }
};

// W neighbouring elements, widened: a chunk, or one element where a chunk is not whole.
template <int W> struct Vec {
    float x[W];
};

// Several operands at once: all of their reads are under way before the first is used.
template <class In, int N, int W> struct Group {
    typename In::Raw raw[N];

    INLINE void load(const u64* from, i64 at) {
        UNROLL for (int i = 0; i < N; i++) In::load(from[i] + (u64)(at * In::SIZE), raw[i]);
    }
    INLINE float get(int i, int j) const { return In::get(raw[i], j); }
};
template <class In, int N> struct Group<In, N, 1> {
    float x[N];

    INLINE void load(const u64* from, i64 at) {
        UNROLL for (int i = 0; i < N; i++) x[i] = In::one(from[i] + (u64)(at * In::SIZE));
    }
    INLINE float get(int i, int) const { return x[i]; }
};

template <class In, int N, int W, class See> INLINE void several(const u64* from, u32 i, i64 at, See see) {
    Group<In, N, W> g;
    g.load(from + i, at);
    UNROLL for (int k = 0; k < N; k++) {
        Vec<W> v;
        UNROLL for (int j = 0; j < W; j++) v.x[j] = g.get(k, j);
        see(i + k, v);
    }
}

// Calls see(i, x_i) for every input in order, reading four at a time, or two where the body is long.
template <class In, int W, int MANY = 4, class See> INLINE void each(const u64* from, u32 n, i64 at, See see) {
    u32 i = 0;
    if (W > 1) {
        if (MANY == 4) {
            ROLL for (; i + 4 <= n; i += 4) several<In, 4, W>(from, i, at, see);
        }
        ROLL for (; i + 2 <= n; i += 2) several<In, 2, W>(from, i, at, see);
    }
    ROLL for (; i < n; i++) several<In, 1, W>(from, i, at, see);
}

template <class In, int W> INLINE void one(u64 from, i64 at, Vec<W>& v) {
    Group<In, 1, W> g;
    g.load(&from, at);
    UNROLL for (int j = 0; j < W; j++) v.x[j] = g.get(0, j);
}

template <int W> INLINE void tau_of(Vec<W>& x, const Vec<W>& base) {
    UNROLL for (int j = 0; j < W; j++) x.x[j] = x.x[j] - base.x[j];
}

INLINE u32 pack_bf16(float low, float high) { return narrow_bf16(low) | narrow_bf16(high) << 16; }
INLINE u32 pack_f16(float low, float high) { return narrow_f16(low) | narrow_f16(high) << 16; }

// Writes a chunk, rounding once.
INLINE void store(const Out& out, i64 at, const Vec<WIDE>& v) {
    const float* x = v.x;
    if (out.type == F32) {
        uint4* to = (uint4*)(out.at + (u64)(at * 4));
        to[0] = make_uint4(to_bits(x[0]), to_bits(x[1]), to_bits(x[2]), to_bits(x[3]));
        to[1] = make_uint4(to_bits(x[4]), to_bits(x[5]), to_bits(x[6]), to_bits(x[7]));
    } else if (out.type == BF16) {
        *(uint4*)(out.at + (u64)(at * 2)) =
            make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
    } else {
        *(uint4*)(out.at + (u64)(at * 2)) =
            make_uint4(pack_f16(x[0], x[1]), pack_f16(x[2], x[3]), pack_f16(x[4], x[5]), pack_f16(x[6], x[7]));
    }
}
INLINE void store(const Out& out, i64 at, const Vec<1>& v) {
    if (out.type == F32) {
        ((u32*)out.at)[at] = to_bits(v.x[0]);
    } else {
        ((u16*)out.at)[at] = (u16)(out.type == BF16 ? narrow_bf16(v.x[0]) : narrow_f16(v.x[0]));
    }
}

// The chunks of the elements begin .. end, a part of a tile.
struct Chunks {
    i64 start;  // where the first chunk begins, up to 7 elements before `begin`
    i64 begin, end;
    bool aligned;

    INLINE Chunks(const Tile& t, i64 begin, i64 end) : begin(begin), end(end), aligned(t.aligned) {
        i64 off = (begin - (i64)t.head) % WIDE;
        start = begin - (off < 0 ? off + WIDE : off);
    }
    INLINE i64 count() const { return begin < end ? (end - start + WIDE - 1) / WIDE : 0; }

    // Calls see(width, at) for a chunk that is whole, and else for each of its elements.
    template <class See> INLINE void see(i64 k, See see) const {
        i64 at = start + k * WIDE;
        if (aligned && at >= begin && at + WIDE <= end) {
            see(Width<WIDE>(), at);
        } else {
            i64 last = at + WIDE < end ? at + WIDE : end;
            ROLL for (i64 e = at < begin ? begin : at; e < last; e++) see(Width<1>(), e);
        }
    }
};

// Calls see(width, at) for every chunk of the elements begin .. end, the work being shared by all threads of the grid.
template <class See> INLINE void for_chunks(const Tile& t, i64 begin, i64 end, See see) {
    Chunks chunks(t, begin, end);
    const i64 count = chunks.count(), step = (i64)gridDim.x * blockDim.x;
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < count; k += step) chunks.see(k, see);
}

// The same, shared by the threads of one block.
template <class See> INLINE void for_chunks_of_block(const Tile& t, i64 begin, i64 end, See see) {
    Chunks chunks(t, begin, end);
    const i64 count = chunks.count();
    for (i64 k = threadIdx.x; k < count; k += blockDim.x) chunks.see(k, see);
}

// The number of elements that a body is called for, from the type of its first argument.
#define WIDTH(w) constexpr int W = decltype(w)::N

// Bits of |x|, which order as |x| does.
INLINE u32 magnitude(float x) { return to_bits(x) & 0x7FFFFFFF; }

// The border between what is kept and what is not: keys above `bits`, and keys equal to it below `index`.
struct Cut {
    u64 index;  // at most 2^62
    u32 bits;   // at most 2^31
    u32 unused;
};

// A cut as seen from a chunk: the least key that is kept of each of its elements.
struct Least {
    u32 bits;
    int border;  // elements before which equal keys are kept

    // `index` is that of the chunk's first element in the tensor.
    INLINE Least(const Cut& cut, i64 index) : bits(cut.bits) {
        i64 before = (i64)cut.index - index;
        border = before < 0 ? 0 : before > WIDE ? WIDE : (int)before;
    }
    INLINE u32 of(int j) const { return bits + (j < border ? 0u : 1u); }
};

// The sum over a block of `threads` threads, a power of two, in a fixed order; every thread gets it.
INLINE double block_sum(double x, double* room, int threads) {
    room[threadIdx.x] = x;
    __syncthreads();
    for (int half = threads / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
        __syncthreads();
    }
    double sum = room[0];
    __syncthreads();
    return sum;
}

// The variance of τ at each position of a chunk, measured from the first input: 0 exactly where all agree.
template <class In, int W> INLINE void variance(const Tile& t, i64 at, const Vec<W>& base, Vec<W>& out) {
    Vec<W> first, mean;
    one<In>(t.input[0], at, first);
    tau_of(first, base);
    UNROLL for (int j = 0; j < W; j++) mean.x[j] = out.x[j] = 0.0f;
    each<In, W>(t.input, t.inputs, at, [&](u32, Vec<W>& x) {
        tau_of(x, base);
        UNROLL for (int j = 0; j < W; j++) mean.x[j] += x.x[j] - first.x[j];
    });
    float n = (float)t.inputs;
    UNROLL for (int j = 0; j < W; j++) mean.x[j] /= n;
    each<In, W>(t.input, t.inputs, at, [&](u32, Vec<W>& x) {
        tau_of(x, base);
        UNROLL for (int j = 0; j < W; j++) {
            float off = (x.x[j] - first.x[j]) - mean.x[j];
            out.x[j] += off * off;
        }
    });
    UNROLL for (int j = 0; j < W; j++) out.x[j] /= n;
}
