//! Permutations applied to a model: one tensor in memory, or a whole checkpoint, written tensor by tensor.

use crate::alignment::{self, Alignment};
use crate::error::AlignError;
use crate::gather::Grid;
use crate::permutations::Permutations;
use crate::symmetry::Symmetry;
use glue_progress::{Progress, Unit};
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{Checkpoint, CheckpointWriter, Layout, Links, ModelDir, Staging, TensorSpec, TensorView};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes that a thread permutes before it writes them.
const BLOCK: usize = 4 << 20;

/// How an aligned model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOptions {
    /// Maximum bytes of tensor data in a file; a larger tensor gets a file of its own. Default: all in one file.
    pub max_shard_bytes: u64,
    /// Which symbolic links in the model's directory are followed when files are copied. Default: those that stay in
    /// it.
    pub links: Links,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { max_shard_bytes: u64::MAX, links: Links::default() }
    }
}

/// A tensor and the permutations of its axes.
pub(crate) struct Permuted<'a> {
    pub(crate) source: TensorView<'a>,
    pub(crate) by_row: Option<Vec<u32>>,
    pub(crate) by_column: Option<Vec<u32>>,
}

impl<'a> Permuted<'a> {
    /// The tensor called `name` and its permutations.
    pub(crate) fn of(
        checkpoint: &'a Checkpoint,
        symmetry: &Symmetry,
        permutations: &Permutations,
        name: &str,
    ) -> Result<Permuted<'a>, AlignError> {
        let missing = |tensor: &str| AlignError::MissingTensor { tensor: tensor.into(), beside: "others".into() };
        let Some(tensor) = symmetry.tensor(name) else {
            let source = checkpoint.get(name).ok_or_else(|| missing(name))?;
            return Ok(Permuted { source, by_row: None, by_column: None });
        };
        let source_name = permutations.source_name(tensor);
        let source = checkpoint.get(source_name).ok_or_else(|| missing(source_name))?;
        if source.shape() != tensor.shape {
            let expected = format!("{:?}", tensor.shape);
            return Err(AlignError::Shape { tensor: source_name.into(), expected, found: source.shape().to_vec() });
        }
        let mut axes = tensor.axes.iter().map(|axis| permutations.axis(symmetry, axis));
        Ok(Permuted { source, by_row: axes.next().flatten(), by_column: axes.next().flatten() })
    }

    fn is_unchanged(&self) -> bool {
        self.by_row.is_none() && self.by_column.is_none()
    }

    pub(crate) fn grid(&self) -> Grid<'a> {
        Grid::new(self.source.data(), self.source.shape(), self.source.dtype().size())
    }
}

/// The bytes of the tensor called `name` after `permutations`, in its stored type; borrowed where no element moves.
///
/// # Errors
/// [`AlignError::MissingTensor`]; [`AlignError::Shape`] when the symmetry is another model's.
pub fn permuted<'a>(
    checkpoint: &'a Checkpoint,
    symmetry: &Symmetry,
    permutations: &Permutations,
    name: &str,
) -> Result<Cow<'a, [u8]>, AlignError> {
    let permuted = Permuted::of(checkpoint, symmetry, permutations, name)?;
    if permuted.is_unchanged() {
        return Ok(Cow::Borrowed(permuted.source.data()));
    }
    Ok(Cow::Owned(permuted.grid().gathered(permuted.by_row.as_deref(), permuted.by_column.as_deref())))
}

/// Writes `model` with the permutations of `alignment` to the directory `out_dir`, which appears complete or not at
/// all.
///
/// Tensors keep their names, types and shapes. Configuration, tokenizer files and generation defaults are copied, and
/// the alignment is written as [`alignment::FILE`]. Memory: a few MiB for each thread, and a list of sources for each
/// axis.
///
/// # Errors
/// Those of [`Symmetry::derive`] and [`Alignment::permutations`]; [`AlignError::Write`], [`AlignError::Read`],
/// [`AlignError::Stopped`]. Nothing is written then.
pub fn write_aligned(
    model: &ModelDir,
    alignment: &Alignment,
    out_dir: impl AsRef<Path>,
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<(), AlignError> {
    model.check_links(options.links)?;
    let checkpoint = model.checkpoint();
    let symmetry = Symmetry::derive(model.config(), checkpoint, alignment.kinds)?;
    let permutations = alignment.permutations(&symmetry)?;
    let spec = |info: &glue_tensor::TensorInfo| TensorSpec {
        name: info.name.clone(),
        dtype: info.dtype,
        shape: info.shape.clone(),
    };
    let layout = Layout::new(checkpoint.tensors().iter().map(spec).collect(), options.max_shard_bytes, "model")?;
    let staging = Staging::create(out_dir)?;
    let writer = CheckpointWriter::create(&staging, layout, &BTreeMap::new())?;
    progress.begin("writing", Unit::Bytes, Some(checkpoint.total_bytes()));
    let written = checkpoint.tensors().par_iter().enumerate().try_for_each(|(index, info)| {
        if progress.is_cancelled() {
            return Err(AlignError::Stopped);
        }
        progress.item(&info.name);
        let permuted = Permuted::of(checkpoint, &symmetry, &permutations, &info.name)?;
        write_tensor(&writer, index, &permuted, progress)
    });
    if progress.is_cancelled() {
        return Err(AlignError::Stopped);
    }
    staging.write_file(CONFIG_FILE, &model.config().to_bytes())?;
    let side_files = model.read_side_files(options.links);
    let legal_files = model.read_legal_files(options.links);
    // A failure may be due to an input that changed; then that is the error.
    model.check_unchanged()?;
    written?;
    for (name, bytes) in side_files?.into_iter().chain(legal_files?) {
        staging.write_file(&name, &bytes)?;
    }
    let record = serde_json::to_string(alignment)
        .map_err(|error| AlignError::Read { path: out_file(&staging), error: error.into() })?;
    staging.write_file(alignment::FILE, format!("{record}\n").as_bytes())?;
    writer.finish()?;
    staging.commit()?;
    Ok(())
}

fn out_file(staging: &Staging) -> std::path::PathBuf {
    staging.out_dir().join(alignment::FILE)
}

fn write_tensor(
    writer: &CheckpointWriter,
    index: usize,
    permuted: &Permuted<'_>,
    progress: &dyn Progress,
) -> Result<(), AlignError> {
    let grid = permuted.grid();
    let stride = grid.columns * grid.size;
    if stride == 0 || grid.rows == 0 {
        return Ok(());
    }
    let step = (BLOCK / stride).max(1);
    let blocks = grid.rows.div_ceil(step);
    (0..blocks).into_par_iter().try_for_each_init(Vec::new, |buffer, block| {
        if progress.is_cancelled() {
            return Err(AlignError::Stopped);
        }
        let rows = block * step..((block + 1) * step).min(grid.rows);
        let offset = rows.start * stride;
        let length = rows.len() * stride;
        if permuted.is_unchanged() {
            writer.write_at(index, offset as u64, &grid.bytes[offset..offset + length])?;
        } else {
            buffer.resize(length, 0);
            grid.gather(rows, permuted.by_row.as_deref(), permuted.by_column.as_deref(), buffer);
            writer.write_at(index, offset as u64, buffer)?;
        }
        progress.advance(length as u64);
        Ok(())
    })
}
