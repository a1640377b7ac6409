//! Rows times a factor each.

use super::{elements, floats};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use std::sync::Arc;

/// `x` [rows, width] with each row multiplied by its factor.
pub(crate) fn scale_rows(x: &Tensor, factors: &Arc<[f32]>) -> Result<Tensor> {
    x.apply_op1(ScaleRows(Arc::clone(factors)))
}

struct ScaleRows(Arc<[f32]>);

impl ScaleRows {
    fn of(&self, x: &[f32], width: usize) -> Vec<f32> {
        x.chunks_exact(width.max(1))
            .zip(&*self.0)
            .flat_map(|(row, factor)| row.iter().map(move |x| x * factor))
            .collect()
    }
}

impl CustomOp1 for ScaleRows {
    fn name(&self) -> &'static str {
        "scaled-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = at.shape().dims2()?;
        if rows != self.0.len() {
            bail!("{} factors for {rows} rows", self.0.len())
        }
        Ok((CpuStorage::F32(self.of(floats(x, at)?, width)), at.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let scaled = self.of(&elements(grad)?, x.dim(1)?);
        Tensor::from_vec(scaled, x.shape(), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn each_row_has_its_factor() {
        let x = Tensor::new(&[[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]], &Device::Cpu).unwrap();
        let factors: Arc<[f32]> = Arc::from([2.0, 0.0, -1.0]);
        let y = scale_rows(&x, &factors).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(y, [[2.0, 4.0], [0.0, 0.0], [-5.0, -6.0]]);
        assert!(scale_rows(&x, &Arc::from([1.0])).is_err());
        crate::ops::gradients::check_gradients(&[&[3, 4]], 1.0, |x| scale_rows(&x[0], &factors));
    }
}
