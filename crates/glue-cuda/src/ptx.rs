//! The PTX of the kernels, as `cargo xtask kernels` makes it: embedded compressed, since the text is 4 MB.

use flate2::read::GzDecoder;
use std::io::Read;

macro_rules! embedded {
    ($($file:literal),* $(,)?) => {
        &[$(($file, include_bytes!(concat!("ptx/", $file, ".ptx.gz")) as &[u8])),*]
    };
}

/// Compressed PTX by the name of the file in `kernels/` that it was made from.
const FILES: &[(&str, &[u8])] = embedded![
    "breadcrumbs",
    "convert",
    "dare",
    "della",
    "gram",
    "histogram",
    "linear",
    "model_stock",
    "sce",
    "sums",
    "task_sum",
    "ties",
];

/// The PTX of the kernels in `kernels/FILE.cu`; `None` where there is no such file.
pub(crate) fn text(file: &str) -> Option<String> {
    let (_, compressed) = FILES.iter().find(|(name, _)| *name == file)?;
    let mut text = String::new();
    GzDecoder::new(*compressed).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The names of all files.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The names of the files in a folder of this repository with an ending, without it, sorted.
    fn files(folder: &str, ending: &str) -> Vec<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> =
            files.filter_map(|name| Some(name.to_str()?.strip_suffix(ending)?.to_owned())).collect();
        names.sort();
        names
    }

    #[test]
    fn every_kernel_file_is_embedded() {
        let embedded: Vec<&str> = names().collect();
        assert_eq!(embedded, files("../../kernels", ".cu"));
        assert_eq!(embedded, files("src/ptx", ".ptx.gz"));
        for name in embedded {
            let text = text(name).unwrap_or_else(|| panic!("{name} cannot be decompressed"));
            assert!(text.starts_with(&format!("// Made from {name}.cu by")), "{name}");
            assert!(text.contains(".visible .entry "), "{name}");
        }
        assert!(text("no such file").is_none());
    }
}
