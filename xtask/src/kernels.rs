//! `cargo xtask kernels`: compiles `kernels/*.cu` to PTX by NVRTC and examines what came out.
//!
//! NVRTC and ptxas come from their wheels on PyPI, so that neither a toolkit nor a device is needed. PTX is committed
//! compressed. Each file carries the hash of what it was made from: without NVRTC, `--check` still says when one is
//! stale, or was edited.

#![allow(unsafe_code, reason = "calls of NVRTC, which has a C interface only")]

mod assembler;
mod compressed;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;

use anyhow::{Context, Result, bail};
use libloading::{Library, Symbol};

use crate::repo::Repo;
use crate::shell;

/// The version whose PTX is committed; another one writes another text.
const NVRTC: &str = "12.1.105";
/// What is committed is compiled for the first of these; it must compile for all.
const TARGETS: [&str; 2] = ["compute_70", "compute_80"];
/// The folder of what is committed: in the crate that embeds it, so that a published crate holds it.
const PTX: &str = "crates/glue-cuda/src/ptx";
/// Without fused multiply-add results are the same bits as the CPU's.
const OPTIONS: [&str; 3] = ["--std=c++17", "-default-device", "--fmad=false"];

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing, and fail if a file is not current.
    #[arg(long)]
    check: bool,
    /// Folder with libnvrtc.so.12, to use that NVRTC instead of fetching one.
    #[arg(long)]
    nvrtc: Option<PathBuf>,
}

/// Compiles, or checks.
///
/// # Errors
/// NVRTC cannot be had, a kernel does not compile, or a check fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let repo = Repo::find()?;
    let folder = match &args.nvrtc {
        Some(folder) => folder.clone(),
        None => fetched(&repo, !args.check)?,
    };
    let nvrtc = if folder.join("libnvrtc.so.12").is_file() { Some(Nvrtc::open(&folder)?) } else { None };
    if nvrtc.is_none() && !args.check {
        bail!("no libnvrtc.so.12 in {}", folder.display());
    }
    let ptxas = assembler::find(&root(&repo));
    let sources = Sources::read(&repo)?;
    for name in sources.kernels.keys() {
        match &nvrtc {
            Some(nvrtc) => compile(&repo, &sources, name, nvrtc, args.check)?,
            None => check_stamp(&repo, &sources, name)?,
        }
        if let Some(ptxas) = &ptxas {
            println!(
                "{name}: {}",
                assembler::assemble(&repo, ptxas, name, &compressed::read(&ptx_path(&repo, name))?)?
            );
        }
    }
    strangers(&repo, &sources)?;
    if nvrtc.is_none() {
        println!("NVRTC {NVRTC} is not in {}: only hashes were compared", folder.display());
    }
    if ptxas.is_none() {
        println!("ptxas was not fetched: nothing was assembled");
    }
    Ok(())
}

/// The kernels and the headers that they share.
struct Sources {
    kernels: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
}

impl Sources {
    fn read(repo: &Repo) -> Result<Self> {
        let mut sources = Self { kernels: BTreeMap::new(), headers: BTreeMap::new() };
        for entry in fs::read_dir(repo.path("kernels")).context("cannot list kernels")? {
            let path = entry?.path();
            let text = || fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()));
            let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
            match part(path.extension()).as_str() {
                "cu" => drop(sources.kernels.insert(part(path.file_stem()), text()?)),
                "cuh" => drop(sources.headers.insert(part(path.file_name()), text()?)),
                _ => {}
            }
        }
        Ok(sources)
    }

    /// Hash of everything that the PTX of a kernel follows from.
    fn hash(&self, name: &str) -> String {
        let headers = self.headers.values().map(String::as_str);
        let parts = [NVRTC, TARGETS[0]].into_iter().chain(OPTIONS).chain(headers).chain([&*self.kernels[name]]);
        hash(parts)
    }
}

/// FNV-1a over texts and their ends: it finds what changed, and is no defence against forgery.
fn hash<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let bytes = texts.into_iter().flat_map(|text| text.bytes().chain([0xFF]));
    let hash = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
    format!("{hash:016x}")
}

fn ptx_path(repo: &Repo, name: &str) -> PathBuf {
    repo.path(PTX).join(format!("{name}{}", compressed::ENDING))
}

fn stamped(sources: &Sources, name: &str, code: &str) -> String {
    let (source, code_hash) = (sources.hash(name), hash([code]));
    format!(
        "// Made from {name}.cu by `cargo xtask kernels`; not to be edited.\n\
         // NVRTC {NVRTC} --gpu-architecture={} {}\n\
         // source {source}\n// code {code_hash}\n{code}",
        TARGETS[0],
        OPTIONS.join(" ")
    )
}

/// Compiles for every target and examines; then writes the PTX of the first target, or compares it
/// with the committed one.
fn compile(repo: &Repo, sources: &Sources, name: &str, nvrtc: &Nvrtc, check: bool) -> Result<()> {
    let mut first = None;
    for target in TARGETS {
        let code = nvrtc.compile(sources, name, target).with_context(|| format!("{name}.cu for {target}"))?;
        let seen = examine(name, &code).with_context(|| format!("{name}.cu for {target}"))?;
        println!("{name} {target}: {seen}");
        first.get_or_insert(code);
    }
    let (text, path) = (stamped(sources, name, &first.unwrap_or_default()), ptx_path(repo, name));
    // Texts are compared, so that no file depends on the version of the compressor.
    let is_current = compressed::read(&path).is_ok_and(|committed| committed == text);
    match (is_current, check) {
        (true, _) => Ok(()),
        (false, true) => bail!("{} is not what {name}.cu compiles to; run cargo xtask kernels", repo.relative(&path)),
        (false, false) => compressed::write(&path, &text),
    }
}

/// Compares the hashes that a file carries, and examines its code.
fn check_stamp(repo: &Repo, sources: &Sources, name: &str) -> Result<()> {
    let path = ptx_path(repo, name);
    let text = compressed::read(&path)?;
    // The stamp ends with its fourth line.
    let code = text.splitn(5, '\n').nth(4).unwrap_or_default();
    if text != stamped(sources, name, code) {
        bail!("{} is stale, or was edited; run cargo xtask kernels", repo.relative(&path));
    }
    println!("{name}: {}", examine(name, code).with_context(|| repo.relative(&path))?);
    Ok(())
}

/// Refuses files in the folder of PTX that belong to no kernel.
fn strangers(repo: &Repo, sources: &Sources) -> Result<()> {
    for entry in fs::read_dir(repo.path(PTX)).context("cannot list the folder of PTX")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kernel = name.strip_suffix(compressed::ENDING);
        if !kernel.is_some_and(|kernel| sources.kernels.contains_key(kernel)) {
            bail!("{} belongs to no kernel", repo.relative(&path));
        }
    }
    Ok(())
}

/// Checks the PTX of a file. Every kernel must read 16 bytes at once, except those that only add up partial sums. None
/// may have local memory, where the compiler puts arrays whose indices it does not know. None may fuse a multiplication
/// with an addition of `f32`.
fn examine(name: &str, code: &str) -> Result<String> {
    let kernels: Vec<&str> = code.split(".visible .entry ").skip(1).collect();
    if kernels.is_empty() {
        bail!("no kernel");
    }
    let mut fewest = usize::MAX;
    for kernel in &kernels {
        let symbol = kernel.split('(').next().unwrap_or_default();
        let wide = kernel.matches("ld.global.nc.v4.u32").count();
        if wide == 0 && name != "sums" {
            bail!("{symbol} reads nowhere 16 bytes at once");
        }
        if kernel.contains(".local") {
            bail!("{symbol} has local memory");
        }
        if kernel.contains("fma.rn.f32") {
            bail!("{symbol} fuses multiplications and additions of f32");
        }
        fewest = fewest.min(wide);
    }
    Ok(format!("{} kernels, at least {fewest} reads of 16 bytes in each, no local memory", kernels.len()))
}

/// The folder of fetched packages.
fn root(repo: &Repo) -> PathBuf {
    repo.target.join("nvrtc").join(NVRTC)
}

/// The folder of a fetched NVRTC; fetches it and ptxas when asked to.
fn fetched(repo: &Repo, fetch: bool) -> Result<PathBuf> {
    let root = root(repo);
    let library = root.join("nvidia/cuda_nvrtc/lib");
    if !fetch {
        return Ok(library);
    }
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    if !library.join("libnvrtc.so.12").is_file() {
        unpack(&root, "nvidia-cuda-nvrtc-cu12")?;
    }
    if assembler::find(&root).is_none() {
        unpack(&root, assembler::PACKAGE)?;
        assembler::find(&root).map_or(Ok(()), |ptxas| assembler::make_executable(&ptxas))?;
    }
    Ok(library)
}

/// Unpacks the wheel of a package.
fn unpack(root: &Path, package: &str) -> Result<()> {
    let folder = tempfile::tempdir_in(root).context("cannot make a folder")?;
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "download", "--no-deps", "-d"]).arg(folder.path());
    shell::run(download.arg(format!("{package}=={NVRTC}")))?;
    for entry in fs::read_dir(folder.path())? {
        shell::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(entry?.path()).arg(root))?;
    }
    Ok(())
}

/// The compiler. Nothing is freed: the program ends soon.
struct Nvrtc {
    library: Library,
}

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

impl Nvrtc {
    fn open(folder: &Path) -> Result<Self> {
        // The compiler looks for its built-in functions by a name without a folder: what is open already is found.
        // SAFETY: both libraries have no initialisers that matter to this program.
        unsafe {
            let builtins = Library::new(folder.join("libnvrtc-builtins.so.12.1")).context("NVRTC's built-ins")?;
            std::mem::forget(builtins);
            Ok(Self { library: Library::new(folder.join("libnvrtc.so.12")).context("NVRTC")? })
        }
    }

    fn function<T>(&self, name: &str) -> Result<Symbol<'_, T>> {
        // SAFETY: the types above are those of nvrtc.h.
        unsafe { self.library.get(name.as_bytes()) }.with_context(|| format!("NVRTC has no {name}"))
    }

    fn compile(&self, sources: &Sources, name: &str, target: &str) -> Result<String> {
        let text = |text: &str| CString::new(text).context("a source with a zero byte");
        let (source, file) = (text(&sources.kernels[name])?, text(&format!("{name}.cu"))?);
        let names: Vec<CString> = sources.headers.keys().map(|h| text(h)).collect::<Result<_>>()?;
        let headers: Vec<CString> = sources.headers.values().map(|h| text(h)).collect::<Result<_>>()?;
        let target = format!("--gpu-architecture={target}");
        let options: Vec<CString> = [&*target].into_iter().chain(OPTIONS).map(text).collect::<Result<_>>()?;
        let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_ptr()).collect::<Vec<_>>();
        let (names, headers, options) = (pointers(&names), pointers(&headers), pointers(&options));
        let (create, compile) =
            (self.function::<Create>("nvrtcCreateProgram")?, self.function::<Compile>("nvrtcCompileProgram")?);
        let mut program: Program = ptr::null_mut();
        // SAFETY: all texts end with a zero byte and outlive the calls; the counts are those of the arrays.
        let failed = unsafe {
            let count = c_int::try_from(headers.len())?;
            let (headers, names) = (headers.as_ptr(), names.as_ptr());
            if create(&mut program, source.as_ptr(), file.as_ptr(), count, headers, names) != 0 {
                bail!("NVRTC takes no program");
            }
            compile(program, c_int::try_from(options.len())?, options.as_ptr()) != 0
        };
        if failed {
            bail!("{}", self.text(program, "nvrtcGetProgramLog")?);
        }
        self.text(program, "nvrtcGetPTX")
    }

    fn text(&self, program: Program, what: &str) -> Result<String> {
        let (size, get) = (self.function::<Size>(&format!("{what}Size"))?, self.function::<Text>(what)?);
        let mut length = 0;
        // SAFETY: the buffer has the length that was asked for, the zero byte at its end included.
        unsafe {
            if size(program, &mut length) != 0 {
                bail!("{what} fails");
            }
            let mut buffer = vec![0_u8; length.max(1)];
            if get(program, buffer.as_mut_ptr().cast()) != 0 {
                bail!("{what} fails");
            }
            Ok(CStr::from_bytes_until_nul(&buffer)?.to_str()?.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    //! The kernels of this repository, and the examination itself.
    use super::*;

    /// Compiles where NVRTC is there, and compares hashes where it is not.
    #[test]
    fn ptx_is_current() {
        if let Err(error) = run(&Args { check: true, nvrtc: None }) {
            panic!("{error:#}");
        }
    }

    fn check(body: &str, expected: Result<&str, &str>) {
        let found = examine("linear", &format!(".visible .entry linear_f32(\n) {{\n{body}\n}}"));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert!(found.contains(expected), "{found}"),
            (Err(found), Err(expected)) => assert!(found.to_string().contains(expected), "{found}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn slow_reads_and_fused_arithmetic_are_refused() {
        check("ld.global.nc.v4.u32 {};", Ok("1 kernels, at least 1 reads"));
        check("ld.global.nc.u32 %r1, [%rd1];", Err("linear_f32 reads nowhere 16 bytes"));
        check("ld.global.nc.v4.u32 {}; .local .align 4 .b8 __local_depot0[32];", Err("local memory"));
        check("ld.global.nc.v4.u32 {}; fma.rn.f32 %f1, %f2, %f3, %f4;", Err("fuses"));
    }

    #[test]
    fn hashes_tell_texts_and_their_borders_apart() {
        assert_eq!(hash(["a", "b"]), hash(["a", "b"]));
        assert_ne!(hash(["a", "b"]), hash(["ab"]));
        assert_ne!(hash(["a"]), hash(["b"]));
    }
}
