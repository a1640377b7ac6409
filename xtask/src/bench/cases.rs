//! What is merged: one config per operator, in the dialect that glue and mergekit share, and what is aimed at.

use anyhow::{Result, bail};

/// An aim for the memory that a merge allocates, whatever the checkpoint's size.
pub(super) const ANONYMOUS_MIB: f64 = 150.0;

/// One operator with the parameters it is measured with.
#[derive(Debug)]
pub(super) struct Case {
    /// The operator's name in a config.
    pub(super) name: &'static str,
    models: &'static [&'static str],
    base: bool,
    parameters: &'static [&'static str],
    /// The least rate aimed at, as a share of the rate of `cp`, in bytes read and written per second.
    pub(super) aim: f64,
}

const THREE: &[&str] = &["model-1", "model-2", "model-3"];

/// Aims: what is read once 0.9, what needs inner products first 0.75, what selects or draws random numbers less.
pub(super) const CASES: &[Case] = &[
    Case { name: "linear", models: THREE, base: false, parameters: &["weight: 0.3"], aim: 0.9 },
    Case { name: "slerp", models: &["base", "model-1"], base: true, parameters: &["t: 0.5"], aim: 0.75 },
    Case { name: "task_arithmetic", models: THREE, base: true, parameters: &["weight: 0.3"], aim: 0.9 },
    Case { name: "ties", models: THREE, base: true, parameters: &["weight: 0.3", "density: 0.5"], aim: 0.4 },
    Case { name: "dare_ties", models: THREE, base: true, parameters: &["weight: 0.3", "density: 0.5"], aim: 0.4 },
    Case {
        name: "della",
        models: THREE,
        base: true,
        parameters: &["weight: 0.3", "density: 0.5", "epsilon: 0.15"],
        aim: 0.3,
    },
    Case {
        name: "breadcrumbs",
        models: THREE,
        base: true,
        parameters: &["weight: 0.3", "density: 0.9", "gamma: 0.01"],
        aim: 0.4,
    },
    Case { name: "sce", models: THREE, base: true, parameters: &["select_topk: 0.1"], aim: 0.35 },
    Case { name: "model_stock", models: THREE, base: true, parameters: &[], aim: 0.75 },
    Case { name: "karcher", models: THREE, base: false, parameters: &[], aim: 0.75 },
    Case { name: "passthrough", models: &["model-1"], base: false, parameters: &[], aim: 0.9 },
];

impl Case {
    /// The config, with paths relative to the folder of the checkpoints.
    pub(super) fn config(&self) -> String {
        let mut lines = vec![format!("merge_method: {}", self.name)];
        if self.base {
            lines.push("base_model: base".to_owned());
        }
        lines.push("models:".to_owned());
        lines.extend(self.models.iter().map(|model| format!("- model: {model}")));
        if !self.parameters.is_empty() {
            lines.push("parameters:".to_owned());
            lines.extend(self.parameters.iter().map(|parameter| format!("  {parameter}")));
        }
        lines.push("dtype: bfloat16\n".to_owned());
        lines.join("\n")
    }

    /// How many checkpoints the merge reads.
    pub(super) fn checkpoints(&self) -> usize {
        self.models.len() + usize::from(self.base && !self.models.contains(&"base"))
    }
}

/// The cases named, in the order of the table; all of them if none is named.
///
/// # Errors
/// A name is not one of the table's.
pub(super) fn chosen(names: &[String]) -> Result<Vec<&'static Case>> {
    if let Some(unknown) = names.iter().find(|name| !CASES.iter().any(|case| case.name == **name)) {
        let known: Vec<_> = CASES.iter().map(|case| case.name).collect();
        bail!("`{unknown}` is not measured; what is: {}", known.join(", "));
    }
    Ok(CASES.iter().filter(|case| names.is_empty() || names.iter().any(|name| name == case.name)).collect())
}

#[cfg(test)]
mod tests {
    //! A config as it is written, and the choice of cases.
    use super::*;

    #[test]
    fn config_is_what_both_tools_read() {
        let expected = "merge_method: slerp\nbase_model: base\nmodels:\n- model: base\n- model: model-1\n\
            parameters:\n  t: 0.5\ndtype: bfloat16\n";
        assert_eq!(CASES[1].config(), expected);
    }

    #[test]
    fn a_base_among_the_inputs_is_read_once() {
        let counts: Vec<_> = CASES[..3].iter().map(Case::checkpoints).collect();
        assert_eq!(counts, [3, 2, 4]);
    }

    #[test]
    fn cases_are_chosen_by_name() {
        assert_eq!(chosen(&[]).unwrap().len(), CASES.len());
        let two = chosen(&["ties".to_owned(), "linear".to_owned()]).unwrap();
        assert_eq!(two.iter().map(|case| case.name).collect::<Vec<_>>(), ["linear", "ties"]);
        assert!(chosen(&["tie".to_owned()]).unwrap_err().to_string().contains("task_arithmetic"));
    }
}
