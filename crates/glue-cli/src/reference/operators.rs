//! The reference of the operators, from their declarations.

use super::{GENERATED, cell, example};
use crate::commands::ops::{allowed, base, default, models_besides_base, scope, statistic, usual};
use glue_merge::{OperatorDef, Registry};
use std::fmt::Write;

const INTRODUCTION: &str = "\
# Merge operators

What each `merge_method` computes, and its parameters. `glue ops NAME` shows the same in a terminal.

In formulas, θ0 is a tensor of the base, θi the same tensor of the i-th model, τi = θi − θ0 its task vector, wi its weight, and
n the number of elements. Arithmetic is in 32-bit floats, with sums in 64 bits. Results are rounded once to the type of the
output.

A parameter can be

- a value;
- a list of numbers: a gradient over the layers of the model, or of each slice. Layer l of L gets the linear interpolation
  at l/(L−1), a single layer of a slice the last number. Tensors before the layers get the first number, tensors after them
  the last;
- a list of `{filter, value}`: the first entry whose `filter` is a substring of the tensor's name applies. An entry without
  `filter` matches every tensor.

Values for a model or for a source of a slice override those for the slice, which override those at the top level. A
parameter *per tensor* has one value for all models. A parameter *per tensor and model* can be set for each model or for all.
Unknown keys, missing required parameters and values outside the allowed range are errors. [merging.md](merging.md) has
examples.

An operator with a *statistic* needs numbers measured on data, besides the weights: `glue calibrate` measures them, and
[merging.md](merging.md#statistics) shows how to pass them.
";

/// All operators of `registry`, one section each.
pub(crate) fn document(registry: &Registry) -> String {
    let mut text = format!("{GENERATED}{INTRODUCTION}\n| operator | models | base | |\n|---|---|---|---|\n");
    for def in registry.iter() {
        let _ = writeln!(
            text,
            "| [`{name}`](#{name}) | {} | {} | {} |",
            models_besides_base(def).replace(", besides the base", ""),
            base(def.base),
            cell(def.summary),
            name = def.name,
        );
    }
    for def in registry.iter() {
        text.push('\n');
        text += &section(def, registry);
    }
    text
}

/// One operator.
pub(crate) fn section(def: &OperatorDef, registry: &Registry) -> String {
    let mut text = format!(
        "## {}\n\n{}\n\n- Computes: {}\n- From: {}\n- Models: {}\n- Base: {}\n",
        def.name,
        def.summary,
        def.formula,
        def.reference,
        models_besides_base(def),
        base(def.base),
    );
    if let Some(spec) = &def.statistic {
        let _ = writeln!(text, "- Statistic: `{}`, {}. {}", spec.name, statistic(spec), spec.doc);
    }
    if !def.params.is_empty() {
        text += "\n| parameter | per | default | usual | allowed | |\n|---|---|---|---|---|---|\n";
    }
    for spec in def.params {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} |",
            spec.name,
            scope(spec.scope),
            default(spec),
            usual(spec).unwrap_or_default(),
            cell(&allowed(spec)),
            cell(spec.doc),
        );
    }
    if let Some(config) = example::config(def, registry) {
        let _ = write!(text, "\n```yaml\n{config}```\n");
    }
    text
}

#[cfg(test)]
mod tests {
    //! One section, whole, and what holds for all of them.
    use super::*;

    #[test]
    fn a_section_has_everything_declared() {
        let registry = Registry::builtin();
        let Ok(ties) = registry.get("ties") else {
            panic!("ties is built in");
        };
        let expected = "\
## ties

Keeps the largest elements of each task vector, elects a sign for each weight, and adds what agrees.

- Computes: di = wi · (the ⌊density·n⌋ largest |τi|), s = sign(Σ di); θ0 + λ Σ_{sign di = s} di, divided by Σ_{sign di = s} wi when normalize
- From: TIES-Merging, arXiv 2306.01708
- Models: 1 or more, besides the base
- Base: required

| parameter | per | default | usual | allowed | |
|---|---|---|---|---|---|
| `weight` | tensor and model | required | 0 to 1 | a finite number | Weight of the task vector. |
| `density` | tensor and model | 1 | 0.1 to 1 | a number above 0 and at most 1 | Fraction of the task vector that is kept. |
| `lambda` | tensor | 1 | 0.1 to 1.5 | a finite number | Factor on the merged task vector. |
| `normalize` | tensor | true |  | true or false | Divide by the sum of the weights that take part. |
| `rescale` | tensor | false |  | true or false | Restore the L1 norm that each task vector had before it was trimmed. |

```yaml
merge_method: ties
base_model: models/base
models:
  - model: models/math
    parameters:
      weight: 0.5
      density: 1  # the default
  - model: models/code
    parameters:
      weight: 0.5
      density: 1  # the default
parameters:
  lambda: 1  # the default
  normalize: true  # the default
  rescale: false  # the default
dtype: bfloat16
```
";
        assert_eq!(section(ties, &registry), expected);
    }

    #[test]
    fn every_operator_has_a_section_and_an_example() {
        let registry = Registry::builtin();
        let text = document(&registry);
        for def in registry.iter() {
            assert!(text.contains(&format!("\n## {}\n", def.name)), "{}", def.name);
            assert!(text.contains(&format!("](#{})", def.name)), "{}", def.name);
            let config = example::config(def, &registry).unwrap_or_default();
            let parsed = glue_recipe::Recipe::parse(&config, def.name, &registry);
            assert!(parsed.is_ok(), "{}:\n{config}", parsed.map_or_else(|e| e.to_string(), |_| String::new()));
        }
    }
}
