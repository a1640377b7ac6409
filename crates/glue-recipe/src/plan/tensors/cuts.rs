//! What a part of a recipe is cut into: slices of the output, with the layers of the models that they are made from.

use super::{Assembler, Input, LayerRun, Listed, OutputSlice};
use crate::error::RecipeError;
use crate::plan::models::View;
use crate::recipe::{Body, Part, Slice};
use crate::settings::Settings;
use glue_merge::BaseRule;
use glue_tensor::Names;
use glue_yaml::{At, Position};
use std::collections::{BTreeMap, BTreeSet};

impl<'a> Assembler<'a> {
    pub(super) fn cuts(
        &mut self,
        part: &'a Part,
        views: &BTreeMap<usize, View>,
    ) -> Result<Vec<OutputSlice<'a>>, RecipeError> {
        let top = &self.recipe.settings;
        match &part.body {
            Body::Models(list) => {
                let shared = vec![&part.settings, top];
                let listed = list.iter().map(|input| Listed {
                    model: &input.model,
                    start: 0,
                    base: input.base.as_ref(),
                    statistics: input.statistics.as_ref(),
                    levels: vec![&input.settings, &part.settings, top],
                });
                let cut = self.cut(part.at, self.recipe.base.as_ref(), listed, shared)?;
                let counts: Vec<_> = cut.runs().map(|run| &views[&run.model]).collect();
                let len = counts[0].layers;
                if let Some(other) = counts.iter().find(|view| view.layers != len) {
                    let (first, second) = (self.models.name(counts[0].model), self.models.name(other.model));
                    let at = self.recipe.models().find(|name| name.value == second).map_or(part.at, |name| name.at);
                    return Err(RecipeError::LayerCounts {
                        place: self.recipe.place(at),
                        first: first.into(),
                        first_layers: len,
                        second: second.into(),
                        second_layers: other.layers,
                    });
                }
                // Checkpoints may hold layers behind the last one that their configuration counts.
                let held = |view: &&View| view.held_layers();
                let len = counts.iter().map(held).max().unwrap_or(len).max(len);
                Ok(vec![OutputSlice { len, ..cut }])
            }
            Body::Slices(slices) => {
                let (mut cuts, mut errors) = (Vec::new(), Vec::new());
                for slice in slices {
                    match self.slice(slice, part, views) {
                        Ok(cut) => cuts.push(cut),
                        Err(error) => errors.push(error),
                    }
                }
                RecipeError::all(errors).map_or(Ok(cuts), Err)
            }
        }
    }

    fn slice(
        &mut self,
        slice: &'a Slice,
        part: &'a Part,
        views: &BTreeMap<usize, View>,
    ) -> Result<OutputSlice<'a>, RecipeError> {
        let top = &self.recipe.settings;
        let len = slice.sources[0].layers.value.len();
        for source in &slice.sources {
            let layers = &source.layers;
            for model in [&source.model].into_iter().chain(&source.base) {
                self.check_range(views, self.models.index(&model.value), &layers.value, layers.at)?;
            }
        }
        let shared = vec![&slice.settings, &part.settings, top];
        let listed = slice.sources.iter().map(|source| Listed {
            model: &source.model,
            start: source.layers.value.start,
            base: source.base.as_ref(),
            statistics: source.statistics.as_ref(),
            levels: vec![&source.settings, &slice.settings, &part.settings, top],
        });
        let base = slice.base.as_ref().or(self.recipe.base.as_ref());
        let cut = self.cut(slice.at, base, listed, shared)?;
        if let Some(run) = cut.base {
            self.check_range(views, run.model, &(run.start..run.start + len), slice.at)?;
        }
        Ok(OutputSlice { len, ..cut })
    }

    fn check_range(
        &self,
        views: &BTreeMap<usize, View>,
        model: usize,
        range: &std::ops::Range<usize>,
        at: Position,
    ) -> Result<(), RecipeError> {
        let layers = views[&model].layers;
        if range.end <= layers {
            return Ok(());
        }
        Err(RecipeError::LayerRange {
            place: self.recipe.place(at),
            model: self.models.name(model).into(),
            start: range.start,
            end: range.end,
            layers,
        })
    }

    /// Tells the base from the inputs.
    pub(super) fn cut(
        &mut self,
        at: Position,
        base: Option<&At<String>>,
        listed: impl IntoIterator<Item = Listed<'a>>,
        levels: Vec<&'a Settings>,
    ) -> Result<OutputSlice<'a>, RecipeError> {
        let operator = &self.recipe.operator.value;
        let base = base.filter(|_| operator.def().base != BaseRule::Unused).map(|name| self.models.index(&name.value));
        let mut seen = BTreeSet::new();
        let mut base_run = None;
        let mut inputs: Vec<Input<'a>> = Vec::new();
        let mut given = Vec::new();
        for Listed { model: name, start, base: own_base, statistics, levels } in listed {
            let model = self.models.index(&name.value);
            if !seen.insert((model, start)) {
                return Err(RecipeError::ModelTwice { place: self.recipe.place(name.at), model: name.value.clone() });
            }
            let run = LayerRun { model, start };
            if base == Some(model) && base_run.is_none() {
                base_run = Some(run);
                let unused = statistics.filter(|_| !self.uses_statistics_of_base());
                let keys = levels[0].keys().chain(unused.map(|_| "statistics")).chain(own_base.map(|_| "base_model"));
                let keys: Vec<_> = keys.map(|key| format!("`{key}`")).collect();
                if !keys.is_empty() {
                    let note = format!("`{}` is the base; its {} not used", name.value, plural(&keys));
                    if !self.out.notes.contains(&note) {
                        self.out.notes.push(note);
                    }
                }
            } else {
                let own_base = own_base.map(|name| LayerRun { model: self.models.index(&name.value), start });
                inputs.push(Input { run, own_base, levels });
                given.push((name, statistics));
            }
        }
        operator
            .check_operands(inputs.len(), base.is_some())
            .map_err(|error| RecipeError::Operands { place: self.recipe.place(at), error: Box::new(error) })?;
        // A base that is not among the sources gives the same layers as the first of them.
        let fallback = |model| LayerRun { model, start: inputs.first().map_or(0, |input| input.run.start) };
        let base = base_run.or(base.map(fallback));
        self.check_statistics(base, &given)?;
        Ok(OutputSlice { len: 0, base, inputs, levels })
    }

    /// Notes which layers of the configuration's model the output has.
    pub(super) fn config_layers(
        &mut self,
        part: &Part,
        cuts: &[OutputSlice<'_>],
        views: &BTreeMap<usize, View>,
    ) -> Result<(), RecipeError> {
        if matches!(part.body, Body::Models(_)) {
            return Ok(());
        }
        let model = self.out.config_from;
        let view = &views[&model];
        let count = view.layers;
        let layer = |run: LayerRun, i| run.start + i;
        let kept: Vec<usize> = cuts
            .iter()
            .flat_map(|cut| {
                let own = cut.operands().find(|run| run.model == model);
                let run = own.or(cut.operands().last());
                (0..cut.len).map(move |i| run.map_or(0, |run| layer(run, i)).min(count.saturating_sub(1)))
            })
            .collect();
        if kept.iter().copied().eq(0..count) {
            return Ok(());
        }
        let main = Names::infer(self.models.names(model)).main_stack().map(|stack| stack.prefix.clone());
        if main.is_some_and(|prefix| prefix != view.prefix) {
            let what = format!("another number or order of layers in `{}`", view.prefix.trim_end_matches('.'));
            return Err(RecipeError::Unavailable { place: self.recipe.place(part.at), what });
        }
        self.out.layers = Some(kept);
        Ok(())
    }
}

fn plural(keys: &[String]) -> String {
    format!("{} {}", keys.join(", "), if keys.len() == 1 { "is" } else { "are" })
}
