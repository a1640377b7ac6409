//! PTX as devices run it, without a device: ptxas, from its wheel on PyPI, assembles it for several of them and says
//! how many registers a kernel has, and whether some are spilled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use crate::shell;

/// Volta, Ampere and Hopper.
const DEVICES: [&str; 3] = ["sm_70", "sm_80", "sm_90"];

/// The package of ptxas, in the version of NVRTC.
pub(super) const PACKAGE: &str = "nvidia-cuda-nvcc-cu12";

/// The assembler below a folder that its package was unpacked to, if there is one.
pub(super) fn find(root: &Path) -> Option<PathBuf> {
    Some(root.join("nvidia/cuda_nvcc/bin/ptxas")).filter(|path| path.is_file())
}

/// A kernel after assembly.
#[derive(Debug, PartialEq, Eq)]
struct Assembled {
    kernel: String,
    registers: u32,
    /// Bytes of registers that are spilled to memory.
    spilled: u32,
}

/// Assembles the PTX of a file for every device; refuses a kernel that spills registers.
pub(super) fn assemble(repo: &Repo, ptxas: &Path, name: &str, ptx: &str) -> Result<String> {
    let folder = tempfile::tempdir_in(&repo.target).context("cannot make a folder")?;
    let (from, to) = (folder.path().join(format!("{name}.ptx")), folder.path().join("assembled.cubin"));
    fs::write(&from, ptx).with_context(|| format!("cannot write {}", from.display()))?;
    let mut words = Vec::new();
    for device in DEVICES {
        let mut command = Command::new(ptxas);
        let output = command.args(["-v", &format!("-arch={device}")]).arg(&from).arg("-o").arg(&to).output();
        let output = output.with_context(|| format!("cannot run {}", ptxas.display()))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{name} is not assembled for {device}: {text}");
        }
        let all = read(&text).with_context(|| format!("what ptxas says of {name}"))?;
        if let Some(Assembled { kernel, spilled, .. }) = all.iter().find(|a| a.spilled > 0) {
            bail!(
                "{kernel}: {spilled} bytes of registers are spilled to memory on {device}; ask for fewer blocks at once"
            );
        }
        let [fewest, largest] = [all.iter().map(|a| a.registers).min(), all.iter().map(|a| a.registers).max()];
        words.push(format!("{device} {} to {} registers", fewest.unwrap_or(0), largest.unwrap_or(0)));
    }
    Ok(words.join(", "))
}

/// Reads the output of `ptxas -v`.
fn read(text: &str) -> Result<Vec<Assembled>> {
    let mut all: Vec<Assembled> = Vec::new();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            all.push(Assembled { kernel, registers: 0, spilled: 0 });
        } else if line.contains("bytes spill stores") {
            let of = |part: &str| part.split_whitespace().next().and_then(|n| n.parse::<u32>().ok());
            let [_, stores, loads] = line.split(',').collect::<Vec<_>>()[..] else { bail!("no sizes in `{line}`") };
            let (stores, loads) = of(stores).zip(of(loads)).with_context(|| format!("no sizes in `{line}`"))?;
            all.last_mut().context("sizes of no kernel")?.spilled = stores + loads;
        } else if let Some((_, rest)) = line.split_once(": Used ") {
            let number = rest.split_whitespace().next().and_then(|n| n.parse().ok());
            let registers = number.with_context(|| format!("no number in `{line}`"))?;
            all.last_mut().context("registers of no kernel")?.registers = registers;
        }
    }
    if all.is_empty() || all.iter().any(|a| a.registers == 0) {
        bail!("no kernel, or one without registers: {text}");
    }
    Ok(all)
}

/// Makes it executable: files unpacked from a wheel are not.
pub(super) fn make_executable(ptxas: &Path) -> Result<()> {
    shell::run(Command::new("chmod").arg("+x").arg(ptxas))
}

#[cfg(test)]
mod tests {
    //! The output of ptxas.
    use super::*;

    const SAID: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'ties_f32' for 'sm_80'
ptxas info    : Function properties for ties_f32
    8 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 80 registers, 1952 bytes cmem[0]
ptxas info    : Compiling entry function 'linear_f16' for 'sm_80'
ptxas info    : Function properties for linear_f16
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers
";

    #[test]
    fn registers_and_spills_are_read() {
        let kernel = |name: &str, registers, spilled| Assembled { kernel: name.into(), registers, spilled };
        assert_eq!(read(SAID).unwrap(), [kernel("ties_f32", 80, 20), kernel("linear_f16", 32, 0)]);
        assert!(read("").is_err());
        assert!(read(&SAID.replace("Used 32", "Using 32")).is_err());
        assert!(read(&SAID.replace("12 bytes spill loads", "")).is_err());
    }
}
