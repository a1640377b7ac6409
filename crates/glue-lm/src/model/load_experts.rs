//! Experts of a family's mixture: a tensor for each projection of each, or one for all of a layer.

use super::attention_block::Projection;
use super::experts::{Expert, Joint, Matrix, Product};
use super::feed_forward::{MixtureOfExperts, Mlp, SharedExpert};
use super::gate::{Router, Rule};
use super::load::{Loader, split};
use crate::architecture::Experts;
use crate::error::LmError;
use crate::ops::{MXFP4_BLOCK as BLOCK, Mxfp4};
use crate::tape::Stored;
use crate::weight::Weight;
use glue_mixture::Gate;
use std::sync::Arc;

impl Loader<'_> {
    /// The mixture in place of the MLP of layer `index`.
    pub(super) fn experts(&self, index: usize, experts: Experts) -> Result<MixtureOfExperts, LmError> {
        let (hidden, count) = (self.arch.hidden_size, experts.count);
        let names = self.arch.names;
        let mlp = format!("layers.{index}.{}", names.mlp);
        let stacked = format!("{mlp}.experts.gate_up_proj");
        let is_stacked = self.contains(&stacked);
        let (place, all) = if experts.clamp.is_some() && self.contains(&format!("{stacked}_blocks")) {
            (mlp.clone(), self.packed_experts(&mlp, experts)?)
        } else if is_stacked || names.single.is_none() {
            (mlp.clone(), self.stacked_experts(&mlp, experts)?)
        } else {
            let (place, parts) = names.single.unwrap_or((names.mlp, [""; 3]));
            let place = format!("layers.{index}.{place}");
            let one = |number| self.single_expert(&format!("{place}.experts.{number}."), parts, experts);
            let all = (0..count).map(one).collect::<Result<_, _>>()?;
            (place, all)
        };
        let name = format!("{place}.{}", names.router);
        let bias = match experts.gate_bias {
            true => Some(self.tensor(&format!("{name}.bias"), &[count])?.to_f32()),
            false => None,
        };
        let choice_bias = match experts.choice_bias {
            true => Some(self.tensor(&format!("{name}.e_score_correction_bias"), &[count])?.to_f32()),
            false => None,
        };
        let router = Router {
            number: self.next_gate(),
            layer: index,
            gate: Gate::Linear { weight: self.tensor(&format!("{name}.weight"), &[count, hidden])?, bias },
            name: format!("{}{name}.", self.prefix),
            experts: count,
            per_token: experts.per_token,
            rule: Arc::new(Rule {
                scoring: experts.scoring,
                normalised: experts.normalised,
                scale: experts.scale,
                groups: experts.groups,
                choice_bias,
            }),
            pool: None,
        };
        let shared = |inner| {
            let at = format!("{mlp}.{}", names.shared_expert);
            let gate = match experts.shared_gate {
                true => Some(self.projection(&format!("{at}_gate"), 1, hidden, false)?),
                false => None,
            };
            Ok::<_, LmError>(SharedExpert { gate, mlp: self.mlp(&format!("{at}."), inner)? })
        };
        let shared = experts.shared.map(shared).transpose()?;
        Ok(MixtureOfExperts { router, experts: all, stacked: is_stacked, shared, weighs_inputs: experts.weighs_inputs })
    }

    /// An expert with tensors of its own, whose names begin with `at`.
    fn single_expert(&self, at: &str, parts: [&str; 3], experts: Experts) -> Result<Expert, LmError> {
        let (hidden, inner) = (self.arch.hidden_size, experts.intermediate_size);
        let one = |part: &str, out, width| self.projection(&format!("{at}{part}"), out, width, experts.bias);
        let [gate, up, down] = parts;
        Ok(Expert::Plain(Box::new(Mlp {
            gate: one(gate, inner, hidden)?,
            up: one(up, inner, hidden)?,
            down: one(down, hidden, inner)?,
            activation: self.arch.activation,
        })))
    }

    /// The experts of a layer in one tensor for gate and up and one for down.
    fn stacked_experts(&self, mlp: &str, experts: Experts) -> Result<Vec<Expert>, LmError> {
        let (hidden, inner, count) = (self.arch.hidden_size, experts.intermediate_size, experts.count);
        let activation = self.arch.activation;
        let (gate_up, down) = (format!("{mlp}.experts.gate_up_proj"), format!("{mlp}.experts.down_proj"));
        if self.arch.names.transposed {
            let gate_up = self.tensor(&gate_up, &[count, hidden, 2 * inner])?;
            let down = self.tensor(&down, &[count, inner, hidden])?;
            let matrix = |all: &Weight, number| Matrix::Columns(all.index(number));
            return self.joint(mlp, experts, |number| (matrix(&gate_up, number), matrix(&down, number)));
        }
        let all_gate_up = self.tensor(&gate_up, &[count, 2 * inner, hidden])?;
        let all_down = self.tensor(&down, &[count, hidden, inner])?;
        // An expert's matrix counts its rows among those of all experts.
        let slice = |all: &Weight, name: &str, number: usize| {
            let weight = all.index(number);
            let first_row = number * weight.shape()[0];
            Projection { weight, bias: None, stored: Stored { first_row, ..self.stored(name) } }
        };
        let expert = |number| {
            let [gate, up] = split(&slice(&all_gate_up, &gate_up, number), [inner, inner]);
            let down = slice(&all_down, &down, number);
            Expert::Plain(Box::new(Mlp { gate, up, down, activation }))
        };
        Ok((0..count).map(expert).collect())
    }

    /// The same in MXFP4: blocks of 32 numbers, and their exponents.
    fn packed_experts(&self, mlp: &str, experts: Experts) -> Result<Vec<Expert>, LmError> {
        let (hidden, inner, count) = (self.arch.hidden_size, experts.intermediate_size, experts.count);
        for (key, width) in [("hidden_size", hidden), ("intermediate_size", inner)] {
            if !width.is_multiple_of(BLOCK) {
                return Err(LmError::Unsupported {
                    key: key.to_owned(),
                    value: width.to_string(),
                    reason: format!("the experts are stored in MXFP4, whose rows are cut into blocks of {BLOCK}"),
                });
            }
        }
        let read = |name: &str, rows: usize, width: usize| {
            let name = format!("{mlp}.experts.{name}");
            let blocks = self.packed(&format!("{name}_blocks"), &[count, rows, width / BLOCK, BLOCK / 2])?;
            let scales = self.packed(&format!("{name}_scales"), &[count, rows, width / BLOCK])?;
            let matrix = |number| Mxfp4::new(blocks.index(number), scales.index(number));
            let found = (0..count).map(matrix).collect::<Option<Vec<_>>>();
            found.ok_or_else(|| LmError::Shape {
                name: format!("{}{name}_blocks", self.prefix),
                expected: vec![count, rows, width / BLOCK, BLOCK / 2],
                found: blocks.shape().to_vec(),
            })
        };
        let (gate_up, down) = (read("gate_up_proj", 2 * inner, hidden)?, read("down_proj", hidden, inner)?);
        self.joint(mlp, experts, |number| (Matrix::Mxfp4(gate_up[number].clone()), Matrix::Mxfp4(down[number].clone())))
    }

    /// Experts of these matrices, with their biases.
    fn joint(
        &self,
        mlp: &str,
        experts: Experts,
        matrices: impl Fn(usize) -> (Matrix, Matrix),
    ) -> Result<Vec<Expert>, LmError> {
        let biases = |name: &str, width| match experts.bias {
            true => self.tensor(&format!("{mlp}.experts.{name}_bias"), &[experts.count, width]).map(Some),
            false => Ok(None),
        };
        let of_gate_up = biases("gate_up_proj", 2 * experts.intermediate_size)?;
        let of_down = biases("down_proj", self.arch.hidden_size)?;
        let bias = |all: &Option<Weight>, number| all.as_ref().map(|all| all.index(number).to_f32());
        let expert = |number| {
            let (gate_up, down) = matrices(number);
            Expert::Joint(Box::new(Joint {
                gate_up: Product { matrix: gate_up, bias: bias(&of_gate_up, number) },
                down: Product { matrix: down, bias: bias(&of_down, number) },
                alternating: self.arch.names.alternating,
                activation: self.arch.activation,
                clamp: experts.clamp,
            }))
        };
        Ok((0..experts.count).map(expert).collect())
    }
}
