//! What is checked: operators with settings that lead to every kernel.

use glue_merge::{MergeError, Operator, Params, Plan, Registry, Setting, TensorSpec};

/// A setting of a case.
type Set = (&'static str, Value);

/// The value of a setting.
#[derive(Debug, Clone, Copy)]
enum Value {
    Number(f64),
    Word(&'static str),
}

use Value::{Number, Word};

/// An operator with settings.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What the table calls it.
    pub name: &'static str,
    operator: &'static str,
    /// Number of inputs, the base not counted.
    pub inputs: usize,
    /// Whether the operator takes a base.
    pub base: bool,
    settings: &'static [Set],
    /// Whether coefficients follow from sums over elements: those are added in another order than on the CPU.
    pub sums: bool,
    /// Length of the rows that it works on.
    pub row: Option<usize>,
}

const W: Set = ("weight", Number(0.4));
const HALF: Set = ("density", Number(0.5));
const TENTH: Set = ("density", Number(0.2));

const LINEAR: Case =
    Case { name: "linear", operator: "linear", inputs: 3, base: false, settings: &[W], sums: false, row: None };
const TASK: Case = Case { name: "task_arithmetic", operator: "task_arithmetic", base: true, settings: &[W], ..LINEAR };

const CASES: &[Case] = &[
    LINEAR,
    Case { name: "linear of 8", inputs: 8, ..LINEAR },
    TASK,
    Case { name: "ties at 1", operator: "ties", settings: &[W], ..TASK },
    Case { name: "ties", operator: "ties", settings: &[W, TENTH], ..TASK },
    Case { name: "ties of 7", operator: "ties", inputs: 7, settings: &[W, HALF, ("normalize", Number(0.0))], ..TASK },
    Case {
        name: "ties, rescaled",
        operator: "ties",
        settings: &[W, HALF, ("rescale", Number(1.0))],
        sums: true,
        ..TASK
    },
    Case { name: "breadcrumbs", operator: "breadcrumbs", settings: &[W, HALF, ("gamma", Number(0.05))], ..TASK },
    Case {
        name: "breadcrumbs_ties",
        operator: "breadcrumbs_ties",
        settings: &[W, HALF, ("gamma", Number(0.05))],
        ..TASK
    },
    Case { name: "dare, inverse", operator: "dare_linear", settings: &[W, HALF, ("rescale", Word("inverse"))], ..TASK },
    Case { name: "dare", operator: "dare_linear", settings: &[W, HALF], sums: true, ..TASK },
    Case { name: "dare_ties", operator: "dare_ties", settings: &[W, TENTH, ("rescale", Word("none"))], ..TASK },
    Case {
        name: "della, not rescaled",
        operator: "della_linear",
        settings: &[W, HALF, ("rescale", Word("none"))],
        row: Some(4096),
        ..TASK
    },
    Case { name: "della", operator: "della", settings: &[W, HALF], sums: true, row: Some(4097), ..TASK },
    Case {
        name: "slerp",
        operator: "slerp",
        inputs: 1,
        base: true,
        settings: &[("t", Number(0.3))],
        sums: true,
        row: None,
    },
    Case { name: "model_stock", operator: "model_stock", settings: &[], sums: true, ..TASK },
    Case {
        name: "model_stock by rows",
        operator: "model_stock",
        settings: &[("filter_wise", Number(1.0))],
        sums: true,
        row: Some(4097),
        ..TASK
    },
    Case { name: "karcher of 9", operator: "karcher", inputs: 9, base: false, settings: &[], sums: true, row: None },
    Case { name: "sce at 1", operator: "sce", settings: &[], sums: true, ..TASK },
    Case { name: "sce", operator: "sce", settings: &[("select_topk", Number(0.3))], sums: true, ..TASK },
];

/// Every case, in the order of the table.
pub fn cases() -> &'static [Case] {
    CASES
}

impl Case {
    /// The shape of a tensor of about `len` elements: whole rows where the operator works on rows.
    pub fn shape(&self, len: usize) -> Vec<usize> {
        match self.row {
            Some(row) if len >= 4 * row => vec![len / row, row],
            Some(_) => vec![1, len],
            None => vec![len],
        }
    }

    /// The tensor as the operator sees it when it plans.
    pub fn tensor<'a>(&self, shape: &'a [usize]) -> TensorSpec<'a> {
        TensorSpec::new("model.layers.0.mlp.up_proj.weight", shape).with_operands(self.base, self.inputs).with_seed(42)
    }

    fn params(&self) -> Result<(Operator, Params), MergeError> {
        let operator = Registry::builtin().operator(self.operator, None)?;
        let setting = |(key, value): &Set| {
            let value = match *value {
                Number(x) => Setting::from(x),
                Word(word) => word.into(),
            };
            (*key, value)
        };
        let mut params = operator.params(self.inputs).set_all(self.settings.iter().map(setting));
        if self.settings.iter().any(|(key, _)| *key == "weight") {
            // Each input weighs differently, and one against the others.
            params = params.each("weight", (0..self.inputs).map(|i| 0.4 - 0.15 * i as f64));
        }
        Ok((operator, params.check()?))
    }

    /// The plan for a tensor.
    ///
    /// # Errors
    /// What the operator refuses.
    pub fn plan(&self, tensor: &TensorSpec<'_>) -> Result<Plan, MergeError> {
        let (operator, params) = self.params()?;
        operator.plan(tensor, &params)
    }
}
