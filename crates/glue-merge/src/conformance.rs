//! The promises of the contract, as a suite that every crate of operators can run over its own. Behind the feature
//! `conformance`, for `[dev-dependencies]`.

mod cases;
mod scattered;

use crate::contract::TensorSpec;
use crate::def::{BaseRule, Operator, OperatorDef};
use crate::driver::Driver;
use crate::error::{MergeError, ParamError};
use crate::merge::merge_with;
use crate::operators;
use crate::params::{Kind, ParamSpec, Params, Scope, Setting, Value};
use crate::statistic::{StatisticOf, StatisticSpec};
use cases::{BLOCKS, Data, Given, LARGE, Operands, SHAPES, Settings, tensor};
use scattered::{Failure, Order};
use std::collections::BTreeMap;

/// Checks that an operator keeps the contract. In a crate of operators, one line:
///
/// ```
/// # use glue_merge::operators::task_arithmetic;
/// glue_merge::check_operator(&task_arithmetic::DEF);
/// ```
///
/// # Panics
/// When it breaks a promise, with a message that lists them all. See [`Conformance`] for what they are.
pub fn check_operator(def: &'static OperatorDef) {
    Conformance::new(def).check();
}

/// The suite that [`check_operator`] runs, for operators that it needs to be told more about.
///
/// Over shapes from the empty tensor to one of several spans, over values with ties, exact zeros, equal operands and
/// operands in opposite directions, and under several settings – what is required alone, usual values for every
/// number, each flag and each choice – it checks that
/// - the definition is complete: names, docs, ranges, defaults within them;
/// - settings and operands outside of what is declared are refused, by key, and those inside are not;
/// - a result depends on values, parameters and seed: not on the length of blocks, on the order in which they are
///   seen, on how the accumulators of an order-free reduction are grouped, on what the output held before;
/// - finite operands give a finite result, and those in opposite directions one that is at most 1000 times the largest
///   operand;
/// - a tensor without the statistic that is declared is merged without, or refused as [`MergeError::StatisticMissing`];
/// - an operator that needs a base returns it where no input differs from it;
/// - a map that names a kernel computes what the kernel does.
///
/// It starts no thread: orders that threads could bring about are walked through one by one.
///
/// ```
/// use glue_merge::{Conformance, operators::ties};
///
/// Conformance::new(&ties::DEF).with("density", 0.3).symmetric().check();
/// ```
#[derive(Debug, Clone)]
pub struct Conformance {
    def: &'static OperatorDef,
    inner: Option<&'static OperatorDef>,
    given: Given,
    symmetric: bool,
}

impl Conformance {
    /// The suite for an operator. Required parameters take values from their usual range, another for each input.
    pub fn new(def: &'static OperatorDef) -> Self {
        Self { def, inner: def.wraps().map(|_| &operators::ties::DEF), given: Vec::new(), symmetric: false }
    }

    /// With this value of a parameter throughout.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Setting>) -> Self {
        self.given.push((key, value.into()));
        self
    }

    /// Around this operator, for one that wraps another. Default: `ties`.
    #[must_use]
    pub fn around(mut self, inner: &'static OperatorDef) -> Self {
        self.inner = Some(inner);
        self
    }

    /// With the claim that the order of the inputs, each with its parameters, does not matter but for rounding.
    #[must_use]
    pub fn symmetric(mut self) -> Self {
        self.symmetric = true;
        self
    }

    /// Runs the suite.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn check(&self) {
        let broken = self.broken();
        assert!(broken.is_empty(), "operator `{}` breaks the contract:\n- {}", self.def.name, broken.join("\n- "));
    }

    /// Runs the suite and returns the promises that are broken, each with the first case that broke it.
    pub fn broken(&self) -> Vec<String> {
        let mut report = Report::default();
        definition(self.def, &mut report);
        let operator = match self.inner {
            None => Ok(Operator::new(self.def)),
            Some(inner) => Operator::wrapping(self.def, inner),
        };
        match operator {
            // What is tried follows from the definition.
            Ok(operator) if report.0.is_empty() => self.behaviour(&operator, &mut report),
            Ok(_) => {}
            Err(e) => report.broken("it can wrap the given operator", || e.to_string()),
        }
        report.0.iter().map(|(promise, case)| format!("{promise}: {case}")).collect()
    }

    fn behaviour(&self, operator: &Operator, report: &mut Report) {
        let rule = operator.inputs();
        let max = rule.max.map_or(rule.min + 2, |max| max.min(rule.min + 2));
        let mut counts = vec![rule.min, max];
        counts.dedup();
        for n_inputs in counts {
            refusals(operator, &Settings::required(operator, n_inputs, &self.given), report);
            for (has_base, statistic) in operand_sets(operator) {
                for settings in Settings::all(operator, n_inputs, &self.given) {
                    let trial = Trial { operator, has_base, n_inputs, statistic, settings: &settings };
                    trial.shapes(report);
                    if self.symmetric {
                        trial.symmetry(report);
                    }
                }
            }
        }
        let (n_inputs, (has_base, statistic)) = (max, operand_sets(operator)[0]);
        if let Some(settings) = Settings::all(operator, n_inputs, &self.given).last() {
            let trial = Trial { operator, has_base, n_inputs, statistic, settings };
            trial.large(report);
        }
        operand_counts(operator, &self.given, report);
    }
}

/// With and without a base, as the operator has it.
fn bases(def: &OperatorDef) -> &'static [bool] {
    match def.base {
        BaseRule::Unused => &[false],
        BaseRule::Optional => &[true, false],
        BaseRule::Required => &[true],
    }
}

/// With and without a base, and with and without the statistic that is declared, as the operator has it; first with
/// all there is.
fn operand_sets(operator: &Operator) -> Vec<(bool, Option<&'static StatisticSpec>)> {
    let mut sets = Vec::new();
    for has_base in bases(operator.def()).iter().copied() {
        let measured = operator.statistic().filter(|statistic| has_base || statistic.of == StatisticOf::Inputs);
        sets.extend(measured.map(|statistic| (has_base, Some(statistic))));
        sets.push((has_base, None));
    }
    sets
}

/// Broken promises, each with the first case that broke it.
#[derive(Default)]
struct Report(BTreeMap<&'static str, String>);

impl Report {
    fn broken(&mut self, promise: &'static str, case: impl FnOnce() -> String) {
        self.0.entry(promise).or_insert_with(case);
    }

    fn expect(&mut self, kept: bool, promise: &'static str, case: impl FnOnce() -> String) {
        if !kept {
            self.broken(promise, case);
        }
    }
}

fn definition(def: &OperatorDef, report: &mut Report) {
    let word =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let names = [def.name].into_iter().chain(def.params.iter().map(|p| p.name));
    for name in names {
        report.expect(word(name), "names are of lower-case letters, digits and underscores", || format!("`{name}`"));
    }
    for (what, text) in [("summary", def.summary), ("formula", def.formula), ("reference", def.reference)] {
        report.expect(!text.trim().is_empty(), "the definition is complete", || format!("no {what}"));
    }
    let rule = def.inputs;
    report.expect(
        rule.min >= 1 && rule.max.is_none_or(|max| max >= rule.min),
        "some number of inputs is allowed",
        || format!("from {} to {:?}", rule.min, rule.max),
    );
    if let Some(statistic) = def.statistic {
        let name = statistic.name;
        report.expect(word(name), "names are of lower-case letters, digits and underscores", || format!("`{name}`"));
        report.expect(!statistic.doc.trim().is_empty(), "the definition is complete", || format!("no doc of `{name}`"));
        report.expect(
            statistic.of == StatisticOf::Inputs || def.base != BaseRule::Unused,
            "a statistic of the base is wanted by an operator that has one",
            || format!("`{name}`"),
        );
    }
    for (i, spec) in def.params.iter().enumerate() {
        let name = spec.name;
        report.expect(!spec.doc.trim().is_empty(), "every parameter is documented", || format!("`{name}` is not"));
        report.expect(def.params[..i].iter().all(|p| p.name != name), "parameters have different names", || {
            format!("`{name}` is there twice")
        });
        parameter(def, spec, report);
    }
}

fn parameter(def: &OperatorDef, spec: &ParamSpec, report: &mut Report) {
    let (name, kind) = (spec.name, spec.kind);
    let default = spec.default.map(|value| match value {
        Value::Number(x) => Setting::from(x),
        Value::Integer(x) => x.into(),
        Value::Flag(x) => x.into(),
        Value::Word(x) => x.into(),
    });
    if let Some(setting) = &default {
        report.expect(
            spec.check(def.name, setting).ok() == spec.default,
            "defaults are among the allowed values",
            || format!("`{name}` is {setting} unless given and must be {kind}"),
        );
    }
    match kind {
        Kind::Number { usual, .. } => {
            for x in [usual.0, usual.1] {
                report.expect(
                    usual.0 <= usual.1 && spec.check(def.name, &Setting::Number(x)).is_ok(),
                    "usual values are among the allowed ones",
                    || format!("`{name}` is usually from {} to {}, and must be {kind}", usual.0, usual.1),
                );
            }
        }
        Kind::Integer { min, max } => {
            report.expect(min <= max, "ranges are not empty", || format!("`{name}`"));
        }
        Kind::Choice { options, on, off } => {
            report.expect(
                !options.is_empty() && [on, off].iter().flatten().all(|o| options.contains(o)),
                "what true and false stand for is among the choices",
                || format!("`{name}` is {kind}"),
            );
        }
        Kind::Flag | Kind::Operator => {}
    }
}

/// Values that a parameter must refuse.
fn outside(spec: &ParamSpec) -> Vec<Setting> {
    let mut refused = vec![Setting::Text("no such word".into())];
    match spec.kind {
        Kind::Number { range, .. } => {
            let below = if range.open { range.min } else { range.min - range.min.abs().max(1.0) };
            let above = range.max + range.max.abs().max(1.0);
            refused.extend([below, above, f64::NAN, f64::INFINITY].map(Setting::Number));
        }
        Kind::Integer { min, max } => {
            refused.extend([min as f64 + 0.5, min as f64 - 1.0].map(Setting::Number));
            if max < i64::MAX {
                refused.push(Setting::Number(max as f64 + 1.0));
            }
        }
        Kind::Flag => refused.push(Setting::Number(0.5)),
        Kind::Choice { .. } => refused.push(Setting::Number(0.5)),
        Kind::Operator => refused.clear(),
    }
    refused
}

/// Settings that must be refused, each by its key.
fn refusals(operator: &Operator, good: &Settings, report: &mut Report) {
    const PROMISE: &str = "settings outside of what is declared are refused by key";
    let mut check =
        |settings: Settings, what: String, expected: &dyn Fn(&ParamError) -> bool| match settings.params(operator) {
            Err(e) if expected(&e) => {}
            Err(e) => report.broken(PROMISE, || format!("{what}: {e}")),
            Ok(_) => report.broken(PROMISE, || format!("{what} is accepted")),
        };
    let with = |key: &'static str, setting: Setting| {
        let mut settings = good.without(key);
        settings.tensor.push((key, setting));
        settings
    };
    let unknown = "no_such_parameter";
    check(
        with(unknown, 1.0.into()),
        format!("`{unknown}`"),
        &|e| matches!(e, ParamError::Unknown { key, .. } if key == unknown),
    );
    for spec in operator.specs() {
        let name = spec.name;
        if spec.default.is_none() && spec.kind != Kind::Operator {
            check(
                good.without(name),
                format!("leaving out `{name}`"),
                &|e| matches!(e, ParamError::Missing { key, .. } if *key == name),
            );
        }
        for setting in outside(spec) {
            let what = format!("`{name}` = {setting}");
            check(with(name, setting), what, &|e| matches!(e, ParamError::Refused { key, .. } if *key == name));
        }
        if spec.scope == Scope::Tensor {
            let mut settings = good.clone();
            settings.inputs[0].push((name, 1.0.into()));
            check(
                settings,
                format!("`{name}` of one input"),
                &|e| matches!(e, ParamError::NotPerInput { key, .. } if *key == name),
            );
        }
    }
}

/// Numbers of inputs outside of the rule, and the lack of a base.
fn operand_counts(operator: &Operator, given: &Given, report: &mut Report) {
    const PROMISE: &str = "operands outside of what is declared are refused";
    let rule = operator.inputs();
    let plan = |has_base, n| {
        let settings = Settings::required(operator, n, given);
        let params = settings.params(operator).ok()?;
        Some(operator.plan(&tensor(&[4], has_base, n, None), &params))
    };
    let has_base = bases(operator.def())[0];
    for n in [rule.min.checked_sub(1), rule.max.map(|max| max + 1)] {
        if let Some(Some(planned)) = n.map(|n| plan(has_base, n)) {
            report.expect(matches!(planned, Err(MergeError::InputCount { .. })), PROMISE, || {
                format!("{n:?} inputs: {planned:?}")
            });
        }
    }
    if operator.def().base == BaseRule::Required
        && let Some(planned) = plan(false, rule.min)
    {
        report.expect(matches!(planned, Err(MergeError::BaseMissing { .. })), PROMISE, || {
            format!("no base: {planned:?}")
        });
    }
}

/// An operator with settings, on operands of some number.
struct Trial<'a> {
    operator: &'a Operator,
    has_base: bool,
    n_inputs: usize,
    /// The statistic that there is.
    statistic: Option<&'static StatisticSpec>,
    settings: &'a Settings,
}

impl Trial<'_> {
    fn tensor<'s>(&self, shape: &'s [usize]) -> TensorSpec<'s> {
        tensor(shape, self.has_base, self.n_inputs, self.statistic)
    }

    fn operands(&self, data: Data, shape: &[usize]) -> Operands {
        Operands::new(data, &self.tensor(shape))
    }

    fn case(&self, data: Data, shape: &[usize]) -> String {
        let Settings { tensor, inputs, .. } = self.settings;
        let show = |given: &Given| {
            let pairs: Vec<_> = given.iter().map(|(k, v)| format!("{k}={v}")).collect();
            pairs.join(" ")
        };
        let own: Vec<_> = inputs.iter().map(show).collect();
        let base = if self.has_base { "a base and " } else { "" };
        let lacking = self.operator.statistic().filter(|_| self.statistic.is_none());
        let lacking = lacking.map_or(String::new(), |statistic| format!(" without `{}`", statistic.name));
        format!(
            "{data:?} values of shape {shape:?}, {base}{} inputs{lacking}, settings [{}] and for each input [{}]",
            self.n_inputs,
            show(tensor),
            own.join("; ")
        )
    }

    /// The parameters, unless they are refused and may be.
    fn params(&self, settings: &Settings, report: &mut Report) -> Option<Params> {
        match settings.params(self.operator) {
            Ok(params) => Some(params),
            Err(e) => {
                report.broken("settings inside of what is declared are accepted", || e.to_string());
                None
            }
        }
    }

    /// The merged tensor, unless the operator refuses what it may.
    fn merge(
        &self,
        driver: &Driver<'_>,
        params: &Params,
        (data, shape): (Data, &[usize]),
        operands: &Operands,
        report: &mut Report,
    ) -> Option<Vec<f32>> {
        let merged = merge_with(driver, self.operator, params, &self.tensor(shape), &operands.source());
        match merged {
            Ok(merged) => Some(merged),
            Err(MergeError::Param(_)) if self.settings.may_be_refused => None,
            Err(MergeError::Shape { .. }) => None,
            Err(MergeError::StatisticMissing { .. })
                if self.statistic.is_none() && self.operator.statistic().is_some() =>
            {
                None
            }
            Err(e) => {
                report.broken("finite operands under allowed settings are merged", || {
                    format!("{}: {e}", self.case(data, shape))
                });
                None
            }
        }
    }

    fn shapes(&self, report: &mut Report) {
        let Some(params) = self.params(self.settings, report) else {
            return;
        };
        for shape in SHAPES {
            for data in Data::ALL {
                let operands = self.operands(data, shape);
                let serial = Driver::default();
                let Some(whole) = self.merge(&serial, &params, (data, shape), &operands, report) else {
                    return;
                };
                self.values(&whole, data, shape, &operands, report);
                if data == Data::Coarse {
                    self.ways(&whole, &params, shape, &operands, report);
                }
            }
        }
    }

    /// What holds of every result.
    fn values(&self, merged: &[f32], data: Data, shape: &[usize], operands: &Operands, report: &mut Report) {
        if let Some(j) = merged.iter().position(|x| !x.is_finite()) {
            report.broken("finite operands give a finite result", || {
                format!("element {j} is {}: {}", merged[j], self.case(data, shape))
            });
        }
        if matches!(data, Data::Opposed | Data::NearlyOpposed) {
            let largest = |x: &[f32]| x.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
            let bound = operands.inputs.iter().chain(&operands.base).map(|x| largest(x)).fold(0.0, f32::max) * 1000.0;
            report.expect(largest(merged) <= bound, "operands in opposite directions give a bounded result", || {
                format!("a magnitude of {}: {}", largest(merged), self.case(data, shape))
            });
        }
        let unchanged = matches!(data, Data::Unchanged | Data::Zero);
        if unchanged && self.operator.def().base == BaseRule::Required {
            let base = operands.base.as_deref().unwrap_or(&[]);
            // A weighted sum of equal numbers is off by a few roundings of f32.
            let off = |(x, base): (&f32, &f32)| (x - base).abs() > 2e-6 * base.abs();
            if let Some(j) = merged.iter().zip(base).position(off) {
                report.broken("where no input differs from the base, the base is returned", || {
                    format!("element {j} is {}, of the base {}: {}", merged[j], base[j], self.case(data, shape))
                });
            }
        }
    }

    /// Runs the merge in every way that must not matter.
    fn ways(&self, whole: &[f32], params: &Params, shape: &[usize], operands: &Operands, report: &mut Report) {
        let len = whole.len();
        for block in BLOCKS.iter().copied().filter(|b| *b < len) {
            let driver = Driver::default().block(block);
            let merged = self.merge(&driver, params, (Data::Coarse, shape), operands, report);
            self.same(whole, merged, "results do not depend on the length of blocks", shape, report, || {
                format!("blocks of {block}")
            });
        }
        self.scattered(whole, params, shape, operands, report);
    }

    fn scattered(&self, whole: &[f32], params: &Params, shape: &[usize], operands: &Operands, report: &mut Report) {
        let tensor = self.tensor(shape);
        let Ok(plan) = self.operator.plan(&tensor, params) else {
            report.broken("what is planned once can be planned again", || self.case(Data::Coarse, shape));
            return;
        };
        match scattered::run(plan, &tensor, &operands.source()) {
            Ok(merged) => self.same(
                whole,
                Some(merged),
                "results do not depend on the order and the grouping of blocks",
                shape,
                report,
                || "uneven blocks in no order".into(),
            ),
            Err(Failure::Refused(e)) => {
                report.broken("finite operands under allowed settings are merged", || {
                    format!("{}: {e}", self.case(Data::Coarse, shape))
                });
            }
            Err(Failure::OtherKernel(how)) => {
                report.broken("a map computes what its kernel does", || {
                    format!("{how}: {}", self.case(Data::Coarse, shape))
                });
            }
        }
    }

    fn same(
        &self,
        whole: &[f32],
        merged: Option<Vec<f32>>,
        promise: &'static str,
        shape: &[usize],
        report: &mut Report,
        way: impl FnOnce() -> String,
    ) {
        let Some(merged) = merged else { return };
        let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        if let Some(j) = merged.iter().zip(whole).position(differs) {
            report.broken(promise, || {
                format!(
                    "element {j} is {} with {}, else {}: {}",
                    merged[j],
                    way(),
                    whole[j],
                    self.case(Data::Coarse, shape)
                )
            });
        }
    }

    /// Several spans, in several orders.
    fn large(&self, report: &mut Report) {
        const PROMISE: &str = "results do not depend on the order in which spans are run";
        let Some(params) = self.params(self.settings, report) else {
            return;
        };
        let operands = self.operands(Data::Coarse, LARGE);
        let case = (Data::Coarse, LARGE);
        let Some(whole) = self.merge(&Driver::default(), &params, case, &operands, report) else {
            return;
        };
        for (order, way) in [(Order::Reversed, "spans from last to first"), (Order::Shuffled, "spans in no order")] {
            let driver = Driver::default().pool(&order).block(1000);
            let merged = self.merge(&driver, &params, case, &operands, report);
            self.same(&whole, merged, PROMISE, LARGE, report, || way.into());
        }
        self.scattered(&whole, &params, LARGE, &operands, report);
    }

    /// The inputs in the opposite order.
    fn symmetry(&self, report: &mut Report) {
        let reversed = self.settings.reversed();
        let (Some(params), Some(other)) = (self.params(self.settings, report), self.params(&reversed, report)) else {
            return;
        };
        let shape = &[64, 33];
        let case = (Data::Smooth, &shape[..]);
        let mut operands = self.operands(Data::Smooth, shape);
        let driver = Driver::default();
        let merged = self.merge(&driver, &params, case, &operands, report);
        operands.inputs.reverse();
        if self.statistic.is_some_and(|statistic| statistic.of == StatisticOf::Inputs) {
            operands.statistics.reverse();
        }
        let turned = self.merge(&driver, &other, case, &operands, report);
        if let (Some(merged), Some(turned)) = (merged, turned) {
            // Sums of a few numbers of about 1 in another order.
            let off = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-5;
            if let Some(j) = merged.iter().zip(&turned).position(off) {
                report.broken("the order of the inputs does not matter", || {
                    format!(
                        "element {j} is {} and in the opposite order {}: {}",
                        merged[j],
                        turned[j],
                        self.case(Data::Smooth, shape)
                    )
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
