//! What the suite finds, and what it lets pass.

use super::*;
use crate::contract::{Block, Granularity, Map, Operand, Plan, Reduction};
use crate::def::InputRule;
use crate::device::Kernel;
use crate::params::Interval;
use crate::statistic::StatisticShape;
use std::sync::atomic::{AtomicU32, Ordering};

#[test]
fn every_built_in_operator_conforms() {
    for def in operators::ALL {
        check_operator(def);
    }
}

#[test]
fn operators_without_an_order_conform_to_that_as_well() {
    use operators::*;
    for def in [
        &linear::DEF,
        &multislerp::DEF,
        &karcher::DEF,
        &task_arithmetic::DEF,
        &ties::DEF,
        &breadcrumbs::TIES,
        &sce::DEF,
        &model_stock::DEF,
        &ram::PLUS_TL,
        &consensus_ta::DEF,
        &pcb::DEF,
        &fisher::DEF,
        &aim::DEF,
    ] {
        Conformance::new(def).symmetric().check();
    }
}

/// Row by row, by kernel, at random, by selection: plans of every sort.
#[test]
fn wrappers_conform_around_plans_of_every_sort() {
    use operators::*;
    for inner in [&slerp::DEF, &nearswap::DEF, &della::TIES, &arcee_fusion::DEF, &model_stock::DEF] {
        Conformance::new(&lines::DEF).around(inner).check();
        Conformance::new(&aim::DEF).around(inner).check();
    }
}

/// An operator whose statistic is handed on by a wrapper that has none of its own.
#[test]
fn wrappers_conform_around_operators_with_statistics() {
    static DEF: OperatorDef = MEASURED;
    check_operator(&DEF);
    Conformance::new(&operators::lines::DEF).around(&DEF).check();
}

/// What a faulty map does to a block.
type Merge = fn(&Block<'_>, &mut [f32]);

struct Fault(Merge);

impl Map for Fault {
    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        self.0(block, out);
    }

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }
}

const SOUND: OperatorDef = OperatorDef {
    name: "sound",
    summary: "The first model.",
    formula: "θ1",
    reference: "none",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[],
    plan: |_, _| Ok(Plan::map(Fault(|block, out| out.copy_from_slice(block.inputs[0])))),
    ..OperatorDef::DEFAULT
};

/// The first model, drawn back to the base by what the statistic of its column says.
struct Measured;

impl Map for Measured {
    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let columns = block.statistics[0];
        for (j, out) in out.iter_mut().enumerate() {
            let (base, x) = (block.base()[j], block.inputs[0][j]);
            *out = base + (x - base) * columns[(block.offset + j) % columns.len()];
        }
    }

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }
}

const MEASURED: OperatorDef = OperatorDef {
    statistic: Some(StatisticSpec {
        name: "activation",
        doc: "Size of a column.",
        shape: StatisticShape::Columns,
        of: StatisticOf::Inputs,
    }),
    plan: |tensor, _| Ok(if tensor.statistic.is_some() { Plan::map(Measured) } else { Plan::Copy(Operand::Base) }),
    ..SOUND
};

fn check(def: &'static OperatorDef, promise: &str) {
    let broken = Conformance::new(def).broken();
    assert!(broken.iter().any(|b| b.starts_with(promise)), "`{promise}` is not among {broken:#?}");
}

#[test]
fn sound_operators_pass() {
    static DEF: OperatorDef = SOUND;
    assert_eq!(Conformance::new(&DEF).broken(), [""; 0]);
}

#[test]
fn incomplete_definitions_are_found() {
    const DOUBTFUL: ParamSpec = ParamSpec::number("t", "Position.", Interval::closed(0.0, 1.0), (0.0, 1.0));
    static NAME: OperatorDef = OperatorDef { name: "Un sound", ..SOUND };
    check(&NAME, "names are of lower-case letters");
    static NO_FORMULA: OperatorDef = OperatorDef { formula: " ", ..SOUND };
    check(&NO_FORMULA, "the definition is complete");
    static NOTHING: OperatorDef = OperatorDef::DEFAULT;
    check(&NOTHING, "names are of lower-case letters");
    check(&NOTHING, "the definition is complete");
    static NO_INPUTS: OperatorDef = OperatorDef { inputs: InputRule::at_least(0), ..SOUND };
    check(&NO_INPUTS, "some number of inputs is allowed");
    static TWICE: OperatorDef = OperatorDef { params: &[DOUBTFUL, DOUBTFUL], ..SOUND };
    check(&TWICE, "parameters have different names");
    static NO_DOC: OperatorDef = OperatorDef { params: &[ParamSpec { doc: "", ..DOUBTFUL }], ..SOUND };
    check(&NO_DOC, "every parameter is documented");
    static DEFAULT: OperatorDef = OperatorDef { params: &[DOUBTFUL.or(1.5)], ..SOUND };
    check(&DEFAULT, "defaults are among the allowed values");
    static USUAL: OperatorDef =
        OperatorDef { params: &[ParamSpec::number("t", "Position.", Interval::closed(0.0, 1.0), (0.0, 2.0))], ..SOUND };
    check(&USUAL, "usual values are among the allowed ones");
    static WORDS: OperatorDef =
        OperatorDef { params: &[ParamSpec::choice("m", "Mode.", &["a", "b"], [Some("c"), None], "a")], ..SOUND };
    check(&WORDS, "what true and false stand for is among the choices");
    const OF_BASE: Option<StatisticSpec> =
        Some(StatisticSpec { name: "Of base", doc: "", shape: StatisticShape::Same, of: StatisticOf::Base });
    static STATISTIC: OperatorDef = OperatorDef { statistic: OF_BASE, base: BaseRule::Unused, ..SOUND };
    check(&STATISTIC, "names are of lower-case letters");
    check(&STATISTIC, "the definition is complete");
    check(&STATISTIC, "a statistic of the base is wanted by an operator that has one");
    static WRAPS: OperatorDef = OperatorDef { params: &[ParamSpec::operator("operator", "Inner.")], ..SOUND };
    let around = Conformance::new(&WRAPS).around(&operators::linear::DEF).broken();
    assert!(around[0].starts_with("it can wrap the given operator"), "{around:?}");
}

#[test]
fn maps_that_see_the_cut_are_found() {
    static MEAN: OperatorDef = OperatorDef {
        plan: |_, _| {
            Ok(Plan::map(Fault(|block, out| {
                out.fill(block.inputs[0].iter().sum::<f32>() / block.len() as f32);
            })))
        },
        ..SOUND
    };
    check(&MEAN, "results do not depend on the length of blocks");
    check(&MEAN, "results do not depend on the order and the grouping of blocks");
    check(&MEAN, "where no input differs from the base, the base is returned");
}

#[test]
fn maps_that_leave_elements_out_are_found() {
    static LAZY: OperatorDef = OperatorDef {
        plan: |_, _| {
            Ok(Plan::map(Fault(|block, out| {
                for (out, x) in out.iter_mut().zip(block.inputs[0]).filter(|(_, x)| **x != 0.0) {
                    *out = *x;
                }
            })))
        },
        ..SOUND
    };
    check(&LAZY, "results do not depend on the order and the grouping of blocks");
}

/// Columns are those of the tensor, not of the block.
#[test]
fn statistics_that_are_taken_for_those_of_the_block_are_found() {
    static SHIFTED: OperatorDef = OperatorDef {
        plan: |tensor, _| {
            Ok(match tensor.statistic {
                None => Plan::Copy(Operand::Base),
                Some(_) => Plan::map(Fault(|block, out| {
                    let columns = block.statistics[0];
                    for (j, (out, x)) in out.iter_mut().zip(block.inputs[0]).enumerate() {
                        *out = x * columns[j % columns.len()];
                    }
                })),
            })
        },
        ..MEASURED
    };
    check(&SHIFTED, "results do not depend on the length of blocks");
}

#[test]
fn results_that_are_not_finite_are_found() {
    static RATIO: OperatorDef = OperatorDef {
        plan: |_, _| {
            Ok(Plan::map(Fault(|block, out| {
                for ((out, x), base) in out.iter_mut().zip(block.inputs[0]).zip(block.base()) {
                    *out = base * (x / base);
                }
            })))
        },
        ..SOUND
    };
    check(&RATIO, "finite operands give a finite result");
}

#[test]
fn plans_that_differ_from_time_to_time_are_found() {
    static PLANNED: AtomicU32 = AtomicU32::new(0);
    static MOODY: OperatorDef = OperatorDef {
        base: BaseRule::Unused,
        plan: |_, _| {
            let odd = PLANNED.fetch_add(1, Ordering::Relaxed) % 2 == 1;
            Ok(Plan::map(Constant(if odd { 1.0 } else { 2.0 })))
        },
        ..SOUND
    };
    check(&MOODY, "results do not depend on the order and the grouping of blocks");
}

/// Sums the first input in `f32` and fills the result with it.
struct Sum {
    order_free: bool,
}

struct Constant(f32);

impl Map for Constant {
    fn merge(&self, _: &Block<'_>, out: &mut [f32]) {
        out.fill(self.0);
    }

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }
}

impl Reduction for Sum {
    type Accumulator = f32;

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn order_free(&self) -> bool {
        self.order_free
    }

    fn accumulator(&self) -> f32 {
        0.0
    }

    fn observe(&self, sum: &mut f32, block: &Block<'_>) {
        // One by one where the order is promised to matter not; else by block, so that the cut shows.
        if self.order_free {
            block.inputs[0].iter().for_each(|x| *sum += 0.1 * x);
        } else {
            *sum += block.inputs[0].iter().map(|x| 0.1 * x).sum::<f32>();
        }
    }

    fn combine(&self, sum: &mut f32, later: f32) {
        *sum += later;
    }

    fn finish(self, sum: f32) -> Result<Plan, MergeError> {
        Ok(Plan::map(Constant(sum)))
    }
}

#[test]
fn reductions_whose_sums_see_the_cut_are_found() {
    static BY_BLOCK: OperatorDef =
        OperatorDef { base: BaseRule::Unused, plan: |_, _| Ok(Plan::reduce(Sum { order_free: false })), ..SOUND };
    check(&BY_BLOCK, "results do not depend on the length of blocks");
    static FREE: OperatorDef =
        OperatorDef { base: BaseRule::Unused, plan: |_, _| Ok(Plan::reduce(Sum { order_free: true })), ..SOUND };
    check(&FREE, "results do not depend on the order and the grouping of blocks");
}

/// Says that it doubles, and copies.
struct Liar;

impl Map for Liar {
    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        out.copy_from_slice(block.inputs[0]);
    }

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn kernel(&self) -> Option<Kernel<'_>> {
        Some(Kernel::Linear { base: 0.0, inputs: &[2.0] })
    }
}

#[test]
fn kernels_that_differ_from_their_map_are_found() {
    static LIES: OperatorDef = OperatorDef { inputs: InputRule::exactly(1), plan: |_, _| Ok(Plan::map(Liar)), ..SOUND };
    check(&LIES, "a map computes what its kernel does");
}

#[test]
fn refusals_of_what_is_allowed_are_found() {
    static PICKY: OperatorDef = OperatorDef {
        plan: |_, _| {
            let (operator, key) = ("sound", "t");
            Err(ParamError::Missing { operator, key, input: None }.into())
        },
        ..SOUND
    };
    check(&PICKY, "finite operands under allowed settings are merged");
}

#[test]
fn claims_of_symmetry_are_checked() {
    static FIRST: OperatorDef =
        OperatorDef { base: BaseRule::Unused, plan: |_, _| Ok(Plan::Copy(Operand::Input(0))), ..SOUND };
    assert_eq!(Conformance::new(&FIRST).broken(), [""; 0]);
    let broken = Conformance::new(&FIRST).symmetric().broken();
    assert!(broken[0].starts_with("the order of the inputs does not matter"), "{broken:?}");
}

#[test]
#[should_panic(expected = "operator `un` breaks the contract:\n- the definition is complete: no summary")]
fn the_message_lists_what_is_broken() {
    static UN: OperatorDef = OperatorDef { name: "un", summary: "", ..SOUND };
    check_operator(&UN);
}
