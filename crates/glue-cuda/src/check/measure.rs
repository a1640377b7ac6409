//! Times on the device with resident operands, to compare with the bandwidth of a copy in device
//! memory in the same run.

use super::cases::Case;
use super::data::{Data, Named, Threads};
use crate::backend::Backend;
use crate::engine::Engine;
use crate::pass::{Pass, Stop, Target};
use glue_merge::BoxError;
use glue_merge::device::Float;
use std::time::Instant;

/// How fast a case was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Elements.
    pub len: usize,
    /// Seconds for one candidate, the best of several: all passes, with what the host does between them.
    pub seconds: f64,
    /// Bytes that all passes had to read and write, each operand of a pass counted once.
    pub bytes: u64,
}

impl Measured {
    /// Bytes moved in a second.
    pub fn bandwidth(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }
}

/// Runs timed together, so that the call that waits for them costs little.
const TOGETHER: u32 = 8;
/// Such groups, of which the best counts.
const GROUPS: usize = 5;

/// Bytes that are read and written in a second when `bytes` are copied on the device.
///
/// # Errors
/// What the device refuses.
pub fn bandwidth<B: Backend>(engine: &Engine<B>, bytes: usize) -> Result<f64, BoxError> {
    let (from, to) = (engine.take(bytes)?, engine.take(bytes)?);
    let mut stream = engine.stream()?;
    let mut best = f64::INFINITY;
    engine.backend.zero(&mut stream, &from, bytes)?;
    for _ in 0..GROUPS {
        engine.backend.wait(&mut stream)?;
        let start = Instant::now();
        for _ in 0..TOGETHER {
            engine.backend.copy(&mut stream, &from, &to, bytes)?;
        }
        engine.backend.wait(&mut stream)?;
        best = best.min(start.elapsed().as_secs_f64() / f64::from(TOGETHER));
    }
    engine.give_back([from, to]);
    engine.return_stream(stream);
    Ok(2.0 * bytes as f64 / best)
}

/// Merges a case again and again, as a search does: its operands stay on the device.
///
/// `engine` must keep operands ([`EngineOptions::keeping`](crate::EngineOptions::keeping)) of the size of this tensor.
///
/// # Errors
/// What the device refuses, or that it has no kernel.
pub fn measure<B: Backend>(
    engine: &Engine<B>,
    case: &Case,
    float: Float,
    len: usize,
    threads: Threads,
) -> Result<Measured, BoxError> {
    engine.evict_unused();
    let shape = case.shape(len);
    let tensor = case.tensor(&shape);
    let source = Named::new(Data::new(float, tensor.len(), case.inputs, &threads));
    let out = engine.take(tensor.len() * float.size())?;
    let target = Target::Memory(&out, float);
    let merged = || -> Result<u64, BoxError> {
        let mut pass = Pass::new(engine, &tensor, &source, float).map_err(|stop| reason(stop, case))?;
        // The inner products are gathered each time: the first candidate of a search takes so long.
        pass.products = None;
        let plan = engine.run(&mut pass, case.plan(&tensor)?, &target);
        let moved = pass.moved;
        pass.finish()?;
        match plan? {
            None => Ok(moved),
            Some(_) => Err(reason(Stop::Unsupported, case)),
        }
    };
    merged()?;
    let mut measured = Measured { len: tensor.len(), seconds: f64::INFINITY, bytes: 0 };
    for _ in 0..GROUPS {
        let start = Instant::now();
        for _ in 0..TOGETHER {
            measured.bytes = merged()?;
        }
        measured.seconds = measured.seconds.min(start.elapsed().as_secs_f64() / f64::from(TOGETHER));
    }
    engine.give_back([out]);
    Ok(measured)
}

fn reason(stop: Stop, case: &Case) -> BoxError {
    match stop {
        Stop::Unsupported => format!("the device has no kernel for {}", case.name).into(),
        Stop::Error(e) => e,
    }
}
