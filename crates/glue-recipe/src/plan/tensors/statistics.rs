//! The statistics of a plan: whether they are given where the operator uses them, and which tensor each belongs to.

use super::{Assembler, LayerRun};
use crate::error::RecipeError;
use crate::plan::TensorRef;
use crate::recipe::OnMissing;
use glue_merge::{StatisticOf, StatisticSpec};
use glue_tensor::TensorInfo;
use glue_tensor::names::is_fused_experts;
use glue_yaml::At;

impl<'a> Assembler<'a> {
    /// The statistic that the operator gets.
    fn statistic(&self) -> Option<&'static StatisticSpec> {
        self.recipe.operator.value.statistic().filter(|_| !self.options.without_statistics)
    }

    /// Whether statistics of the base are of use: to the operator, or where the base stands in for an input.
    pub(super) fn uses_statistics_of_base(&self) -> bool {
        let statistic = self.recipe.operator.value.statistic();
        statistic.is_some_and(|s| s.of == StatisticOf::Base) || self.recipe.on_missing == OnMissing::Base
    }

    /// Checks that statistics are given for all models whose statistics the operator uses, and for no other.
    pub(super) fn check_statistics(
        &self,
        base: Option<LayerRun>,
        inputs: &[(&At<String>, Option<&'a At<String>>)],
    ) -> Result<(), RecipeError> {
        let Some(statistic) = self.statistic() else { return Ok(()) };
        let (operator, operator_at) = (self.recipe.operator.value.def().name, self.recipe.operator.at);
        let missing = |model: &str, at, key| RecipeError::StatisticsMissing {
            place: self.recipe.place(at),
            operator,
            statistic: statistic.name,
            model: model.into(),
            key,
        };
        // Statistics that fit no tensor at all are those of something else.
        let check = |model: usize, error: RecipeError| match self.models.statistics(model) {
            None => Err(error),
            Some(statistics) => {
                let ending = format!(".{}", statistic.name);
                let any = statistics.checkpoint.tensors().iter().any(|info| info.name.ends_with(&ending));
                if any { Ok(()) } else { Err(self.no_statistic(statistic, &format!("`{}` has it", statistics.name))) }
            }
        };
        match statistic.of {
            StatisticOf::Inputs => inputs.iter().try_for_each(|(name, _)| {
                check(self.models.index(&name.value), missing(&name.value, name.at, "statistics"))
            }),
            StatisticOf::Base => {
                // The same model may be the base elsewhere.
                let is_base = |name: &At<String>| base.is_some_and(|base| base.model == self.models.index(&name.value));
                let own = |(name, given): &(&At<String>, Option<&'a At<String>>)| given.filter(|_| !is_base(name));
                if let Some(path) = inputs.iter().find_map(own) {
                    return Err(RecipeError::StatisticsUnused {
                        place: self.recipe.place(path.at),
                        key: "statistics",
                        operator,
                        uses: format!("the `{}` of the base alone, as `base_statistics`", statistic.name),
                    });
                }
                let Some(base) = base else { return Ok(()) };
                check(base.model, missing(self.models.name(base.model), operator_at, "base_statistics"))
            }
        }
    }

    pub(super) fn no_statistic(&self, statistic: &StatisticSpec, paths: &str) -> RecipeError {
        let operator = &self.recipe.operator;
        RecipeError::NoStatistic {
            place: self.recipe.place(operator.at),
            operator: operator.value.def().name,
            statistic: statistic.name,
            paths: paths.into(),
        }
    }

    /// The statistics of one tensor: of all operands whose statistics the operator uses, or of none.
    pub(super) fn statistics(
        &mut self,
        name: &str,
        shape: &[usize],
        base: Option<&TensorRef>,
        inputs: &[TensorRef],
    ) -> Result<Vec<TensorRef>, RecipeError> {
        let Some(statistic) = self.statistic() else { return Ok(Vec::new()) };
        let operands: Vec<&TensorRef> = match statistic.of {
            StatisticOf::Inputs => inputs.iter().collect(),
            StatisticOf::Base => base.into_iter().collect(),
        };
        // A statistic is of the tensor that is merged, whatever that is called in the output.
        let looked_for = |of: &TensorRef| format!("{}.{}", of.name, statistic.name);
        let find = |of: &TensorRef| {
            let info = self.models.statistics(of.model)?.checkpoint.info(&looked_for(of))?;
            Some((TensorRef { model: of.model, name: info.name.clone() }, info))
        };
        let found: Vec<_> = operands.iter().map(|of| find(of)).collect();
        let Some(present) = found.iter().position(Option::is_some) else { return Ok(Vec::new()) };
        let mut statistics = Vec::with_capacity(found.len());
        for (of, found) in operands.iter().zip(found) {
            let path = self.models.statistics(of.model).map(|statistics| statistics.name.clone());
            let Some((at, info)) = found else {
                return Err(RecipeError::StatisticGap {
                    tensor: name.into(),
                    statistic: statistic.name,
                    present: self.models.name(operands[present].model).into(),
                    missing: self.models.name(of.model).into(),
                    path: path.map(String::into_boxed_str),
                    looked_for: looked_for(of).into(),
                });
            };
            let expected = statistic.shape_for(shape, is_fused_experts(name, shape));
            check_statistic(&expected, info).map_err(|(expected, found)| RecipeError::StatisticShape {
                name: at.name.clone(),
                path: path.unwrap_or_default(),
                tensor: name.into(),
                expected: expected.into(),
                found: found.into(),
            })?;
            statistics.push(at);
        }
        self.measured = true;
        Ok(statistics)
    }

    /// Statistics whose names are those of no tensor are of another model.
    pub(super) fn check_measured(&self) -> Result<(), RecipeError> {
        match self.statistic() {
            Some(statistic) if !self.measured && !self.tensors.is_empty() => {
                let given = self.models.list.iter().filter_map(|model| model.statistics.as_ref());
                let paths: Vec<_> = given.map(|statistics| format!("`{}`", statistics.name)).collect();
                let have = if paths.len() == 1 { "has it" } else { "have it" };
                Err(self.no_statistic(statistic, &format!("{} {have}", paths.join(" and "))))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a statistic has the shape it must have; else what was expected, and what found.
fn check_statistic(shape: &[usize], info: &TensorInfo) -> Result<(), (String, String)> {
    if info.shape == shape && info.dtype.is_float() {
        return Ok(());
    }
    Err((format!("floating-point numbers of shape {shape:?}"), format!("{} of shape {:?}", info.dtype, info.shape)))
}
