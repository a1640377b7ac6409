//! Which tensor goes into which file, and where.

use super::WriteError;
use crate::dtype::Dtype;
use crate::header::METADATA;
use std::collections::HashSet;
use std::ops::Range;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, unique in the output.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

/// One file of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shard {
    /// Final name of the file.
    pub name: String,
    /// Tensors by their index in the layout, in the order of their data.
    pub tensors: Vec<usize>,
    /// Bytes of tensor data.
    pub n_bytes: u64,
}

/// Where one tensor goes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placement {
    /// Index into [`Layout::shards`].
    pub shard: usize,
    /// Bytes of that file, counted from the start of its data.
    pub range: Range<u64>,
}

/// The files a checkpoint is written to, decided from names, types and shapes alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    base_name: String,
    tensors: Vec<TensorSpec>,
    placements: Vec<Placement>,
    shards: Vec<Shard>,
}

impl Layout {
    /// Lays out `tensors` in files of at most `max_shard_bytes` bytes of data each.
    ///
    /// One file `BASE.safetensors` when everything fits, else `BASE-00001-of-0000N.safetensors` and so on, filled in
    /// the order given; a tensor above the limit gets a file of its own. Inside a file, wider element types come
    /// first and the order given holds among equals, so that every tensor is aligned to its element.
    ///
    /// # Errors
    /// [`WriteError::DuplicateTensor`], [`WriteError::ReservedName`], [`WriteError::SizeOverflow`], or
    /// [`WriteError::FileName`] for a `base_name` that is empty or holds a path separator.
    pub fn new(tensors: Vec<TensorSpec>, max_shard_bytes: u64, base_name: &str) -> Result<Layout, WriteError> {
        if base_name.is_empty() || base_name.contains(['/', '\\', '\0']) {
            return Err(WriteError::FileName { name: base_name.to_string() });
        }
        let mut names = HashSet::new();
        let mut total = 0u64;
        let mut groups: Vec<(Vec<usize>, u64)> = Vec::new();
        let mut sizes = Vec::with_capacity(tensors.len());
        for (i, spec) in tensors.iter().enumerate() {
            if spec.name == METADATA {
                return Err(WriteError::ReservedName { tensor: spec.name.clone() });
            }
            if !names.insert(&spec.name) {
                return Err(WriteError::DuplicateTensor { tensor: spec.name.clone() });
            }
            let overflow = || WriteError::SizeOverflow { tensor: spec.name.clone(), shape: spec.shape.clone() };
            let product = |size: u64, &extent: &usize| size.checked_mul(extent as u64);
            let size = spec.shape.iter().try_fold(spec.dtype.size() as u64, product).ok_or_else(overflow)?;
            total = total.checked_add(size).ok_or_else(overflow)?;
            sizes.push(size);
            match groups.last_mut() {
                Some((group, bytes)) if size <= max_shard_bytes.saturating_sub(*bytes) => {
                    group.push(i);
                    *bytes += size;
                }
                _ => groups.push((vec![i], size)),
            }
        }
        if groups.is_empty() {
            groups.push((Vec::new(), 0));
        }

        let mut placements = vec![Placement { shard: 0, range: 0..0 }; tensors.len()];
        let mut shards = Vec::with_capacity(groups.len());
        let count = groups.len();
        for (shard, (mut group, n_bytes)) in groups.into_iter().enumerate() {
            group.sort_by_key(|&i| std::cmp::Reverse(tensors[i].dtype.size()));
            let mut end = 0;
            for &i in &group {
                placements[i] = Placement { shard, range: end..end + sizes[i] };
                end += sizes[i];
            }
            let name = match count {
                1 => format!("{base_name}.safetensors"),
                _ => format!("{base_name}-{:05}-of-{count:05}.safetensors", shard + 1),
            };
            shards.push(Shard { name, tensors: group, n_bytes });
        }
        Ok(Layout { base_name: base_name.to_string(), tensors, placements, shards })
    }

    /// The tensors, in the order given; writers address them by their index here.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Where each tensor goes, by index.
    pub fn placements(&self) -> &[Placement] {
        &self.placements
    }

    /// The files, in order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Bytes of tensor data over all files.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.n_bytes).sum()
    }

    /// Elements over all tensors.
    pub fn n_parameters(&self) -> u64 {
        let elements =
            |(spec, place): (&TensorSpec, &Placement)| (place.range.end - place.range.start) / spec.dtype.size() as u64;
        self.tensors.iter().zip(&self.placements).map(elements).sum()
    }

    /// Name and content of the index; `None` when there is one file and so no index.
    pub fn index(&self) -> Option<(String, Vec<u8>)> {
        if self.shards.len() < 2 {
            return None;
        }
        let mut names: Vec<usize> = (0..self.tensors.len()).collect();
        names.sort_by_key(|&i| &self.tensors[i].name);
        let weight_map: serde_json::Map<_, _> = names
            .into_iter()
            .map(|i| (self.tensors[i].name.clone(), self.shards[self.placements[i].shard].name.clone().into()))
            .collect();
        let index = serde_json::json!({
            "metadata": { "total_parameters": self.n_parameters(), "total_size": self.total_bytes() },
            "weight_map": weight_map,
        });
        Some((format!("{}.safetensors.index.json", self.base_name), format!("{index:#}\n").into_bytes()))
    }
}
