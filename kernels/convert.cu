// Type conversion: out = x rounded once to another type, and how many elements are no finite numbers.
//
// Shapes: one vector of `len` elements; `bad` is one u32 to which the count is added. Without a result it only counts.
#include "glue.cuh"

struct Convert {
    Tile t;
    Out out;  // at 0: no result
    u64 bad;
};

template <class In, int W> INLINE void convert(const Convert& a, i64 at, u32& bad) {
    Vec<W> x;
    one<In>(a.t.input[0], at, x);
    UNROLL for (int j = 0; j < W; j++) bad += magnitude(x.x[j]) >= 0x7F800000;
    if (a.out.at) store(a.out, at, x);
}

template <class In> INLINE void convert_all(const Convert& a) {
    u32 bad = 0;
    for_chunks(a.t, 0, a.t.len, [&](auto w, i64 at) {
        WIDTH(w);
        convert<In, W>(a, at, bad);
    });
    if (bad) atomicAdd((u32*)a.bad, bad);
}

KERNEL(convert_f32, Convert, 256, 8) { convert_all<f32_t>(a); }
KERNEL(convert_f16, Convert, 256, 8) { convert_all<f16_t>(a); }
KERNEL(convert_bf16, Convert, 256, 8) { convert_all<bf16_t>(a); }
