//! Compressed PTX: the text of all kernels has 4 MB, of which gzip leaves less than a fifth.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};

/// How the files end.
pub(super) const ENDING: &str = ".ptx.gz";

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String> {
    let compressed = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = String::new();
    GzDecoder::new(&*compressed)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot decompress {}", path.display()))?;
    Ok(text)
}

/// Writes a text. The bytes follow from it alone: gzip's header holds neither a time nor a name.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, compress(text)?).with_context(|| format!("cannot write {}", path.display()))
}

fn compress(text: &str) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes())?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    //! Round trips.
    use super::*;

    #[test]
    fn text_is_read_back_and_compressed_to_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join(format!("a{ENDING}"));
        let text = "ld.global.nc.v4.u32 {};\n".repeat(1000);
        write(&path, &text).unwrap();
        assert_eq!(read(&path).unwrap(), text);
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() < text.len() / 10);
        assert_eq!(bytes, compress(&text).unwrap());
        // Bytes 4 to 7 are the time of modification.
        assert_eq!(bytes[4..8], [0; 4]);
    }

    #[test]
    fn what_was_cut_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ptx.gz");
        let bytes = compress("text").unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("cannot decompress"));
    }
}
