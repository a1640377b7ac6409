//! What a recipe merges: models, slices, modules.

use super::parameters::Level;
use super::reader::{Entries, Reader, Result};
use crate::error::RecipeError;
use crate::keys;
use crate::recipe::{Body, InputModel, Part, Slice, Source};
use crate::settings::Settings;
use glue_merge::{BaseRule, Operator};
use glue_yaml::{At, Node, Position, Tree};
use std::ops::Range;

impl Reader<'_> {
    /// The parts; `None` if one of them cannot be read.
    pub(super) fn parts(&self, top: &Entries<'_>, operator: Option<&Operator>) -> Option<Vec<Part>> {
        let Some(modules) = top.get("modules") else {
            if self.misspelt(top, &["modules"]) {
                return None;
            }
            let body = self.body(top, operator, "`models`, `slices` or `modules`")?;
            return Some(vec![Part { at: body.0, module: None, body: body.1, settings: Settings::default() }]);
        };
        for first in ["models", "slices"] {
            if top.get(first).is_some() {
                let (place, inside) = (self.place(modules.at), top.inside);
                self.refuse(RecipeError::Conflict { place, inside, first, second: "modules" });
                return None;
            }
        }
        let Tree::Map(map) = &modules.value else {
            return self.keep(self.wrong(
                modules,
                "modules",
                "a mapping from names of modules to what they are made from",
            ));
        };
        if map.is_empty() {
            return self.keep(self.wrong(modules, "modules", "a mapping with at least one entry"));
        }
        let part = |(name, node): &(At<String>, Node)| {
            let entries = self.entries(node, "a module", keys::MODULE)?;
            let settings = self.settings(&entries, operator, Level::Shared);
            let (_, body) = self.body(&entries, operator, "`models` or `slices`")?;
            let module = (name.value != "default").then(|| name.value.trim_end_matches('.').to_string());
            Some(Part { at: name.at, module, body, settings })
        };
        let parts: Vec<Option<Part>> = map.iter().map(part).collect();
        parts.into_iter().collect()
    }

    fn body(
        &self,
        entries: &Entries<'_>,
        operator: Option<&Operator>,
        needs: &'static str,
    ) -> Option<(Position, Body)> {
        match (entries.get("models"), entries.get("slices")) {
            (Some(_), Some(slices)) => {
                let (place, inside) = (self.place(slices.at), entries.inside);
                self.refuse(RecipeError::Conflict { place, inside, first: "models", second: "slices" });
                None
            }
            (None, None) => {
                if !self.misspelt(entries, &["models", "slices"]) {
                    self.refuse(self.missing(entries, needs));
                }
                None
            }
            (Some(models), None) => {
                let input = |node: &Node| {
                    let entries = self.entries(node, "an entry of `models`", keys::MODEL)?;
                    let statistics = self.statistics(&entries, "statistics", operator);
                    let settings = self.settings(&entries, operator, Level::Model);
                    let base = self.own_base(&entries, operator);
                    let model = self.required(&entries, "model").and_then(|node| self.model(node, "model"))?;
                    Some(InputModel { model, base, statistics, settings })
                };
                Some((models.at, Body::Models(self.each(models, "models", input)?)))
            }
            (None, Some(slices)) => {
                let read = self.each(slices, "slices", |node| self.slice(node, operator))?;
                Some((slices.at, Body::Slices(read)))
            }
        }
    }

    fn slice(&self, node: &Node, operator: Option<&Operator>) -> Option<Slice> {
        let entries = self.entries(node, "a slice", keys::SLICE)?;
        let source = |node: &Node| {
            let entries = self.entries(node, "a source", keys::SOURCE)?;
            let statistics = self.statistics(&entries, "statistics", operator);
            let settings = self.settings(&entries, operator, Level::Model);
            let model = self.required(&entries, "model").and_then(|node| self.model(node, "model"));
            let layers = self.required(&entries, "layer_range").and_then(|node| self.keep(self.layers(node)));
            let base = self.own_base(&entries, operator);
            Some(Source { model: model?, layers: layers?, base, statistics, settings })
        };
        let base = entries.get("base_model").and_then(|node| self.model(node, "base_model"));
        let base_statistics = self.base_statistics(&entries, operator);
        let settings = self.settings(&entries, operator, Level::Shared);
        let sources = self.required(&entries, "sources").and_then(|node| self.each(node, "sources", source))?;
        let first = &sources[0];
        if let Some(other) = sources.iter().find(|other| other.layers.value.len() != first.layers.value.len()) {
            self.refuse(RecipeError::SliceLengths {
                place: self.place(other.layers.at),
                first: first.model.value.clone(),
                first_layers: first.layers.value.len(),
                second: other.model.value.clone(),
                second_layers: other.layers.value.len(),
            });
        }
        Some(Slice { at: node.at, base, base_statistics, settings, sources })
    }

    /// The base of one model, for an operator on task vectors.
    fn own_base(&self, entries: &Entries<'_>, operator: Option<&Operator>) -> Option<At<String>> {
        const KEY: &str = "base_model";
        let node = entries.get(KEY)?;
        if let Some(operator) = operator.filter(|operator| operator.def().base != BaseRule::Required) {
            let expected = format!("left out: {} does not merge differences from a base", operator.def().name);
            return self.keep(self.wrong(node, KEY, expected));
        }
        self.model(node, KEY)
    }

    /// A path of statistics, for an operator that uses them.
    fn statistics(&self, entries: &Entries<'_>, key: &'static str, operator: Option<&Operator>) -> Option<At<String>> {
        let node = entries.get(key)?;
        if let Some(operator) = operator.filter(|operator| operator.statistic().is_none()) {
            let (place, operator) = (self.place(node.at), operator.def().name);
            self.refuse(RecipeError::StatisticsUnused { place, key, operator, uses: "no statistics".into() });
            return None;
        }
        self.keep(self.text(node, key))
    }

    pub(super) fn base_statistics(&self, entries: &Entries<'_>, operator: Option<&Operator>) -> Option<At<String>> {
        const KEY: &str = "base_statistics";
        let path = self.statistics(entries, KEY, operator)?;
        if entries.get("base_model").is_none() {
            self.refuse(RecipeError::WrongValue {
                place: self.place(path.at),
                key: KEY.into(),
                expected: "beside a `base_model`".into(),
                found: "it without one".into(),
            });
        }
        Some(path)
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
}
