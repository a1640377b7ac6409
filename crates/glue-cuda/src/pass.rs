//! One tensor on its way through the passes of a plan: where its tiles come from, and what is held meanwhile.

use crate::args::{Convert, Out};
use crate::backend::{Backend, Kernel};
use crate::engine::Engine;
use crate::error::DeviceError;
use crate::kept::Products;
use crate::operands::{Cutting, Operands, THREADS, align, blocks};
use glue_merge::device::{Float, Identity};
use glue_merge::{BoxError, Driver, Operand, Sink, Source, TensorSpec};
use std::sync::Arc;

/// Why a pass ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// There is no kernel for it: the host has to do it.
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

/// Where the tiles come from.
enum TileSource<'a, M> {
    /// Uploaded one after the other; the last one is kept.
    Source { source: &'a dyn Source, float: Float, last: Option<(usize, Arc<Operands<M>>)> },
    /// On the device already, in one piece.
    Resident(&'a Arc<Operands<M>>),
}

/// A tensor, a lane, and memory that is held until the end.
pub(crate) struct Pass<'a, B: Backend> {
    pub(crate) engine: &'a Engine<B>,
    pub(crate) lane: B::Lane,
    pub(crate) cutting: Cutting,
    pub(crate) has_base: bool,
    pub(crate) n_inputs: usize,
    pub(crate) elements: usize,
    tiles: TileSource<'a, B::Memory>,
    held: Vec<B::Memory>,
    /// Inner products that are known, which no candidate changes.
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
    /// Passes over operands that are uploaded from the host.
    pub(crate) fn streaming(
        engine: &'a Engine<B>,
        tensor: &TensorSpec<'_>,
        source: &'a dyn Source,
        to: Float,
    ) -> Result<Self, Stop> {
        let (has_base, n_inputs) = (tensor.has_base, tensor.n_inputs);
        // A kernel takes so many operands, and indices and counts have 32 bits.
        if n_inputs + usize::from(has_base) > crate::args::MOST || tensor.len() > u32::MAX as usize {
            return Err(Stop::Unsupported);
        }
        let float = common(operands(has_base, n_inputs).map(|o| source.stored(o).map(|s| s.float)));
        let masks = n_inputs.div_ceil(8) + 1;
        let each = float.size() * (n_inputs + usize::from(has_base)) + to.size() + masks;
        let room = engine.budget().saturating_sub(SCRATCH);
        let Some(cutting) = Cutting::new(tensor, each, room, engine.options.section) else {
            let wanted = each * engine.options.section.min(tensor.len()) + SCRATCH;
            return Err(DeviceError::OutOfMemory { wanted, free: engine.budget() }.into());
        };
        let lane = engine.lane()?;
        let tiles = TileSource::Source { source, float, last: None };
        let products = if engine.options.keep > 0 {
            let identity = |operand| source.stored(operand).and_then(|stored| stored.identity);
            let all: Option<Vec<Identity>> = operands(has_base, n_inputs).map(identity).collect();
            all.map(|all| engine.products((has_base, all)))
        } else {
            None
        };
        let (held, elements) = (Vec::new(), tensor.len());
        Ok(Self { engine, lane, cutting, has_base, n_inputs, elements, tiles, held, products, moved: 0, marks: None })
    }

    /// Passes over operands that are on the device.
    pub(crate) fn resident(
        engine: &'a Engine<B>,
        operands: &'a Arc<Operands<B::Memory>>,
        products: &Arc<Products>,
        tensor: &TensorSpec<'_>,
    ) -> Result<Self, Stop> {
        let Some(cutting) = Cutting::new(tensor, 1, usize::MAX, engine.options.section) else {
            return Err(Stop::Unsupported);
        };
        let (has_base, n_inputs, elements) = (operands.base.is_some(), operands.inputs.len(), operands.len());
        let lane = engine.lane()?;
        let (tiles, held, products) = (TileSource::Resident(operands), Vec::new(), Some(Arc::clone(products)));
        Ok(Self { engine, lane, cutting, has_base, n_inputs, elements, tiles, held, products, moved: 0, marks: None })
    }

    /// Waits for what is under way and gives everything back.
    pub(crate) fn finish(mut self) -> Result<(), DeviceError> {
        let waited = self.engine.backend.wait(&mut self.lane);
        self.engine.give_back(self.held.drain(..));
        if let TileSource::Source { last, .. } = self.tiles {
            give_back(self.engine, last);
        }
        if waited.is_ok() {
            self.engine.give_back_lane(self.lane);
        }
        waited
    }

    /// Memory that is held to the end, and its address.
    pub(crate) fn scratch(&mut self, bytes: usize, zeroed: bool) -> Result<Scratch, DeviceError> {
        let memory = self.engine.take(bytes)?;
        let at = self.engine.backend.address(&memory);
        self.held.push(memory);
        let scratch = Scratch { place: self.held.len() - 1, at, bytes };
        if zeroed {
            self.zero(&scratch)?;
        }
        Ok(scratch)
    }

    pub(crate) fn zero(&mut self, scratch: &Scratch) -> Result<(), DeviceError> {
        self.engine.backend.zero(&mut self.lane, &self.held[scratch.place], scratch.bytes)
    }

    /// Copies the first bytes of a scratch to the host.
    pub(crate) fn fetch(&mut self, scratch: &Scratch, bytes: usize) -> Result<Vec<u8>, Stop> {
        let mut all = vec![0; bytes];
        self.engine.backend.download(&mut self.lane, &self.held[scratch.place], 0..bytes, &mut |at, piece| {
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
        // their lengths were asked for as the kernels index them. All is given back after the lane was waited for.
        unsafe { self.engine.backend.launch(&mut self.lane, kernel, grid, args) }
    }

    /// The operands of a tile.
    pub(crate) fn tile(&mut self, i: usize) -> Result<Arc<Operands<B::Memory>>, Stop> {
        let (source, float) = match &mut self.tiles {
            TileSource::Resident(operands) => return Ok(Arc::clone(operands)),
            TileSource::Source { last: Some((j, operands)), .. } if *j == i => return Ok(Arc::clone(operands)),
            TileSource::Source { source, float, last } => {
                // Copies to the device follow, in order, what is still read there.
                give_back_tile(self.engine, &mut self.lane, last.take())?;
                (*source, *float)
            }
        };
        let range = self.cutting.tiles[i].clone();
        let at = self.engine.options.shift[0] * float.size();
        let bad = self.scratch(4, true)?;
        let (mut placed, mut new) = (Vec::new(), Vec::new());
        let mut uploaded = Ok(());
        // Whole operands may be there already, or stay.
        let keeps = self.engine.options.keep > 0 && range.len() == self.elements;
        for operand in operands(self.has_base, self.n_inputs) {
            let stored = source.stored(operand).filter(|_| keeps);
            let key = stored.and_then(|stored| stored.identity).map(|identity| (identity, float));
            let memory = match key.and_then(|key| self.engine.kept(key)) {
                Some(memory) => memory,
                None => {
                    let memory = Arc::new(self.engine.take(at + range.len() * float.size())?);
                    if uploaded.is_ok() {
                        uploaded = self.place(source, operand, &range, float, (&memory, at), bad.at);
                    }
                    new.extend(key.map(|key| (key, Arc::clone(&memory))));
                    memory
                }
            };
            placed.push(memory);
        }
        let base = if self.has_base { Some(placed.remove(0)) } else { None };
        let operands = Arc::new(Operands { float, base, inputs: placed, range, at });
        if let TileSource::Source { last, .. } = &mut self.tiles {
            *last = Some((i, Arc::clone(&operands)));
        }
        uploaded?;
        if self.fetch_u32(&bad, 1)? != [0] {
            return Err(Stop::Unsupported);
        }
        // The lane was waited for, so that any other may read them.
        for (key, memory) in new {
            self.engine.keep_operand(key, &memory);
        }
        Ok(operands)
    }

    /// Brings a run of an operand to the device, and counts what is no finite number.
    fn place(
        &mut self,
        source: &dyn Source,
        operand: Operand,
        range: &std::ops::Range<usize>,
        float: Float,
        (memory, at): (&B::Memory, usize),
        bad: u64,
    ) -> Result<(), Stop> {
        let backend = &self.engine.backend;
        let Some(stored) = source.stored(operand) else {
            let mut room = vec![0.0; Driver::SPAN.min(range.len())];
            for start in range.clone().step_by(Driver::SPAN) {
                let span = start..(start + Driver::SPAN).min(range.end);
                let values = source.read(operand, span.clone(), &mut room[..span.len()])?;
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                backend.upload(&mut self.lane, memory, at + (start - range.start) * 4, &bytes)?;
            }
            return Ok(());
        };
        let size = stored.float.size();
        let Some(bytes) = stored.bytes.get(range.start * size..range.end * size) else {
            return Err(Stop::Unsupported);
        };
        let mut convert = Convert { t: one(range.len()), out: Out::new(0, float), bad };
        if stored.float == float {
            backend.upload(&mut self.lane, memory, at, bytes)?;
            convert.t.input[0] = backend.address(memory) + at as u64;
        } else {
            let raw = self.engine.take(bytes.len())?;
            convert.t.input[0] = backend.address(&raw);
            convert.out.at = backend.address(memory) + at as u64;
            let copied = backend.upload(&mut self.lane, &raw, 0, bytes);
            self.held.push(raw);
            copied?;
        }
        let outs: &[(u64, usize)] = if convert.out.at == 0 { &[] } else { &[(convert.out.at, float.size())] };
        align(&mut convert.t, stored.float, outs);
        let kernel = Kernel { file: "convert", name: "convert", float: Some(stored.float), threads: THREADS };
        Ok(self.launch(kernel, [blocks(&convert.t), 1], &convert)?)
    }
}

/// A tile of one vector, whose address is still to be set.
pub(crate) fn one(len: usize) -> crate::args::Tile {
    crate::args::Tile {
        base: 0,
        input: [0; crate::args::MOST],
        len: len as i64,
        offset: 0,
        inputs: 1,
        head: 0,
        aligned: 0,
        unused: 0,
    }
}

fn give_back_tile<B: Backend>(
    engine: &Engine<B>,
    lane: &mut B::Lane,
    last: Option<(usize, Arc<Operands<B::Memory>>)>,
) -> Result<(), DeviceError> {
    if last.is_some() {
        // Another lane may take this memory.
        engine.backend.wait(lane)?;
    }
    give_back(engine, last);
    Ok(())
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
    place: usize,
    pub(crate) at: u64,
    pub(crate) bytes: usize,
}
