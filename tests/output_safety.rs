//! Nothing but the output is changed: foreign files under the name of a staging directory, options that name files,
//! resumed runs, limits on file sizes.

use glue_tests::checkpoint::{self, Tensor};
use glue_tests::run::{Run, binary, command, glue};
use glue_tests::{Zoo, shipped};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const MERGE: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n";

/// Words of the refusal of what is not ours.
const FOREIGN: [&str; 2] = ["which it did not make", "remove or rename it"];

#[test]
fn a_link_under_the_name_of_the_staging_directory_is_not_followed() {
    let zoo = Zoo::small();
    zoo.write("photos/1.jpg", "x");
    symlink("photos", zoo.path(".out.partial")).expect("a link");
    let before = zoo.names("photos");
    zoo.merge(MERGE, "out", &[]).refused("a link", 1, &[".out.partial", "a symbolic link", FOREIGN[0], FOREIGN[1]]);
    assert_eq!(zoo.names("photos"), before);
    assert!(zoo.path(".out.partial").is_symlink() && !zoo.path("out").exists());
}

#[test]
fn a_link_to_the_directory_above_is_not_followed() {
    let zoo = Zoo::small();
    zoo.write("home/diary.txt", "x");
    zoo.write("home/clone/config.yml", MERGE.replace("model: ", "model: ../../"));
    symlink("..", zoo.path("home/clone/.merged.partial")).expect("a link");
    let names = || -> Vec<_> {
        let entries = fs::read_dir(zoo.path("home/clone")).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name()).collect()
    };
    let before = names();
    let run = glue(&zoo.path("home/clone"), ["merge", "config.yml", "merged"]);
    run.refused("a link", 1, &[".merged.partial", "a symbolic link"]);
    assert_eq!(fs::read(zoo.path("home/diary.txt")).expect("a diary"), b"x");
    assert_eq!(names(), before);
}

#[test]
fn a_directory_of_somebody_else_is_not_emptied_by_any_command() {
    let zoo = Zoo::small();
    zoo.copy(&shipped().join("a-math"), "math");
    zoo.copy(&shipped().join("a-code"), "code");
    let (base, math) = (shipped().join("base-a").display().to_string(), shipped().join("a-math").display().to_string());
    zoo.glue(&["extract-lora", &base, &math, "adapter", "--rank", "1", "--quiet"]).ok();
    zoo.write("merge.yml", MERGE);
    zoo.write("stages.yml", format!("name: first\n{MERGE}---\n{}", MERGE.replace("model: a", "model: first")));
    zoo.write(
        "mix.yml",
        "base_model: math\ngate_mode: random\nexperts:\n  - {source_model: math}\n  - {source_model: code}\n",
    );
    zoo.write("text", "A man had four apples.\n");
    zoo.write(
        "search.yml",
        format!(
            "models: [math, code]\ntasks: [{}]\nlimit: 6\nfilter: false\nstrategies: [average]\n",
            shipped().join("tasks/facts").display()
        ),
    );
    zoo.write("out.stages/.first.partial/precious", "x");
    zoo.write(".out.partial/precious", "x");
    // A lock file alone makes it no staging directory.
    zoo.write(".out.partial/.lock", "");
    let before = (zoo.listing(".out.partial"), zoo.listing("out.stages"));
    for args in [
        &["merge", "merge.yml", "out"][..],
        &["multi", "stages.yml", "out"],
        &["mix", "mix.yml", "out"],
        &["align", "math", "code", "out"],
        &["extract-lora", "math", "code", "out"],
        &["merge-lora", "--method", "passthrough", "--adapter", "adapter", "out"],
        &["calibrate", "math", "--out", "out", "--text", "text", "--quiet"],
        &["search", "search.yml", "--out", "out", "--quiet"],
    ] {
        zoo.glue(args).refused(args[0], 1, &[".partial", "a directory of something else", FOREIGN[0], FOREIGN[1]]);
        assert!(before == (zoo.listing(".out.partial"), zoo.listing("out.stages")), "{}", args[0]);
        assert!(!zoo.path("out").exists(), "{}", args[0]);
    }
}

#[test]
fn the_output_of_another_merge_is_no_former_stage() {
    let zoo = Zoo::small();
    zoo.merge(MERGE, "work/first", &[]).ok();
    let before = zoo.listing("work");
    zoo.write("stages.yml", format!("name: first\n{MERGE}---\n{}", MERGE.replace("model: a", "model: first")));
    let args = ["multi", "stages.yml", "out", "--work-dir", "work"];
    zoo.glue(&args).refused("another merge", 1, &["work/first", "found one of another merge", "--work-dir"]);
    assert!(zoo.listing("work") == before);
}

/// Runs the first stage of a run in `out`.
fn first_stage(out: &Path, args: &[&str]) -> Run {
    let (config, out) = (shipped().join("zoo.yml"), out.display().to_string());
    let all = ["run", &config.display().to_string(), "--out", &out, "--until", "compatibility", "--quiet"];
    glue(&shipped(), [&all[..], args].concat())
}

#[test]
fn a_directory_that_is_no_run_is_not_resumed() {
    let zoo = Zoo::empty();
    // Directories have such names without being a run.
    zoo.write("project/final/thesis.tex", "x");
    zoo.write("project/stages/01-compatibility/notes", "x");
    let before = zoo.listing("project");
    for args in [&["--resume"][..], &["--from", "compatibility"]] {
        first_stage(&zoo.path("project"), args).refused(
            "no run",
            2,
            &["project", "found `final`, which is not from a run"],
        );
        assert!(zoo.listing("project") == before);
    }
}

#[test]
fn a_run_that_leads_out_of_its_directory_is_not_resumed() {
    let zoo = Zoo::empty();
    let out = zoo.path("out");
    first_stage(&out, &[]).ok();
    first_stage(&out, &["--resume"]).ok();
    first_stage(&out, &["--from", "compatibility"]).ok();
    zoo.write("photos/01-compatibility/1.jpg", "x");
    let before = zoo.listing("photos");

    let stages = zoo.path("out/stages");
    fs::rename(&stages, zoo.path("kept")).expect("stages to move");
    symlink(zoo.path("photos"), &stages).expect("a link");
    let refusal = ["`stages`, which is a symbolic link"];
    first_stage(&out, &["--from", "compatibility"]).refused("stages", 2, &refusal);
    assert!(zoo.listing("photos") == before);

    fs::remove_file(&stages).expect("a link to remove");
    fs::rename(zoo.path("kept"), &stages).expect("stages to move");
    symlink(zoo.path("photos/1.jpg"), stages.join("01-compatibility/result.json.copy")).expect("a link");
    first_stage(&out, &["--resume"]).refused("a file", 2, &["result.json.copy`, which is a symbolic link"]);

    fs::remove_file(stages.join("01-compatibility/result.json.copy")).expect("a link to remove");
    fs::remove_file(zoo.path("out/.lock")).expect("a lock to remove");
    zoo.write("precious", "x");
    symlink(zoo.path("precious"), zoo.path("out/.lock")).expect("a link");
    first_stage(&out, &["--resume"]).refused("the lock", 2, &["`.lock`, which is a symbolic link"]);
    assert_eq!(zoo.bytes("precious"), b"x");
}

/// Commands with an option that names a file to write, and the rest of what they are given. A test of `glue-cli` checks
/// that no such option is missing here.
const OPTIONS: [(&str, &str, &[&str]); 6] = [
    ("eval", "--samples", &["a-code", "--tasks", "tasks/facts", "--limit", "3"]),
    ("logits", "--out", &["a-code", "--ids", "IDS"]),
    ("similarity", "--csv", &["a-math", "a-code"]),
    ("similarity", "--heatmap", &["a-math", "a-code"]),
    ("cluster", "--dendrogram", &["a-math", "a-code"]),
    ("cluster", "--heatmap", &["a-math", "a-code"]),
];

/// A directory for outputs; models are those of the shipped zoo.
struct Outputs(TempDir);

impl Outputs {
    fn new() -> Outputs {
        let outputs = Outputs(tempfile::tempdir().expect("a temporary directory"));
        let ids = Tensor::i64(&[2, 3], [5, 6, 7, 8, 9, 10]);
        let ids = checkpoint::encode(&BTreeMap::from([("input_ids".to_string(), ids)]));
        fs::write(outputs.path("ids.safetensors"), ids).expect("ids");
        outputs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A command that writes to `path`, under the usual umask.
    fn command(&self, (name, option, rest): (&str, &str, &[&str]), path: &Path) -> Command {
        let ids = self.path("ids.safetensors").display().to_string();
        let rest = rest.iter().map(|&word| if word == "IDS" { ids.as_str() } else { word });
        let mut command = Command::new("sh");
        command.args(["-c", "umask 022; exec \"$@\"", "sh"]).arg(binary()).arg(name).args(rest).arg(option).arg(path);
        command.args(["--quiet"]).current_dir(shipped()).stdin(Stdio::null());
        command
    }

    /// Nothing but these files is in the directory.
    fn check_names(&self, expected: &[&str], what: &str) {
        let entries = fs::read_dir(self.0.path()).expect("a directory");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.retain(|name| name != "ids.safetensors");
        names.sort();
        assert_eq!(names, expected, "{what}");
    }
}

fn run(command: &mut Command, what: &str) -> Output {
    let output = command.output().expect("the command can be started");
    assert!(output.status.success() && output.stderr.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Makes a special file; false where that is not permitted.
fn made(program: &str, path: &Path, args: &[&str]) -> bool {
    Command::new(program).arg(path).args(args).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn options_write_files_as_a_shell_would() {
    for option in OPTIONS {
        let what = format!("{} {}", option.0, option.1);
        let place = Outputs::new();

        let new = place.path("new");
        let plain = run(&mut place.command(option, &new), &what).stdout;
        let expected = fs::read(&new).expect("an output");
        assert!(!expected.is_empty(), "{what}");
        assert_eq!(fs::metadata(&new).expect("an output").mode() & 0o777, 0o644, "{what}");

        // A link is followed, and what it leads to keeps its mode.
        let (target, link) = (place.path("target"), place.path("link"));
        fs::write(&target, "old").expect("a file");
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).expect("a mode");
        symlink("target", &link).expect("a link");
        run(&mut place.command(option, &link), &what);
        assert!(link.is_symlink() && fs::read(&target).expect("a file") == expected, "{what}: a link");
        assert_eq!(fs::metadata(&target).expect("a file").mode() & 0o777, 0o600, "{what}");
        fs::remove_file(&target).expect("a file to remove");
        run(&mut place.command(option, &link), &what);
        assert!(link.is_symlink() && fs::read(&target).expect("a file") == expected, "{what}: a link to nothing");
        for name in ["new", "target", "link"] {
            fs::remove_file(place.path(name)).expect("a file to remove");
        }

        // A directory is in the way.
        fs::create_dir(place.path("directory")).expect("a directory");
        let refused = place.command(option, &place.path("directory")).output().expect("the command can be started");
        Run::from(&refused).refused(&what, 1, &["directory: expected a regular file or nothing, found a directory"]);
        fs::remove_dir(place.path("directory")).expect("an empty directory");
        place.check_names(&[], &what);

        // Standard output, by a link of the user's and when it is a file that has something in it already.
        let stdout = place.path("stdout");
        symlink("/proc/self/fd/1", &stdout).expect("a link");
        let output = run(&mut place.command(option, &stdout), &what).stdout;
        assert!(output.starts_with(&expected) && output.len() >= plain.len(), "{what}: a link to standard output");
        let log = place.path("log");
        fs::write(&log, "earlier\n").expect("a file");
        let append = OpenOptions::new().append(true).open(&log).expect("a file");
        let status = place.command(option, &stdout).stdout(append).status().expect("the command can be started");
        let logged = fs::read(&log).expect("a file");
        assert!(status.success() && logged.starts_with(b"earlier\n") && logged[8..].starts_with(&expected), "{what}");
        assert!(stdout.is_symlink());
        place.check_names(&["log", "stdout"], &what);

        // A reader of a named pipe gets all of it.
        let pipe = place.path("pipe");
        assert!(made("mkfifo", &pipe, &[]), "mkfifo");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut bytes = Vec::new();
                fs::File::open(pipe).and_then(|mut file| file.read_to_end(&mut bytes)).expect("a pipe");
                bytes
            }
        });
        run(&mut place.command(option, &pipe), &what);
        assert!(reader.join().expect("a reader") == expected, "{what}: a pipe");
        assert!(fs::symlink_metadata(&pipe).expect("a pipe").file_type().is_fifo(), "{what}");

        let null = place.path("null");
        if !made("mknod", &null, &["c", "1", "3"]) {
            println!("{what}: a device was not tested: mknod is not permitted here");
            continue;
        }
        if OpenOptions::new().write(true).open(&null).is_err() {
            println!("{what}: a device was not tested: devices cannot be opened in the temporary directory");
            continue;
        }
        run(&mut place.command(option, &null), &what);
        let metadata = fs::symlink_metadata(&null).expect("a device");
        assert!(metadata.file_type().is_char_device(), "{what}: {metadata:?}");
    }
}

#[test]
fn pictures_replace_links_in_their_directory() {
    let zoo = Zoo::empty();
    zoo.copy(&shipped().join("a-math"), "math");
    zoo.copy(&shipped().join("a-code"), "code");
    zoo.write(
        "mix.yml",
        "base_model: math\ngate_mode: random\nexperts:\n  - {source_model: math}\n  - {source_model: code}\n",
    );
    zoo.glue(&["mix", "mix.yml", "mixture", "--quiet"]).ok();
    zoo.write("precious", "x");
    zoo.write("pictures/notes", "x");
    symlink("../precious", zoo.path("pictures/experts.task.svg")).expect("a link");
    let tasks = shipped().join("tasks/facts").display().to_string();
    zoo.glue(&["eval", "mixture", "--tasks", &tasks, "--limit", "1", "--pictures", "pictures", "--quiet"]).ok();
    assert_eq!((zoo.bytes("precious"), zoo.bytes("pictures/notes")), (b"x".to_vec(), b"x".to_vec()));
    assert!(zoo.bytes("pictures/experts.task.svg").starts_with(b"<svg"));
}

/// `glue` with files of at most `kib` KiB.
fn limited(zoo: &Zoo, kib: u32, args: &[&str]) -> Run {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("ulimit -f {kib}; exec \"$@\""), "bash"]).arg(binary()).args(args);
    Run::of(command.current_dir(zoo.directory()).stdin(Stdio::null()))
}

#[test]
fn the_file_size_limit_is_an_error_in_words() {
    let zoo = Zoo::small();
    zoo.copy(&shipped().join("a-math"), "math");
    zoo.copy(&shipped().join("a-code"), "code");
    zoo.write("merge.yml", "merge_method: linear\nmodels: [{model: math}, {model: code}]\nparameters: {weight: 1}\n");
    let before = zoo.names("");
    limited(&zoo, 16, &["merge", "merge.yml", "out"]).refused("a merge", 1, &["the file size limit is reached"]);
    let args = ["similarity", "math", "code", "--heatmap", "picture.svg"];
    limited(&zoo, 1, &args).refused("a picture", 1, &["picture.svg: the file size limit is reached"]);
    assert_eq!(zoo.names(""), before);
}

#[test]
fn absurd_numbers_of_threads_are_refused() {
    let zoo = Zoo::small();
    zoo.write("merge.yml", MERGE);
    let run = zoo.glue(&["merge", "merge.yml", "out", "--threads", "5000"]);
    run.refused("threads", 2, &["5000", "--threads"]);
    let mut command = command(zoo.directory(), ["merge", "merge.yml", "out", "--threads", "64"]);
    Run::of(&mut command).ok();
}
