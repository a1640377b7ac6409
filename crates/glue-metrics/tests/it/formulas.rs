//! The metrics as their documentation defines them, for one pair of tensors in `f64`: what the panelled kernels of
//! the crate are checked against.

use glue_metrics::Metric;

/// The figure of two slices of equal length in row-major order, given the number of columns, which divides it.
/// Metrics of deltas take deltas. `None` where the figure is undefined, such as the cosine with a zero vector.
pub(crate) type Formula = fn(&[f32], &[f32], usize) -> Option<f64>;

/// The formula of `metric`.
pub(crate) fn of(metric: &Metric) -> Formula {
    match metric.name {
        "cosine_per_column" | "delta_cosine_per_column" => cosine_per_column,
        "cosine_per_row" => cosine_per_row,
        "cosine_flat" | "delta_cosine_flat" => cosine_flat,
        "l2_distance" => l2_distance,
        "sign_agreement" | "delta_sign_agreement" => sign_agreement,
        "linear_cka" => linear_cka,
        other => panic!("no formula for {other}"),
    }
}

/// Σ xy / √(Σ x² Σ y²).
fn cosine(pairs: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (dot, xx, yy) = pairs.fold((0.0, 0.0, 0.0), |(dot, xx, yy), (x, y)| (dot + x * y, xx + x * x, yy + y * y));
    (xx * yy != 0.0).then(|| dot / (xx * yy).sqrt())
}

fn wide<'a>(
    a: impl Iterator<Item = &'a f32> + 'a,
    b: impl Iterator<Item = &'a f32> + 'a,
) -> impl Iterator<Item = (f64, f64)> + 'a {
    a.zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)))
}

fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.flatten().collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn cosine_flat(a: &[f32], b: &[f32], _: usize) -> Option<f64> {
    cosine(wide(a.iter(), b.iter()))
}

fn cosine_per_column(a: &[f32], b: &[f32], columns: usize) -> Option<f64> {
    let column = |c| cosine(wide(a.iter().skip(c).step_by(columns), b.iter().skip(c).step_by(columns)));
    mean((0..columns).map(column))
}

/// With one column, of all elements as one row.
fn cosine_per_row(a: &[f32], b: &[f32], columns: usize) -> Option<f64> {
    let length = if columns == 1 { a.len() } else { columns };
    mean(a.chunks(length).zip(b.chunks(length)).map(|(a, b)| cosine(wide(a.iter(), b.iter()))))
}

fn l2_distance(a: &[f32], b: &[f32], _: usize) -> Option<f64> {
    Some(wide(a.iter(), b.iter()).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt())
}

/// Zero is a sign of its own.
fn sign_agreement(a: &[f32], b: &[f32], _: usize) -> Option<f64> {
    let sign = |x: f64| (x > 0.0, x < 0.0);
    let equal = wide(a.iter(), b.iter()).filter(|(a, b)| sign(*a) == sign(*b)).count();
    Some(equal as f64 / a.len() as f64)
}

/// ⟨XXᵀ, YYᵀ⟩ as the sum of squares of XᵀY, over pairs of rows.
fn linear_cka(a: &[f32], b: &[f32], columns: usize) -> Option<f64> {
    let (a, b) = (centred(a, columns), centred(b, columns));
    let alignment = |x: &[Vec<f64>], y: &[Vec<f64>]| -> f64 {
        let products = x.iter().flat_map(|x| y.iter().map(|y| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>()));
        products.map(|product| product * product).sum()
    };
    let norms = (alignment(&a, &a) * alignment(&b, &b)).sqrt();
    (norms != 0.0).then(|| alignment(&a, &b) / norms)
}

/// The rows less their means, rounded to f32: a row that is constant in f32 is exactly zero.
fn centred(matrix: &[f32], columns: usize) -> Vec<Vec<f64>> {
    let row = |row: &[f32]| {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / row.len() as f64;
        row.iter().map(|x| f64::from((f64::from(*x) - mean) as f32)).collect()
    };
    matrix.chunks(columns).map(row).collect()
}
