//! The matrix unit of a processor with AMX: what it is asked, and the three instructions that have no intrinsics in
//! stable Rust.
//!
//! [`Unit::find`] asks the processor for the unit and the kernel for the leave to use it, once. A [`Tiles`] configures
//! the eight tile registers of a thread and clears them when it is dropped; [`Multiply::add_product`] is the only place
//! that multiplies.

#![allow(unsafe_code, reason = "instructions without intrinsics, and the system call that permits them")]

use super::{BLOCK, INPUT_STEP, Multiply, WEIGHT_STEP};
use faer::MatMut;
use std::arch::asm;
use std::arch::x86_64::{
    __cpuid_count, _mm512_loadu_si512, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Proof that this process may use the unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit(());

impl Unit {
    /// The unit, where the processor has one for bfloat16 and the kernel lets this process use it.
    pub(crate) fn find() -> Option<Unit> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        FOUND.get_or_init(|| has_instructions() && is_permitted()).then_some(Unit(()))
    }

    /// Registers of this thread, ready.
    pub(super) fn tiles(self) -> Tiles {
        // Palette 1; sixteen rows of 64 bytes in each of the eight registers.
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for register in 0..8 {
            config.0[16 + 2 * register] = 64;
            config.0[48 + register] = 16;
        }
        // SAFETY: `self` is the proof that the instruction exists and is permitted. It reads the 64 bytes of `config`.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config.0.as_ptr(), options(nostack, preserves_flags)) };
        Tiles(PhantomData)
    }
}

#[repr(C, align(64))]
struct Config([u8; 64]);

/// CPUID leaf 7: AMX with bfloat16, and the parts of AVX-512 that the compiler may use where it is.
fn has_instructions() -> bool {
    let bits = __cpuid_count(7, 0).edx;
    let (bf16, tile) = (bits >> 22 & 1, bits >> 24 & 1);
    bf16 == 1 && tile == 1 && std::arch::is_x86_feature_detected!("avx512f")
}

/// Linux gives the state of the registers room in a thread's context only when asked.
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XTILEDATA: usize = 18;
    const SYS_ARCH_PRCTL: usize = 158;
    let mut result = SYS_ARCH_PRCTL;
    // SAFETY: the call takes two numbers and reads or writes no memory of this process. The kernel of Linux changes
    // `rax`, `rcx` and `r11` alone.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// The configured registers of one thread.
pub(super) struct Tiles(
    /// They are the thread's own.
    PhantomData<*const ()>,
);

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: that there is a `Tiles` proves that the instruction exists. It clears registers that nothing else
        // uses: compilers do not.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

impl Multiply for Tiles {
    fn add_product(&self, inputs: &[u16], weights: &[u16], y: MatMut<'_, f32>) {
        let steps = weights.len() / WEIGHT_STEP;
        assert!(steps > 0 && inputs.len() == steps * INPUT_STEP && weights.len() == steps * WEIGHT_STEP);
        assert!((y.nrows(), y.ncols(), y.col_stride()) == (BLOCK, BLOCK, 1) && y.row_stride() >= BLOCK as isize);
        let stride = y.row_stride().unsigned_abs() * size_of::<f32>();
        let upper = y.as_ptr_mut();
        let lower = upper.wrapping_byte_add(16 * stride);
        // SAFETY: that there is a `Tiles` on this thread proves that the instructions exist, are permitted and that
        // the registers have sixteen rows of 64 bytes each. Of `inputs` each of the `steps` turns of the loop reads
        // the 6144 bytes, INPUT_STEP elements, that follow those of the turn before; of `weights` 2048 bytes,
        // WEIGHT_STEP elements. The lengths were checked. Of `y` rows 0 to 31 are read and written, 128 bytes of each:
        // its shape and strides were checked, and it is borrowed mutably. No alignment is asked for. Tile registers
        // are clobbered, and said to be.
        unsafe {
            asm!(
                "tileloadd tmm0, [{upper} + {stride}]",
                "tileloadd tmm1, [{upper} + {stride} + 64]",
                "tileloadd tmm2, [{lower} + {stride}]",
                "tileloadd tmm3, [{lower} + {stride} + 64]",
                "2:",
                "tileloadd tmm6, [{weights} + {line}]",
                "tileloadd tmm7, [{weights} + {line} + 1024]",
                "tileloadd tmm4, [{inputs} + {line}]",
                "tileloadd tmm5, [{inputs} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{inputs} + {line} + 2048]",
                "tileloadd tmm5, [{inputs} + {line} + 3072]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{inputs} + {line} + 4096]",
                "tileloadd tmm5, [{inputs} + {line} + 5120]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {inputs}, 6144",
                "add {weights}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{upper} + {stride}], tmm0",
                "tilestored [{upper} + {stride} + 64], tmm1",
                "tilestored [{lower} + {stride}], tmm2",
                "tilestored [{lower} + {stride} + 64], tmm3",
                inputs = inout(reg) inputs.as_ptr() => _,
                weights = inout(reg) weights.as_ptr() => _,
                steps = inout(reg) steps => _,
                upper = in(reg) upper,
                lower = in(reg) lower,
                stride = in(reg) stride,
                line = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    fn transpose(&self, rows: &[[u32; 16]; 16], out: &mut [[u32; 16]; 16]) {
        // SAFETY: [`Unit::find`], without which there is no `Tiles`, looked for AVX-512.
        unsafe { transpose(rows, out) };
    }
}

/// Four rounds: neighbours by one, two, four and eight columns change places.
#[target_feature(enable = "avx512f")]
fn transpose(rows: &[[u32; 16]; 16], out: &mut [[u32; 16]; 16]) {
    let mut a = [_mm512_setzero_si512(); 16];
    for (a, row) in a.iter_mut().zip(rows) {
        // SAFETY: a row has 64 bytes; no alignment is asked for.
        *a = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
    }
    let mut b = a;
    for i in 0..8 {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    for i in 0..4 {
        a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
    }
    for i in 0..4 {
        b[i] = _mm512_shuffle_i32x4::<0x88>(a[i], a[i + 4]);
        b[i + 4] = _mm512_shuffle_i32x4::<0xdd>(a[i], a[i + 4]);
        b[i + 8] = _mm512_shuffle_i32x4::<0x88>(a[i + 8], a[i + 12]);
        b[i + 12] = _mm512_shuffle_i32x4::<0xdd>(a[i + 8], a[i + 12]);
    }
    for i in 0..8 {
        a[i] = _mm512_shuffle_i32x4::<0x88>(b[i], b[i + 8]);
        a[i + 8] = _mm512_shuffle_i32x4::<0xdd>(b[i], b[i + 8]);
    }
    for (a, row) in a.into_iter().zip(out) {
        // SAFETY: a row has 64 bytes; no alignment is asked for.
        unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), a) };
    }
}
