//! pass@k: the probability that at least one of k answers is right, of which n were drawn and c are right.
//!
//! Chen et al., "Evaluating Large Language Models Trained on Code" (2021), equation 1: `1 - C(n-c, k) / C(n, k)`, which
//! is unbiased where `1 - (1 - c/n)^k` is not.

/// The estimate for one problem, in 0..=1: of `n` answers `c` are right, and `k` may be tried.
///
/// `None` where it is not defined: `k` of 0, more tries than answers (`k > n`), or more right answers than answers (`c
/// > n`).
///
/// ```
/// use glue_eval::pass_at_k::pass_at_k;
///
/// assert_eq!(pass_at_k(10, 3, 1), Some(0.3));
/// assert_eq!(pass_at_k(10, 3, 11), None);
/// ```
pub fn pass_at_k(n: usize, c: usize, k: usize) -> Option<f64> {
    if k == 0 || k > n || c > n {
        return None;
    }
    if k == 1 {
        return Some(c as f64 / n as f64);
    }
    if n - c < k {
        return Some(1.0);
    }
    // C(n-c, k) / C(n, k) is the product over i of (n-c-i) / (n-i) for k factors, and by symmetry of (n-k-i) / (n-i)
    // for c; the shorter is the more precise. The binomials themselves would overflow.
    let (factors, less) = if c < k { (c, k) } else { (k, c) };
    let missed: f64 = (0..factors).map(|i| (n - less - i) as f64 / (n - i) as f64).product();
    Some(1.0 - missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binomial(n: u128, k: u128) -> u128 {
        if k > n {
            return 0;
        }
        (0..k).fold(1, |product, i| product * (n - i) / (i + 1))
    }

    #[test]
    fn equals_the_exact_fraction() {
        let mut cases = 0;
        for n in 1..=60_usize {
            for c in 0..=n {
                for k in 1..=n {
                    let (all, missed) = (binomial(n as u128, k as u128), binomial((n - c) as u128, k as u128));
                    // The difference is taken between integers; what is left are three roundings.
                    let exact = (all - missed) as f64 / all as f64;
                    let found = pass_at_k(n, c, k).unwrap();
                    // At most 30 factors of two roundings each, and one subtraction.
                    assert!(
                        (found - exact).abs() <= 61.0 * f64::EPSILON,
                        "n {n}, c {c}, k {k}: {found}, expected {exact}"
                    );
                    cases += 1;
                }
            }
        }
        assert_eq!(cases, 75_640);
    }

    #[test]
    fn ends_and_what_is_not_defined() {
        assert_eq!(pass_at_k(200, 0, 100), Some(0.0));
        assert_eq!(pass_at_k(200, 200, 1), Some(1.0));
        assert_eq!(pass_at_k(5, 3, 3), Some(1.0));
        assert_eq!(pass_at_k(2, 1, 2), Some(1.0));
        assert_eq!(pass_at_k(3, 1, 0), None);
        assert_eq!(pass_at_k(3, 1, 4), None);
        assert_eq!(pass_at_k(3, 4, 1), None);
        assert_eq!(pass_at_k(0, 0, 1), None);
        // C(100000, 1000) has thousands of digits.
        let large = pass_at_k(100_000, 50, 1000).unwrap();
        assert!((large - 0.395_1).abs() < 1e-3, "{large}");
    }
}
