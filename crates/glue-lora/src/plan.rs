//! Which matrices become modules of the adapter, from headers alone.

use crate::error::LoraError;
use crate::factors::finds_first;
use crate::options::{ExtractOptions, RankRule};
use glue_tensor::adapter::{ModuleKind, experts_are_in_out};
use glue_tensor::names::{Position, is_fused_experts};
use glue_tensor::{ModelDir, Names, Role, TensorInfo, TensorName};
use std::collections::BTreeSet;

/// Model types of transformers whose linear layers store their weights as \[in, out\].
const FAN_IN_FAN_OUT: &[&str] = &["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];

/// A matrix, or those of a layer's experts in one tensor, that becomes a module of the adapter if the models differ in
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleCandidate {
    /// Name of the module: that of the tensor without `.weight`; for experts, that of the tensor.
    pub module: String,
    /// Rows of a matrix.
    pub rows: usize,
    /// Columns of a matrix.
    pub columns: usize,
    /// Whether it is a linear layer, an embedding, or experts.
    pub kind: ModuleKind,
    /// Whether a matrix is stored as \[in, out\].
    pub transposed: bool,
}

impl ModuleCandidate {
    /// Name of the tensor.
    pub fn tensor(&self) -> String {
        match self.kind {
            ModuleKind::Experts(_) => self.module.clone(),
            ModuleKind::Linear | ModuleKind::Embedding => format!("{}.weight", self.module),
        }
    }

    /// The largest rank its difference can have.
    pub fn full_rank(&self) -> usize {
        self.rows.min(self.columns)
    }
}

/// Everything an extraction does, decided.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExtractPlan<'a> {
    /// The base.
    pub base: &'a ModelDir,
    /// The fine-tuned model.
    pub fine: &'a ModelDir,
    /// The options.
    pub options: ExtractOptions,
    /// Matrices that become modules if they differ, by name.
    pub candidates: Vec<ModuleCandidate>,
    /// All other tensors, by name.
    pub others: Vec<String>,
    /// Whether linear layers store their weights as \[in, out\].
    pub fan_in_fan_out: bool,
}

/// Peak memory of a thread that finds all singular triples, in `f32` matrices of the size of the difference: the
/// difference; in `f64`, a copy of it, three square matrices of the smaller side and both singular matrices; and a
/// transposed copy of one of these.
const MATRICES: u64 = 17;
/// The same for the first triples: the difference and its copy, and thin matrices.
const FEW_MATRICES: u64 = 5;

impl ExtractPlan<'_> {
    /// About how many bytes of memory `threads` threads take.
    pub fn memory(&self, threads: usize) -> u64 {
        let matrices = |c: &ModuleCandidate| match self.options.rank {
            RankRule::Fixed(rank) if finds_first(rank, c.full_rank(), self.options.svd) => FEW_MATRICES,
            _ => MATRICES,
        };
        let bytes = |c: &ModuleCandidate| c.rows as u64 * c.columns as u64 * 4 * matrices(c);
        let mut sizes: Vec<u64> = self.candidates.iter().map(bytes).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.iter().take(threads.max(1)).sum()
    }

    /// Elements of all tensors, which is what progress counts.
    pub fn elements(&self) -> u64 {
        self.base.checkpoint().tensors().iter().map(|info| info.n_elements() as u64).sum()
    }

    /// Maximum rank of a candidate's factors; their rank where it is fixed.
    pub fn max_rank(&self, candidate: &ModuleCandidate) -> usize {
        let limit = match self.options.rank {
            RankRule::Fixed(rank) => rank,
            RankRule::Energy { max_rank, .. } => max_rank.unwrap_or(usize::MAX),
        };
        limit.min(candidate.full_rank())
    }

    /// Maximum bytes of all factors of the adapter.
    pub fn max_bytes(&self) -> u64 {
        let factors =
            |c: &ModuleCandidate| self.max_rank(c) as u64 * (c.rows + c.columns) as u64 * c.kind.matrices() as u64;
        self.candidates.iter().map(factors).sum::<u64>() * self.options.dtype.size() as u64
    }
}

/// Plans the extraction of the difference of `fine` from `base`. Reads headers only.
///
/// # Errors
/// [`LoraError::Option`], [`LoraError::NoSuchModule`]; [`LoraError::TensorMissing`], [`LoraError::ShapesDiffer`] and
/// [`LoraError::DtypesDiffer`] for models whose tensors differ in name, shape or kind of type; of several, the first as
/// [`LoraError::Several`].
pub fn plan<'a>(
    base: &'a ModelDir,
    fine: &'a ModelDir,
    options: &ExtractOptions,
) -> Result<ExtractPlan<'a>, LoraError> {
    options.check()?;
    check_same_tensors(base, fine)?;
    let infos = base.checkpoint().tensors();
    let names = Names::infer(infos.iter().map(|info| info.name.as_str()));
    let fan_in_fan_out = base.config().model_type().is_some_and(|kind| FAN_IN_FAN_OUT.contains(&kind));
    let mut matched: BTreeSet<&String> = BTreeSet::new();
    let (mut candidates, mut others) = (Vec::new(), Vec::new());
    for info in infos {
        let parsed = names.parse(&info.name);
        let matrix = match (info.name.strip_suffix(".weight"), info.shape.as_slice()) {
            _ if !info.dtype.is_float() || info.n_elements() == 0 => None,
            (Some(module), &[rows, columns]) => Some((module, rows, columns)),
            (_, &[_, rows, columns]) if is_fused_experts(&info.name, &info.shape) => {
                Some((info.name.as_str(), rows, columns))
            }
            _ => None,
        };
        let selected = matrix.filter(|(module, ..)| {
            let named: Vec<&String> = options.modules.iter().filter(|name| ends_in(module, name)).collect();
            matched.extend(named.iter().copied());
            !named.is_empty() || by_role(&parsed, options)
        });
        match selected {
            // Only layers are transposed in such models, and an adapter has one flag for all its modules.
            Some(_) if fan_in_fan_out && parsed.role == Role::Head => others.push(info.name.clone()),
            Some((module, rows, columns)) => {
                let (kind, transposed) = match info.shape[..] {
                    [n, _, _] => (ModuleKind::Experts(n), experts_are_in_out(base.checkpoint(), &info.name)),
                    _ if parsed.role == Role::Embedding => (ModuleKind::Embedding, true),
                    _ => (ModuleKind::Linear, fan_in_fan_out),
                };
                candidates.push(ModuleCandidate { module: module.to_string(), rows, columns, kind, transposed });
            }
            None => others.push(info.name.clone()),
        }
    }
    if let Some(module) = options.modules.iter().find(|module| !matched.contains(module)) {
        return Err(LoraError::NoSuchModule { module: module.clone(), path: base.path().to_path_buf() });
    }
    Ok(ExtractPlan { base, fine, options: options.clone(), candidates, others, fan_in_fan_out })
}

/// Whether `name` is `module` or its end from a dot on.
fn ends_in(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a matrix is taken that was not named.
fn by_role(parsed: &TensorName<'_>, options: &ExtractOptions) -> bool {
    match (parsed.role, parsed.position) {
        (Role::Embedding, _) => options.embeddings,
        (Role::Head, Position::After | Position::Before) => options.head,
        (Role::Norm, _) => false,
        (_, position) => position == Position::Inside && options.modules.is_empty(),
    }
}

/// Errors that are reported at once: models that do not fit together have one for every tensor.
pub(crate) const REPORTED: usize = 8;

fn check_same_tensors(base: &ModelDir, fine: &ModelDir) -> Result<(), LoraError> {
    let mut errors = Vec::new();
    for (has, lacks) in [(base, fine), (fine, base)] {
        let own = has.checkpoint().tensors().iter();
        // What is in both is compared once.
        errors.extend(own.filter_map(|info| match lacks.checkpoint().info(&info.name) {
            None => {
                let (present, missing) = (has.path().to_path_buf(), lacks.path().to_path_buf());
                Some(LoraError::TensorMissing { tensor: info.name.clone(), present, missing })
            }
            Some(other) if std::ptr::eq(has, base) => difference_of(info, other),
            Some(_) => None,
        }));
    }
    errors.truncate(REPORTED);
    LoraError::all(errors).map_or(Ok(()), Err)
}

/// In what two tensors of one name differ that must not.
fn difference_of(base: &TensorInfo, fine: &TensorInfo) -> Option<LoraError> {
    let tensor = base.name.clone();
    if base.shape != fine.shape {
        let (base, fine) = (base.shape.clone(), fine.shape.clone());
        return Some(LoraError::ShapesDiffer { tensor, base, fine });
    }
    let same = base.dtype == fine.dtype || (base.dtype.is_float() && fine.dtype.is_float());
    (!same).then_some(LoraError::DtypesDiffer { tensor, base: base.dtype, fine: fine.dtype })
}

#[cfg(test)]
mod tests {
    //! Names and roles.
    use super::*;

    #[test]
    fn ends_of_names_begin_at_a_dot() {
        assert!(ends_in("model.layers.0.self_attn.q_proj", "q_proj"));
        assert!(ends_in("model.layers.0.self_attn.q_proj", "self_attn.q_proj"));
        assert!(ends_in("q_proj", "q_proj"));
        assert!(!ends_in("model.layers.0.self_attn.my_q_proj", "q_proj"));
        assert!(!ends_in("model.layers.0.self_attn.q_proj.inner", "q_proj"));
    }

    #[test]
    fn by_default_it_is_the_matrices_of_the_layers() {
        let check = |name: &str, options: &ExtractOptions, expected| {
            assert_eq!(by_role(&TensorName::parse(name), options), expected, "{name} {options:?}");
        };
        let default = ExtractOptions::default();
        check("model.layers.0.self_attn.q_proj.weight", &default, true);
        check("model.layers.0.mlp.experts.3.up_proj.weight", &default, true);
        check("model.layers.0.mlp.gate.weight", &default, true);
        check("model.layers.0.input_layernorm.weight", &default, false);
        check("model.embed_tokens.weight", &default, false);
        check("lm_head.weight", &default, false);
        check("model.embed_tokens.weight", &ExtractOptions { embeddings: true, ..default.clone() }, true);
        check("lm_head.weight", &ExtractOptions { head: true, ..default.clone() }, true);
        let named = ExtractOptions { modules: vec!["v_proj".into()], head: true, ..default };
        check("model.layers.0.self_attn.q_proj.weight", &named, false);
        check("lm_head.weight", &named, true);
    }
}
