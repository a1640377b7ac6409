//! How an operator presents itself: a constant that a crate exports and a registry lists.

use crate::contract::{Plan, TensorSpec};
use crate::error::{MergeError, ParamError};
use crate::params::{Kind, ParamSpec, Params, ParamsBuilder};
use crate::statistic::{StatisticShape, StatisticSpec};

/// Whether an operator needs a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseRule {
    /// It has no use for one: a base that is listed among the models is an input like the others.
    Unused,
    /// It works with and without one.
    Optional,
    /// It needs one.
    Required,
}

/// How many inputs an operator takes, the base not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputRule {
    /// Minimum number.
    pub min: usize,
    /// Maximum number; `None` is without limit.
    pub max: Option<usize>,
}

impl InputRule {
    /// So many or more.
    pub const fn at_least(min: usize) -> Self {
        Self { min, max: None }
    }

    /// Exactly so many.
    pub const fn exactly(n: usize) -> Self {
        Self { min: n, max: Some(n) }
    }

    /// Whether `n` inputs are allowed.
    pub fn allows(&self, n: usize) -> bool {
        n >= self.min && self.max.is_none_or(|max| n <= max)
    }
}

/// An operator as a constant.
///
/// A crate of operators exports one for each, and a program lists them with
/// [`Registry::with`](crate::Registry::with). Nothing registers itself.
///
/// Fields may be added: end a definition with [`..OperatorDef::DEFAULT`](OperatorDef::DEFAULT), and it still compiles.
///
/// ```
/// use glue_merge::{InputRule, Operand, OperatorDef, Plan};
///
/// pub const KEEP_BASE: OperatorDef = OperatorDef {
///     name: "keep_base",
///     summary: "Returns the base.",
///     formula: "θ0",
///     reference: "an example",
///     inputs: InputRule::at_least(1),
///     plan: |_, _| Ok(Plan::Copy(Operand::Base)),
///     ..OperatorDef::DEFAULT
/// };
/// ```
#[derive(Debug)]
pub struct OperatorDef {
    /// Its name in a merge config.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What it computes, in the symbols of its source: θ0 is the base, θi an input, τi = θi − θ0, n the number of
    /// elements.
    pub formula: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// How many inputs it takes, the base not counted.
    pub inputs: InputRule,
    /// Whether it needs a base.
    pub base: BaseRule,
    /// Its parameters.
    pub params: &'static [ParamSpec],
    /// The statistic it needs besides the tensors; `None` for operators that need no data but the weights.
    ///
    /// A tensor may have none. The plan function then sees `None` as [`TensorSpec::statistic`] and does without, or
    /// refuses with [`MergeError::StatisticMissing`].
    pub statistic: Option<StatisticSpec>,
    /// Whether the rows and columns of a matrix matter to it beyond single rows. A
    /// [stack](TensorSpec::stacked) of matrices is then merged matrix by matrix.
    pub matrices: bool,
    /// Decides how one tensor is merged. Everything that can be refused is refused here.
    pub plan: fn(&TensorSpec<'_>, &Params) -> Result<Plan, MergeError>,
}

impl OperatorDef {
    /// What a definition need not say: one or more inputs on a required base, no parameters and no statistic.
    ///
    /// Its texts are empty and its plan function refuses every tensor with [`MergeError::Contract`]. A definition has
    /// to give its own; the conformance suite (feature `conformance`) finds one that does not.
    pub const DEFAULT: Self = Self {
        name: "",
        summary: "",
        formula: "",
        reference: "",
        inputs: InputRule::at_least(1),
        base: BaseRule::Required,
        params: &[],
        statistic: None,
        matrices: false,
        plan: |_, _| Err(MergeError::Contract { reason: "the operator has no plan function".into() }),
    };

    /// The key under which a config names the operator that this one wraps, if it wraps one.
    pub fn wraps(&self) -> Option<&'static str> {
        self.params.iter().find(|p| p.kind == Kind::Operator).map(|p| p.name)
    }
}

/// An operator ready to be given parameters: a definition and, for one that wraps another, that other.
#[derive(Debug, Clone, Copy)]
pub struct Operator {
    def: &'static OperatorDef,
    inner: Option<&'static OperatorDef>,
}

impl Operator {
    /// An operator that wraps none.
    pub fn new(def: &'static OperatorDef) -> Self {
        Self { def, inner: None }
    }

    /// `def` around `inner`.
    ///
    /// # Errors
    /// [`ParamError::Refused`] when `def` wraps nothing, or `inner` is not an operator on task vectors, has a
    /// parameter of the same name as `def`, or wants a statistic where `def` wants one too.
    pub fn wrapping(def: &'static OperatorDef, inner: &'static OperatorDef) -> Result<Self, ParamError> {
        let refuse = |key, allowed: &str| {
            Err(ParamError::Refused {
                operator: def.name,
                key,
                allowed: allowed.into(),
                found: format!("`{}`", inner.name),
            })
        };
        let Some(key) = def.wraps() else {
            return refuse("operator", "absent: this operator wraps no other");
        };
        if inner.base != BaseRule::Required || inner.wraps().is_some() {
            return refuse(key, "an operator that needs a base and wraps no other");
        }
        let taken = |p: &&ParamSpec| def.params.iter().any(|own| own.name == p.name);
        if let Some(p) = inner.params.iter().find(taken) {
            let name = p.name;
            return refuse(key, &format!("an operator without a parameter `{name}`, which would be ambiguous"));
        }
        if let (Some(own), Some(other)) = (&def.statistic, &inner.statistic) {
            let (own, other) = (own.name, other.name);
            return refuse(
                key,
                &format!("an operator without statistics of its own: it wants `{other}` besides `{own}`"),
            );
        }
        Ok(Self { def, inner: Some(inner) })
    }

    /// Its definition.
    pub fn def(&self) -> &'static OperatorDef {
        self.def
    }

    /// The definition of the operator that it wraps.
    pub fn inner(&self) -> Option<&'static OperatorDef> {
        self.inner
    }

    /// All parameters it takes: its own, then those of the operator that it wraps.
    pub fn specs(&self) -> impl Iterator<Item = &'static ParamSpec> + use<> {
        self.def.params.iter().chain(self.inner.map_or(&[][..], |inner| inner.params))
    }

    /// How many inputs it takes, the base not counted.
    pub fn inputs(&self) -> InputRule {
        self.inner.unwrap_or(self.def).inputs
    }

    /// The statistic that it needs: its own, or that of the operator that it wraps, which then gets it.
    pub fn statistic(&self) -> Option<&'static StatisticSpec> {
        let inner = || self.inner.and_then(|inner| inner.statistic.as_ref());
        self.def.statistic.as_ref().or_else(inner)
    }

    /// The parameters for a merge of so many inputs, to be set and then [checked](ParamsBuilder::check).
    pub fn params<'a>(&self, n_inputs: usize) -> ParamsBuilder<'a> {
        ParamsBuilder::new(*self, n_inputs)
    }

    /// What one plan of this operator covers: a single matrix of a [stack](TensorSpec::stacked), for operators on
    /// matrices and those with statistics about columns; the whole tensor otherwise. Every matrix of a stack has the
    /// same plan.
    pub fn unit<'a>(&self, tensor: &TensorSpec<'a>) -> TensorSpec<'a> {
        let of_columns = tensor.statistic.is_some_and(|statistic| statistic.shape != StatisticShape::Same);
        let matrices = self.def.matrices || self.inner.is_some_and(|inner| inner.matrices) || of_columns;
        match tensor.shape {
            [_, matrix @ ..] if tensor.stacked && matrices => {
                let mut unit = tensor.with_stacked(false);
                unit.shape = matrix;
                unit
            }
            _ => *tensor,
        }
    }

    /// Decides how one tensor, or one [unit](Operator::unit) of it, is merged.
    ///
    /// # Errors
    /// Too few or too many inputs, no base where one is needed, another statistic than the operator declares, or what
    /// the operator itself refuses.
    ///
    /// # Panics
    /// The parameters were checked for another number of inputs.
    pub fn plan(&self, tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
        self.check_operands(tensor.n_inputs, tensor.has_base)?;
        assert_eq!(params.n_inputs(), tensor.n_inputs, "parameters were checked for another number of inputs");
        if let Some(found) = tensor.statistic
            && self.statistic() != Some(found)
        {
            return Err(MergeError::Statistics {
                tensor: tensor.name.into(),
                expected: self.statistic().map_or_else(|| "none".into(), |own| format!("{own:?}")),
                found: format!("{found:?}"),
            });
        }
        (self.def.plan)(tensor, params)
    }

    /// Checks that the operator can work on so many inputs.
    ///
    /// # Errors
    /// [`MergeError::InputCount`] or [`MergeError::BaseMissing`].
    pub fn check_operands(&self, n_inputs: usize, has_base: bool) -> Result<(), MergeError> {
        let (rule, operator) = (self.inputs(), self.def.name);
        if self.def.base == BaseRule::Required && !has_base {
            return Err(MergeError::BaseMissing { operator });
        }
        if rule.allows(n_inputs) {
            return Ok(());
        }
        let besides = if self.def.base == BaseRule::Required { " besides the base" } else { "" };
        let plural = |n: usize| if n == 1 { "model" } else { "models" };
        let expected = match rule.max {
            Some(max) if max == rule.min => format!("exactly {max} {}{besides}", plural(max)),
            Some(max) => format!("{} to {max} models{besides}", rule.min),
            None => format!("{} or more {}{besides}", rule.min, plural(rule.min)),
        };
        Err(MergeError::InputCount { operator, expected, found: n_inputs })
    }
}
