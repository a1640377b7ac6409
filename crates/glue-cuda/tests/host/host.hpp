// What the kernels take from CUDA, for a host compiler: the same source runs on the CPU, one block after the other and
// the threads of a block as fibres that change at barriers. Shared memory is static, and an atomic is a plain operation,
// because only one fibre runs at a time.
#pragma once
#include <cmath>
#include <cstring>

#define INLINE inline
#define SHARED static
#define UNROLL
#define ROLL
#define __syncthreads host_barrier

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct Index {
    unsigned x, y, z;
};

extern Index threadIdx, blockIdx, blockDim, gridDim;
void host_barrier();

// Registers a kernel under its name; a launch passes the address of its arguments.
typedef void (*HostKernel)(const void*);
struct HostRegistration {
    HostRegistration(const char* name, HostKernel kernel);
};
#define KERNEL(name, Args, threads, blocks)                                                                            \
    static void name##_body(const Args& a);                                                                            \
    static HostRegistration name##_registration(                                                                       \
        #name, [](const void* args) { name##_body(*(const Args*)args); });                                             \
    static void name##_body(const Args& a)

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return uint4{x, y, z, w}; }
// Stops at a read that the device would refuse.
[[noreturn]] void host_misaligned();
template <class T> inline T __ldg(const T* p) {
    if ((unsigned long long)p % sizeof(T) != 0) host_misaligned();
    return *p;
}
template <class T> inline T atomicAdd(T* p, T x) {
    T before = *p;
    *p += x;
    return before;
}
template <class T> inline T atomicOr(T* p, T x) {
    T before = *p;
    *p |= x;
    return before;
}

inline float host_widen_f16(unsigned short bits) {
    unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3FFu;
    if (exponent == 31) return __uint_as_float(sign | 0x7F800000u | fraction << 13);
    if (exponent == 0) {
        float x = (float)fraction / 16777216.0f;
        return sign ? -x : x;
    }
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}
inline unsigned host_narrow_f16(float x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u) return sign | 0x7FFF;
    if (size >= 0x477FF000u) return sign | 0x7C00;  // rounds to infinity
    if (size < 0x38800000u) {                       // subnormal: whole numbers of 2^-24, nearest even
        return sign | (unsigned)std::nearbyint(__uint_as_float(size) * 16777216.0f);
    }
    unsigned rounded = size + 0xFFF + (size >> 13 & 1);
    return sign | ((rounded - 0x38000000u) >> 13);
}
