//! From a tree of YAML to recipes.

mod body;
mod parameters;
mod reader;

use crate::error::RecipeError;
use crate::keys;
use crate::recipe::{Body, OnMissing, OnNonfinite, OnVocabulary, Recipe, TokenizerSource};
use glue_merge::{BaseRule, MergeError, Operator, ParamError, Registry, StatisticOf};
use glue_tensor::Dtype;
use glue_yaml::{At, Node, Position, Tree, documents};
use parameters::Level;
use reader::{Entries, Reader, Result};

pub(crate) fn recipes(text: &str, origin: &str, registry: &Registry) -> Result<Vec<Recipe>> {
    // YAML ends lines at any of three marks. One of them from here on: counts of lines then agree everywhere.
    let text = &text.replace("\r\n", "\n").replace('\r', "\n");
    let nodes = documents(text, origin)?;
    if nodes.is_empty() {
        return Err(RecipeError::Empty { origin: origin.into() });
    }
    let reader = Reader::new(origin, registry);
    let read: Vec<Option<Recipe>> =
        nodes.iter().map(|node| reader.recipe(node, document_text(text, node.at))).collect();
    match RecipeError::all(reader.into_errors()) {
        Some(error) => Err(error),
        // A document that could not be read has left an error.
        None => Ok(read.into_iter().flatten().collect()),
    }
}

/// The lines of the document that has a node at `at`. Within a document no line starts with its end marker.
fn document_text(text: &str, at: Position) -> String {
    let is_marker = |line: &str| {
        line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
    };
    let lines: Vec<&str> = text.lines().collect();
    let node = (at.line as usize).saturating_sub(1).min(lines.len());
    // A node may stand on the line of the marker itself.
    let start =
        (0..=node.min(lines.len().saturating_sub(1))).rev().find(|&i| lines.get(i).is_some_and(|line| is_marker(line)));
    let end = (node + 1..lines.len()).find(|&i| is_marker(lines[i])).unwrap_or(lines.len());
    let first = match start {
        Some(i) if i < node => i + 1,
        Some(i) => i,
        None => 0,
    };
    let mut document = lines[first.min(end)..end].join("\n");
    document.push('\n');
    document
}

impl Reader<'_> {
    fn recipe(&self, node: &Node, text: String) -> Option<Recipe> {
        let top = self.entries(node, "a recipe", keys::TOP)?;
        let operator = self.operator(&top);
        let known = operator.as_ref().map(|operator| &operator.value);
        let parts = self.parts(&top, known);
        let settings = self.settings(&top, known, Level::Top);
        let base_statistics = self.base_statistics(&top, known);
        let base = top.get("base_model").and_then(|node| self.model(node, "base_model"));
        let text_of =
            |key: &'static str| self.keep(top.get(key).map(|node| self.text(node, key)).transpose()).flatten();
        let (name, chat_template) = (text_of("name"), text_of("chat_template"));
        let dtypes = ["dtype", "out_dtype"].map(|key| self.keep(self.dtype(&top, key)).flatten());
        let tokenizer = self.tokenizer(&top);
        let seed = self.keep(self.seed(top.get("seed"))).flatten();
        let on_missing = self.keep(self.word(
            top.get("on_missing"),
            "on_missing",
            &[("error", OnMissing::Error), ("base", OnMissing::Base), ("skip", OnMissing::Skip)],
        ));
        let on_vocabulary = self.keep(self.word(
            top.get("on_vocabulary"),
            "on_vocabulary",
            &[("error", OnVocabulary::Error), ("truncate", OnVocabulary::Truncate)],
        ));
        let align_experts = self.keep(self.flag(top.get("align_experts"), "align_experts"));
        let on_nonfinite = self.keep(self.word(
            top.get("on_nonfinite"),
            "on_nonfinite",
            &[("error", OnNonfinite::Error), ("zero", OnNonfinite::Zero)],
        ));
        let on_missing = on_missing.flatten().unwrap_or_default();
        if let (OnMissing::Base, None, Some(node)) = (on_missing, top.get("base_model"), top.get("on_missing")) {
            self.keep(self.wrong::<()>(node, "on_missing", "`error` or `skip` in a recipe without `base_model`"));
        }
        let recipe = Recipe {
            origin: self.origin.into(),
            text,
            at: node.at,
            name,
            operator: operator?,
            base,
            base_statistics,
            parts: parts?,
            settings,
            dtype: dtypes[0],
            out_dtype: dtypes[1],
            tokenizer,
            chat_template,
            seed,
            on_missing,
            on_vocabulary: on_vocabulary.flatten().unwrap_or_default(),
            on_nonfinite: on_nonfinite.flatten().unwrap_or_default(),
            align_experts: align_experts.flatten(),
            warnings: self.take_warnings(),
        };
        self.check_operands(&recipe);
        self.keep(self.check_base_statistics(&recipe));
        Some(recipe)
    }

    /// The operator, around the one it wraps.
    fn operator(&self, top: &Entries<'_>) -> Option<At<Operator>> {
        let named = |name: &At<String>| {
            let unknown = |error| RecipeError::UnknownOperator { place: self.place(name.at), error };
            self.keep(self.registry.get(&name.value).map_err(unknown))
        };
        let name = self.keep(self.text(self.required(top, "merge_method")?, "merge_method"))?;
        let def = named(&name)?;
        let Some(key) = def.wraps() else {
            return Some(At::new(Operator::new(def), name.at));
        };
        let inner = match top.get("parameters").map(|node| &node.value) {
            Some(Tree::Map(map)) => map.iter().find(|(given, _)| given.value == key).map(|(_, node)| node),
            _ => None,
        };
        let Some(inner) = inner else {
            let error = Box::new(ParamError::Missing { operator: def.name, key, input: None });
            self.refuse(RecipeError::Param { place: self.place(name.at), error });
            return None;
        };
        let inner_name = self.keep(self.text(inner, key))?;
        let operator = Operator::wrapping(def, named(&inner_name)?)
            .map(|operator| At::new(operator, name.at))
            .map_err(|error| RecipeError::Param { place: self.place(inner.at), error: Box::new(error) });
        self.keep(operator)
    }

    /// A path: text, or a mapping with `path`.
    fn path(&self, node: &Node, key: &str) -> Option<At<String>> {
        match &node.value {
            Tree::Map(_) => {
                let path = self.entries(node, "the path of a model", keys::PATH)?;
                self.keep(self.text(self.required(&path, "path")?, "path"))
            }
            _ => self.keep(self.text(node, key)),
        }
    }

    /// A model: text, or a mapping with `model: {path: …}` and `lora: {path: …}` as mergekit writes it. The second is
    /// the same as `model+lora`.
    fn model(&self, node: &Node, key: &str) -> Option<At<String>> {
        match &node.value {
            Tree::Map(_) => {
                let reference = self.entries(node, "a model", keys::REFERENCE)?;
                let model = self.required(&reference, "model").and_then(|node| self.path(node, "model"));
                let Some(lora) = reference.get("lora") else { return model };
                let (lora, model) = (self.path(lora, "lora")?, model?);
                Some(At::new(format!("{}+{}", model.value, lora.value), model.at))
            }
            Tree::Text(_) => self.keep(self.text(node, key)),
            _ => self.keep(self.wrong(node, key, "the path of a model (in quotes if it looks like a number)")),
        }
    }

    fn dtype(&self, top: &Entries<'_>, key: &str) -> Result<Option<Dtype>> {
        let Some(node) = top.get(key) else { return Ok(None) };
        let named = match &node.value {
            Tree::Text(text) => Dtype::from_torch_name(text).filter(|dtype| dtype.is_float()),
            _ => None,
        };
        if named.is_some() {
            return Ok(named);
        }
        let names: Vec<_> =
            Dtype::ALL.iter().filter(|d| d.is_float()).map(|d| format!("`{}`", d.torch_name())).collect();
        self.wrong(node, key, format!("a floating-point type ({})", names.join(", ")))
    }

    fn tokenizer(&self, top: &Entries<'_>) -> Option<At<TokenizerSource>> {
        let (node, key) = match (top.get("tokenizer_source"), top.get("tokenizer")) {
            (Some(_), Some(second)) => {
                let (place, inside) = (self.place(second.at), top.inside);
                self.refuse(RecipeError::Conflict { place, inside, first: "tokenizer_source", second: "tokenizer" });
                return None;
            }
            (None, None) => return None,
            (Some(node), None) => (node, "tokenizer_source"),
            (None, Some(node)) => {
                let entries = self.entries(node, "`tokenizer`", keys::TOKENIZER)?;
                for key in ["tokens", "pad_to_multiple_of"] {
                    if let Some(node) = entries.get(key) {
                        let what = format!("changing the vocabulary (`{key}`)");
                        self.refuse(RecipeError::Unavailable { place: self.place(node.at), what });
                    }
                }
                match entries.get("source") {
                    Some(source) => (source, "source"),
                    // As in mergekit.
                    None => return Some(At::new(TokenizerSource::Union, node.at)),
                }
            }
        };
        let model = self.model(node, key)?;
        let source = match model.value.as_str() {
            "base" => TokenizerSource::Base,
            "union" => TokenizerSource::Union,
            _ => TokenizerSource::Model(model.value),
        };
        Some(At::new(source, node.at))
    }

    /// Where a flag that is true stands.
    fn flag(&self, node: Option<&Node>, key: &str) -> Result<Option<Position>> {
        let Some(node) = node else { return Ok(None) };
        match node.value {
            Tree::Flag(flag) => Ok(flag.then_some(node.at)),
            _ => self.wrong(node, key, "`true` or `false`"),
        }
    }

    fn seed(&self, node: Option<&Node>) -> Result<Option<u64>> {
        let Some(node) = node else { return Ok(None) };
        match node.value {
            Tree::Integer(x) if u64::try_from(x).is_ok() => Ok(u64::try_from(x).ok()),
            _ => self.wrong(node, "seed", "a whole number of at most 64 bits"),
        }
    }

    /// Checks for a base, and that there are not fewer models than the operator needs. Which paths lead to the same
    /// model is not known here.
    fn check_operands(&self, recipe: &Recipe) {
        let operator = &recipe.operator.value;
        let mut base_missing = false;
        let mut check = |at, base: Option<&At<String>>, models: &mut dyn Iterator<Item = &At<String>>| {
            let separate = operator.def().base != BaseRule::Unused;
            let is_input = |model: &&At<String>| !(separate && base.is_some_and(|base| base.value == model.value));
            let n = models.filter(is_input).count();
            match operator.check_operands(n, base.is_some()) {
                Err(MergeError::BaseMissing { .. }) if std::mem::replace(&mut base_missing, true) => {}
                Err(error @ MergeError::BaseMissing { .. }) => {
                    let place = self.place(recipe.operator.at);
                    self.refuse(RecipeError::Operands { place, error: Box::new(error) });
                }
                Err(error) if n < operator.inputs().min => {
                    self.refuse(RecipeError::Operands { place: self.place(at), error: Box::new(error) });
                }
                _ => {}
            }
        };
        for part in &recipe.parts {
            match &part.body {
                Body::Models(models) => {
                    check(part.at, recipe.base.as_ref(), &mut models.iter().map(|input| &input.model));
                }
                Body::Slices(slices) => {
                    for slice in slices {
                        let base = slice.base.as_ref().or(recipe.base.as_ref());
                        check(slice.at, base, &mut slice.sources.iter().map(|source| &source.model));
                    }
                }
            }
        }
    }

    /// An operator that uses statistics of its inputs uses those of the base only where the base
    /// replaces a missing tensor.
    fn check_base_statistics(&self, recipe: &Recipe) -> Result<()> {
        let operator = &recipe.operator.value;
        let of_inputs = operator.statistic().filter(|statistic| statistic.of == StatisticOf::Inputs);
        let slices = recipe.parts.iter().flat_map(|part| match &part.body {
            Body::Slices(slices) => slices.as_slice(),
            Body::Models(_) => &[],
        });
        let given =
            recipe.base_statistics.iter().chain(slices.filter_map(|slice| slice.base_statistics.as_ref())).next();
        match (of_inputs, given) {
            (Some(statistic), Some(path)) if recipe.on_missing != OnMissing::Base => {
                Err(RecipeError::StatisticsUnused {
                    place: self.place(path.at),
                    key: "base_statistics",
                    operator: operator.def().name,
                    uses: format!(
                        "the `{}` of each model that it merges, as `statistics` next to `model`",
                        statistic.name
                    ),
                })
            }
            _ => Ok(()),
        }
    }
}
