//! Surveys on a device: inner products, norms, energies and exact thresholds.

use crate::args::{BINS, Energies, Equals, GramArgs, Histogram, NormArgs, Sums, TARGETS, chunks};
use crate::backend::{Backend, Kernel};
use crate::operands::{Operands, THREADS, align, groups, sum_blocks};
use crate::pass::{Pass, Scratch, Stop};
use crate::selection::{Counted, Search, searches};
use crate::trims::Trim;
use glue_merge::{Cut, Gather, Gathered, Largest, Ranking, Trimming, Vectors};
use std::ops::Range;

impl<B: Backend> Pass<'_, B> {
    /// Gathers what a survey describes.
    pub(crate) fn survey(&mut self, gather: &Gather<'_>) -> Result<Gathered, Stop> {
        match *gather {
            Gather::Products { vectors, n } => self.known_products(vectors, n),
            Gather::Norms { trim, inputs } => self.norms(trim, inputs),
            Gather::Energies { cut, inputs } => self.energies(cut, inputs),
            Gather::Largest { ranking, streams: sequences, elements, counts } => {
                self.largest(ranking, sequences, elements, counts)
            }
            _ => Err(Stop::Unsupported),
        }
    }

    /// Adds the partial sums of a section to the sums.
    fn add_up(&mut self, from: Scratch, to: u64, blocks: u32, sums: usize) -> Result<(), Stop> {
        let args = Sums { from: from.at, to, blocks, sums: sums as u32 };
        let kernel = Kernel { file: "sums", name: "sum_partials", float: None, threads: THREADS };
        Ok(self.launch(kernel, [sums as u32, 1], &args)?)
    }

    /// Inner products, gathered unless they are known.
    fn known_products(&mut self, vectors: Vectors, n: usize) -> Result<Gathered, Stop> {
        let Some(products) = self.products.clone() else {
            return self.products(vectors, n);
        };
        let lock = || products.lock().unwrap_or_else(|e| e.into_inner());
        let known = lock().get(&vectors).cloned();
        if let Some(known) = known {
            return Ok(Gathered::Sums(known));
        }
        let gathered = self.products(vectors, n)?;
        if let Gathered::Sums(sums) = &gathered {
            lock().insert(vectors, sums.clone());
        }
        Ok(gathered)
    }

    fn products(&mut self, vectors: Vectors, n: usize) -> Result<Gathered, Stop> {
        let expected = self.n_inputs + usize::from(vectors == Vectors::BaseAndInputs);
        if n != expected || n == 0 || (vectors != Vectors::Inputs && !self.has_base) {
            return Err(Stop::Unsupported);
        }
        const PAIRS: usize = 8 * 9 / 2;
        let groups = groups(n);
        let longest = self.cutting.tiles.first().map_or(0, Range::len).min(self.cutting.section);
        let sums = self.scratch(groups.len() * PAIRS * 8, true)?;
        let partials = self.scratch(sum_blocks(longest) as usize * PAIRS * 8, false)?;
        let width = |group: &[usize]| if group.len() <= 2 { 2 } else { group.len().next_power_of_two() };
        for i in 0..self.cutting.tiles.len() {
            let operands = self.tile(i)?;
            let all = operands.tile(&self.engine.backend, &[]);
            for (g, group) in groups.iter().enumerate() {
                let mut t = all;
                let vector = |v: usize| match vectors {
                    Vectors::BaseAndInputs if v == 0 => all.base,
                    Vectors::BaseAndInputs => all.input[v - 1],
                    _ => all.input[v],
                };
                t.inputs = width(group) as u32;
                for k in 0..width(group) {
                    t.input[k] = vector(group.get(k).copied().unwrap_or(group[0]));
                }
                if vectors != Vectors::TaskVectors {
                    t.base = 0;
                }
                align(&mut t, operands.float, &[]);
                self.count(&operands, group.len() + usize::from(t.base != 0), 0);
                let name = match width(group) {
                    2 => "gram2",
                    4 => "gram4",
                    _ => "gram8",
                };
                let pairs = width(group) * (width(group) + 1) / 2;
                for section in self.cutting.sections(operands.len()) {
                    let blocks = sum_blocks(section.len());
                    let (begin, end) = (section.start as i64, section.end as i64);
                    let args = GramArgs { t, begin, end, partials: partials.at };
                    let kernel = Kernel { file: "gram", name, float: Some(operands.float), threads: THREADS };
                    self.launch(kernel, [blocks, 1], &args)?;
                    self.add_up(partials, sums.at + (g * PAIRS * 8) as u64, blocks, pairs)?;
                }
            }
        }
        let found = self.fetch_f64(&sums, groups.len() * PAIRS)?;
        let mut products = vec![0.0; n * (n + 1) / 2];
        for (group, found) in groups.iter().zip(found.chunks(PAIRS)) {
            for (a, i) in group.iter().enumerate() {
                for (b, j) in group[..=a].iter().enumerate() {
                    products[i * (i + 1) / 2 + j] = found[a * (a + 1) / 2 + b];
                }
            }
        }
        Ok(Gathered::Sums(products))
    }

    fn norms(&mut self, trim: Trimming<'_>, inputs: usize) -> Result<Gathered, Stop> {
        if inputs != self.n_inputs || !self.has_base {
            return Err(Stop::Unsupported);
        }
        let longest = self.cutting.tiles.first().map_or(0, Range::len).min(self.cutting.section);
        let sums = self.scratch(inputs * 2 * 8, true)?;
        let partials = self.scratch(sum_blocks(longest) as usize * inputs * 2 * 8, false)?;
        for i in 0..self.cutting.tiles.len() {
            let operands = self.tile(i)?;
            let trim = self.trim(trim, i)?;
            self.count(&operands, inputs + 1, 0);
            let t = operands.tile(&self.engine.backend, &[]);
            for section in self.cutting.sections(operands.len()) {
                let (begin, end) = (section.start as i64, section.end as i64);
                let blocks = sum_blocks(section.len());
                let grid = [blocks, inputs as u32];
                let partials_at = partials.at;
                let kernel = |file, name| Kernel { file, name, float: Some(operands.float), threads: THREADS };
                match trim {
                    Trim::Nothing(_) => return Err(Stop::Unsupported),
                    Trim::Between(trim) => {
                        let args = NormArgs { t, begin, end, partials: partials_at, trim };
                        self.launch(kernel("ties", "norms_between"), grid, &args)?;
                    }
                    Trim::Random(trim) => {
                        let args = NormArgs { t, begin, end, partials: partials_at, trim };
                        self.launch(kernel("dare", "norms_random"), grid, &args)?;
                    }
                    Trim::Marked(trim) => {
                        let args = NormArgs { t, begin, end, partials: partials_at, trim };
                        self.launch(kernel("della", "norms_marked"), grid, &args)?;
                    }
                }
                self.add_up(partials, sums.at, blocks, inputs * 2)?;
            }
        }
        Ok(Gathered::Sums(self.fetch_f64(&sums, inputs * 2)?))
    }

    fn energies(&mut self, cut: Cut, inputs: usize) -> Result<Gathered, Stop> {
        if inputs != self.n_inputs || !self.has_base {
            return Err(Stop::Unsupported);
        }
        let longest = self.cutting.tiles.first().map_or(0, Range::len).min(self.cutting.section);
        let sums = self.scratch(inputs * 8, true)?;
        let partials = self.scratch(sum_blocks(longest) as usize * inputs * 8, false)?;
        for i in 0..self.cutting.tiles.len() {
            let operands = self.tile(i)?;
            self.count(&operands, inputs + 1, 0);
            let t = operands.tile(&self.engine.backend, &[]);
            for section in self.cutting.sections(operands.len()) {
                let blocks = sum_blocks(section.len());
                let args = Energies {
                    t,
                    begin: section.start as i64,
                    end: section.end as i64,
                    partials: partials.at,
                    cut: cut.into(),
                    all: u32::from(cut == Cut::ALL),
                    unused: 0,
                };
                let (file, name) = ("sce", "sce_energies");
                let kernel = Kernel { file, name, float: Some(operands.float), threads: THREADS };
                self.launch(kernel, [blocks, inputs.div_ceil(8) as u32], &args)?;
                self.add_up(partials, sums.at, blocks, inputs)?;
            }
        }
        Ok(Gathered::Sums(self.fetch_f64(&sums, inputs)?))
    }

    fn largest(
        &mut self,
        ranking: Ranking,
        sequences: usize,
        elements: usize,
        counts: &(dyn Fn(usize, Largest) -> Vec<usize> + Send + Sync),
    ) -> Result<Gathered, Stop> {
        let expected = if ranking == Ranking::Magnitudes { self.n_inputs } else { 1 };
        if sequences != expected || elements != self.elements || !self.has_base {
            return Err(Stop::Unsupported);
        }
        let mut searches = searches(sequences, elements, counts);
        let open = |searches: &[Search]| searches.iter().filter(|s| s.is_open()).count();
        if open(&searches) > TARGETS {
            return Err(Stop::Unsupported);
        }
        let histograms = self.scratch(open(&searches) * (BINS + 2) * 4, false)?;
        if elements >= SAMPLED && open(&searches) > 0 {
            let found = self.histograms(ranking, &searches, &histograms, SAMPLE)?;
            for (search, found) in searches.iter_mut().filter(|s| s.is_open()).zip(found.chunks(BINS + 2)) {
                search.aim(&counted(found), elements, counts);
            }
        }
        while open(&searches) > 0 {
            let found = self.histograms(ranking, &searches, &histograms, 1)?;
            for (search, found) in searches.iter_mut().filter(|s| s.is_open()).zip(found.chunks(BINS + 2)) {
                search.narrow(&counted(found), elements, counts);
            }
        }
        let mut cuts = vec![Vec::new(); sequences];
        for mut search in searches {
            if let Some((bits, rank)) = search.tied() {
                search.settle(self.place_of_tie(ranking, search.sequence, bits, rank)?);
            }
            cuts[search.sequence].extend(search.cut());
        }
        Ok(Gathered::Cuts(cuts))
    }

    /// The histograms of the searches that are open, one after the other.
    fn histograms(
        &mut self,
        ranking: Ranking,
        searches: &[Search],
        counts: &Scratch,
        step: u32,
    ) -> Result<Vec<u32>, Stop> {
        const THREADS: u32 = 512;
        self.zero(counts)?;
        let (mut low, mut sequence, mut shift) = ([0; TARGETS], [0; TARGETS], [0; TARGETS]);
        let mut targets = 0;
        for (t, search) in searches.iter().filter(|s| s.is_open()).enumerate() {
            (low[t], sequence[t], shift[t]) = (search.low, search.sequence as u8, search.shift as u8);
            targets = t + 1;
        }
        for i in 0..self.cutting.tiles.len() {
            let operands = self.tile(i)?;
            let t = operands.tile(&self.engine.backend, &[]);
            let work = chunks(operands.len(), t.head).div_ceil((THREADS * step) as usize).max(1) as u32;
            // Each block brings all of its bins to memory in the end.
            let blocks = work.min(2 * self.engine.backend.multiprocessors());
            let sequences = if ranking == Ranking::Magnitudes {
                (0..self.n_inputs).filter(|i| sequence[..targets].contains(&(*i as u8))).count()
            } else {
                self.n_inputs
            };
            if step == 1 {
                self.count(&operands, sequences + 1, 0);
            }
            let args = Histogram { t, counts: counts.at, low, stream: sequence, shift, step, unused: 0 };
            let name = if ranking == Ranking::Magnitudes { "histogram_magnitude" } else { "histogram_variance" };
            let kernel = Kernel { file: "histogram", name, float: Some(operands.float), threads: THREADS };
            self.launch(kernel, [blocks, targets as u32], &args)?;
        }
        self.fetch_u32(counts, targets * (BINS + 2))
    }

    /// The index after the `rank`-th element whose key is `bits`.
    fn place_of_tie(&mut self, ranking: Ranking, sequence: usize, bits: u32, rank: usize) -> Result<usize, Stop> {
        let longest = self.cutting.tiles.first().map_or(0, Range::len);
        let counts = self.scratch(longest.div_ceil(SEGMENTS[0]).max(SEGMENTS[0] / SEGMENTS[1]) * 4, false)?;
        let mut rank = rank;
        for i in 0..self.cutting.tiles.len() {
            let operands = self.tile(i)?;
            let mut part = 0..operands.len();
            let mut found = true;
            for segment in SEGMENTS {
                if segment == SEGMENTS[0] {
                    let sequences = if ranking == Ranking::Magnitudes { 1 } else { self.n_inputs };
                    self.count(&operands, sequences + 1, 0);
                }
                let ties = self.ties(ranking, sequence, bits, &operands, &part, segment, &counts)?;
                match ties.iter().position(|n| advance(&mut rank, *n as usize)) {
                    Some(s) => {
                        let start = part.start + s * segment;
                        part = start..(start + segment).min(part.end);
                    }
                    None => {
                        found = false;
                        break;
                    }
                }
            }
            if found {
                return Ok(operands.range.start + part.end);
            }
        }
        Ok(self.elements)
    }

    #[allow(clippy::too_many_arguments)]
    fn ties(
        &mut self,
        ranking: Ranking,
        sequence: usize,
        bits: u32,
        operands: &Operands<B::Memory>,
        part: &Range<usize>,
        segment: usize,
        counts: &Scratch,
    ) -> Result<Vec<u32>, Stop> {
        let segments = part.len().div_ceil(segment);
        let args = Equals {
            t: operands.tile(&self.engine.backend, &[]),
            begin: part.start as i64,
            end: part.end as i64,
            segment: segment as i64,
            counts: counts.at,
            stream: sequence as u32,
            bits,
        };
        let name = if ranking == Ranking::Magnitudes { "equals_magnitude" } else { "equals_variance" };
        let kernel = Kernel { file: "histogram", name, float: Some(operands.float), threads: THREADS };
        self.launch(kernel, [segments as u32, 1], &args)?;
        self.fetch_u32(counts, segments)
    }
}

/// Subtracts `n` from the rank, unless the rank is among these `n`.
fn advance(rank: &mut usize, n: usize) -> bool {
    if *rank <= n {
        return true;
    }
    *rank -= n;
    false
}

fn counted(found: &[u32]) -> Counted<'_> {
    Counted { bins: &found[..BINS], above: found[BINS] as usize, zeros: found[BINS + 1] as usize }
}

/// Elements from which on a sample pays, and which part of them it is.
const SAMPLED: usize = 1 << 21;
const SAMPLE: u32 = 64;
/// Elements of the segments in which ties are counted, from the first look to the last.
const SEGMENTS: [usize; 3] = [1 << 16, 1 << 8, 1];
