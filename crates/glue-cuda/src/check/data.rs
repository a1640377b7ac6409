//! Operands that look like fine-tuned models, and their rounding.

use glue_merge::device::{Float, Identity, Stored};
use glue_merge::random::ElementRng;
use glue_merge::{BoxError, Operand, Pool, Sink, Source};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The base and the inputs of a tensor, as they are stored.
pub(crate) struct Data {
    pub(crate) float: Float,
    pub(crate) base: Vec<u8>,
    pub(crate) inputs: Vec<Vec<u8>>,
}

/// 64 random bits for each element of a range.
fn bits(rng: ElementRng, range: &Range<usize>) -> impl Iterator<Item = u64> {
    let mut words = vec![0; 2 * range.len()];
    rng.fill(2 * range.start, &mut words);
    (0..range.len()).map(move |e| u64::from(words[2 * e]) | u64::from(words[2 * e + 1]) << 32)
}

/// About normal, with standard deviation 1.
fn normal(bits: u64) -> f32 {
    let four: u64 = (0..4).map(|k| bits >> (16 * k) & 0xFFFF).sum();
    (four as f32 / 65536.0 - 2.0) * 1.732
}

impl Data {
    /// `n` inputs near a base of `len` elements; one delta in ten is 0.
    pub(crate) fn new(float: Float, len: usize, n: usize, threads: &Threads) -> Self {
        let rng = |name, input| ElementRng::new(0, name, input);
        let base = |range: &Range<usize>| bits(rng("base", 0), range).map(|b| 0.02 * normal(b)).collect::<Vec<_>>();
        let input = |i: usize, range: &Range<usize>| {
            let deltas = bits(rng("common", 0), range).zip(bits(rng("own", i), range)).map(|(common, own)| {
                let own = if own.is_multiple_of(10) { 0.0 } else { normal(own) };
                0.002 * (0.5 * normal(common) + own)
            });
            base(range).iter().zip(deltas).map(|(base, delta)| base + delta).collect()
        };
        Self {
            float,
            base: filled(float, len, threads, &base),
            inputs: (0..n).map(|i| filled(float, len, threads, &|range| input(i, range))).collect(),
        }
    }

    pub(crate) fn bytes(&self, operand: Operand) -> &[u8] {
        match operand {
            Operand::Base => &self.base,
            Operand::Input(i) => &self.inputs[i],
            Operand::Statistic(_) => &[],
        }
    }
}

fn filled(float: Float, len: usize, threads: &Threads, of: &(dyn Fn(&Range<usize>) -> Vec<f32> + Sync)) -> Vec<u8> {
    let mut bytes = vec![0; len * float.size()];
    const PIECE: usize = 1 << 18;
    let pieces: Vec<Mutex<&mut [u8]>> = bytes.chunks_mut(PIECE * float.size()).map(Mutex::new).collect();
    threads.run(pieces.len(), &|p| {
        let mut piece = pieces[p].lock().unwrap_or_else(|e| e.into_inner());
        let start = p * PIECE;
        narrow(float, &of(&(start..start + piece.len() / float.size())), &mut piece);
    });
    bytes
}

/// Rounds to a type, to nearest, ties to even.
pub(crate) fn narrow(float: Float, values: &[f32], bytes: &mut [u8]) {
    let size = float.size();
    for (to, value) in bytes.chunks_exact_mut(size).zip(values) {
        match float {
            Float::F32 => to.copy_from_slice(&value.to_le_bytes()),
            Float::F16 => to.copy_from_slice(&f16::from_f32(*value).to_le_bytes()),
            Float::Bf16 => to.copy_from_slice(&bf16::from_f32(*value).to_le_bytes()),
        }
    }
}

/// An element.
pub(crate) fn element(float: Float, bytes: &[u8], e: usize) -> f32 {
    match float {
        Float::F32 => f32::from_le_bytes([bytes[4 * e], bytes[4 * e + 1], bytes[4 * e + 2], bytes[4 * e + 3]]),
        Float::F16 => f16::from_le_bytes([bytes[2 * e], bytes[2 * e + 1]]).to_f32(),
        Float::Bf16 => bf16::from_le_bytes([bytes[2 * e], bytes[2 * e + 1]]).to_f32(),
    }
}

impl Source for Data {
    fn read<'a>(&'a self, operand: Operand, range: Range<usize>, buffer: &'a mut [f32]) -> Result<&'a [f32], BoxError> {
        let bytes = self.bytes(operand);
        for (to, e) in buffer.iter_mut().zip(range) {
            *to = element(self.float, bytes, e);
        }
        Ok(buffer)
    }

    fn stored(&self, operand: Operand) -> Option<Stored<'_>> {
        Some(Stored { float: self.float, bytes: self.bytes(operand), identity: None })
    }
}

/// Operands that may stay on the device.
pub(crate) struct Named {
    pub(crate) data: Data,
    /// Tells them from all others.
    container: u64,
}

impl Named {
    /// Other operands than any before.
    pub(crate) fn new(data: Data) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { data, container: NEXT.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Source for Named {
    fn read<'a>(&'a self, operand: Operand, range: Range<usize>, buffer: &'a mut [f32]) -> Result<&'a [f32], BoxError> {
        self.data.read(operand, range, buffer)
    }

    fn stored(&self, operand: Operand) -> Option<Stored<'_>> {
        let index = match operand {
            Operand::Base => 0,
            Operand::Input(i) => i as u64 + 1,
            Operand::Statistic(_) => return None,
        };
        let identity = Some(Identity { container: self.container, index });
        Some(Stored { identity, ..self.data.stored(operand)? })
    }
}

/// A result in memory.
pub(crate) struct Captured {
    pub(crate) float: Float,
    pub(crate) bytes: Mutex<Vec<u8>>,
}

impl Captured {
    pub(crate) fn new(float: Float, len: usize) -> Self {
        Self { float, bytes: Mutex::new(vec![0; len * float.size()]) }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_inner().unwrap_or_else(|e| e.into_inner())
    }
}

impl Sink for Captured {
    fn write(&self, offset: usize, values: &[f32]) -> Result<(), BoxError> {
        let mut bytes = vec![0; values.len() * self.float.size()];
        narrow(self.float, values, &mut bytes);
        self.write_stored(offset, &bytes)
    }

    fn float(&self) -> Float {
        self.float
    }

    fn write_stored(&self, offset: usize, bytes: &[u8]) -> Result<(), BoxError> {
        let at = offset * self.float.size();
        let mut all = self.bytes.lock().unwrap_or_else(|e| e.into_inner());
        let to = all.get_mut(at..at + bytes.len()).ok_or("a result that is longer than its tensor")?;
        to.copy_from_slice(bytes);
        Ok(())
    }
}

/// Threads that the reference is computed on.
#[derive(Debug, Clone, Copy)]
pub struct Threads(pub usize);

impl Pool for Threads {
    fn width(&self) -> usize {
        self.0.max(1)
    }

    fn run(&self, n: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n {
                    return;
                }
                task(i);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.width().min(n) {
                scope.spawn(work);
            }
            work();
        });
    }
}
