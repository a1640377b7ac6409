//! Which tensors of one side become which of the other.

use crate::container::GgufFile;
use crate::error::GgufError;
use crate::family::keys::{ROPE_FREQS, ROPE_LONG, ROPE_SHORT};
use crate::family::{Deepseek, Facts, Family, HEAD, HF_HEAD, Op, Rule, Scaling, fill_name, match_name};
use crate::parts::{Grid, Order, Output, Part};
use crate::source::ExportModel;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// Tensors that are computed and not learned, which old checkpoints hold.
const COMPUTED: &[&str] = &["model.layers.{l}.self_attn.rotary_emb.inv_freq"];
/// Beginnings of the names of parts that are no language model, in multimodal models.
const OTHER_PARTS: &[&str] = &[
    "vision_tower.",
    "vision_model.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
];
/// Architectures for which llama.cpp wants a head even if it is the embedding.
const NEEDS_HEAD: &[&str] = &["qwen2moe", "olmo2", "gpt-oss"];

/// What a GGUF file is made of.
#[derive(Debug)]
pub(crate) struct ExportTensors {
    /// The tensors made of tensors of the model, in the order of the file.
    pub(crate) outputs: Vec<Output>,
    /// Small tensors that follow from the configuration.
    pub(crate) computed: Vec<(String, Vec<f32>)>,
    /// Tensors of the model that are not in the file: those of other parts of a multimodal model, and copies.
    pub(crate) left_out: Vec<String>,
}

/// The name of a tensor in a language model alone, for one of a multimodal model.
fn inner_name(name: &str) -> String {
    match (name.strip_prefix("language_model."), name.strip_prefix("model.language_model.")) {
        (Some(rest), _) => rest.to_string(),
        (_, Some(rest)) => format!("model.{rest}"),
        _ => name.to_string(),
    }
}

fn tensor_error(path: &Path, tensor: &str, message: impl Into<String>) -> GgufError {
    GgufError::Tensor { path: path.to_path_buf(), tensor: tensor.to_string(), message: message.into() }
}

/// Whether a tensor belongs to a layer behind the others that predicts further tokens, which llama.cpp does not need.
fn is_extra_layer(name: &str, family: &Family, facts: &Facts) -> bool {
    let rest = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let layer = rest.and_then(|(layer, _)| layer.parse::<u64>().ok());
    family.reads.contains(&"num_nextn_predict_layers") && layer.is_some_and(|layer| layer >= facts.layers)
}

/// Sources of one output, by the number of the expert.
struct Collected {
    rule: &'static Rule,
    layer: usize,
    sources: BTreeMap<usize, (String, Vec<usize>)>,
}

/// Accounts for every tensor of `model`.
///
/// # Errors
/// [`GgufError::Tensor`] for one that is unknown, missing, or of another shape than the configuration says.
pub(crate) fn export_tensors(model: &ExportModel, family: &Family, facts: &Facts) -> Result<ExportTensors, GgufError> {
    let path = model.path.as_path();
    let wrapped = model.config.get("text_config").is_some();
    let tied = is_tied(model, family)?;
    let mut left_out = Vec::new();
    // By the place of the rule and the layer, which is the order of the file but for the layers.
    let mut collected: HashMap<String, Collected> = HashMap::new();
    for tensor in &model.tensors {
        let stored = tensor.name.as_str();
        let name = if wrapped { inner_name(stored) } else { stored.to_string() };
        if (wrapped && OTHER_PARTS.iter().any(|part| stored.starts_with(part)))
            || COMPUTED.iter().any(|pattern| match_name(pattern, &name).is_some())
            || (tied && name == HF_HEAD)
            || is_extra_layer(&name, family, facts)
        {
            left_out.push(stored.to_string());
            continue;
        }
        let mut known = false;
        for rule in family.all_rules().filter(|rule| !rule.op.only_imported()) {
            let Some((layer, expert)) = match_name(rule.hf, &name) else { continue };
            known = true;
            if layer as u64 >= facts.layers {
                return Err(tensor_error(path, stored, format!("config.json has {} layers", facts.layers)));
            }
            if !tensor.dtype.is_float() {
                return Err(tensor_error(path, stored, format!("expected floats, found {}", tensor.dtype)));
            }
            let target = fill_name(rule.gguf, layer, 0);
            let entry = collected.entry(target);
            let entry = entry.or_insert_with(|| Collected { rule, layer, sources: BTreeMap::new() });
            if entry.rule.op != rule.op
                || entry.sources.insert(expert, (stored.to_string(), tensor.shape.clone())).is_some()
            {
                return Err(tensor_error(path, stored, "another tensor has the same place already"));
            }
        }
        if !known {
            let message = format!("not one that models of the family `{}` have", family.model_type);
            return Err(tensor_error(path, stored, message));
        }
    }
    let mut outputs = Vec::new();
    for (layer, rule) in places(family, facts).into_iter().filter(|(_, rule)| !rule.op.only_imported()) {
        let name = fill_name(rule.gguf, layer, 0);
        match collected.remove(&name) {
            Some(found) => {
                let output = found.output(name, path, family, facts)?;
                check_shape(path, &output.name, &output.shape, family, facts)?;
                outputs.push(output);
            }
            None if rule.required && !outputs.iter().any(|output: &Output| output.name == name) => {
                let missing = fill_name(rule.hf, layer, 0);
                return Err(tensor_error(path, &missing, "it is not there, and llama.cpp needs it"));
            }
            None => {}
        }
    }
    if !tied && !outputs.iter().any(|output| output.name == HEAD) {
        return Err(tensor_error(path, HF_HEAD, "it is not there, and config.json does not say that it is tied"));
    }
    if tied && NEEDS_HEAD.contains(&family.arch) {
        let embedding = outputs.iter().find(|output| output.name == "token_embd.weight").cloned();
        outputs.extend(embedding.map(|embedding| Output { name: HEAD.to_string(), ..embedding }));
    }
    Ok(ExportTensors { outputs, computed: computed(facts), left_out })
}

/// Whether the head is the embedding.
fn is_tied(model: &ExportModel, family: &Family) -> Result<bool, GgufError> {
    let said = model.config.tie_word_embeddings();
    let has_head = model.tensors.iter().any(|tensor| inner_name(&tensor.name) == HF_HEAD);
    let tied = said.unwrap_or(!has_head);
    if family.always_tied && !tied {
        let message = "llama.cpp takes the embedding as the head of this family, found false".to_string();
        let (path, key) = (model.path.clone(), "tie_word_embeddings".to_string());
        return Err(GgufError::Config { path, key, message });
    }
    Ok(tied)
}

/// All places of a model: the ends, then layer after layer, each rule that goes both ways, once.
fn places(family: &Family, facts: &Facts) -> Vec<(usize, &'static Rule)> {
    let rules: Vec<&'static Rule> = family.all_rules().filter(|rule| !rule.op.only_exported()).collect();
    let in_layer = |rule: &&&'static Rule| rule.gguf.contains("{l}");
    let ends = rules.iter().filter(|rule| !in_layer(rule)).map(|&rule| (0, rule));
    let layers = (0..facts.layers as usize).flat_map(|layer| {
        let rules = rules.iter().filter(in_layer);
        rules.map(move |&rule| (layer, rule)).collect::<Vec<_>>()
    });
    ends.chain(layers).collect()
}

impl Collected {
    fn output(self, name: String, path: &Path, family: &Family, facts: &Facts) -> Result<Output, GgufError> {
        let Collected { rule, layer, sources } = self;
        let Some((first, shape)) = sources.values().next().cloned() else {
            return Err(tensor_error(path, &name, "it has no source"));
        };
        let fail = |message: String| Err(tensor_error(path, &first, message));
        let shift = if name.ends_with("norm.weight") { family.norm_shift } else { 0.0 };
        let one = |shape: Vec<usize>, order: Order| {
            let (rows, row_length) = rows_of(&shape);
            let parts = vec![Part { source: first.clone(), also: None, rows, order }];
            Output { name: name.clone(), shape, row_length, parts, shift }
        };
        Ok(match (rule.op, shape.as_slice()) {
            (Op::Plain | Op::Fused, _) => one(shape, Order::From(0)),
            (Op::RotatedQuery | Op::RotatedKey, &[rows, ..]) => {
                let heads = if rule.op == Op::RotatedQuery { facts.heads } else { facts.kv_heads };
                let head = facts.head_dim as usize;
                if rows as u64 != heads * facts.head_dim || !head.is_multiple_of(2) {
                    return fail(format!("expected {heads} heads of {head} rows, found {shape:?}"));
                }
                one(shape, Order::Alternating(head))
            }
            (Op::Vector, &[1, columns]) => Output { shape: vec![columns], ..one(shape, Order::From(0)) },
            (Op::FusedHalf(half), &[experts, rows, columns]) if rows.is_multiple_of(2) => {
                let width = rows / 2;
                let part = |expert: usize| {
                    let order = Order::From(expert * rows + half * width);
                    Part { source: first.clone(), also: None, rows: width, order }
                };
                let parts = (0..experts).map(part).collect();
                Output { shape: vec![experts, width, columns], parts, row_length: columns, name, shift }
            }
            (Op::Transposed, &[experts, rows, columns]) => {
                of_grids(name, &first, [experts, columns, rows], |expert| Grid::of(expert * rows, columns, true))
            }
            (Op::TransposedHalf(half), &[experts, rows, columns]) if columns.is_multiple_of(2) => {
                let start = half * columns / 2;
                let grid = |expert| Grid { start, ..Grid::of(expert * rows, columns, true) };
                of_grids(name, &first, [experts, columns / 2, rows], grid)
            }
            (Op::TransposedTurn(turn), &[experts, rows, columns]) if columns.is_multiple_of(2) => {
                let grid = |expert| Grid { start: turn, step: 2, ..Grid::of(expert * rows, columns, true) };
                of_grids(name, &first, [experts, columns / 2, rows], grid)
            }
            (Op::Turn(turn), &[experts, columns]) if columns.is_multiple_of(2) => {
                let grid = Grid { start: turn, step: 2, ..Grid::of(0, columns, false) };
                let parts = vec![Part { source: first, also: None, rows: experts, order: Order::Grid(grid) }];
                Output { shape: vec![experts, columns / 2], parts, row_length: columns / 2, name, shift }
            }
            (Op::LatentKeys | Op::LatentValues, &[rows, latent]) => {
                let Some(deepseek) = facts.deepseek.filter(|deepseek| is_latent(deepseek, facts, rows, latent)) else {
                    return fail(format!("shape {shape:?} is not that of the heads in config.json"));
                };
                let (heads, plain, value) = (facts.heads as usize, deepseek.plain as usize, deepseek.value as usize);
                if rule.op == Op::LatentKeys {
                    let grid = |head| Grid::of(head * (plain + value), latent, true);
                    return Ok(of_grids(name, &first, [heads, latent, plain], grid));
                }
                let part = |head| {
                    let order = Order::From(head * (plain + value) + plain);
                    Part { source: first.clone(), also: None, rows: value, order }
                };
                let parts = (0..heads).map(part).collect();
                Output { shape: vec![heads, value, latent], parts, row_length: latent, name, shift }
            }
            (Op::Stacked, &[rows, columns]) => {
                let experts = facts.experts.map_or(0, |experts| experts.count) as usize;
                if let Some(missing) = (0..experts).find(|expert| !sources.contains_key(expert)) {
                    let missing = fill_name(rule.hf, layer, missing);
                    return Err(tensor_error(path, &missing, format!("it is not there; there are {experts} experts")));
                }
                if let Some((source, other)) = sources.values().find(|(_, other)| *other != shape) {
                    return Err(tensor_error(path, source, format!("expected shape {shape:?}, found {other:?}")));
                }
                if sources.len() != experts {
                    return fail(format!("one of {} experts, where config.json has {experts}", sources.len()));
                }
                let part = |(source, _): (String, Vec<usize>)| Part { source, also: None, rows, order: Order::From(0) };
                let parts = sources.into_values().map(part).collect();
                Output { shape: vec![experts, rows, columns], parts, row_length: columns, name, shift }
            }
            _ => return fail(format!("shape {shape:?} is not one that it can have")),
        })
    }
}

/// A tensor of so many matrices of one source, each of which is one that `grid` makes.
fn of_grids(name: String, source: &str, shape: [usize; 3], grid: impl Fn(usize) -> Grid) -> Output {
    let [matrices, rows, row_length] = shape;
    let part = |at| Part { source: source.to_string(), also: None, rows, order: Order::Grid(grid(at)) };
    Output { name, shape: shape.to_vec(), row_length, parts: (0..matrices).map(part).collect(), shift: 0.0 }
}

/// Whether a matrix from latents to keys and values has the shape that it must have.
fn is_latent(deepseek: &Deepseek, facts: &Facts, rows: usize, columns: usize) -> bool {
    rows as u64 == facts.heads * (deepseek.plain + deepseek.value) && columns as u64 == deepseek.latent
}

/// Rows, and values of one: a vector has rows of one value.
fn rows_of(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [n] => (*n, 1),
        [.., columns] => (shape[..shape.len() - 1].iter().product(), *columns),
    }
}

/// Tensors of frequencies.
fn computed(facts: &Facts) -> Vec<(String, Vec<f32>)> {
    if let Some(factors) = crate::family::llama3::factors(facts.theta, facts.rotated, &facts.scaling) {
        return vec![(ROPE_FREQS.to_string(), factors)];
    }
    let Scaling::LongRope { long, short, .. } = &facts.scaling else { return Vec::new() };
    let tensor = |name: &str, values: &[f64]| (name.to_string(), values.iter().map(|&x| x as f32).collect());
    vec![tensor(ROPE_LONG, long), tensor(ROPE_SHORT, short)]
}

/// Checks the shape of a tensor, by its name in a GGUF file, against the hyperparameters.
fn check_shape(path: &Path, name: &str, shape: &[usize], family: &Family, facts: &Facts) -> Result<(), GgufError> {
    let last = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map_or(name, |(_, rest)| rest);
    let (hidden, width) = (facts.hidden, facts.width);
    let (queries, keys) = (facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim);
    let experts = facts.experts.map_or(0, |experts| experts.count);
    let inner = facts.experts.and_then(|experts| experts.width).unwrap_or(width);
    let shared = match facts.experts {
        Some(experts) if facts.llama4.is_some() => experts.width.unwrap_or(width),
        Some(experts) => experts.shared_width.unwrap_or(width),
        None => width,
    };
    if let Some(deepseek) = &facts.deepseek
        && let Some(expected) = deepseek_shape(last, deepseek, facts)
    {
        return expect_shape(path, name, shape, &expected);
    }
    let whole_heads = family.arch == "olmo2";
    let fused = matches!(family.arch, "phi3" | "glm4");
    let expected: &[u64] = match last {
        "token_embd.weight" | "output.weight" => &[facts.vocabulary, hidden],
        "attn_q.weight" => &[queries, hidden],
        "attn_k.weight" | "attn_v.weight" => &[keys, hidden],
        "attn_qkv.weight" => &[queries + 2 * keys, hidden],
        "attn_output.weight" => &[hidden, queries],
        "attn_q.bias" => &[queries],
        "attn_k.bias" | "attn_v.bias" => &[keys],
        "attn_output.bias" | "ffn_down.bias" => &[hidden],
        "ffn_gate.bias" | "ffn_up.bias" => &[width],
        "attn_q_norm.weight" => &[if whole_heads { queries } else { facts.head_dim }],
        "attn_k_norm.weight" => &[if whole_heads { keys } else { facts.head_dim }],
        "ffn_up.weight" if fused => &[2 * width, hidden],
        "ffn_gate.weight" | "ffn_up.weight" => &[width, hidden],
        "ffn_down.weight" => &[hidden, width],
        "attn_sinks.weight" => &[facts.heads],
        "ffn_gate_inp.weight" => &[experts, hidden],
        "ffn_gate_inp.bias" => &[experts],
        "ffn_gate_exps.bias" | "ffn_up_exps.bias" => &[experts, inner],
        "ffn_down_exps.bias" => &[experts, hidden],
        "ffn_gate_exps.weight" | "ffn_up_exps.weight" => &[experts, inner, hidden],
        "ffn_down_exps.weight" => &[experts, hidden, inner],
        "ffn_gate_inp_shexp.weight" => &[hidden],
        "ffn_gate_shexp.weight" | "ffn_up_shexp.weight" => &[shared, hidden],
        "ffn_down_shexp.weight" => &[hidden, shared],
        _ => &[hidden],
    };
    expect_shape(path, name, shape, expected)
}

/// The shapes of what only DeepSeek's models have, or have otherwise.
fn deepseek_shape(name: &str, deepseek: &Deepseek, facts: &Facts) -> Option<Vec<u64>> {
    let query_rank = deepseek.query_rank.unwrap_or(0);
    let shared = deepseek.shared * facts.experts.and_then(|experts| experts.width).unwrap_or(0);
    Some(match name {
        "attn_q_a.weight" => vec![query_rank, facts.hidden],
        "attn_q_a_norm.weight" => vec![query_rank],
        "attn_q_b.weight" => vec![facts.heads * facts.head_dim, query_rank],
        "attn_kv_a_mqa.weight" => vec![deepseek.latent + facts.rotated, facts.hidden],
        "attn_kv_a_norm.weight" => vec![deepseek.latent],
        "attn_kv_b.weight" => vec![facts.heads * (deepseek.plain + deepseek.value), deepseek.latent],
        "attn_k_b.weight" => vec![facts.heads, deepseek.latent, deepseek.plain],
        "attn_v_b.weight" => vec![facts.heads, deepseek.value, deepseek.latent],
        "attn_output.weight" => vec![facts.hidden, facts.heads * deepseek.value],
        "exp_probs_b.bias" => vec![facts.experts.map_or(0, |experts| experts.count)],
        "ffn_gate_shexp.weight" | "ffn_up_shexp.weight" => vec![shared, facts.hidden],
        "ffn_down_shexp.weight" => vec![facts.hidden, shared],
        _ => return None,
    })
}

fn expect_shape(path: &Path, name: &str, shape: &[usize], expected: &[u64]) -> Result<(), GgufError> {
    if shape.iter().map(|&n| n as u64).eq(expected.iter().copied()) {
        return Ok(());
    }
    Err(tensor_error(path, name, format!("expected shape {expected:?} by the configuration, found {shape:?}")))
}

/// Tensors of frequencies, whose values are in the configuration.
const FREQUENCIES: [&str; 3] = [ROPE_FREQS, ROPE_LONG, ROPE_SHORT];

/// The tensors of a Hugging Face model made of those of `file`, and whether its head is the embedding.
///
/// # Errors
/// [`GgufError::Tensor`] for one that is unknown, missing, or of another shape than the keys say.
pub(crate) fn import_tensors(
    file: &GgufFile,
    family: &Family,
    facts: &Facts,
) -> Result<(Vec<Output>, bool), GgufError> {
    let path = file.path();
    let mut used: HashSet<String> = HashSet::new();
    let mut outputs = Vec::new();
    for (layer, rule) in places(family, facts) {
        let name = fill_name(rule.gguf, layer, 0);
        let Some(entry) = file.tensor(&name) else {
            // What older files have instead.
            let older = |other: &&Rule| other.op.only_imported() && other.hf == rule.hf;
            let in_older = |other: &Rule| file.tensor(&fill_name(other.gguf, layer, 0)).is_some();
            if rule.required && !family.all_rules().filter(older).any(in_older) {
                return Err(tensor_error(path, &name, "it is not there, and a model of this family needs it"));
            }
            continue;
        };
        check_shape(path, &name, &entry.shape, family, facts)?;
        if entry.kind.is_quantised() && entry.shape.len() < 2 {
            return Err(tensor_error(path, &name, format!("a vector of type {} cannot be read", entry.kind)));
        }
        let shift = if name.ends_with("norm.weight") { -family.norm_shift } else { 0.0 };
        let (rows, row_length) = rows_of(&entry.shape);
        let output = |expert: usize, shape: Vec<usize>, rows: usize, order: Order| {
            let parts = vec![Part { source: name.clone(), also: None, rows, order }];
            Output { name: fill_name(rule.hf, layer, expert), shape, row_length, parts, shift }
        };
        let head = facts.head_dim as usize;
        match rule.op {
            Op::RotatedQuery | Op::RotatedKey => {
                if !head.is_multiple_of(2) {
                    return Err(tensor_error(path, &name, format!("expected heads of an even size, found {head}")));
                }
                outputs.push(output(0, entry.shape.clone(), rows, Order::Halves(head)));
            }
            Op::Vector => {
                let shape = vec![1, entry.n_elements()];
                outputs.push(output(0, shape, rows, Order::From(0)));
            }
            Op::Stacked => {
                let (experts, rows) = (entry.shape[0], entry.shape[1]);
                outputs.extend(
                    (0..experts)
                        .map(|expert| output(expert, entry.shape[1..].to_vec(), rows, Order::From(expert * rows))),
                );
            }
            Op::Transposed | Op::TransposedHalf(0) | Op::TransposedTurn(0) | Op::Turn(0) | Op::LatentKeys => {
                let made = joined(rule, layer, &name, file, family, facts)?;
                outputs.push(made);
            }
            // Made with the first half.
            Op::TransposedHalf(_) | Op::TransposedTurn(_) | Op::Turn(_) | Op::LatentValues => {}
            Op::Plain | Op::Older | Op::Fused | Op::FusedHalf(_) => {
                outputs.push(output(0, entry.shape.clone(), rows, Order::From(0)));
            }
        }
        used.insert(name);
    }
    let mut names = HashSet::new();
    if let Some(twice) = outputs.iter().find(|output| !names.insert(&output.name)) {
        return Err(tensor_error(path, &twice.name, "two tensors of the file would give it"));
    }
    let unknown = |name: &&str| !used.contains(*name) && !FREQUENCIES.contains(name);
    if let Some(unknown) = file.tensors().iter().map(|tensor| tensor.name.as_str()).find(unknown) {
        let message = format!("not one that models of the family `{}` have", family.model_type);
        return Err(tensor_error(path, unknown, message));
    }
    Ok((outputs, !used.contains(HEAD)))
}

/// The tensor of a model that `name` of a file and, for halves, its other half are put into.
fn joined(
    rule: &Rule,
    layer: usize,
    name: &str,
    file: &GgufFile,
    family: &Family,
    facts: &Facts,
) -> Result<Output, GgufError> {
    let path = file.path();
    let shape_of = |name: &str| match file.tensor(name) {
        Some(entry) => check_shape(path, name, &entry.shape, family, facts).map(|()| entry.shape.clone()),
        None => Err(tensor_error(path, name, format!("it is not there, and `{}` needs it", rule.gguf))),
    };
    let shape = shape_of(name)?;
    let target = fill_name(rule.hf, layer, 0);
    if rule.op == Op::Transposed {
        let [matrices, rows, columns] = three(path, name, &shape)?;
        return Ok(of_grids(target, name, [matrices, columns, rows], |at| Grid::of(at * rows, columns, true)));
    }
    let is_other = |other: &&Rule| other.hf == rule.hf && other.op != rule.op && !other.op.only_imported();
    let other = family.all_rules().find(is_other);
    let other = other.map_or_else(String::new, |other| fill_name(other.gguf, layer, 0));
    let other_shape = shape_of(&other)?;
    if rule.op == Op::LatentKeys {
        let ([heads, latent, plain], [_, value, _]) = (three(path, name, &shape)?, three(path, &other, &other_shape)?);
        let parts = (0..heads).flat_map(|head| {
            let keys = Order::Grid(Grid::of(head * latent, plain, true));
            let part = |source: &str, rows, order| Part { source: source.to_string(), also: None, rows, order };
            [part(name, plain, keys), part(&other, value, Order::From(head * value))]
        });
        let shape = vec![heads * (plain + value), latent];
        return Ok(Output { name: target, shape, row_length: latent, parts: parts.collect(), shift: 0.0 });
    }
    let part = |rows, grid| {
        let (source, also) = (name.to_string(), Some(other.clone()));
        Part { source, also, rows, order: Order::Grid(grid) }
    };
    if let (Op::Turn(_), &[rows, columns]) = (rule.op, shape.as_slice()) {
        let parts = vec![part(rows, Grid { step: 2, ..Grid::of(0, columns, false) })];
        let shape = vec![rows, 2 * columns];
        return Ok(Output { name: target, shape, row_length: 2 * columns, parts, shift: 0.0 });
    }
    let [matrices, rows, columns] = three(path, name, &shape)?;
    let step = if rule.op == Op::TransposedTurn(0) { 2 } else { 1 };
    let parts = (0..matrices).map(|at| part(columns, Grid { step, ..Grid::of(at * rows, columns, true) })).collect();
    Ok(Output { name: target, shape: vec![matrices, columns, 2 * rows], row_length: 2 * rows, parts, shift: 0.0 })
}

fn three(path: &Path, name: &str, shape: &[usize]) -> Result<[usize; 3], GgufError> {
    shape.try_into().map_err(|_| tensor_error(path, name, format!("expected three dimensions, found {shape:?}")))
}
