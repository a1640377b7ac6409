//! Times on the device, operands resident, against copying from device memory to device memory in the same run.

use super::cases::Case;
use super::data::{Data, Threads};
use crate::backend::Backend;
use crate::engine::Engine;
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
    let mut lane = engine.lane()?;
    let mut best = f64::INFINITY;
    engine.backend.zero(&mut lane, &from, bytes)?;
    for _ in 0..GROUPS {
        engine.backend.wait(&mut lane)?;
        let start = Instant::now();
        for _ in 0..TOGETHER {
            engine.backend.copy(&mut lane, &from, &to, bytes)?;
        }
        engine.backend.wait(&mut lane)?;
        best = best.min(start.elapsed().as_secs_f64() / f64::from(TOGETHER));
    }
    engine.give_back([from, to]);
    engine.give_back_lane(lane);
    Ok(2.0 * bytes as f64 / best)
}

/// Merges candidates of a case from operands that are resident.
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
    let shape = case.shape(len);
    let tensor = case.tensor(&shape);
    let data = Data::new(float, tensor.len(), case.inputs, &threads);
    let resident = engine.keep(&tensor, &data)?;
    let mut out = engine.room(tensor.len(), float)?;
    let mut measured = Measured { len: tensor.len(), seconds: f64::INFINITY, bytes: 0 };
    for _ in 0..GROUPS {
        let start = Instant::now();
        for _ in 0..TOGETHER {
            resident.forget();
            measured.bytes = resident.merge_counted(case.plan(&tensor)?, &tensor, &mut out)?;
        }
        measured.seconds = measured.seconds.min(start.elapsed().as_secs_f64() / f64::from(TOGETHER));
    }
    resident.give_back();
    engine.give_back([out.into_memory()]);
    Ok(measured)
}
