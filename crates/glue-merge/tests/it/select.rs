//! Selection of the largest, against a full sort.

use glue_merge::{
    Block, BoxError, Cut, Driver, ElementRng, Grain, Keys, Map, Operand, Plan, SPAN, Sink, Source, TensorSpec,
    select_largest,
};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// The inputs as they are, which must not be negative: a stream for each.
struct Values {
    streams: usize,
}

impl Keys for Values {
    fn streams(&self) -> usize {
        self.streams
    }

    fn keys(&self, stream: usize, block: &Block<'_>, keys: &mut [u32]) {
        for (key, x) in keys.iter_mut().zip(block.inputs[stream]) {
            *key = x.to_bits();
        }
    }
}

/// Does nothing: what is tested are the cuts.
struct Nothing;

impl Map for Nothing {
    fn merge(&self, _: &Block<'_>, _: &mut [f32]) {}

    fn grain(&self) -> Grain {
        Grain::Element
    }
}

struct Streams(Vec<Vec<f32>>);

impl Source for Streams {
    fn read<'a>(&'a self, from: Operand, range: Range<usize>, _: &'a mut [f32]) -> Result<&'a [f32], BoxError> {
        match from {
            Operand::Input(i) => Ok(&self.0[i][range]),
            _ => Err("there are inputs only".into()),
        }
    }
}

impl Sink for Streams {
    fn write(&self, _: usize, _: &[f32]) -> Result<(), BoxError> {
        Ok(())
    }
}

/// The cuts for each of `counts`, stream by stream.
fn cuts(streams: &Streams, counts: &[usize], block: usize) -> Vec<Vec<Cut>> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let (answer, wanted) = (found.clone(), counts.to_vec());
    let nonzero = Arc::new(Mutex::new(vec![0; streams.0.len()]));
    let told = nonzero.clone();
    let zeros: Vec<usize> = streams.0.iter().map(|x| x.iter().filter(|x| **x == 0.0).count()).collect();
    let elements = streams.0[0].len();
    let plan = select_largest(
        elements,
        Values { streams: streams.0.len() },
        move |stream, largest| {
            assert_eq!(largest.elements, elements);
            told.lock().unwrap()[stream] = largest.nonzero;
            wanted.clone()
        },
        move |cuts| {
            *answer.lock().unwrap() = cuts;
            Ok(Plan::map(Nothing))
        },
    );
    let tensor = TensorSpec {
        name: "values",
        shape: &[elements],
        has_base: false,
        n_inputs: streams.0.len(),
        layer: None,
        seed: 0,
        statistic: None,
    };
    Driver { block, ..Driver::default() }.run(plan, &tensor, streams, streams).unwrap();
    // What a stream is told last is exact.
    assert_eq!(*nonzero.lock().unwrap(), zeros.iter().map(|zeros| elements - zeros).collect::<Vec<_>>());
    Arc::try_unwrap(found).unwrap().into_inner().unwrap()
}

/// Checks that each cut keeps what comes first in a sort by value, then by index.
fn check(what: &str, streams: &Streams, counts: &[usize], block: usize) {
    let cuts = cuts(streams, counts, block);
    assert_eq!(cuts.len(), streams.0.len());
    for (stream, (values, cuts)) in streams.0.iter().zip(&cuts).enumerate() {
        assert_eq!(cuts.len(), counts.len());
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
        for (count, cut) in counts.iter().zip(cuts) {
            let mut expected = vec![false; values.len()];
            order.iter().take(*count).for_each(|j| expected[*j] = true);
            let kept: Vec<bool> = values.iter().enumerate().map(|(j, x)| cut.keeps(x.to_bits(), j)).collect();
            assert!(
                kept == expected,
                "{what}, stream {stream}: the {count} largest of {} in blocks of {block}: {cut:?}",
                values.len()
            );
            let by_runs = (0..values.len()).step_by(10).flat_map(|offset| {
                let block = &values[offset..(offset + 10).min(values.len())];
                let runs = cut.runs(offset, block.len());
                runs.into_iter().flat_map(|(run, least)| block[run].iter().map(move |x| x.to_bits() >= least))
            });
            assert!(by_runs.eq(expected), "{what}, stream {stream}: runs of {cut:?}");
        }
    }
}

/// From a random word.
type Value = fn(u32) -> f32;

fn random(stream: usize, n: usize, value: Value) -> Vec<f32> {
    let mut words = vec![0; n];
    ElementRng::new(11, "values", stream).fill(0, &mut words);
    words.into_iter().map(value).collect()
}

#[test]
fn agrees_with_a_sort() {
    let kinds: [(&str, Value); 7] = [
        ("few values", |w| (w % 5) as f32),
        ("bfloat16", |w| f32::from_bits((w % 0x7F80) << 16)),
        ("every float", |w| f32::from_bits(w % 0x7F80_0000)),
        ("subnormals", |w| f32::from_bits(w % 50)),
        ("mostly zeros", |w| if w % 10 == 0 { w as f32 } else { 0.0 }),
        ("all equal", |_| 0.75),
        ("zeros", |_| 0.0),
    ];
    for (what, value) in kinds {
        for n in [1, 2, 5, 100, 3000] {
            let streams = Streams((0..2).map(|s| random(s, n, value)).collect());
            for block in [7, 1 << 14] {
                check(what, &streams, &[0, 1, 2, n / 3, n - 1, n, n + 5], block);
            }
        }
    }
}

#[test]
fn ties_are_cut_where_the_count_is_reached_in_whatever_span() {
    // The shorter tensor goes by histograms alone, the longer one by a sample.
    for n in [SPAN + 1000, 2 * SPAN + 1000] {
        let streams = Streams(vec![random(0, n, |w| (w % 4) as f32), vec![1.0; n]]);
        check("few values", &streams, &[10, n / 8 + 1, n / 2, n - 993], 1000);
    }
}

#[test]
fn a_sample_brackets_the_threshold_at_any_share() {
    let n = 2 * SPAN + 1000;
    let streams = Streams(vec![random(0, n, |w| w as f32), random(1, n, |w| f32::from_bits(w % 0x7F80_0000))]);
    check("many values", &streams, &[0, 1, n / 1000, n / 3, n - n / 1000, n - 1, n], 1 << 13);
}

#[test]
fn a_sample_that_misleads_does_no_harm() {
    let n = 2 * SPAN + 1000;
    let mut values = random(0, n, |w| (w % 1000) as f32 + 1.0);
    // Whatever is looked at first lies in the first half of one of 256 equal parts: that half is 0 or very large.
    for (part, values) in values.chunks_mut(n / 256).enumerate() {
        let half = values.len() / 2;
        values[..half].fill(if part % 2 == 0 { 0.0 } else { 1e9 });
    }
    check("unlike the sample", &Streams(vec![values]), &[n / 3, n / 2, n - n / 3], 1 << 13);
}

#[test]
fn ties_by_hand() {
    let values = [3.0, 1.0, 3.0, 3.0, 2.0_f32];
    let streams = Streams(vec![values.to_vec()]);
    let kept = |cut: &Cut| (0..5).filter(|j| cut.keeps(values[*j].to_bits(), *j)).collect::<Vec<_>>();
    let cuts = cuts(&streams, &[0, 1, 2, 3, 4, 5, 6], 64).remove(0);
    let expected = [vec![], vec![0], vec![0, 2], vec![0, 2, 3], vec![0, 2, 3, 4]];
    for (cut, expected) in cuts.iter().zip(expected) {
        assert_eq!(kept(cut), expected);
    }
    assert_eq!((cuts[0], cuts[5], cuts[6]), (Cut::NONE, Cut::ALL, Cut::ALL));
    // The threshold is a value of the tensor, which order statistics rely on.
    assert!(cuts[1..4].iter().all(|cut| cut.bits == 3.0_f32.to_bits()));
    assert_eq!(cuts[4].bits, 2.0_f32.to_bits());
}
