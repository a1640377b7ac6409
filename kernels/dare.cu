// DARE: drop elements of each τi at random and rescale the rest, then add up, or elect signs as TIES does.
//
// Shapes: base and inputs of `len` elements. Element e of input i is kept where its random word is below
// `kept_below[i]`, and multiplied by `scale[i]`. Reads n + 1 elements and writes one for each element of the result;
// `norms_random` reads the same for the sums that restore L1 norms.
// Source: Yu et al., Language models are Super Mario, arXiv 2311.03099.
#include "philox.cuh"
#include "task.cuh"

struct Random {
    static constexpr int MANY = 2;
    Keys keys;
    u32 stream[MOST];      // the word of the counter that tells inputs apart
    u32 kept_below[MOST];
    float scale[MOST];
    u32 whole;             // a bit for each input of which nothing is dropped, nor scaled
    u32 unused;

    template <int W> INLINE void trim(const Tile& t, u32 i, i64 at, Vec<W>& tau) const {
        if (whole >> i & 1) return;
        u32 words[W];
        words_of(keys, stream[i], t.offset + (u64)at, words);
        u32 bound = kept_below[i];
        float s = scale[i];
        UNROLL for (int j = 0; j < W; j++) tau.x[j] = words[j] < bound ? tau.x[j] * s : 0.0f;
    }
};

TASK_KERNELS(dare, Random, sum_tasks, 3)
TASK_KERNELS(dare_elected, Random, elect_tasks, 2)
NORM_KERNELS(norms_random, Random, 3)
