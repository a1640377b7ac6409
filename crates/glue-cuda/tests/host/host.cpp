// The other half of host.hpp: fibres, the registry of kernels, and the launch that the tests call.
#include "host.hpp"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <string>
#include <ucontext.h>
#include <vector>

Index threadIdx, blockIdx, blockDim, gridDim;

static std::map<std::string, HostKernel>& kernels() {
    static std::map<std::string, HostKernel> all;
    return all;
}

HostRegistration::HostRegistration(const char* name, HostKernel kernel) { kernels()[name] = kernel; }

void host_misaligned() {
    std::fprintf(stderr, "a read at an address that is no multiple of its size\n");
    std::abort();
}

// A thread of a block. It is started once and runs one kernel after the other; it changes by jumps, which unlike
// swapcontext make no system call.
struct Fibre {
    ucontext_t context;
    jmp_buf jump;
    std::vector<char> stack;
    bool started, done;
};
static std::deque<Fibre> fibres;
static jmp_buf scheduler;
static unsigned current;
static HostKernel kernel;
static const void* arguments;

void host_barrier() {
    if (_setjmp(fibres[current].jump) == 0) _longjmp(scheduler, 1);
}

static void run() {
    for (;;) {
        kernel(arguments);
        fibres[current].done = true;
        host_barrier();
    }
}

// Lets a fibre run to its next barrier.
static void resume(unsigned t) {
    current = t;
    threadIdx = Index{t, 0, 0};
    if (_setjmp(scheduler) == 0) {
        if (fibres[t].started) _longjmp(fibres[t].jump, 1);
        fibres[t].started = true;
        setcontext(&fibres[t].context);
    }
}

// Runs a kernel; false where there is none of that name. One launch at a time.
extern "C" bool host_launch(const char* name, unsigned x, unsigned y, unsigned threads, const void* args) {
    auto found = kernels().find(name);
    if (found == kernels().end()) return false;
    kernel = found->second;
    arguments = args;
    gridDim = Index{x, y, 1};
    blockDim = Index{threads, 1, 1};
    while (fibres.size() < threads) {
        fibres.emplace_back();
        Fibre& f = fibres.back();
        f.stack.resize(64 << 10);
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.data();
        f.context.uc_stack.ss_size = f.stack.size();
        f.context.uc_link = nullptr;
        makecontext(&f.context, run, 0);
    }
    for (unsigned by = 0; by < y; by++) {
        for (unsigned bx = 0; bx < x; bx++) {
            blockIdx = Index{bx, by, 0};
            for (unsigned t = 0; t < threads; t++) fibres[t].done = false;
            // From barrier to barrier: every fibre runs to the next one before the first goes on.
            for (unsigned left = threads; left > 0;) {
                for (unsigned t = 0; t < threads; t++) {
                    if (fibres[t].done) continue;
                    resume(t);
                    left -= fibres[t].done;
                }
            }
        }
    }
    return true;
}
