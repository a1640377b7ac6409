//! One tensor in the passes of a plan: its tiles are uploaded one after the other; its memory is given back at the end.

use crate::args::{Convert, Out};
use crate::backend::{Backend, Kernel};
use crate::engine::Engine;
use crate::error::DeviceError;
use crate::operands::{Cutting, Operands, THREADS, align, blocks};
use crate::resident_cache::Products;
use glue_merge::device::{Float, Identity};
use glue_merge::{BoxError, Driver, Operand, Sink, Source, TensorSpec};
use std::sync::Arc;

/// Why a pass ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// There is no kernel for it, or an operand has a NaN or an infinity: the host does it.
    Unsupported,
    /// Something failed.
    Error(BoxError),
}

impl From<DeviceError> for Stop {
    fn from(e: DeviceError) -> Self {
        Self::Error(e.into())
    }
}

impl From<BoxError> for Stop {
    fn from(e: BoxError) -> Self {
        Self::Error(e)
    }
}

/// Where a result goes.
pub(crate) enum Target<'a, M> {
    /// To the host.
    Sink(&'a dyn Sink),
    /// It stays on the device, as this type.
    Memory(&'a M, Float),
}

/// A tensor, a stream, and memory that is held until the end.
pub(crate) struct Pass<'a, B: Backend> {
    pub(crate) engine: &'a Engine<B>,
    pub(crate) stream: B::Stream,
    pub(crate) cutting: Cutting,
    pub(crate) has_base: bool,
    pub(crate) n_inputs: usize,
    pub(crate) elements: usize,
    source: &'a dyn Source,
    /// Type of the operands on the device.
    float: Float,
    /// The last tile that was uploaded, and its number.
    last: Option<(usize, Arc<Operands<B::Memory>>)>,
    /// An operand of a tile as it is stored, where it is converted on the device: one after the other, in the order of
    /// the stream.
    raw: Option<B::Memory>,
    /// How many elements of a tile are NaN or infinite.
    bad: Option<Scratch>,
    held: Vec<B::Memory>,
    /// Inner products that are known already; `None` where they are not remembered.
    pub(crate) products: Option<Arc<Products>>,
    /// Bytes of device memory that kernels had to read and write, each operand of a pass counted once.
    pub(crate) moved: u64,
    /// Masks of a trim by rank: of which tile they are, where, and the bytes of one.
    pub(crate) marks: Option<(usize, Scratch, usize)>,
}

/// The operands of a tensor, base first.
pub(crate) fn operands(has_base: bool, n_inputs: usize) -> impl Iterator<Item = Operand> {
    has_base.then_some(Operand::Base).into_iter().chain((0..n_inputs).map(Operand::Input))
}

/// The type to upload operands of these types as: their own where all agree.
fn common(mut floats: impl Iterator<Item = Option<Float>>) -> Float {
    let first = floats.next().flatten().unwrap_or(Float::F32);
    if floats.all(|f| f == Some(first)) { first } else { Float::F32 }
}

impl<'a, B: Backend> Pass<'a, B> {
    /// Prepares passes over the operands of a tensor, with results of type `to`.
    pub(crate) fn new(
        engine: &'a Engine<B>,
        tensor: &TensorSpec<'_>,
        source: &'a dyn Source,
        to: Float,
    ) -> Result<Self, Stop> {
        let (has_base, n_inputs, elements) = (tensor.has_base, tensor.n_inputs, tensor.len());
        // A kernel takes so many operands, and indices and counts have 32 bits.
        if n_inputs + usize::from(has_base) > crate::args::MAX_INPUTS || elements > u32::MAX as usize {
            return Err(Stop::Unsupported);
        }
        let stored = |operand| source.stored(operand).map(|stored| stored.float);
        let float = common(operands(has_base, n_inputs).map(stored));
        let converted = operands(has_base, n_inputs).filter_map(stored).filter(|from| *from != float);
        let raw = converted.map(Float::size).max().unwrap_or(0);
        let masks = n_inputs.div_ceil(8) + 1;
        let bytes_each = float.size() * (n_inputs + usize::from(has_base)) + raw + to.size() + masks;
        let available = engine.budget().saturating_sub(SCRATCH);
        let Some(cutting) = Cutting::new(tensor, bytes_each, available, engine.options.section) else {
            let needed = bytes_each * engine.options.section.min(elements) + SCRATCH;
            return Err(DeviceError::OutOfMemory { needed, free: engine.budget() }.into());
        };
        let products = if engine.options.keep > 0 {
            let identity = |operand| source.stored(operand).and_then(|stored| stored.identity);
            let all: Option<Vec<Identity>> = operands(has_base, n_inputs).map(identity).collect();
            all.map(|all| engine.products((has_base, all)))
        } else {
            None
        };
        let (stream, held) = (engine.stream()?, Vec::new());
        let (last, raw, bad, marks, moved) = (None, None, None, None, 0);
        Ok(Self {
            engine,
            stream,
            cutting,
            has_base,
            n_inputs,
            elements,
            source,
            float,
            last,
            raw,
            bad,
            held,
            products,
            moved,
            marks,
        })
    }

    /// Waits for what is under way and gives everything back.
    pub(crate) fn finish(mut self) -> Result<(), DeviceError> {
        let waited = self.engine.backend.wait(&mut self.stream);
        self.engine.give_back(self.held.drain(..).chain(self.raw.take()));
        give_back(self.engine, self.last.take());
        if waited.is_ok() {
            self.engine.return_stream(self.stream);
        }
        waited
    }

    /// Memory that is held to the end, and its address.
    pub(crate) fn scratch(&mut self, bytes: usize, zeroed: bool) -> Result<Scratch, DeviceError> {
        let memory = self.engine.take(bytes)?;
        let at = self.engine.backend.address(&memory);
        self.held.push(memory);
        let scratch = Scratch { index: self.held.len() - 1, at, bytes };
        if zeroed {
            self.zero(&scratch)?;
        }
        Ok(scratch)
    }

    pub(crate) fn zero(&mut self, scratch: &Scratch) -> Result<(), DeviceError> {
        self.engine.backend.zero(&mut self.stream, &self.held[scratch.index], scratch.bytes)
    }

    /// Copies the first bytes of a scratch to the host.
    pub(crate) fn fetch(&mut self, scratch: &Scratch, bytes: usize) -> Result<Vec<u8>, Stop> {
        let mut all = vec![0; bytes];
        self.engine.backend.download(&mut self.stream, &self.held[scratch.index], 0..bytes, &mut |at, piece| {
            all[at..at + piece.len()].copy_from_slice(piece);
            Ok(())
        })?;
        Ok(all)
    }

    pub(crate) fn fetch_f64(&mut self, scratch: &Scratch, n: usize) -> Result<Vec<f64>, Stop> {
        Ok(self.fetch(scratch, 8 * n)?.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
    }

    pub(crate) fn fetch_u32(&mut self, scratch: &Scratch, n: usize) -> Result<Vec<u32>, Stop> {
        Ok(self.fetch(scratch, 4 * n)?.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }

    /// Counts that a kernel reads so many operands of a tile, and writes so many bytes for each element.
    pub(crate) fn count(&mut self, operands: &Operands<B::Memory>, reads: usize, written: usize) {
        self.moved += (operands.len() * (reads * operands.float.size() + written)) as u64;
    }

    /// Runs a kernel.
    #[allow(unsafe_code)]
    pub(crate) fn launch<A: Copy>(&mut self, kernel: Kernel, grid: [u32; 2], args: &A) -> Result<(), DeviceError> {
        // SAFETY: addresses in arguments are of operands and scratch of this pass, or of the target that outlives it;
        // their lengths were asked for as the kernels index them. All is given back after the stream was waited for.
        unsafe { self.engine.backend.launch(&mut self.stream, kernel, grid, args) }
    }

    /// The operands of a tile.
    pub(crate) fn tile(&mut self, i: usize) -> Result<Arc<Operands<B::Memory>>, Stop> {
        match &self.last {
            Some((j, operands)) if *j == i => return Ok(Arc::clone(operands)),
            Some(_) => {
                // Another stream may take this memory.
                self.engine.backend.wait(&mut self.stream)?;
                give_back(self.engine, self.last.take());
            }
            None => {}
        }
        let (source, float) = (self.source, self.float);
        let range = self.cutting.tiles[i].clone();
        let at = self.engine.options.shift[0] * float.size();
        let (mut placed, mut new) = (Vec::new(), Vec::new());
        let mut uploaded = Ok(None);
        // Whole operands may be on the device already, or stay there.
        let keeps = self.engine.options.keep > 0 && range.len() == self.elements;
        for operand in operands(self.has_base, self.n_inputs) {
            let stored = source.stored(operand).filter(|_| keeps);
            let key = stored.and_then(|stored| stored.identity).map(|identity| (identity, float));
            let memory = match key.and_then(|key| self.engine.resident(key)) {
                Some(memory) => memory,
                None => {
                    let memory = Arc::new(self.engine.take(at + range.len() * float.size())?);
                    if let Ok(bad) = uploaded {
                        uploaded = self.upload(operand, &range, (&memory, at), bad).map(Some);
                    }
                    new.extend(key.map(|key| (key, Arc::clone(&memory))));
                    memory
                }
            };
            placed.push(memory);
        }
        let base = if self.has_base { Some(placed.remove(0)) } else { None };
        let operands = Arc::new(Operands { float, base, inputs: placed, range, at });
        self.last = Some((i, Arc::clone(&operands)));
        // What was there already is known to be finite.
        if let Some(bad) = uploaded?
            && self.fetch_u32(&bad, 1)? != [0]
        {
            return Err(Stop::Unsupported);
        }
        // The stream was waited for, so that any other may read them.
        for (key, memory) in new {
            self.engine.keep(key, &memory);
        }
        Ok(operands)
    }

    /// Brings a range of an operand to the device, and adds the number of its elements that are NaN or infinite to
    /// `bad`, or to a count that begins at 0, which is returned.
    fn upload(
        &mut self,
        operand: Operand,
        range: &std::ops::Range<usize>,
        (memory, at): (&B::Memory, usize),
        bad: Option<Scratch>,
    ) -> Result<Scratch, Stop> {
        let (engine, source, float) = (self.engine, self.source, self.float);
        let bad = match bad {
            Some(bad) => bad,
            None => self.count_of_bad()?,
        };
        let backend = &engine.backend;
        let Some(stored) = source.stored(operand) else {
            let mut buffer = vec![0.0; Driver::SPAN.min(range.len())];
            for start in range.clone().step_by(Driver::SPAN) {
                let span = start..(start + Driver::SPAN).min(range.end);
                let values = source.read(operand, span.clone(), &mut buffer[..span.len()])?;
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                backend.upload(&mut self.stream, memory, at + (start - range.start) * 4, &bytes)?;
            }
            return Ok(bad);
        };
        let size = stored.float.size();
        let Some(bytes) = stored.bytes.get(range.start * size..range.end * size) else {
            return Err(Stop::Unsupported);
        };
        let mut convert = Convert { t: one(range.len()), out: Out::new(0, float), bad: bad.at };
        if stored.float == float {
            backend.upload(&mut self.stream, memory, at, bytes)?;
            convert.t.input[0] = backend.address(memory) + at as u64;
        } else {
            let raw = match self.raw.take() {
                Some(raw) if backend.size(&raw) >= bytes.len() => raw,
                // What is too short is still read.
                shorter => {
                    self.held.extend(shorter);
                    engine.take(bytes.len())?
                }
            };
            convert.t.input[0] = backend.address(&raw);
            convert.out.at = backend.address(memory) + at as u64;
            let copied = backend.upload(&mut self.stream, &raw, 0, bytes);
            self.raw = Some(raw);
            copied?;
        }
        let outs: &[(u64, usize)] = if convert.out.at == 0 { &[] } else { &[(convert.out.at, float.size())] };
        align(&mut convert.t, stored.float, outs);
        let kernel = Kernel { file: "convert", name: "convert", float: Some(stored.float), threads: THREADS };
        self.launch(kernel, [blocks(&convert.t), 1], &convert)?;
        Ok(bad)
    }

    /// A count of elements that are NaN or infinite, 0 to begin with.
    fn count_of_bad(&mut self) -> Result<Scratch, DeviceError> {
        let bad = match self.bad {
            Some(bad) => {
                self.zero(&bad)?;
                bad
            }
            None => self.scratch(4, true)?,
        };
        self.bad = Some(bad);
        Ok(bad)
    }
}

/// A tile of one vector, whose address is still to be set.
pub(crate) fn one(len: usize) -> crate::args::Tile {
    crate::args::Tile {
        base: 0,
        input: [0; crate::args::MAX_INPUTS],
        len: len as i64,
        offset: 0,
        inputs: 1,
        head: 0,
        aligned: 0,
        unused: 0,
    }
}

fn give_back<B: Backend>(engine: &Engine<B>, last: Option<(usize, Arc<Operands<B::Memory>>)>) {
    if let Some(operands) = last.and_then(|(_, operands)| Arc::into_inner(operands)) {
        engine.release(operands.base);
        engine.release(operands.inputs);
    }
}

/// Bytes of sums, histograms and the like, more than any plan needs.
const SCRATCH: usize = 8 << 20;

/// Memory that a pass holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scratch {
    index: usize,
    pub(crate) at: u64,
    pub(crate) bytes: usize,
}
