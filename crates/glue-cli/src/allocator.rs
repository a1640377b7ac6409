//! The allocator of the binary: mimalloc, with the memory of bounded jobs counted.

use glue_lm::bounded::{charge, refund};
use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};

/// Allocates with mimalloc and reports every allocation to [`glue_lm::bounded`], which limits the memory of templates
/// and tokenizers. Set it as the `#[global_allocator]` of your own `glue`.
///
/// Running a model allocates and frees activations of the same sizes over and over. The system's allocator returns them
/// to the kernel each time, which costs a fifth of an evaluation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator;

// SAFETY: every call goes to mimalloc with the arguments that it came with, and its result is returned as it is.
// Counting does not allocate, does not unwind, and never touches the memory.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: the caller's promises are those that mimalloc asks for.
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: as above.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        refund(layout.size());
        // SAFETY: as above; the pointer came from mimalloc, as all that this allocator returns.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        charge(size);
        refund(layout.size());
        // SAFETY: as for `dealloc`.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }
}
