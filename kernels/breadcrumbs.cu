// Model Breadcrumbs: drop the largest and the smallest |τi|, add up the rest.
//
// Shapes: base and inputs of `len` elements, two cuts for each input. Reads n + 1 elements and writes one for each
// element of the result.
// Source: Davari, Belilovsky, Model Breadcrumbs, arXiv 2312.06795.
#include "task.cuh"

TASK_KERNELS(breadcrumbs, Between, sum_tasks, 3)
