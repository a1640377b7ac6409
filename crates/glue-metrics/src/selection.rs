//! Which tensors of a checkpoint are compared.

use crate::error::MetricsError;
use glue_tensor::{Role, TensorInfo, TensorName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;

/// A kind of tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Class {
    /// Projection matrices of attention.
    Attention,
    /// Projection matrices of the MLP, including every expert's.
    Mlp,
    /// Token and position embeddings.
    Embedding,
    /// The projection to the output.
    Head,
    /// Weights and biases of normalisations.
    Norm,
    /// Floating-point tensors that belong to no other class: biases of projections, routers and the rest.
    Other,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 6] =
        [Class::Attention, Class::Mlp, Class::Embedding, Class::Head, Class::Norm, Class::Other];

    /// The name: `attention`, `mlp`, `embedding`, `head`, `norm` or `other`.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Attention => "attention",
            Class::Mlp => "mlp",
            Class::Embedding => "embedding",
            Class::Head => "head",
            Class::Norm => "norm",
            Class::Other => "other",
        }
    }

    /// The classes with this name: one, or every one for `all`.
    ///
    /// # Errors
    /// [`MetricsError::Unknown`], with the known names.
    pub fn parse(name: &str) -> Result<Vec<Class>, MetricsError> {
        if name == "all" {
            return Ok(Class::ALL.to_vec());
        }
        Class::ALL.into_iter().find(|class| class.name() == name).map(|class| vec![class]).ok_or_else(|| {
            let known = Class::ALL.map(Class::name).join(", ") + ", all";
            MetricsError::Unknown { what: "class of tensors", name: name.to_string(), known }
        })
    }

    /// The class of a tensor with the given role and shape. Attention, MLP, embedding and head mean matrices, or stacks
    /// of them (two or three axes): their biases are `Other`, and so are masks and buffers with four axes.
    pub fn of(role: Role, shape: &[usize]) -> Class {
        let matrix = matches!(shape.len(), 2 | 3);
        match role {
            Role::Norm => Class::Norm,
            Role::Attention if matrix => Class::Attention,
            Role::Mlp if matrix => Class::Mlp,
            Role::Embedding if matrix => Class::Embedding,
            Role::Head if matrix => Class::Head,
            _ => Class::Other,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which tensors to compare: those that meet all three conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Classes of tensors. Default: attention and MLP.
    pub classes: Vec<Class>,
    /// Layers, counted from 0, both ends included; tensors outside layers are left out then. Default: no condition.
    pub layers: Option<RangeInclusive<usize>>,
    /// Part of the tensor's name, or, when it has a `*` or `?`, a pattern for all of it: `*` stands for any characters,
    /// `?` for one. Default: no condition.
    pub name: Option<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Selection::classes(&[Class::Attention, Class::Mlp])
    }
}

impl Selection {
    /// All tensors of the given classes.
    pub fn classes(classes: &[Class]) -> Selection {
        Selection { classes: classes.to_vec(), layers: None, name: None }
    }

    /// All floating-point tensors.
    pub fn all() -> Selection {
        Selection::classes(&Class::ALL)
    }

    /// Whether a tensor of this class, layer and name is selected.
    pub fn selects(&self, class: Class, layer: Option<usize>, name: &str) -> bool {
        let in_layers = |layers: &RangeInclusive<usize>| {
            layer.is_some_and(|layer| *layers.start() <= layer && layer <= *layers.end())
        };
        self.classes.contains(&class)
            && self.layers.as_ref().is_none_or(in_layers)
            && self.name.as_deref().is_none_or(|pattern| matches_pattern(pattern, name))
    }

    /// As [`Selection::selects`], for a tensor of a checkpoint: its class, when it is selected and of floating-point
    /// type; whether it is a matrix of integers among the rest.
    pub(crate) fn select(&self, parsed: &TensorName<'_>, info: &TensorInfo) -> Selected {
        let class = Class::of(parsed.role, &info.shape);
        if !self.selects(class, parsed.layer, &info.name) {
            Selected::No
        } else if info.dtype.is_float() {
            Selected::Yes(class)
        } else if matches!(class, Class::Norm | Class::Other) {
            Selected::No
        } else {
            Selected::Integers
        }
    }
}

/// Whether a selection selects a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selected {
    No,
    Yes(Class),
    /// A weight matrix that is selected and holds integers.
    Integers,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes: Vec<&str> = self.classes.iter().map(|class| class.name()).collect();
        write!(f, "classes [{}]", classes.join(", "))?;
        if let Some(layers) = &self.layers {
            write!(f, ", layers {} to {}", layers.start(), layers.end())?;
        }
        if let Some(name) = &self.name {
            write!(f, ", names like `{name}`")?;
        }
        Ok(())
    }
}

fn matches_pattern(pattern: &str, name: &str) -> bool {
    if !pattern.contains(['*', '?']) {
        return name.contains(pattern);
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to continue after a mismatch: behind the last star, which matches one more character.
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some('?') => (p, n) = (p + 1, n + 1),
            Some(c) if *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match retry {
                Some((after, swallowed)) => {
                    retry = Some((after, swallowed + 1));
                    (p, n) = (after, swallowed + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        };
        check("q_proj", "model.layers.3.self_attn.q_proj.weight", true);
        check("q_proj", "model.layers.3.self_attn.k_proj.weight", false);
        check("*.q_proj.weight", "model.layers.3.self_attn.q_proj.weight", true);
        check("*.q_proj", "model.layers.3.self_attn.q_proj.weight", false);
        check("*layers.?.*", "model.layers.3.self_attn.q_proj.weight", true);
        check("*layers.?.*", "model.layers.13.self_attn.q_proj.weight", false);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-b-b-d", false);
        check("*", "", true);
        check("?", "", false);
    }

    #[test]
    fn class_layer_and_name_must_all_hold() {
        let name = "model.layers.3.mlp.up_proj.weight";
        let mut selection = Selection::default();
        assert!(selection.selects(Class::Mlp, Some(3), name));
        assert!(!selection.selects(Class::Norm, Some(3), name));
        selection.layers = Some(1..=3);
        assert!(selection.selects(Class::Mlp, Some(3), name));
        assert!(!selection.selects(Class::Mlp, Some(4), name));
        assert!(!selection.selects(Class::Mlp, None, name));
        selection.name = Some("gate".to_string());
        assert!(!selection.selects(Class::Mlp, Some(3), name));
    }

    #[test]
    fn biases_and_masks_are_other() {
        assert_eq!(Class::of(Role::Attention, &[64, 64]), Class::Attention);
        assert_eq!(Class::of(Role::Mlp, &[8, 64, 64]), Class::Mlp);
        assert_eq!(Class::of(Role::Attention, &[64]), Class::Other);
        assert_eq!(Class::of(Role::Attention, &[1, 1, 64, 64]), Class::Other);
        assert_eq!(Class::of(Role::Norm, &[64]), Class::Norm);
    }

    #[test]
    fn names_of_classes_read_back_and_unknown_ones_are_listed() {
        for class in Class::ALL {
            assert_eq!(Class::parse(class.name()).unwrap(), [class]);
        }
        assert_eq!(Class::parse("all").unwrap().len(), Class::ALL.len());
        let message = Class::parse("attn").unwrap_err().to_string();
        assert!(message.contains("attn") && message.contains("attention, mlp"), "{message}");
    }
}
