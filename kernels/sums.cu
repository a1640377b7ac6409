// Adds up partial sums in a fixed order: to[s] += Σ from[b][s] over blocks b.
//
// Shapes: from [blocks][sums], to [sums], both f64. One block of threads for each sum.
#include "glue.cuh"

struct Sums {
    u64 from;
    u64 to;
    u32 blocks;
    u32 sums;
};

KERNEL(sum_partials, Sums, 256, 8) {
    SHARED double room[256];
    const double* from = (const double*)a.from;
    const u32 s = blockIdx.x;
    double own = 0.0;
    for (u32 b = threadIdx.x; b < a.blocks; b += 256) own += from[(u64)b * a.sums + s];
    double sum = block_sum(own, room, 256);
    if (threadIdx.x == 0) ((double*)a.to)[s] += sum;
}
