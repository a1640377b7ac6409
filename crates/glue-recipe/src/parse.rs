//! From a tree of YAML to recipes.

use crate::error::RecipeError;
use crate::keys::{self, Key};
use crate::recipe::{Body, InputModel, OnMissing, OnNonfinite, Part, Recipe, Slice, Source, TokenizerSource};
use crate::settings::{Case, ParamValue, Settings};
use glue_merge::params::{Kind, Scope};
use glue_merge::{BaseRule, MergeError, Operator, ParamError, ParamSpec, Registry, Setting, StatisticOf};
use glue_tensor::Dtype;
use glue_yaml::{At, FilePosition, Node, Position, Tree, documents};
use std::ops::Range;

type Result<T> = std::result::Result<T, RecipeError>;

pub(crate) fn recipes(text: &str, origin: &str, registry: &Registry) -> Result<Vec<Recipe>> {
    // YAML ends lines at any of three marks. One of them from here on: counts of lines then agree everywhere.
    let text = &text.replace("\r\n", "\n").replace('\r', "\n");
    let nodes = documents(text, origin)?;
    if nodes.is_empty() {
        return Err(RecipeError::Empty { origin: origin.into() });
    }
    nodes.iter().map(|node| Reader { origin, registry }.recipe(node, document_text(text, node.at))).collect()
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

/// What reading needs at hand.
#[derive(Clone, Copy)]
struct Reader<'a> {
    origin: &'a str,
    registry: &'a Registry,
}

/// A mapping whose keys are all known.
struct Entries<'a> {
    at: Position,
    inside: &'static str,
    entries: Vec<(&'static str, &'a At<String>, &'a Node)>,
}

impl<'a> Entries<'a> {
    /// The value of `key`; null counts as absent.
    fn get(&self, key: &str) -> Option<&'a Node> {
        let found = self.entries.iter().find(|(name, _, _)| *name == key);
        found.map(|(_, _, node)| *node).filter(|node| node.value != Tree::Null)
    }
}

impl Reader<'_> {
    fn place(&self, at: Position) -> FilePosition {
        at.of(self.origin)
    }

    fn wrong<T>(&self, node: &Node, key: &str, expected: impl Into<String>) -> Result<T> {
        Err(RecipeError::WrongValue {
            place: self.place(node.at),
            key: key.into(),
            expected: expected.into(),
            found: node.value.describe(),
        })
    }

    fn entries<'a>(&self, node: &'a Node, inside: &'static str, known: &'static [Key]) -> Result<Entries<'a>> {
        let Tree::Map(map) = &node.value else {
            return Err(RecipeError::NotAMapping {
                place: self.place(node.at),
                inside,
                known: known.iter().map(|key| key.name).collect(),
                found: node.value.describe(),
            });
        };
        let entry = |(key, value): &'a (At<String>, Node)| match known.iter().find(|k| k.name == key.value) {
            Some(found) => Ok((found.name, key, value)),
            None => Err(RecipeError::UnknownKey {
                place: self.place(key.at),
                inside,
                key: key.value.clone(),
                nearest: glue_merge::registry::nearest(&key.value, known.iter().map(|k| k.name)),
                known: known.iter().map(|k| k.name).collect(),
            }),
        };
        Ok(Entries { at: node.at, inside, entries: map.iter().map(entry).collect::<Result<_>>()? })
    }

    fn required<'a>(&self, entries: &Entries<'a>, key: &'static str) -> Result<&'a Node> {
        entries.get(key).ok_or_else(|| self.missing(entries, key))
    }

    fn missing(&self, entries: &Entries<'_>, key: &'static str) -> RecipeError {
        RecipeError::MissingKey { place: self.place(entries.at), inside: entries.inside, key }
    }

    fn text(&self, node: &Node, key: &str) -> Result<At<String>> {
        match &node.value {
            Tree::Text(text) if !text.is_empty() => Ok(At::new(text.clone(), node.at)),
            Tree::Flag(_) | Tree::Integer(_) | Tree::Number(_) => self.wrong(node, key, "text (put it in quotes)"),
            _ => self.wrong(node, key, "text"),
        }
    }

    fn list<'a>(&self, node: &'a Node, key: &str) -> Result<&'a [Node]> {
        match &node.value {
            Tree::List(list) if !list.is_empty() => Ok(list),
            _ => self.wrong(node, key, "a list with at least one entry"),
        }
    }

    fn word<T: Copy>(&self, node: Option<&Node>, key: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(node) = node else { return Ok(None) };
        let found = match &node.value {
            Tree::Text(text) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        let names: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        found.map_or_else(|| self.wrong(node, key, names.join(", ")), |(_, value)| Ok(Some(*value)))
    }

    fn recipe(&self, node: &Node, text: String) -> Result<Recipe> {
        let top = self.entries(node, "a recipe", keys::TOP)?;
        let operator = self.operator(&top)?;
        let base = top.get("base_model").map(|node| self.model(node, "base_model")).transpose()?;
        let recipe = Recipe {
            origin: self.origin.into(),
            text,
            at: node.at,
            name: top.get("name").map(|node| self.text(node, "name")).transpose()?,
            parts: self.parts(&top, &operator.value)?,
            settings: self.settings(&top, &operator.value, Level::Top)?,
            base_statistics: self.base_statistics(&top, &operator.value)?,
            base,
            operator,
            dtype: self.dtype(&top, "dtype")?,
            out_dtype: self.dtype(&top, "out_dtype")?,
            tokenizer: self.tokenizer(&top)?,
            chat_template: top.get("chat_template").map(|node| self.text(node, "chat_template")).transpose()?,
            seed: self.seed(top.get("seed"))?,
            on_missing: self
                .word(
                    top.get("on_missing"),
                    "on_missing",
                    &[("error", OnMissing::Error), ("base", OnMissing::Base), ("skip", OnMissing::Skip)],
                )?
                .unwrap_or_default(),
            on_nonfinite: self
                .word(
                    top.get("on_nonfinite"),
                    "on_nonfinite",
                    &[("error", OnNonfinite::Error), ("zero", OnNonfinite::Zero)],
                )?
                .unwrap_or_default(),
        };
        self.check_operands(&recipe)?;
        self.check_base_statistics(&recipe)?;
        if let (OnMissing::Base, None, Some(node)) = (recipe.on_missing, &recipe.base, top.get("on_missing")) {
            return self.wrong(node, "on_missing", "`error` or `skip` in a recipe without `base_model`");
        }
        Ok(recipe)
    }

    /// The operator, around the one it wraps.
    fn operator(&self, top: &Entries<'_>) -> Result<At<Operator>> {
        let named = |name: &At<String>| {
            let unknown = |error| RecipeError::UnknownOperator { place: self.place(name.at), error };
            self.registry.get(&name.value).map_err(unknown)
        };
        let name = self.text(self.required(top, "merge_method")?, "merge_method")?;
        let def = named(&name)?;
        let Some(key) = def.wraps() else {
            return Ok(At::new(Operator::new(def), name.at));
        };
        let inner = match top.get("parameters").map(|node| &node.value) {
            Some(Tree::Map(map)) => map.iter().find(|(given, _)| given.value == key).map(|(_, node)| node),
            _ => None,
        };
        let Some(inner) = inner else {
            return Err(RecipeError::Param {
                place: self.place(name.at),
                error: Box::new(ParamError::Missing { operator: def.name, key, input: None }),
            });
        };
        let inner_name = self.text(inner, key)?;
        Operator::wrapping(def, named(&inner_name)?)
            .map(|operator| At::new(operator, name.at))
            .map_err(|error| RecipeError::Param { place: self.place(inner.at), error: Box::new(error) })
    }

    /// A path: text, or a mapping with `path`.
    fn path(&self, node: &Node, key: &str) -> Result<At<String>> {
        match &node.value {
            Tree::Map(_) => {
                let path = self.entries(node, "the path of a model", keys::PATH)?;
                self.text(self.required(&path, "path")?, "path")
            }
            _ => self.text(node, key),
        }
    }

    /// A model: text, or a mapping with `model: {path: …}` and `lora: {path: …}` as mergekit writes it. The second is
    /// the same as `model+lora`.
    fn model(&self, node: &Node, key: &str) -> Result<At<String>> {
        match &node.value {
            Tree::Map(_) => {
                let reference = self.entries(node, "a model", keys::REFERENCE)?;
                let model = self.path(self.required(&reference, "model")?, "model")?;
                let Some(lora) = reference.get("lora") else { return Ok(model) };
                let lora = self.path(lora, "lora")?;
                Ok(At::new(format!("{}+{}", model.value, lora.value), model.at))
            }
            Tree::Text(_) => self.text(node, key),
            _ => self.wrong(node, key, "the path of a model (in quotes if it looks like a number)"),
        }
    }

    fn parts(&self, top: &Entries<'_>, operator: &Operator) -> Result<Vec<Part>> {
        let Some(modules) = top.get("modules") else {
            let body = self.body(top, operator, "`models`, `slices` or `modules`")?;
            return Ok(vec![Part { at: body.0, module: None, body: body.1, settings: Settings::default() }]);
        };
        for first in ["models", "slices"] {
            if top.get(first).is_some() {
                let (place, inside) = (self.place(modules.at), top.inside);
                return Err(RecipeError::Conflict { place, inside, first, second: "modules" });
            }
        }
        let Tree::Map(map) = &modules.value else {
            return self.wrong(modules, "modules", "a mapping from names of modules to what they are made from");
        };
        if map.is_empty() {
            return self.wrong(modules, "modules", "a mapping with at least one entry");
        }
        let part = |(name, node): &(At<String>, Node)| {
            let entries = self.entries(node, "a module", keys::MODULE)?;
            Ok(Part {
                at: name.at,
                module: (name.value != "default").then(|| name.value.trim_end_matches('.').to_string()),
                body: self.body(&entries, operator, "`models` or `slices`")?.1,
                settings: self.settings(&entries, operator, Level::Shared)?,
            })
        };
        map.iter().map(part).collect()
    }

    fn body(&self, entries: &Entries<'_>, operator: &Operator, needs: &'static str) -> Result<(Position, Body)> {
        match (entries.get("models"), entries.get("slices")) {
            (Some(_), Some(slices)) => {
                let (place, inside) = (self.place(slices.at), entries.inside);
                Err(RecipeError::Conflict { place, inside, first: "models", second: "slices" })
            }
            (None, None) => Err(self.missing(entries, needs)),
            (Some(models), None) => {
                let input = |node: &Node| {
                    let entries = self.entries(node, "an entry of `models`", keys::MODEL)?;
                    Ok(InputModel {
                        model: self.model(self.required(&entries, "model")?, "model")?,
                        statistics: self.statistics(&entries, "statistics", operator)?,
                        settings: self.settings(&entries, operator, Level::Model)?,
                    })
                };
                let inputs = self.list(models, "models")?.iter().map(input).collect::<Result<_>>()?;
                Ok((models.at, Body::Models(inputs)))
            }
            (None, Some(slices)) => {
                let list = self.list(slices, "slices")?;
                let slices_read = list.iter().map(|node| self.slice(node, operator)).collect::<Result<_>>()?;
                Ok((slices.at, Body::Slices(slices_read)))
            }
        }
    }

    fn slice(&self, node: &Node, operator: &Operator) -> Result<Slice> {
        let entries = self.entries(node, "a slice", keys::SLICE)?;
        let source = |node: &Node| {
            let entries = self.entries(node, "a source", keys::SOURCE)?;
            Ok(Source {
                model: self.model(self.required(&entries, "model")?, "model")?,
                layers: self.layers(self.required(&entries, "layer_range")?)?,
                statistics: self.statistics(&entries, "statistics", operator)?,
                settings: self.settings(&entries, operator, Level::Model)?,
            })
        };
        let sources: Vec<Source> =
            self.list(self.required(&entries, "sources")?, "sources")?.iter().map(source).collect::<Result<_>>()?;
        let first = &sources[0];
        if let Some(other) = sources.iter().find(|other| other.layers.value.len() != first.layers.value.len()) {
            return Err(RecipeError::SliceLengths {
                place: self.place(other.layers.at),
                first: first.model.value.clone(),
                first_layers: first.layers.value.len(),
                second: other.model.value.clone(),
                second_layers: other.layers.value.len(),
            });
        }
        Ok(Slice {
            at: node.at,
            base: entries.get("base_model").map(|node| self.model(node, "base_model")).transpose()?,
            base_statistics: self.base_statistics(&entries, operator)?,
            settings: self.settings(&entries, operator, Level::Shared)?,
            sources,
        })
    }

    /// A path of statistics, for an operator that uses them.
    fn statistics(&self, entries: &Entries<'_>, key: &'static str, operator: &Operator) -> Result<Option<At<String>>> {
        let Some(node) = entries.get(key) else { return Ok(None) };
        if operator.statistic().is_none() {
            let (place, operator) = (self.place(node.at), operator.def().name);
            return Err(RecipeError::StatisticsUnused { place, key, operator, uses: "no statistics".into() });
        }
        self.text(node, key).map(Some)
    }

    fn base_statistics(&self, entries: &Entries<'_>, operator: &Operator) -> Result<Option<At<String>>> {
        const KEY: &str = "base_statistics";
        let path = self.statistics(entries, KEY, operator)?;
        match &path {
            Some(path) if entries.get("base_model").is_none() => Err(RecipeError::WrongValue {
                place: self.place(path.at),
                key: KEY.into(),
                expected: "beside a `base_model`".into(),
                found: "it without one".into(),
            }),
            _ => Ok(path),
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

    fn layers(&self, node: &Node) -> Result<At<Range<usize>>> {
        let number = |node: &Node| match node.value {
            Tree::Integer(x) => u32::try_from(x).ok().map(|x| x as usize),
            _ => None,
        };
        let range = match &node.value {
            Tree::List(list) => match list.as_slice() {
                [start, end] => number(start).zip(number(end)),
                _ => None,
            },
            _ => None,
        };
        match range {
            Some((start, end)) if start < end => Ok(At::new(start..end, node.at)),
            Some((start, end)) => Err(RecipeError::WrongValue {
                place: self.place(node.at),
                key: "layer_range".into(),
                expected: "a first layer and a greater number, one beyond the last layer".into(),
                found: format!("[{start}, {end}]"),
            }),
            None => self.wrong(node, "layer_range", "two whole numbers: the first layer and one beyond the last"),
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

    fn tokenizer(&self, top: &Entries<'_>) -> Result<Option<At<TokenizerSource>>> {
        let (node, key) = match (top.get("tokenizer_source"), top.get("tokenizer")) {
            (Some(_), Some(second)) => {
                let (place, inside) = (self.place(second.at), top.inside);
                return Err(RecipeError::Conflict { place, inside, first: "tokenizer_source", second: "tokenizer" });
            }
            (None, None) => return Ok(None),
            (Some(node), None) => (node, "tokenizer_source"),
            (None, Some(node)) => {
                if let Tree::Map(map) = &node.value
                    && let Some((key, _)) =
                        map.iter().find(|(key, _)| ["tokens", "pad_to_multiple_of"].contains(&key.value.as_str()))
                {
                    let what = format!("changing the vocabulary (`{}`)", key.value);
                    return Err(RecipeError::Unavailable { place: self.place(key.at), what });
                }
                (self.required(&self.entries(node, "`tokenizer`", keys::TOKENIZER)?, "source")?, "source")
            }
        };
        let model = self.model(node, key)?;
        let source = match model.value.as_str() {
            "base" => TokenizerSource::Base,
            "union" => TokenizerSource::Union,
            _ => TokenizerSource::Model(model.value),
        };
        Ok(Some(At::new(source, node.at)))
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
    fn check_operands(&self, recipe: &Recipe) -> Result<()> {
        let operator = &recipe.operator.value;
        let check = |at, base: Option<&At<String>>, models: &mut dyn Iterator<Item = &At<String>>| {
            let separate = operator.def().base != BaseRule::Unused;
            let is_input = |model: &&At<String>| !(separate && base.is_some_and(|base| base.value == model.value));
            let n = models.filter(is_input).count();
            match operator.check_operands(n, base.is_some()) {
                Err(error @ MergeError::BaseMissing { .. }) => {
                    Err(RecipeError::Operands { place: self.place(recipe.operator.at), error: Box::new(error) })
                }
                Err(error) if n < operator.inputs().min => {
                    Err(RecipeError::Operands { place: self.place(at), error: Box::new(error) })
                }
                _ => Ok(()),
            }
        };
        for part in &recipe.parts {
            match &part.body {
                Body::Models(models) => {
                    check(part.at, recipe.base.as_ref(), &mut models.iter().map(|input| &input.model))?;
                }
                Body::Slices(slices) => {
                    for slice in slices {
                        let base = slice.base.as_ref().or(recipe.base.as_ref());
                        check(slice.at, base, &mut slice.sources.iter().map(|source| &source.model))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn settings(&self, entries: &Entries<'_>, operator: &Operator, level: Level) -> Result<Settings> {
        let mut settings = Settings::default();
        let Some(node) = entries.get("parameters") else { return Ok(settings) };
        let Tree::Map(map) = &node.value else {
            return self.wrong(node, "parameters", "a mapping from parameters to values");
        };
        for (key, value) in map {
            let refuse = |error| RecipeError::Param { place: self.place(key.at), error: Box::new(error) };
            if keys::WITHOUT_EFFECT.iter().any(|(name, _)| *name == key.value) {
                continue;
            }
            let Some(spec) = operator.specs().find(|spec| spec.name == key.value) else {
                let known: Vec<_> = operator.specs().map(|spec| spec.name).collect();
                return Err(refuse(ParamError::Unknown {
                    operator: operator.def().name,
                    key: key.value.clone(),
                    nearest: glue_merge::registry::nearest(&key.value, known.iter().copied()),
                    known,
                }));
            };
            if spec.kind == Kind::Operator {
                // Read with the operator itself, from the top level.
                match level {
                    Level::Top => continue,
                    _ => return self.wrong(value, spec.name, "given in the top-level `parameters`"),
                }
            }
            if spec.scope == Scope::Tensor && level == Level::Model {
                return Err(refuse(ParamError::NotPerInput { operator: operator.def().name, key: spec.name }));
            }
            if value.value != Tree::Null {
                settings.push(spec.name, self.value(value, operator, spec)?, key.at);
            }
        }
        Ok(settings)
    }

    fn value(&self, node: &Node, operator: &Operator, spec: &ParamSpec) -> Result<ParamValue> {
        match &node.value {
            Tree::Map(_) => Ok(ParamValue::Cases(vec![self.case(node, operator, spec)?])),
            Tree::List(list) if list.iter().any(|entry| matches!(entry.value, Tree::Map(_))) => {
                Ok(ParamValue::Cases(list.iter().map(|entry| self.case(entry, operator, spec)).collect::<Result<_>>()?))
            }
            _ => self.plain_value(node, operator, spec),
        }
    }

    fn case(&self, node: &Node, operator: &Operator, spec: &ParamSpec) -> Result<Case> {
        let entries = self.entries(node, "a value with a filter", keys::CASE)?;
        Ok(Case {
            filter: entries.get("filter").map(|node| self.text(node, "filter")).transpose()?.map(|text| text.value),
            value: self.plain_value(self.required(&entries, "value")?, operator, spec)?,
        })
    }

    /// A scalar or a gradient.
    fn plain_value(&self, node: &Node, operator: &Operator, spec: &ParamSpec) -> Result<ParamValue> {
        let Tree::List(list) = &node.value else {
            return Ok(ParamValue::Scalar(self.scalar(node, operator, spec)?));
        };
        if list.is_empty() {
            return self.wrong(node, spec.name, "a value, a list of numbers, or a list of filters and values");
        }
        let point = |node: &Node| match self.scalar(node, operator, spec)? {
            Setting::Number(x) => Ok(x),
            _ => self.wrong(node, spec.name, "a number where a list gives values over the layers"),
        };
        Ok(ParamValue::Gradient(list.iter().map(point).collect::<Result<_>>()?))
    }

    fn scalar(&self, node: &Node, operator: &Operator, spec: &ParamSpec) -> Result<Setting> {
        let setting = match &node.value {
            Tree::Flag(x) => Setting::Flag(*x),
            // Words of YAML 1.1, which mergekit reads; a model may well be called so.
            Tree::Text(x) if matches!(spec.kind, Kind::Flag | Kind::Choice { .. }) && yaml_1_1_flag(x).is_some() => {
                Setting::Flag(yaml_1_1_flag(x) == Some(true))
            }
            Tree::Integer(x) => Setting::Number(*x as f64),
            Tree::Number(x) => Setting::Number(*x),
            Tree::Text(x) => Setting::Text(x.clone()),
            _ => return self.wrong(node, spec.name, spec.kind.to_string()),
        };
        match spec.check(operator.def().name, &setting) {
            Ok(_) => Ok(setting),
            Err(error) => Err(RecipeError::Param { place: self.place(node.at), error: Box::new(error) }),
        }
    }
}

fn yaml_1_1_flag(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "on" => Some(true),
        "no" | "off" => Some(false),
        _ => None,
    }
}

/// Where parameters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// At the top.
    Top,
    /// At a module or a slice.
    Shared,
    /// At one of several models.
    Model,
}
