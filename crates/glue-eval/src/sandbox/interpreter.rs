//! The interpreter that runs the programs: where it is and what it must be able to read.

use super::SandboxError;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Asked once, outside of any confinement: the interpreter is trusted, the programs are not. The name on the path is
/// often a script that looks for the interpreter, and what is mapped names the loader and the libraries that starting
/// it executes.
///
/// Of a virtual environment, which often is in the directory of a project or is that very directory, its packages and
/// its configuration are enough; of the installation below, the directories of libraries.
const QUESTION: &str = r#"
import json, os, sys, sysconfig
places = {os.path.join(prefix, name) for prefix in (sys.base_prefix, sys.base_exec_prefix) for name in ("lib", "lib64")}
places.add(os.path.join(sys.prefix, "pyvenv.cfg"))
places.update(path for name, path in sysconfig.get_paths().items() if name in ("stdlib", "platstdlib", "purelib", "platlib"))
with open("/proc/self/maps") as maps:
    mapped = {line.split(None, 5)[5].strip() for line in maps if "/" in line}
print(json.dumps({"executable": sys.executable, "version": list(sys.version_info[:2]), "places": sorted(places),
                  "mapped": sorted(path for path in mapped if path.startswith("/"))}))
"#;

/// What the interpreter says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Interpreter {
    /// Its file, absolute.
    pub(super) executable: PathBuf,
    version: (u32, u32),
    /// Directories with its own modules and the installed packages, and the file that makes a virtual environment.
    pub(super) places: Vec<PathBuf>,
    /// Files that it maps when it starts, itself and the dynamic loader among them.
    pub(super) mapped: Vec<PathBuf>,
}

impl Interpreter {
    /// Finds `python` (a path, or a name on `PATH`) and asks it.
    pub(super) fn find(python: &Path) -> Result<Interpreter, SandboxError> {
        let refuse = |problem: String| SandboxError::Python { python: python.to_owned(), problem };
        let answer = Command::new(python)
            .args(["-I", "-c", QUESTION])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| refuse(format!("it cannot be started: {error}")))?;
        if !answer.status.success() {
            let said = String::from_utf8_lossy(&answer.stderr);
            return Err(refuse(format!(
                "{}: {}",
                answer.status,
                said.trim().lines().last().unwrap_or("it says nothing")
            )));
        }
        let found: Interpreter = serde_json::from_slice(&answer.stdout)
            .map_err(|error| refuse(format!("expected it to answer with its places in JSON: {error}")))?;
        if found.version < (3, 8) {
            return Err(refuse(format!("expected Python 3.8 or later, found {}.{}", found.version.0, found.version.1)));
        }
        if !found.executable.is_absolute() {
            return Err(refuse("it does not know its own path".to_owned()));
        }
        Ok(found)
    }
}
