//! The reference of the operators, from what they declare.

use super::{GENERATED, cell, example};
use crate::commands::ops::{allowed, base, default, models_besides_base, scope, statistic, usual};
use glue_merge::{OperatorDef, Registry};
use std::fmt::Write;

const INTRODUCTION: &str = "\
# Merge operators

What each `merge_method` computes, and the parameters it takes. `glue ops NAME` shows the same.

In formulas, θ0 is a tensor of the base, θi the same tensor of the i-th model, τi = θi − θ0 its task vector, wi its weight, n the
number of elements. Arithmetic is in 32-bit floats with sums in 64 bits, and rounded once to the type of the output.

A parameter is given as

- one value;
- a list of numbers: a gradient over the layers of the model, or of each slice. Layer l of L takes the linear interpolation at
  l/(L−1), the only layer of a slice the last number; tensors before the layers take the first number, those after them the last;
- a list of `{filter, value}`: the first whose `filter` is part of the tensor's name decides, one without `filter` is for
  the rest.

What is given for a model, or for a source of a slice, comes before what is given for the slice, and that before what is given at
the top. A parameter per tensor holds for all models; one per tensor and model can be given for each of them or for all. An
unknown key, a required one that is missing, and a value that is not allowed are errors. [merging.md](merging.md) has
examples.

An operator with a *statistic* wants numbers besides the weights, which `glue calibrate` measures on data:
[how they are given](merging.md#statistics).
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
