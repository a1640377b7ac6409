# The assignment of rows to columns with the least sum (Kuhn, "The Hungarian method for the assignment problem", 1955; with potentials
# of rows and columns, and one row more in each step).
import numpy as np


def linear_sum_assignment(cost_matrix, maximize=False):
    cost = [[-float(x) if maximize else float(x) for x in row] for row in cost_matrix]
    if len(cost) == 0 or len(cost[0]) == 0:
        return np.array([]), np.array([])
    turned = len(cost) > len(cost[0])
    if turned:
        cost = [[row[j] for row in cost] for j in range(len(cost[0]))]
    n, m = len(cost), len(cost[0])
    of_row, of_column = [0.0] * (n + 1), [0.0] * (m + 1)
    # The row of each column, counted from 1; column 0 has the row that is being placed.
    rows, before = [0] * (m + 1), [0] * (m + 1)
    for i in range(1, n + 1):
        rows[0] = i
        column = 0
        least, seen = [float("inf")] * (m + 1), [False] * (m + 1)
        while True:
            seen[column] = True
            row = rows[column]
            step, following = float("inf"), 0
            for j in range(1, m + 1):
                if seen[j]:
                    continue
                reduced = cost[row - 1][j - 1] - of_row[row] - of_column[j]
                if reduced < least[j]:
                    least[j], before[j] = reduced, column
                if least[j] < step:
                    step, following = least[j], j
            for j in range(m + 1):
                if seen[j]:
                    of_row[rows[j]] += step
                    of_column[j] -= step
                else:
                    least[j] -= step
            column = following
            if rows[column] == 0:
                break
        while column != 0:
            rows[column] = rows[before[column]]
            column = before[column]
    pairs = [(rows[j] - 1, j - 1) for j in range(1, m + 1) if rows[j] != 0]
    pairs = sorted([(j, i) for i, j in pairs] if turned else pairs)
    return np.array([i for i, _ in pairs]), np.array([j for _, j in pairs])
