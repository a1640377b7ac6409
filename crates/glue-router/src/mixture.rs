//! Training the gates of a mixture on disk: items, labels, states, gates, and how well they do.

use crate::lm_loss::LmTrained;
use crate::report::RoutingTable;
use crate::supervised::Training;
use crate::training::TrainSettings;
use glue_mixture::RouterKind;
use std::collections::BTreeMap;
use std::path::PathBuf;

mod trainer;

pub use trainer::Trainer;

/// Which expert is right for an item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Labels {
    /// The expert of its task or skill; see [`crate::labels::assign`].
    Skill,
    /// The expert with the lowest loss on its answer; see [`crate::labels::loss_targets`].
    Loss {
        /// 0 for the lowest alone.
        temperature: f64,
    },
}

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// The cross-entropy of the experts of labelled items, gate after gate: a gate is trained on what it reads when the
    /// gates before it are trained already.
    Supervised,
    /// The loss of answers through the frozen network, all gates at once, with this weight on the load balance.
    LmLoss {
        /// At least 0; [`crate::lm_loss::BALANCE`] is usual.
        balance: f64,
    },
}

/// Where validation items come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Held {
    /// This share of the items of each task.
    Share(f64),
    /// Another split.
    Split(String),
}

/// A training of the gates of a mixture.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TrainRequest {
    /// Directory of the mixture.
    pub mixture: PathBuf,
    /// The split with the items to train with. Default: `train`.
    pub split: String,
    /// Other splits for single tasks, by name; none by default.
    pub splits: BTreeMap<String, String>,
    /// Maximum number of items of each task; all by default.
    pub limit: Option<usize>,
    /// Default: a fifth.
    pub held: Held,
    /// Default: by skill.
    pub labels: Labels,
    /// Default: supervised.
    pub method: Method,
    /// Experts of tasks or skills, by name.
    pub given: BTreeMap<String, String>,
    /// Layers whose gates are trained; all by default. A mixture with one gate has no choice.
    pub layers: Option<Vec<usize>>,
    /// The form that trained gates have; as the mixture says by default.
    pub router: Option<RouterKind>,
    /// How gradients go. Its seed also parts the items.
    pub settings: TrainSettings,
    /// Where states are kept; nowhere by default.
    pub state: Option<PathBuf>,
    /// Whether a saved training is resumed.
    pub resume: bool,
}

impl TrainRequest {
    /// The usual training of a mixture.
    pub fn new(mixture: impl Into<PathBuf>) -> TrainRequest {
        TrainRequest {
            mixture: mixture.into(),
            split: "train".into(),
            splits: BTreeMap::new(),
            limit: None,
            held: Held::Share(0.2),
            labels: Labels::Skill,
            method: Method::Supervised,
            given: BTreeMap::new(),
            layers: None,
            router: None,
            settings: TrainSettings::SUPERVISED,
            state: None,
            resume: false,
        }
    }
}

/// What would be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainPlan {
    /// Names of the experts.
    pub experts: Vec<String>,
    /// The tensors' prefix of each gate that would be trained, with its number.
    pub gates: Vec<(usize, String)>,
    /// Numbers of items to train and to validate with.
    pub items: [usize; 2],
    /// Items of each task.
    pub tasks: BTreeMap<String, usize>,
}

/// One trained gate.
#[derive(Debug, Clone, PartialEq)]
pub struct GateReport {
    /// What the names of its tensors begin with.
    pub name: String,
    /// Share of training items that go to their expert.
    pub train_accuracy: f64,
    /// The same of validation items.
    pub validation_accuracy: f64,
    /// How it was trained.
    pub training: Training,
    /// Where validation items go, by task.
    pub tasks: RoutingTable,
    /// The same by skill.
    pub skills: RoutingTable,
}

/// What a training did.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainReport {
    /// A supervised one.
    Supervised {
        /// The expert of each task; empty for labels by loss.
        assigned: BTreeMap<String, usize>,
        /// One for each gate trained.
        gates: Vec<GateReport>,
    },
    /// One by the loss of answers.
    LmLoss {
        /// Losses.
        trained: LmTrained,
        /// For each gate the prefix of its tensors and the load of experts by task, on validation items.
        load: Vec<(String, RoutingTable)>,
    },
}
