//! Files that are written because an option names them.

use crate::failure::Failure;
use glue_tensor::OutputFile;
use std::path::Path;

/// Opens the file of an option, if it is given. Done before the work: a path that cannot be written fails early.
pub(crate) fn create(path: Option<&Path>) -> Result<Option<OutputFile>, Failure> {
    path.map(OutputFile::create).transpose().map_err(Failure::failed)
}

#[cfg(test)]
mod tests {
    //! Every path that the command line takes.
    use crate::app::Cli;
    use clap::CommandFactory;
    use std::any::TypeId;
    use std::path::PathBuf;

    /// How a path is used.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Use {
        /// Only read.
        Read,
        /// A file that is written: through [`super::create`], and with a row in `tests/output_safety.rs`.
        File,
        /// A model in one file, which is not to be there: no stream.
        NewFile,
        /// A directory that is created or filled.
        Directory,
    }

    /// All arguments that are paths. An option that writes a file has to be in `tests/output_safety.rs` too.
    const PATHS: &[(&str, &str, Use)] = &[
        ("align", "model", Use::Read),
        ("align", "out_dir", Use::Directory),
        ("align", "reference", Use::Read),
        ("align", "text", Use::Read),
        ("calibrate", "merge", Use::Read),
        ("calibrate", "model", Use::Read),
        ("calibrate", "out", Use::Directory),
        ("calibrate", "tasks", Use::Read),
        ("calibrate", "text", Use::Read),
        ("check", "model", Use::Read),
        ("cluster", "base", Use::Read),
        ("cluster", "dendrogram", Use::File),
        ("cluster", "heatmap", Use::File),
        ("cluster", "matrix", Use::Read),
        ("cluster", "models", Use::Read),
        ("eval", "cache", Use::Directory),
        ("eval", "data", Use::Read),
        ("eval", "include_path", Use::Read),
        ("eval", "models", Use::Read),
        ("eval", "output_path", Use::Directory),
        ("eval", "pictures", Use::Directory),
        ("eval", "samples", Use::File),
        #[cfg(feature = "server")]
        ("eval", "server_token_file", Use::Read),
        ("export", "file", Use::NewFile),
        ("export", "model", Use::Read),
        ("extract-lora", "base", Use::Read),
        ("extract-lora", "fine", Use::Read),
        ("extract-lora", "out_dir", Use::Directory),
        #[cfg(feature = "hub")]
        ("fetch", "for_config", Use::Read),
        ("generate", "model", Use::Read),
        ("generate", "prompts", Use::Read),
        ("import", "file", Use::Read),
        ("import", "out_dir", Use::Directory),
        ("inspect", "models", Use::Read),
        ("logits", "ids", Use::Read),
        ("logits", "model", Use::Read),
        ("logits", "out", Use::File),
        ("man", "out_dir", Use::Directory),
        ("merge", "config", Use::Read),
        ("merge", "out_dir", Use::Directory),
        ("merge-lora", "out_dir", Use::Directory),
        ("mix", "config", Use::Read),
        ("mix", "out_dir", Use::Directory),
        ("mix", "tasks", Use::Read),
        ("mix", "work_dir", Use::Directory),
        ("multi", "config", Use::Read),
        ("multi", "out_dir", Use::Directory),
        ("multi", "work_dir", Use::Directory),
        #[cfg(feature = "hub")]
        ("push", "model", Use::Read),
        ("report", "out", Use::Directory),
        ("report", "runs", Use::Directory),
        ("run", "config", Use::Read),
        ("run", "init", Use::Directory),
        ("run", "out", Use::Directory),
        ("search", "config", Use::Read),
        ("search", "init", Use::Directory),
        ("search", "out", Use::Directory),
        ("similarity", "base", Use::Read),
        ("similarity", "csv", Use::File),
        ("similarity", "heatmap", Use::File),
        ("similarity", "models", Use::Read),
        ("soup", "out_dir", Use::Directory),
        ("soup", "run_dir", Use::Read),
        ("tasks", "data", Use::Read),
        ("tasks", "include_path", Use::Read),
        ("train-router", "data", Use::Read),
        ("train-router", "include_path", Use::Read),
        ("train-router", "mixture", Use::Directory),
        ("train-router", "pictures", Use::Directory),
        ("train-router", "state", Use::Directory),
    ];

    #[test]
    fn every_path_is_known_to_be_read_or_written() {
        let mut command = Cli::command();
        command.build();
        let mut found = Vec::new();
        for command in command.get_subcommands() {
            for arg in command.get_arguments() {
                if arg.get_value_parser().type_id() == TypeId::of::<PathBuf>() {
                    found.push((command.get_name().to_owned(), arg.get_id().to_string()));
                }
            }
        }
        found.sort();
        let known: Vec<_> = PATHS.iter().map(|(command, arg, _)| (command.to_string(), arg.to_string())).collect();
        assert_eq!(found, known);
    }

    #[test]
    fn every_file_that_is_written_is_tested() {
        let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/output_safety.rs");
        // A published crate comes without the package of end-to-end tests.
        let Ok(tests) = std::fs::read_to_string(tests) else { return };
        for (command, arg, _) in PATHS.iter().filter(|row| row.2 == Use::File) {
            let row = format!("(\"{command}\", \"--{}\"", arg.replace('_', "-"));
            assert!(tests.contains(&row), "tests/output_safety.rs has no row for {row}");
        }
    }
}
