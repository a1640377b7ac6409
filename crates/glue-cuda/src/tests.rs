//! The engine on the emulated device: every kernel against the operators of the CPU, from the same source that devices
//! run.

use crate::check::data::{Captured, Data, Named};
use crate::check::{Case, FLOATS, Threads, cases, check, measure};
use crate::emulated::Emulated;
use crate::engine::{Engine, EngineOptions};
use glue_merge::device::{Executor, Float};
use glue_merge::{Driver, Operand, Source};

const ONE: Threads = Threads(1);

fn engine(memory: usize, options: EngineOptions) -> Option<Engine<Emulated>> {
    Some(Engine::new(Emulated::new(memory)?, options))
}

fn case(name: &str) -> &'static Case {
    cases().iter().find(|c| c.name == name).unwrap()
}

fn passes(engine: &mut Engine<Emulated>, case: &Case, floats: [Float; 2], len: usize, shift: [usize; 2]) {
    let checked = check(engine, case, floats, len, shift, ONE).unwrap();
    assert!(checked.passes(case, floats[1]), "{} {floats:?} of {len}, moved by {shift:?}: {checked:?}", case.name);
}

#[test]
fn every_case_in_every_type() {
    let Some(mut engine) = engine(1 << 28, EngineOptions::default()) else { return };
    for case in cases() {
        for float in FLOATS {
            for len in [1, 31, 4097] {
                passes(&mut engine, case, [float, float], len, [0, 0]);
            }
        }
    }
}

#[test]
fn operands_and_results_at_any_address() {
    let Some(mut engine) = engine(1 << 28, EngineOptions::default()) else { return };
    for case in cases() {
        // Three elements off a boundary on both sides; on both sides differently, so that no chunk is whole.
        for shift in [[3, 3], [3, 4]] {
            passes(&mut engine, case, [Float::Bf16, Float::Bf16], 517, shift);
            passes(&mut engine, case, [Float::F32, Float::F32], 517, shift);
        }
    }
}

#[test]
fn results_of_another_type() {
    let Some(mut engine) = engine(1 << 28, EngineOptions::default()) else { return };
    for name in ["linear", "ties", "dare, inverse"] {
        for from in FLOATS {
            for to in FLOATS {
                passes(&mut engine, case(name), [from, to], 999, [0, 0]);
            }
        }
    }
}

/// Memory beyond what sums and histograms may take.
fn room(bytes: usize) -> usize {
    (8 << 20) + bytes
}

#[test]
fn tensors_that_do_not_fit_are_merged_in_tiles() {
    // Sections of 512 elements, tiles of one or a few of them.
    let options = EngineOptions { memory: Some(room(30_000)), section: 512, ..EngineOptions::default() };
    let Some(mut engine) = engine(1 << 28, options) else { return };
    for name in ["linear", "ties", "ties, rescaled", "dare", "slerp", "karcher of 9", "sce"] {
        passes(&mut engine, case(name), [Float::F32, Float::F32], 5001, [0, 0]);
    }
    // Whole rows: 4096 elements of four operands, and the result.
    engine.options.memory = Some(room(200_000));
    for name in ["della", "model_stock by rows"] {
        passes(&mut engine, case(name), [Float::Bf16, Float::Bf16], 5 * 4097, [0, 0]);
    }
}

#[test]
fn sums_do_not_depend_on_how_much_memory_there_is() {
    let case = case("slerp");
    let merged = |memory: Option<usize>| {
        let options = EngineOptions { memory, section: 512, smallest: 0, ..EngineOptions::default() };
        let engine = engine(1 << 28, options)?;
        let (shape, data) = ([7001], Data::new(Float::F32, 7001, 1, &ONE));
        let (tensor, sink) = (case.tensor(&shape), Captured::new(Float::F32, 7001));
        assert!(engine.advance(case.plan(&tensor).unwrap(), &tensor, &data, &sink).unwrap().is_none());
        Some(sink.into_bytes())
    };
    assert_eq!(merged(None), merged(Some(room(20_000))));
}

#[test]
fn large_tensors_are_sampled() {
    let Some(mut engine) = engine(1 << 32, EngineOptions::default()) else { return };
    passes(&mut engine, case("ties"), [Float::Bf16, Float::Bf16], (1 << 21) + 5, [0, 0]);
}

#[test]
fn memory_that_does_not_suffice_is_an_error_or_left_to_the_host() {
    let options = EngineOptions { smallest: 0, memory: Some(room(100)), ..EngineOptions::default() };
    let Some(mut engine) = engine(1 << 28, options) else { return };
    let case = case("linear");
    let (shape, data) = ([4000], Data::new(Float::F32, 4000, 3, &ONE));
    let (tensor, sink) = (case.tensor(&shape), Captured::new(Float::F32, 4000));
    let error = engine.advance(case.plan(&tensor).unwrap(), &tensor, &data, &sink).unwrap_err();
    assert!(error.to_string().starts_with("out of device memory: "), "{error}");
    engine.options.fall_back = true;
    assert!(engine.advance(case.plan(&tensor).unwrap(), &tensor, &data, &sink).unwrap().is_some());
    // A device that is smaller than it was told.
    engine =
        Engine::new(Emulated::new(20_000).unwrap(), EngineOptions { memory: Some(room(1 << 20)), ..engine.options });
    assert!(engine.advance(case.plan(&tensor).unwrap(), &tensor, &data, &sink).unwrap().is_some());
    engine.options.fall_back = false;
    assert!(engine.advance(case.plan(&tensor).unwrap(), &tensor, &data, &sink).is_err());
}

#[test]
fn what_is_not_finite_small_or_unknown_is_left_to_the_host() {
    let options = EngineOptions { smallest: 100, ..EngineOptions::default() };
    let Some(engine) = engine(1 << 28, options) else { return };
    let left = |case: &Case, data: &Data, len: usize| {
        let shape = [len];
        let (tensor, sink) = (case.tensor(&shape), Captured::new(Float::F32, len));
        engine.advance(case.plan(&tensor).unwrap(), &tensor, data, &sink).unwrap().is_some()
    };
    let mut data = Data::new(Float::F32, 200, 3, &ONE);
    assert!(!left(case("linear"), &data, 200));
    for bad in [f32::NAN, f32::INFINITY] {
        data.inputs[2][4 * 199..].copy_from_slice(&bad.to_le_bytes());
        assert!(left(case("linear"), &data, 200) && left(case("ties"), &data, 200));
    }
    assert!(left(case("linear"), &Data::new(Float::F32, 99, 3, &ONE), 99));
    let registry = glue_merge::Registry::builtin();
    let (operator, shape) = (registry.operator("nearswap", None).unwrap(), [200]);
    let params = operator.params(1).set("t", 0.1).check().unwrap();
    let tensor = case("slerp").tensor(&shape);
    let plan = operator.plan(&tensor, &params).unwrap();
    let sink = Captured::new(Float::F32, 200);
    assert!(engine.advance(plan, &tensor, &data, &sink).unwrap().is_some());
}

/// Operands with a type each, the first `stored` of them as they are stored; of the others only widened values are
/// known.
struct Mixed {
    data: [Data; 3],
    stored: usize,
}

impl Source for Mixed {
    fn read<'a>(
        &'a self,
        operand: Operand,
        range: std::ops::Range<usize>,
        buffer: &'a mut [f32],
    ) -> Result<&'a [f32], glue_merge::BoxError> {
        let Operand::Input(i) = operand else { return Err("no base".into()) };
        self.data[i].read(operand, range, buffer)
    }

    fn stored(&self, operand: Operand) -> Option<glue_merge::device::Stored<'_>> {
        match operand {
            Operand::Input(i) if i < self.stored => self.data[i].stored(operand),
            _ => None,
        }
    }
}

#[test]
fn operands_of_several_types_are_widened_on_the_device() {
    let options = EngineOptions { smallest: 0, ..EngineOptions::default() };
    let Some(engine) = engine(1 << 28, options) else { return };
    let (case, shape) = (case("linear"), [777]);
    let source = Mixed { data: FLOATS.map(|float| Data::new(float, 777, 3, &ONE)), stored: 2 };
    let (tensor, found) = (case.tensor(&shape), Captured::new(Float::F32, 777));
    assert!(engine.advance(case.plan(&tensor).unwrap(), &tensor, &source, &found).unwrap().is_none());
    let expected = Captured::new(Float::F32, 777);
    Driver::default().run(case.plan(&tensor).unwrap(), &tensor, &source, &expected).unwrap();
    assert_eq!(found.into_bytes(), expected.into_bytes());
}

#[test]
fn operands_that_are_converted_in_tiles_stay_within_the_memory() {
    // Three operands as f32, a result, 2 bytes of masks, and one operand as it is stored: 20 bytes for each element.
    let options = EngineOptions { smallest: 0, memory: Some(room(30_000)), section: 512, ..EngineOptions::default() };
    let Some(engine) = engine(1 << 28, options) else { return };
    let (case, shape) = (case("linear"), [5001]);
    let source = Mixed { data: FLOATS.map(|float| Data::new(float, 5001, 3, &ONE)), stored: 3 };
    let (tensor, found) = (case.tensor(&shape), Captured::new(Float::F32, 5001));
    assert!(engine.advance(case.plan(&tensor).unwrap(), &tensor, &source, &found).unwrap().is_none());
    let expected = Captured::new(Float::F32, 5001);
    Driver::default().run(case.plan(&tensor).unwrap(), &tensor, &source, &expected).unwrap();
    assert_eq!(found.into_bytes(), expected.into_bytes());
    // Tiles of 1024 elements, and a count.
    assert!(engine.backend.peak() <= 20 * 1024 + 256, "{} bytes", engine.backend.peak());
}

#[test]
fn every_case_is_measured_with_operands_that_are_uploaded_once() {
    let options = EngineOptions::default().with_memory(usize::MAX).keeping(usize::MAX);
    let Some(engine) = engine(1 << 28, options) else { return };
    for case in cases() {
        let before = engine.backend.uploaded();
        let measured = measure(&engine, case, Float::Bf16, 700, ONE).unwrap();
        let operands = case.inputs + usize::from(case.base);
        assert_eq!(engine.backend.uploaded() - before, measured.len * 2 * operands, "{}", case.name);
        // Each operand is read at least once, unless none of it is taken, and the result is written.
        assert!(measured.bytes >= 2 * measured.len as u64 && measured.seconds > 0.0, "{}: {measured:?}", case.name);
    }
}

#[test]
fn operands_with_an_identity_are_uploaded_once() {
    for name in ["linear", "slerp", "model_stock", "ties", "della", "sce"] {
        let options = EngineOptions { smallest: 0, ..EngineOptions::default() };
        let (Some(plain), Some(keeping)) = (engine(1 << 28, options), engine(1 << 28, options.keeping(1 << 20))) else {
            return;
        };
        let case = case(name);
        let shape = case.shape(1500);
        let tensor = case.tensor(&shape);
        let bytes = tensor.len() * 2 * (case.inputs + usize::from(tensor.has_base));
        let merged = |engine: &Engine<Emulated>, source: &Named| {
            let sink = Captured::new(Float::Bf16, tensor.len());
            let before = engine.backend.uploaded();
            assert!(engine.advance(case.plan(&tensor).unwrap(), &tensor, source, &sink).unwrap().is_none());
            (sink.into_bytes(), engine.backend.uploaded() - before)
        };
        let data = || Data::new(Float::Bf16, tensor.len(), case.inputs, &ONE);
        let source = Named::new(data());
        let (expected, uploaded) = merged(&plain, &source);
        assert_eq!(uploaded, bytes, "{name}");
        assert_eq!(
            merged(&plain, &source),
            (expected.clone(), bytes),
            "{name}: nothing stays unless the options say so"
        );
        assert_eq!(merged(&keeping, &source), (expected.clone(), bytes), "{name}");
        // The second time nothing is copied, and inner products are known.
        assert_eq!(merged(&keeping, &source), (expected.clone(), 0), "{name}");
        // Others under another name are no less themselves.
        let mut other = Named::new(data());
        other.data.inputs.rotate_left(1);
        let (expected, _) = merged(&plain, &other);
        assert_eq!(merged(&keeping, &other).0, expected, "{name}");
    }
}

#[test]
fn resident_operands_are_freed_when_memory_is_needed() {
    // Room for the operands of one tensor, 20 kB of the device, and no more.
    let options = EngineOptions { smallest: 0, memory: Some(room(1 << 20)), ..EngineOptions::default() };
    let Some(device) = Emulated::new(34_000) else { return };
    let engine = Engine::new(device, options.keeping(1 << 20));
    let (case, shape) = (case("linear"), [1200]);
    let tensor = case.tensor(&shape);
    let sources = [1, 2, 3].map(|_| Named::new(Data::new(Float::F32, 1200, case.inputs, &ONE)));
    for source in [0, 1, 2, 1, 0].map(|i| &sources[i]) {
        let (found, expected) = (Captured::new(Float::F32, 1200), Captured::new(Float::F32, 1200));
        assert!(engine.advance(case.plan(&tensor).unwrap(), &tensor, source, &found).unwrap().is_none());
        Driver::default().run(case.plan(&tensor).unwrap(), &tensor, source, &expected).unwrap();
        assert_eq!(found.into_bytes(), expected.into_bytes());
    }
}

#[test]
fn operands_that_are_not_finite_do_not_stay() {
    let options = EngineOptions { smallest: 0, ..EngineOptions::default() };
    let Some(engine) = engine(1 << 28, options.keeping(1 << 20)) else { return };
    let (case, shape) = (case("linear"), [200]);
    let tensor = case.tensor(&shape);
    let mut data = Data::new(Float::F32, 200, case.inputs, &ONE);
    data.inputs[0][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let source = Named::new(data);
    // The host is asked each time, not only the first.
    for _ in 0..2 {
        let sink = Captured::new(Float::F32, 200);
        assert!(engine.advance(case.plan(&tensor).unwrap(), &tensor, &source, &sink).unwrap().is_some());
    }
}
