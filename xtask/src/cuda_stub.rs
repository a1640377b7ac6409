//! `cargo xtask cuda-stub`: a library that stands in for the CUDA driver when linking.
//!
//! What links against it runs on a machine that has the driver, whose library has the same name. The stub itself
//! answers every call with CUDA_ERROR_STUB_LIBRARY.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::repo::Repo;
use crate::shell::{self, cargo};

/// Makes the stub and says how to use it.
///
/// # Errors
/// See [`make`].
pub(crate) fn run() -> Result<()> {
    let folder = make(&Repo::find()?)?;
    println!("the stub is made; to build with CUDA:");
    println!(
        "CUDA_LIBRARY_PATH={} cargo build --release --workspace --bin glue --features glue-cli/cuda",
        folder.display()
    );
    Ok(())
}

/// Makes the stub; the folder is one for CUDA_LIBRARY_PATH.
///
/// # Errors
/// The bindings are not found, or there is no C compiler.
pub(crate) fn make(repo: &Repo) -> Result<PathBuf> {
    let folder = repo.target.join("cuda-stub");
    let library = folder.join("lib64");
    fs::create_dir_all(&library).with_context(|| format!("cannot make {}", library.display()))?;
    let bindings = bindings()?;
    let names = functions(&bindings);
    if names.is_empty() {
        bail!("the bindings of cust_raw declare no function of the driver");
    }
    // CUDA_ERROR_STUB_LIBRARY is 34.
    let code: String = names.iter().map(|name| format!("int {name}(void) {{ return 34; }}\n")).collect();
    let source = folder.join("cuda.c");
    fs::write(&source, code).with_context(|| format!("cannot write {}", source.display()))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-fno-builtin", "-Wl,-soname,libcuda.so.1"]).arg(&source);
    shell::run(compiler.arg("-o").arg(library.join("libcuda.so")))?;
    // Under the name by which the dynamic linker looks for it, to see what a program says without a driver.
    fs::copy(library.join("libcuda.so"), library.join("libcuda.so.1")).context("cannot copy the stub")?;
    Ok(folder)
}

/// The declarations that `cust` is compiled from.
fn bindings() -> Result<String> {
    let text = shell::read(cargo().args(["metadata", "--format-version=1", "--features", "glue-cuda/cuda"]))?;
    let metadata: Value = serde_json::from_str(&text).context("output of cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let package = packages.iter().find(|p| p["name"] == "cust_raw").context("cust_raw is no dependency")?;
    let manifest = PathBuf::from(package["manifest_path"].as_str().context("cust_raw has no manifest")?);
    let path = manifest.with_file_name("src").join("cuda.rs");
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The functions that bindings declare, each once.
fn functions(bindings: &str) -> Vec<&str> {
    let rest = bindings.split("pub fn cu").skip(1);
    let mut names: Vec<&str> = rest
        .filter_map(|rest| rest.find('('))
        .zip(bindings.match_indices("pub fn cu"))
        .map(|(end, (at, _))| {
            let name = at + "pub fn ".len();
            &bindings[name..name + "cu".len() + end]
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    //! Finding the functions.
    use super::functions;

    #[test]
    fn functions_are_found_once() {
        let text = "extern \"C\" {\n    pub fn cuInit(f: u32) -> R;\n}\nextern \"C\" {\n    pub fn cuMemAlloc_v2(\n p: *mut P,\n ) -> R;\n    pub fn cuInit(f: u32) -> R;\n}\npub fn other();";
        assert_eq!(functions(text), ["cuInit", "cuMemAlloc_v2"]);
        assert_eq!(functions("nothing"), [""; 0]);
    }
}
