//! Settings by name.

use super::{ConfigError, FrontierConfig, MixtureConfig, SelectConfig, ZooConfig};
use glue_yaml::{Node, Tree};
use serde::{Deserialize, Serialize};

/// Where the values of absent keys come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// This project: every default is documented with its key.
    #[default]
    Default,
    /// The published settings (arXiv 2410.05357); `docs/paper.md` lists them.
    Paper,
}

impl Preset {
    pub(super) fn is_default(&self) -> bool {
        *self == Preset::Default
    }
}

/// The published settings that differ from the defaults: weights of a linear merge, normalised in each group of layers,
/// searched from what a heuristic accepted; one merge for each cluster; the lower half of the layers dense.
const PAPER: &str = "\
select:
  strategies: [coefficient, {evolutionary: {evaluations: 500, from: best}}]
  space: {methods: [linear], layer_groups: 4, normalise: true}
  filter: false
  racing: off
frontier: {enabled: false}
stack: false
mixture: {candidates: merged, dense: [0.5]}
";

/// Whether a document has a value under these keys.
fn has(node: &Node, path: &[&str]) -> bool {
    let Some((key, rest)) = path.split_first() else { return true };
    let Tree::Map(entries) = &node.value else { return false };
    entries.iter().any(|(name, value)| name.value == *key && has(value, rest))
}

impl ZooConfig {
    /// Sets what the text leaves out to the published settings.
    pub(super) fn fill_from_paper(&mut self, text: &[Node]) -> Result<(), ConfigError> {
        #[derive(Deserialize)]
        struct Published {
            select: SelectConfig,
            frontier: FrontierConfig,
            stack: bool,
            mixture: MixtureConfig,
        }
        let paper: Published = glue_yaml::read(PAPER, "preset `paper`")?;
        let absent = |path: &[&str]| !text.iter().any(|document| has(document, path));
        if absent(&["select", "strategies"]) {
            self.select.strategies = paper.select.strategies;
        }
        if absent(&["select", "space"]) {
            self.select.space = paper.select.space;
        }
        if absent(&["select", "filter"]) {
            self.select.filter = paper.select.filter;
        }
        if absent(&["select", "racing"]) {
            self.select.racing = paper.select.racing;
        }
        if absent(&["frontier", "enabled"]) {
            self.frontier.enabled = paper.frontier.enabled;
        }
        if absent(&["stack"]) {
            self.stack = paper.stack;
        }
        if absent(&["mixture", "candidates"]) {
            self.mixture.candidates = paper.mixture.candidates;
        }
        if absent(&["mixture", "dense"]) {
            self.mixture.dense = paper.mixture.dense;
        }
        Ok(())
    }
}
