// Random words that are a function of (seed, tensor name, input, element): Philox4x32-10, as the host draws them.
//
// Element 4c + k takes word k of the block with counter (c mod 2^32, c div 2^32, input, 0). The keys of the ten rounds
// come from the host.
// Source: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
#pragma once
#include "glue.cuh"

struct Keys {
    u32 round[10][2];
};

INLINE void philox(const Keys& keys, u64 c, u32 input, u32* words) {
    u32 x0 = (u32)c, x1 = (u32)(c >> 32), x2 = input, x3 = 0;
    UNROLL for (int r = 0; r < 10; r++) {
        u64 p0 = (u64)x0 * 0xD2511F53u, p1 = (u64)x2 * 0xCD9E8D57u;
        x0 = (u32)(p1 >> 32) ^ x1 ^ keys.round[r][0];
        x1 = (u32)p1;
        x2 = (u32)(p0 >> 32) ^ x3 ^ keys.round[r][1];
        x3 = (u32)p0;
    }
    words[0] = x0;
    words[1] = x1;
    words[2] = x2;
    words[3] = x3;
}

// The words of the elements of a chunk whose first has this index in the tensor.
INLINE void words_of(const Keys& keys, u32 input, u64 index, u32 (&words)[WIDE]) {
    u32 drawn[12];
    const u64 c = index >> 2;
    const int skip = (int)(index & 3);
    philox(keys, c, input, drawn);
    philox(keys, c + 1, input, drawn + 4);
    if (skip == 0) {
        UNROLL for (int j = 0; j < WIDE; j++) words[j] = drawn[j];
    } else {
        philox(keys, c + 2, input, drawn + 8);
        UNROLL for (int j = 0; j < WIDE; j++)
            words[j] = skip == 1 ? drawn[j + 1] : skip == 2 ? drawn[j + 2] : drawn[j + 3];
    }
}
INLINE void words_of(const Keys& keys, u32 input, u64 index, u32 (&words)[1]) {
    u32 drawn[4];
    philox(keys, index >> 2, input, drawn);
    const int k = (int)(index & 3);
    words[0] = k == 0 ? drawn[0] : k == 1 ? drawn[1] : k == 2 ? drawn[2] : drawn[3];
}
