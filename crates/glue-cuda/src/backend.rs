//! What a device must do: hold memory, copy, run kernels by name. Everything else is the same for every device, which
//! is how it is tested without one.

use crate::error::DeviceError;
use glue_merge::BoxError;
use std::ops::Range;

/// Looks at a piece of memory, of which the offset is the first argument.
pub type See<'a> = &'a mut dyn FnMut(usize, &[u8]) -> Result<(), BoxError>;

/// A device.
pub trait Backend: Send + Sync {
    /// A piece of device memory, its beginning a multiple of 256; freed when dropped.
    type Memory: Send + Sync;
    /// A queue of work, with what copying to and from the host needs. Work on one lane is done in order.
    type Lane: Send;

    /// A new lane.
    ///
    /// # Errors
    /// What the driver refuses.
    fn lane(&self) -> Result<Self::Lane, DeviceError>;

    /// Memory of so many bytes, which hold anything.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or what the driver refuses.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, DeviceError>;

    /// Address on the device.
    fn address(&self, memory: &Self::Memory) -> u64;

    /// Number of bytes.
    fn size(&self, memory: &Self::Memory) -> usize;

    /// Bytes of memory that are free now.
    fn free(&self) -> usize;

    /// Multiprocessors of the device.
    fn processors(&self) -> u32;

    /// Copies to the device. When it returns, `bytes` is no longer needed, though the copy may be under way.
    ///
    /// # Errors
    /// [`DeviceError::Range`], or what the driver refuses.
    fn upload(
        &self,
        lane: &mut Self::Lane,
        memory: &Self::Memory,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), DeviceError>;

    /// Hands a part of the memory, after all that is under way on the lane, to `see`: piece after piece with its offset
    /// in that part.
    ///
    /// # Errors
    /// [`DeviceError::Range`], what the driver refuses, or what `see` does.
    fn download(
        &self,
        lane: &mut Self::Lane,
        memory: &Self::Memory,
        part: Range<usize>,
        see: See<'_>,
    ) -> Result<(), BoxError>;

    /// Sets the first bytes to 0.
    ///
    /// # Errors
    /// [`DeviceError::Range`], or what the driver refuses.
    fn zero(&self, lane: &mut Self::Lane, memory: &Self::Memory, bytes: usize) -> Result<(), DeviceError>;

    /// Copies the first bytes of one memory to another.
    ///
    /// # Errors
    /// [`DeviceError::Range`], or what the driver refuses.
    fn copy(
        &self,
        lane: &mut Self::Lane,
        from: &Self::Memory,
        to: &Self::Memory,
        bytes: usize,
    ) -> Result<(), DeviceError>;

    /// Runs a kernel on a grid of blocks.
    ///
    /// # Errors
    /// There is no such kernel, or what the driver refuses.
    ///
    /// # Safety
    /// `args` is the struct that the kernel takes. The addresses in it are of this device and, as far as the kernel
    /// reads or writes, inside of memory that lives until the lane has been waited for.
    #[allow(unsafe_code, reason = "a kernel dereferences the addresses that it is handed")]
    unsafe fn launch<A: Copy>(
        &self,
        lane: &mut Self::Lane,
        kernel: Kernel,
        grid: [u32; 2],
        args: &A,
    ) -> Result<(), DeviceError>;

    /// Waits until all that was asked of a lane is done.
    ///
    /// # Errors
    /// What the driver refuses, or a kernel that failed.
    fn wait(&self, lane: &mut Self::Lane) -> Result<(), DeviceError>;
}

/// A kernel: the file it is in, without its ending, its name without the type of its operands, and that type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The file.
    pub file: &'static str,
    /// The name.
    pub name: &'static str,
    /// Type of the operands; `None` for a kernel that has no choice.
    pub float: Option<glue_merge::device::Float>,
    /// Threads of a block.
    pub threads: u32,
}

impl Kernel {
    /// The name of the function.
    pub fn symbol(&self) -> String {
        use glue_merge::device::Float;
        match self.float {
            None => self.name.to_owned(),
            Some(Float::F32) => format!("{}_f32", self.name),
            Some(Float::F16) => format!("{}_f16", self.name),
            Some(Float::Bf16) => format!("{}_bf16", self.name),
        }
    }
}

/// Checks that bytes are inside.
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn inside(what: &'static str, offset: usize, found: usize, size: usize) -> Result<(), DeviceError> {
    match offset.checked_add(found) {
        Some(end) if end <= size => Ok(()),
        _ => Err(DeviceError::Range { what, offset, found, size }),
    }
}

/// A copy as pieces of at most `piece` bytes, alternating between two staging buffers: while one is copied to or from
/// the device, the other is filled or emptied.
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn pieces(bytes: usize, piece: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    (0..bytes.div_ceil(piece.max(1))).map(move |p| (p % 2, p * piece..((p + 1) * piece).min(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_copy_and_alternate() {
        let all: Vec<_> = pieces(10, 4).collect();
        assert_eq!(all, [(0, 0..4), (1, 4..8), (0, 8..10)]);
        assert_eq!(pieces(0, 4).count(), 0);
        assert_eq!(pieces(8, 4).last(), Some((1, 4..8)));
    }

    #[test]
    fn what_is_outside_is_refused() {
        assert!(inside("upload", 4, 4, 8).is_ok());
        assert!(inside("upload", 5, 4, 8).is_err());
        assert!(inside("upload", usize::MAX, 4, 8).is_err());
    }
}
