//! Selection of the largest, against a full sort.

use glue_merge::random::ElementRng;
use glue_merge::select::{Keys, Threshold, select_largest};
use glue_merge::{Block, Driver, Granularity, Map, Plan, SliceSource, TensorSpec, VecSink};
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

/// Does nothing: what is tested are the thresholds.
struct Nothing;

impl Map for Nothing {
    fn merge(&self, _: &Block<'_>, _: &mut [f32]) {}

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }
}

type Streams = [Vec<f32>];

/// The thresholds for each of `counts`, stream by stream.
fn thresholds(streams: &Streams, counts: &[usize], block: usize) -> Vec<Vec<Threshold>> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let (answer, expected) = (found.clone(), counts.to_vec());
    let nonzero = Arc::new(Mutex::new(vec![0; streams.len()]));
    let last = nonzero.clone();
    let zeros: Vec<usize> = streams.iter().map(|x| x.iter().filter(|x| **x == 0.0).count()).collect();
    let elements = streams[0].len();
    let plan = select_largest(
        elements,
        Values { streams: streams.len() },
        move |stream, largest| {
            assert_eq!(largest.elements, elements);
            last.lock().unwrap()[stream] = largest.nonzero;
            expected.clone()
        },
        move |thresholds| {
            *answer.lock().unwrap() = thresholds;
            Ok(Plan::map(Nothing))
        },
    );
    let shape = [elements];
    let tensor = TensorSpec::new("values", &shape).with_operands(false, streams.len());
    let (source, sink) = (SliceSource::new(streams), VecSink::new(elements));
    Driver::default().block(block).run(plan, &tensor, &source, &sink).unwrap();
    // The last counts of a stream are exact.
    assert_eq!(*nonzero.lock().unwrap(), zeros.iter().map(|zeros| elements - zeros).collect::<Vec<_>>());
    Arc::try_unwrap(found).unwrap().into_inner().unwrap()
}

/// Checks that each threshold keeps what comes first in a sort by value, then by index.
fn check(what: &str, streams: &Streams, counts: &[usize], block: usize) {
    let thresholds = thresholds(streams, counts, block);
    assert_eq!(thresholds.len(), streams.len());
    for (stream, (values, thresholds)) in streams.iter().zip(&thresholds).enumerate() {
        assert_eq!(thresholds.len(), counts.len());
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
        for (count, threshold) in counts.iter().zip(thresholds) {
            let mut expected = vec![false; values.len()];
            order.iter().take(*count).for_each(|j| expected[*j] = true);
            let kept: Vec<bool> = values.iter().enumerate().map(|(j, x)| threshold.keeps(x.to_bits(), j)).collect();
            assert!(
                kept == expected,
                "{what}, stream {stream}: the {count} largest of {} in blocks of {block}: {threshold:?}",
                values.len()
            );
            let by_ranges = (0..values.len()).step_by(10).flat_map(|offset| {
                let block = &values[offset..(offset + 10).min(values.len())];
                let ranges = threshold.ranges(offset, block.len());
                ranges.into_iter().flat_map(|(range, least)| block[range].iter().map(move |x| x.to_bits() >= least))
            });
            assert!(by_ranges.eq(expected), "{what}, stream {stream}: ranges of {threshold:?}");
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
            let streams: Vec<_> = (0..2).map(|s| random(s, n, value)).collect();
            for block in [7, 1 << 14] {
                check(what, &streams, &[0, 1, 2, n / 3, n - 1, n, n + 5], block);
            }
        }
    }
}

#[test]
fn ties_are_cut_where_the_count_is_reached_in_whatever_span() {
    // The shorter tensor goes by histograms alone, the longer one by a sample.
    for n in [Driver::SPAN + 1000, 2 * Driver::SPAN + 1000] {
        let streams = [random(0, n, |w| (w % 4) as f32), vec![1.0; n]];
        check("few values", &streams, &[10, n / 8 + 1, n / 2, n - 993], 1000);
    }
}

#[test]
fn a_sample_brackets_the_threshold_at_any_share() {
    let n = 2 * Driver::SPAN + 1000;
    let streams = [random(0, n, |w| w as f32), random(1, n, |w| f32::from_bits(w % 0x7F80_0000))];
    check("many values", &streams, &[0, 1, n / 1000, n / 3, n - n / 1000, n - 1, n], 1 << 13);
}

/// In low precision a tenth of the elements may equal the threshold, between others that hardly any two share.
#[test]
fn common_values_are_cut_among_distinct_ones() {
    let n = 2 * Driver::SPAN + 1000;
    let value: Value = |w| match w % 10 {
        0 => 0.5,
        1 => 0.500_05,
        2 => 0.500_1,
        _ => (w >> 8) as f32 / 16_777_216.0,
    };
    let streams = [random(0, n, value)];
    let over = |x: f32| streams[0].iter().filter(|y| **y >= x).count();
    let (first, second, third) = (over(0.500_1), over(0.500_05), over(0.5));
    let counts = [first - 1, first, first + 10, second - 1, second, second + 1, third - 10, third, third + 1];
    for block in [1000, 1 << 13] {
        check("common values", &streams, &counts, block);
    }
}

#[test]
fn a_sample_that_misleads_does_no_harm() {
    let n = 2 * Driver::SPAN + 1000;
    let mut values = random(0, n, |w| (w % 1000) as f32 + 1.0);
    // Whatever is looked at first lies in the first half of one of 256 equal parts: that half is 0 or very large.
    for (part, values) in values.chunks_mut(n / 256).enumerate() {
        let half = values.len() / 2;
        values[..half].fill(if part % 2 == 0 { 0.0 } else { 1e9 });
    }
    check("unlike the sample", &[values], &[n / 3, n / 2, n - n / 3], 1 << 13);
}

#[test]
fn ties_by_hand() {
    let values = [3.0, 1.0, 3.0, 3.0, 2.0_f32];
    let streams = [values.to_vec()];
    let kept = |threshold: &Threshold| (0..5).filter(|j| threshold.keeps(values[*j].to_bits(), *j)).collect::<Vec<_>>();
    let thresholds = thresholds(&streams, &[0, 1, 2, 3, 4, 5, 6], 64).remove(0);
    let expected = [vec![], vec![0], vec![0, 2], vec![0, 2, 3], vec![0, 2, 3, 4]];
    for (threshold, expected) in thresholds.iter().zip(expected) {
        assert_eq!(kept(threshold), expected);
    }
    assert_eq!((thresholds[0], thresholds[5], thresholds[6]), (Threshold::NONE, Threshold::ALL, Threshold::ALL));
    // The threshold is a value of the tensor, which order statistics rely on.
    assert!(thresholds[1..4].iter().all(|threshold| threshold.bits == 3.0_f32.to_bits()));
    assert_eq!(thresholds[4].bits, 2.0_f32.to_bits());
}
