//! From a model to a GGUF file.

use crate::container::{FileLayout, GgufWriter, Metadata};
use crate::error::GgufError;
use crate::family::{Facts, Family, HEAD};
use crate::mapping::{ExportTensors, export_tensors};
use crate::parts::Output;
use crate::quant::GgmlType;
use crate::source::{ExportModel, TensorSource};
use crate::type_mix::{FileType, ModelForm, choose};
use crate::vocabulary;
use glue_progress::{Progress, Unit};
use glue_tensor::{Dtype, Links, ModelDir};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// What an export makes.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ExportOptions {
    /// Types of the values. By default that of the embedding, so that nothing is rounded.
    pub file_type: Option<FileType>,
    /// Name of llama.cpp's pre-tokenizer, in place of the one that splits as the model's does.
    pub pre_tokenizer: Option<String>,
}

impl ExportOptions {
    /// An export with values of `file_type`.
    pub fn new(file_type: FileType) -> ExportOptions {
        ExportOptions { file_type: Some(file_type), ..ExportOptions::default() }
    }
}

/// What was exported, or will be.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ExportReport {
    /// `model_type` of the model.
    pub family: &'static str,
    /// `general.architecture` of the file.
    pub architecture: &'static str,
    /// Types of the values.
    pub file_type: FileType,
    /// Bytes of the file.
    pub n_bytes: u64,
    /// Tensors of the file.
    pub n_tensors: usize,
    /// Bytes of tensors by their type.
    pub bytes_by_type: BTreeMap<GgmlType, u64>,
    /// Tensors of the model that the file lacks: those of other parts of a multimodal model, and copies of others.
    pub left_out: Vec<String>,
    /// What llama.cpp will do otherwise than the model as transformers runs it.
    pub notes: Vec<String>,
}

/// An export, checked and laid out, before anything is written.
#[derive(Debug)]
pub struct ExportPlan {
    tensors: ExportTensors,
    layout: FileLayout,
    report: ExportReport,
}

impl ExportPlan {
    /// Checks that all of `model` can be expressed in a GGUF file, and lays the file out.
    ///
    /// # Errors
    /// [`GgufError`] for a family, a key of the configuration, a tensor or a tokenizer that cannot be.
    pub fn new(model: &ExportModel, options: &ExportOptions) -> Result<ExportPlan, GgufError> {
        let family = family_of(model)?;
        let mut notes = Vec::new();
        let facts = Facts::from_config(family, &model.config, &model.path, &mut notes)?;
        let tensors = export_tensors(model, family, &facts)?;
        let file_type = options.file_type.unwrap_or_else(|| stored_type(model));
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", family.arch);
        metadata.set("general.type", "model");
        metadata.set("general.file_type", file_type.number());
        metadata.set("general.quantization_version", 2u32);
        facts.set_keys(family, &mut metadata);
        let strips = vocabulary::set_keys(
            model,
            facts.vocabulary as usize,
            options.pre_tokenizer.as_deref(),
            &mut metadata,
            &mut notes,
        )?;
        metadata.set("general.name", name_of(&model.name, strips));
        let form = ModelForm {
            arch: family.arch,
            layers: facts.layers as usize,
            experts: facts.experts.map_or(0, |experts| experts.count),
            grouped: facts.kv_heads != facts.heads,
            tied: !tensors.outputs.iter().any(|output| output.name == HEAD),
        };
        let kind = |name: &str, shape: &[usize]| choose(file_type, form, name, shape);
        let mut entries: Vec<(String, GgmlType, Vec<usize>)> =
            tensors.computed.iter().map(|(name, values)| (name.clone(), GgmlType::F32, vec![values.len()])).collect();
        entries.extend(
            tensors
                .outputs
                .iter()
                .map(|output| (output.name.clone(), kind(&output.name, &output.shape), output.shape.clone())),
        );
        let layout = FileLayout::new(&metadata, entries)?;
        let mut bytes_by_type = BTreeMap::new();
        for entry in layout.entries() {
            *bytes_by_type.entry(entry.kind).or_default() += entry.n_bytes();
        }
        let report = ExportReport {
            family: family.model_type,
            architecture: family.arch,
            file_type,
            n_bytes: layout.total_bytes(),
            n_tensors: layout.entries().len(),
            bytes_by_type,
            left_out: tensors.left_out.clone(),
            notes,
        };
        Ok(ExportPlan { tensors, layout, report })
    }

    /// What will be exported.
    pub fn report(&self) -> &ExportReport {
        &self.report
    }

    /// Name, type and shape of each tensor of the file, the outermost dimension first.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, GgmlType, &[usize])> {
        self.layout.entries().iter().map(|entry| (entry.name.as_str(), entry.kind, entry.shape.as_slice()))
    }

    /// For each tensor of the file, in order, the tensors of the model that it is made of, each once. They are what
    /// [`TensorSource::prepare`] is asked for.
    pub fn sources(&self) -> impl Iterator<Item = Vec<&str>> {
        self.tensors.outputs.iter().map(Output::sources)
    }

    /// Writes the file with values from `source`, in blocks: memory does not grow with the model.
    ///
    /// The file appears under its name when it is complete, and `source` must not have changed until then. A file that
    /// is there already is replaced with `overwrite`, and refused without.
    ///
    /// # Errors
    /// [`GgufError::Exists`]; [`GgufError::Cancelled`]; values that the type cannot hold; what the system says.
    pub fn write(
        self,
        source: &mut dyn TensorSource,
        file: &Path,
        overwrite: bool,
        progress: &dyn Progress,
    ) -> Result<ExportReport, GgufError> {
        check_absent(file, overwrite)?;
        let ExportPlan { tensors, layout, report } = self;
        let total = layout.entries().iter().map(|entry| entry.n_bytes()).sum();
        progress.begin("writing tensors", Unit::Bytes, Some(total));
        let entries = layout.entries().to_vec();
        let mut writer = GgufWriter::create(file, layout)?;
        let mut bytes = Vec::new();
        let mut put = |at: usize, values: &[f32]| {
            if progress.is_cancelled() {
                return Err(GgufError::Cancelled);
            }
            encode(entries[at].kind, values, &mut bytes)
                .map_err(|message| GgufError::Quantise { tensor: entries[at].name.clone(), message })?;
            writer.write(&bytes)?;
            progress.advance(bytes.len() as u64);
            Ok(())
        };
        let n_computed = tensors.computed.len();
        for (at, (_, values)) in tensors.computed.iter().enumerate() {
            put(at, values)?;
        }
        for (at, output) in tensors.outputs.iter().enumerate() {
            progress.item(&output.name);
            source.prepare(&output.sources(), progress)?;
            let read = |name: &str, first: usize, n: usize, out: &mut Vec<f32>| source.read(name, first, n, out);
            output.for_each_block(read, |values| put(n_computed + at, values))?;
        }
        source.check_unchanged()?;
        writer.finish()?;
        Ok(report)
    }
}

/// Exports the model in `directory` to `file`, which must not exist.
///
/// # Errors
/// Those of [`ExportPlan::new`] and [`ExportPlan::write`]. Whatever can be refused is refused before the file is begun.
pub fn export(
    directory: impl AsRef<Path>,
    file: impl AsRef<Path>,
    options: &ExportOptions,
    progress: &dyn Progress,
) -> Result<ExportReport, GgufError> {
    check_absent(file.as_ref(), false)?;
    let mut model = ModelDir::open(directory)?;
    let plan = ExportPlan::new(&ExportModel::of(&model, Links::default())?, options)?;
    plan.write(&mut model, file.as_ref(), false, progress)
}

/// Values that one thread encodes at a time: whole blocks of every type.
const PER_THREAD: usize = 1 << 14;

/// [`GgmlType::encode`], by several threads where it takes time.
fn encode(kind: GgmlType, values: &[f32], bytes: &mut Vec<u8>) -> Result<(), String> {
    if !kind.is_quantised() || values.len() <= PER_THREAD {
        return kind.encode(values, bytes);
    }
    let pieces = values.par_chunks(PER_THREAD).map(|values| {
        let mut bytes = Vec::new();
        kind.encode(values, &mut bytes).map(|()| bytes)
    });
    let pieces: Vec<Vec<u8>> = pieces.collect::<Result<_, _>>()?;
    bytes.clear();
    pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    Ok(())
}

/// The type of the first matrix, which the embedding usually is; bfloat16 for types that GGUF does not have.
fn stored_type(model: &ExportModel) -> FileType {
    let matrices: Vec<_> = model.tensors.iter().filter(|tensor| tensor.shape.len() == 2).collect();
    let embedding = matrices.iter().find(|tensor| tensor.name.ends_with("embed_tokens.weight")).or(matrices.first());
    match embedding.map(|tensor| tensor.dtype) {
        Some(Dtype::F32 | Dtype::F64) => FileType::F32,
        Some(Dtype::F16) => FileType::F16,
        _ => FileType::Bf16,
    }
}

fn check_absent(file: &Path, overwrite: bool) -> Result<(), GgufError> {
    if !overwrite && file.symlink_metadata().is_ok() {
        return Err(GgufError::Exists { path: file.to_path_buf() });
    }
    Ok(())
}

fn family_of(model: &ExportModel) -> Result<&'static Family, GgufError> {
    // In multimodal models, that of the language part.
    let model_type = match (model.config.get("model_type").and_then(|name| name.as_str()), model.config.model_type()) {
        (Some("gemma3"), _) => "gemma3_text",
        (Some("mistral3"), _) => "mistral",
        (Some(inner), _) => inner,
        (None, outer) => outer.unwrap_or("none"),
    };
    Family::of_model_type(model_type).ok_or_else(|| GgufError::Family {
        path: model.path.clone(),
        found: format!("a model of type `{model_type}`"),
        known: Family::known(),
    })
}

/// `general.name` of a model called `name`.
///
/// llama.cpp lets special tokens take the white space behind them along if this name has `phi-3` or `phi3` in it, and
/// then needs Phi-3's tokens: the name has it if they do, and only then.
fn name_of(name: &str, strips: bool) -> String {
    let lower = name.to_ascii_lowercase();
    let found = ["phi-3", "phi3"].into_iter().find_map(|part| Some((lower.find(part)?, part.len())));
    match found {
        None if strips => format!("phi-3 {name}"),
        Some((at, length)) if !strips => name_of_other(name, at, length),
        _ => name.to_string(),
    }
}

/// `name` with a space within the part that means a Phi-3.
fn name_of_other(name: &str, at: usize, length: usize) -> String {
    format!("{}{} 3{}", &name[..at], &name[at..at + 3], &name[at + length..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_has_phi_3_in_it_if_its_special_tokens_strip_white_space() {
        for (name, strips, expected) in [
            ("merged", false, "merged"),
            ("merged", true, "phi-3 merged"),
            ("Phi-3-mini", true, "Phi-3-mini"),
            ("Phi-3-mini", false, "Phi 3-mini"),
            ("my-phi3", false, "my-phi 3"),
        ] {
            assert_eq!(name_of(name, strips), expected, "{name}");
        }
    }
}
