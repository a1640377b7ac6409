// TIES: keep the largest |τi|, elect a sign for each element, add what agrees.
//
// Shapes: base and inputs of `len` elements, two cuts for each input, which the passes of histogram.cu and equals.cu
// found; breadcrumbs_ties passes an upper cut too. Reads n + 1 elements and writes one for each element of the result.
// Source: Yadav et al., TIES-Merging, arXiv 2306.01708.
#include "task.cuh"

TASK_KERNELS(ties, Between, elect_tasks, 2)
NORM_KERNELS(norms_between, Between, 6)
