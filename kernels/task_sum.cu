// Task arithmetic: out = θ0 + scale Σ fi (θi − θ0), and with election of signs what TIES is at density 1.
//
// Shapes: base and inputs of `len` elements. Reads n + 1 elements and writes one for each element of the result.
// Source: Ilharco et al., Editing models with task arithmetic, arXiv 2212.04089.
#include "task.cuh"

TASK_KERNELS(task_sum, Nothing, sum_tasks, 4)
TASK_KERNELS(task_elected, Nothing, elect_tasks, 3)
