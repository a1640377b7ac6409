//! Activations of two models on the same text, for activation matching.
//!
//! The statistics of a site take memory in the square of its units. Those of a large model do not fit at once, so the
//! text is read several times: each pass collects as many statistics as fit.

use super::super::models;
use super::wrong;
use crate::failure::Failure;
use crate::units;
use glue_align::{ActivationSite, ActivationSource, AlignError, Correlation, SiteKind};
use glue_lm::{Model, Observer, Tree};
use glue_progress::{ErrorChain, Progress};
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Maximum number of tokens of a sequence; longer texts become several.
const LONGEST: usize = 512;
/// Approximate number of tokens per batch.
const BATCH: usize = 1024;

/// Runs both models over a text.
pub(super) struct Activations<'a> {
    reference: Model,
    model: Model,
    sequences: Vec<Vec<u32>>,
    sites: Vec<ActivationSite>,
    max_bytes: u64,
    progress: &'a dyn Progress,
    /// Statistics from the last pass that were not requested yet.
    gathered: Mutex<BTreeMap<String, Correlation>>,
}

impl<'a> Activations<'a> {
    /// Opens both models and tokenizes `texts`, files with one text per line.
    pub(super) fn open(
        reference: &Path,
        model: &Path,
        texts: &[PathBuf],
        sites: Vec<ActivationSite>,
        max_bytes: u64,
        progress: &'a dyn Progress,
    ) -> Result<Self, Failure> {
        let (first, second) = (models::open_with_tokenizer(reference)?, models::open_with_tokenizer(model)?);
        let longest = LONGEST.min(first.model.max_positions()).min(second.model.max_positions()).max(1);
        let mut sequences = Vec::new();
        for path in texts {
            let named = |error: &dyn std::error::Error| format!("{}: {}", path.display(), error.chain());
            let text = glue_tensor::files::read_named(path, glue_tensor::files::DATA_BYTES)
                .map_err(|error| wrong(named(&error)))?;
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let encode =
                    |tokenizer: &glue_lm::Tokenizer| tokenizer.encode(line, true).map_err(|error| wrong(named(&error)));
                let ids = encode(&first.tokenizer)?;
                if ids != encode(&second.tokenizer)? {
                    let message = format!(
                        "{}, line {}: the tokenizers of the two models split it differently, but activations can only \
                         be compared on the same tokens",
                        path.display(),
                        number + 1
                    );
                    return Err(wrong(message).hint(Some("--method weights needs no text")));
                }
                sequences.extend(ids.chunks(longest).map(<[u32]>::to_vec));
            }
        }
        if sequences.iter().map(Vec::len).sum::<usize>() < 2 {
            return Err(wrong("the text has fewer than two tokens".to_owned())
                .hint(Some("pass files with one text per line to --text")));
        }
        let gathered = Mutex::default();
        let (reference, model) = (first.model, second.model);
        Ok(Self { reference, model, sequences, sites, max_bytes, progress, gathered })
    }

    /// Number of tokens of the text.
    pub(super) fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// The statistics of `sites`, from one pass over the text.
    fn gather(&self, sites: &[ActivationSite]) -> Result<BTreeMap<String, Correlation>, AlignError> {
        let mut statistics: Vec<Correlation> = sites.iter().map(|site| Correlation::new(site.units)).collect();
        let mut done = 0;
        let mut rest = &self.sequences[..];
        while !rest.is_empty() {
            let mut tokens = 0;
            let count = rest.iter().take_while(|sequence| {
                let before = tokens;
                tokens += sequence.len();
                before < BATCH
            });
            let (batch, after) = rest.split_at(count.count());
            if self.progress.is_cancelled() {
                return Err(AlignError::Stopped);
            }
            self.progress.item(&format!(
                "activations: token {} of {}",
                units::count(done),
                units::count(self.tokens() as u64)
            ));
            let (reference, model) = (observe(&self.reference, batch, sites)?, observe(&self.model, batch, sites)?);
            for ((statistics, reference), model) in statistics.iter_mut().zip(&reference).zip(&model) {
                statistics.add(reference, model)?;
            }
            done += batch.iter().map(Vec::len).sum::<usize>() as u64;
            rest = after;
        }
        Ok(sites.iter().map(|site| site.name.clone()).zip(statistics).collect())
    }
}

impl ActivationSource for Activations<'_> {
    fn correlation(&self, site: &ActivationSite) -> Result<Cow<'_, Correlation>, AlignError> {
        let mut gathered = self.gathered.lock();
        if !gathered.contains_key(&site.name) {
            // Sites are requested in order: collect those that follow as well.
            let at = self.sites.iter().position(|other| other == site).unwrap_or(self.sites.len());
            let mut bytes = 0;
            let fits = |site: &&ActivationSite| {
                bytes += 8 * (site.units as u64).pow(2);
                bytes <= self.max_bytes
            };
            let count = self.sites[at..].iter().take_while(fits).count();
            let sites = if count > 0 { &self.sites[at..at + count] } else { std::slice::from_ref(site) };
            *gathered = self.gather(sites)?;
        }
        match gathered.remove(&site.name) {
            Some(found) if found.samples() > 0 => Ok(Cow::Owned(found)),
            _ => Err(AlignError::Activations {
                group: site.name.clone(),
                expected: "a layer that every token passes through".into(),
                found: "experts, each of which sees some tokens".into(),
            }),
        }
    }
}

/// What `model` has at each of `sites`, on the same sequences.
fn observe(model: &Model, batch: &[Vec<u32>], sites: &[ActivationSite]) -> Result<Vec<Vec<f32>>, AlignError> {
    let mut tree = Tree::new();
    for sequence in batch {
        tree.push(None, sequence);
    }
    let mut recorder = Recorder { sites, values: vec![Vec::new(); sites.len()] };
    model.observe(&mut tree, &mut recorder).map_err(|error| AlignError::Source { error: Box::new(error) })?;
    Ok(recorder.values)
}

struct Recorder<'a> {
    sites: &'a [ActivationSite],
    values: Vec<Vec<f32>>,
}

impl Recorder<'_> {
    fn record(&mut self, kind: SiteKind, layer: Option<usize>, values: &[f32]) {
        for (site, into) in self.sites.iter().zip(&mut self.values) {
            if site.kind == kind && site.layer == layer {
                into.extend_from_slice(values);
            }
        }
    }
}

impl Observer for Recorder<'_> {
    fn residual(&mut self, _: usize, values: &[f32]) {
        // All states are samples of the same units.
        self.record(SiteKind::Residual, None, values);
    }

    fn attention_output(&mut self, layer: usize, values: &[f32]) {
        self.record(SiteKind::AttentionOutput, Some(layer), values);
    }

    fn neurons(&mut self, layer: usize, values: &[f32]) {
        self.record(SiteKind::Neurons, Some(layer), values);
    }
}
