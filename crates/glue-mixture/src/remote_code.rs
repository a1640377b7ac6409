//! The Python files through which transformers loads a mixture in the native format.

/// Name and text of each file.
pub const FILES: [(&str, &str); 2] = [
    ("configuration_glue_mixture.py", include_str!("python/configuration_glue_mixture.py")),
    ("modeling_glue_mixture.py", include_str!("python/modeling_glue_mixture.py")),
];
