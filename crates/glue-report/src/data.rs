//! The data of a report: filled by whoever ran the stages, written to `report.json` and read back from it.
//!
//! A stage that did not run is `None` or empty, and the report leaves it out. Nothing here depends on when, where or
//! how fast a run went: at its end, a run that was interrupted and resumed gives the same bytes as one that was not.
//! Times, memory and disk are in [`Cost`], a separate document.
//!
//! Models, tasks, clusters and strategies are referred to by their names, which are unique among their kind.

mod cost;
mod frontier;
mod mixture;
mod scores;
mod selection;
mod zoo;

pub use cost::{Cost, StageCost, StrategyCost, Throughput};
pub use frontier::{Flip, Flips, Frontier, FrontierExpert, FrontierPoint, RuleRow, SizeRow};
pub use mixture::{Confusion, Expert, Final, FinalKind, LeftOut, Load, Mixture, MixtureStep, Router};
pub(crate) use scores::mean;
pub use scores::{Role, Score, ScoreRow, ScoreTable, SplitSize, Task, TaskScore, Test, TestRow};
pub use selection::{
    CandidateKind, CurvePoint, Decision, ExpertCandidate, Harmful, Selection, StrategyResult, WeightRow, Weights,
};
pub use zoo::{Cluster, Clustering, Dendrogram, Join, Model, Pair, Scale, Similarity, Verdict};

use serde::{Deserialize, Serialize};

/// Everything in a report except times, memory and disk.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// What was run, and how to run it again.
    pub run: Run,
    /// The tasks, in the order in which they are shown. An average is the plain mean over all of them.
    pub tasks: Vec<Task>,
    /// The zoo, in the order of its configuration.
    pub models: Vec<Model>,
    /// What can be done with each pair of models; empty if that was not checked.
    pub compatibility: Vec<Pair>,
    /// The similarity of the models.
    pub similarity: Option<Similarity>,
    /// The models joined by similarity.
    pub dendrogram: Option<Dendrogram>,
    /// The clusters.
    pub clustering: Option<Clustering>,
    /// Scores of single models on the splits that decisions were made by, such as `proxy` and `validation`. Not the
    /// test split: that is in [`Report::test`].
    pub individual: Vec<ScoreTable>,
    /// Selective merging, for each cluster in which it ran.
    pub selections: Vec<Selection>,
    /// The size–score frontier.
    pub frontier: Option<Frontier>,
    /// Every application of the decision rule, in order.
    #[serde(default)]
    pub decisions: Vec<RuleRow>,
    /// What can be used, by size: the table that a reader looks at first.
    #[serde(default)]
    pub sizes: Vec<SizeRow>,
    /// Items that the final model answers differently from the best single model, task by task.
    #[serde(default)]
    pub flips: Vec<Flips>,
    /// Candidates for experts: merged clusters, single models, stacked layers.
    pub candidates: Vec<ExpertCandidate>,
    /// The mixture, if one was built; `None` too when none helped.
    pub mixture: Option<Mixture>,
    /// The trained router.
    pub router: Option<Router>,
    /// The scores on the test split.
    pub test: Option<Test>,
    /// The final model.
    pub outcome: Option<Final>,
    /// The limits the run was given.
    pub limits: Limits,
    /// What a reader should know before trusting the rest: full sentences.
    pub warnings: Vec<String>,
}

/// What was run, and how to run it again. Nothing in it may depend on when or how often the run was started, except
/// [`unfinished`](Run::unfinished) and [`activity`](Run::activity), which the last report of a run does not have.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Run {
    /// Heading of the report, such as the name of the zoo.
    pub title: String,
    /// Where the configuration was read from, as the user named it.
    pub config_path: String,
    /// The text of the configuration.
    pub config: String,
    /// The seed of all randomness.
    pub seed: u64,
    /// Programs that took part, the first being the one that ran it.
    pub versions: Vec<Version>,
    /// The commands that reproduce each stage, in order.
    pub commands: Vec<Command>,
    /// Inputs: models, tasks, the configuration.
    pub inputs: Vec<Artifact>,
    /// Outputs.
    pub outputs: Vec<Artifact>,
    /// The last stage that is complete, in a report that is written while the run continues or after it was
    /// interrupted; empty if there is none. `None` for a finished run.
    #[serde(default)]
    pub unfinished: Option<String>,
    /// What the run was doing when an unfinished report was written, if that was within a stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
}

/// What a run is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Activity {
    /// The stage.
    pub stage: String,
    /// The phase of the stage, such as `searching`; may be empty.
    pub phase: String,
    /// What the phase counts, in the plural.
    pub unit: String,
    /// How many of them are done.
    pub done: u64,
    /// How many there are at most, if that is known.
    pub total: Option<u64>,
    /// The last messages of the stage, the newest first.
    pub messages: Vec<String>,
}

/// A program and its version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Version {
    /// Name of the program.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A command line, ready to be pasted into a POSIX shell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Command {
    /// What it is for, such as the name of a stage.
    pub title: String,
    /// The command, quoted as a shell needs it. May have several lines.
    pub command: String,
}

/// A file or directory and its contents' hash.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Artifact {
    /// What it is, such as `model a-math`.
    pub name: String,
    /// Where it was, relative to the working directory or to the report.
    pub path: String,
    /// Hash of the contents, with the name of the algorithm before a colon where it is not plain: `xxh3:0f…`.
    pub hash: String,
    /// Size in bytes.
    pub bytes: Option<u64>,
}

/// The limits of a run; `None` without a limit. [`Cost`] and [`Mixture`] have what was used.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Time, in seconds.
    pub seconds: Option<f64>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Parameters of all experts together.
    pub expert_parameters: Option<u64>,
    /// Evaluations of merged candidates, all clusters together.
    pub evaluations: Option<u64>,
}
