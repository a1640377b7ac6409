//! Several objectives at once: dominance, sorting into fronts, crowding, and the hypervolume of two. All are minimised.
//!
//! Deb, Pratap, Agarwal and Meyarivan, *A fast and elitist multiobjective genetic algorithm: NSGA-II*, IEEE Trans.
//! Evol. Comput. 6 (2002); the hypervolume is of Zitzler and Thiele, *Multiobjective evolutionary algorithms*, IEEE
//! Trans. Evol. Comput. 3 (1999).

/// Whether `a` is nowhere worse than `b` and somewhere better.
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a <= b) && a.iter().zip(b).any(|(a, b)| a < b)
}

/// The rank of each point: 0 for those that none dominates, 1 for those that only points of rank 0 dominate, and so on.
pub fn non_dominated_sort<P: AsRef<[f64]>>(points: &[P]) -> Vec<usize> {
    let n = points.len();
    // Whom each point dominates, and how many dominate it.
    let mut below = vec![Vec::new(); n];
    let mut above = vec![0_usize; n];
    for i in 0..n {
        for j in i + 1..n {
            let (a, b) = (points[i].as_ref(), points[j].as_ref());
            if dominates(a, b) {
                below[i].push(j);
                above[j] += 1;
            } else if dominates(b, a) {
                below[j].push(i);
                above[i] += 1;
            }
        }
    }
    let mut ranks = vec![0; n];
    let mut front: Vec<usize> = (0..n).filter(|&i| above[i] == 0).collect();
    let mut rank = 0;
    while !front.is_empty() {
        let mut next = Vec::new();
        for &i in &front {
            ranks[i] = rank;
            for &j in &below[i] {
                above[j] -= 1;
                if above[j] == 0 {
                    next.push(j);
                }
            }
        }
        front = next;
        rank += 1;
    }
    ranks
}

/// How far each point of one front is from its neighbours: the sum over objectives of the distance between the next
/// worse and the next better, as a share of the whole extent. Infinite at the ends.
pub fn crowding_distance<P: AsRef<[f64]>>(front: &[P]) -> Vec<f64> {
    let mut distance = vec![0.0; front.len()];
    let objectives = front.first().map_or(0, |p| p.as_ref().len());
    for m in 0..objectives {
        let value = |i: usize| front[i].as_ref()[m];
        let mut order: Vec<usize> = (0..front.len()).collect();
        order.sort_by(|&a, &b| value(a).total_cmp(&value(b)).then(a.cmp(&b)));
        let (first, last) = (order[0], order[order.len() - 1]);
        let extent = value(last) - value(first);
        distance[first] = f64::INFINITY;
        distance[last] = f64::INFINITY;
        for w in order.windows(3) {
            // An objective that is the same for all says nothing of crowding.
            if extent > 0.0 {
                distance[w[1]] += (value(w[2]) - value(w[0])) / extent;
            }
        }
    }
    distance
}

/// The area that `points` dominate below `reference`, exactly, for two objectives that are minimised. Points that do
/// not dominate the reference count for nothing.
pub fn hypervolume(points: &[[f64; 2]], reference: [f64; 2]) -> f64 {
    let mut inside: Vec<[f64; 2]> =
        points.iter().copied().filter(|p| p[0] < reference[0] && p[1] < reference[1]).collect();
    inside.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let mut top = reference[1];
    let mut area = 0.0;
    for [x, y] in inside {
        if y < top {
            area += (reference[0] - x) * (top - y);
            top = y;
        }
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dominance_is_strict_somewhere() {
        assert!(dominates(&[1.0, 2.0], &[1.0, 3.0]));
        assert!(!dominates(&[1.0, 2.0], &[1.0, 2.0]));
        assert!(!dominates(&[1.0, 4.0], &[2.0, 3.0]));
    }

    #[test]
    fn fronts_by_hand() {
        let points = [[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [3.0, 3.0], [4.0, 4.0], [2.0, 2.0]];
        assert_eq!(non_dominated_sort(&points), [0, 0, 0, 1, 2, 0]);
        assert_eq!(non_dominated_sort::<[f64; 2]>(&[]), [0_usize; 0]);
    }

    #[test]
    fn crowding_by_hand() {
        let front = [[0.0, 4.0], [1.0, 2.0], [4.0, 0.0], [2.0, 1.0]];
        // (2 - 0)/4 + (4 - 1)/4 and (4 - 1)/4 + (2 - 0)/4.
        assert_eq!(crowding_distance(&front), [f64::INFINITY, 1.25, f64::INFINITY, 1.25]);
        assert_eq!(crowding_distance(&[[1.0, 1.0]]), [f64::INFINITY]);
        assert_eq!(crowding_distance(&[[1.0, 1.0]; 3])[1], 0.0);
    }

    #[test]
    fn areas_by_hand() {
        let front = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]];
        assert_eq!(hypervolume(&front, [4.0, 4.0]), 6.0);
        // Dominated, equal and outside points change nothing.
        let more = [[3.0, 1.0], [1.0, 3.0], [2.5, 2.5], [2.0, 2.0], [2.0, 2.0], [0.0, 5.0], [4.0, 0.0]];
        assert_eq!(hypervolume(&more, [4.0, 4.0]), 6.0);
        assert_eq!(hypervolume(&[], [4.0, 4.0]), 0.0);
    }

    proptest! {
        #[test]
        fn ranks_are_what_they_say(points in proptest::collection::vec([0_u8..6, 0..6, 0..6], 1..40)) {
            let points: Vec<Vec<f64>> = points.iter().map(|p| p.iter().map(|x| f64::from(*x)).collect()).collect();
            let ranks = non_dominated_sort(&points);
            for (i, p) in points.iter().enumerate() {
                // One more than the greatest rank among those that dominate it.
                let expected = (0..points.len()).filter(|&j| dominates(&points[j], p)).map(|j| ranks[j] + 1).max();
                prop_assert_eq!(ranks[i], expected.unwrap_or(0));
            }
        }

        #[test]
        fn area_is_that_of_a_grid(points in proptest::collection::vec([0_u8..9, 0..9], 0..12)) {
            let points: Vec<[f64; 2]> = points.iter().map(|p| p.map(f64::from)).collect();
            let covered = |x: f64, y: f64| points.iter().any(|p| p[0] <= x && p[1] <= y);
            let cells = (0..8).flat_map(|x| (0..8).map(move |y| (f64::from(x), f64::from(y))));
            let expected = cells.filter(|(x, y)| covered(*x, *y)).count();
            prop_assert_eq!(hypervolume(&points, [8.0, 8.0]), expected as f64);
        }
    }
}
