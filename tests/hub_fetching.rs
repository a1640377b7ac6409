//! `glue fetch`, against a stand-in for the hub: what is fetched, and what happens when something goes wrong.

use glue_tests::hub::{Behaviour, StandIn};
use glue_tests::run::{Run, kill_when, python};
use glue_tests::zoo::{Zoo, shipped, tensors};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A hub with models, an adapter and datasets, and an empty cache.
struct Place {
    zoo: Zoo,
    hub: StandIn,
}

/// A shard of the large model, in bytes.
const SHARD: usize = 200_000;

impl Place {
    fn new() -> Place {
        let zoo = Zoo::empty();
        zoo.add("hub/models/org/small", &tensors(1));
        zoo.write("hub/models/org/small/README.md", "---\nlicense: mit\n---\n");
        zoo.write("hub/models/org/small/pytorch_model.bin", vec![1; 9000]);
        zoo.write("hub/models/org/small/onnx/model.onnx", vec![2; 9000]);
        zoo.add("hub/models/org/small@v1", &tensors(2));
        zoo.add("hub/models/org/small@refs--pr--1", &tensors(3));
        // Not a model that opens: what is transferred matters.
        for shard in 1..=6_usize {
            let bytes: Vec<u8> = (0..SHARD).map(|i| (i * 31 + shard * 7 + i / 251) as u8).collect();
            zoo.write(&format!("hub/models/org/large/model-{shard:05}-of-00006.safetensors"), bytes);
        }
        zoo.write("hub/models/org/large/config.json", "{}");
        let hub = StandIn::start(zoo.path("hub")).expect("a port");
        Place { zoo, hub }
    }

    fn behave(self, change: impl FnOnce(&mut Behaviour)) -> Place {
        self.hub.behave(change);
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.zoo.command(args);
        command.env("HF_ENDPOINT", self.hub.url()).env("HF_HUB_CACHE", self.zoo.path("cache"));
        command.env("HF_HOME", self.zoo.path("home"));
        for name in
            ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"]
        {
            command.env_remove(name);
        }
        command
    }

    fn glue(&self, args: &[&str]) -> Run {
        Run::of(&mut self.command(args))
    }

    fn fetch(&self, args: &[&str]) -> Run {
        self.glue(&[&["fetch"], args, &["--json"]].concat())
    }

    /// What is in the cache, but for empty directories.
    fn cached(&self) -> Vec<String> {
        let names = if self.zoo.path("cache").exists() { self.zoo.names("cache") } else { Vec::new() };
        names.into_iter().filter(|name| !name.ends_with('/')).collect()
    }

    /// Checks that a snapshot has the files of a repository, byte for byte, and no other.
    fn check(&self, repository: &str, files: &[&str]) {
        let (id, _) = repository.split_once('@').unwrap_or((repository, ""));
        let commit = self.hub.commit(&format!("models/{repository}"));
        let snapshot = format!("cache/models--{}/snapshots/{commit}", id.replace('/', "--"));
        let mut names: Vec<String> = self.zoo.names(&snapshot);
        names.retain(|name| !name.ends_with('/'));
        assert_eq!(names, files);
        for file in files {
            assert!(
                self.zoo.bytes(&format!("{snapshot}/{file}"))
                    == self.zoo.bytes(&format!("hub/models/{repository}/{file}")),
                "{file}"
            );
        }
    }

    fn check_large(&self) {
        let shards: Vec<String> = (1..=6).map(|i| format!("model-{i:05}-of-00006.safetensors")).collect();
        let files: Vec<&str> = ["config.json"].into_iter().chain(shards.iter().map(String::as_str)).collect();
        self.check("org/large", &files);
        assert!(!self.cached().iter().any(|name| name.contains("incomplete")));
    }

    /// Checks that nothing in the cache could be taken for a model or a file of one.
    fn check_nothing(&self) {
        let cached = self.cached();
        let partial = |name: &String| name.contains("/blobs/") && name.ends_with(".glue.incomplete");
        assert!(cached.iter().all(partial), "{cached:?}");
    }
}

const SMALL: &[&str] = &[
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

#[test]
fn a_model_that_was_fetched_is_found_by_its_name() {
    let place = Place::new();
    let dry = place.fetch(&["org/small", "--dry-run"]).json();
    assert_eq!((&dry["dry_run"], dry["repositories"].as_array().map(Vec::len)), (&Value::Bool(true), Some(1)));
    assert_eq!(place.cached(), [""; 0]);
    let fetched = place.fetch(&["org/small"]).json()["repositories"][0].clone();
    let commit = place.hub.commit("models/org/small");
    assert_eq!((&fetched["commit"], &fetched["revision"]), (&json!(commit), &json!("main")));
    assert_eq!(fetched["bytes_downloaded"], dry["repositories"][0]["bytes_to_download"]);
    place.check("org/small", SMALL);
    let link = place.zoo.path(&format!("cache/models--org--small/snapshots/{commit}/config.json"));
    assert!(fs::read_link(link).expect("a link").starts_with("../../blobs"));
    assert_eq!(place.zoo.bytes("cache/models--org--small/refs/main"), commit.as_bytes());
    place.glue(&["inspect", "org/small"]).ok();
    // Whatever is here is not asked for again.
    place.hub.take_requests();
    assert_eq!(place.fetch(&["org/small"]).json()["repositories"][0]["bytes_downloaded"], 0);
    assert!(!place.hub.take_requests().iter().any(|request| request.path.contains("/resolve/")));
    let text = place.glue(&["fetch", "org/small"]).ok().out;
    assert!(text.contains(&commit) && text.contains("in 6 files, 0 B downloaded"), "{text}");
}

#[test]
fn revisions_are_branches_tags_and_commits() {
    let place = Place::new();
    let pull_request = place.hub.commit("models/org/small@refs--pr--1");
    let names = ["org/small@v1", "org/small@refs/pr/1", &format!("org/small@{pull_request}")];
    let fetched = place.fetch(&names).json();
    let commits: Vec<&Value> = (0..3).map(|i| &fetched["repositories"][i]["commit"]).collect();
    assert_eq!(commits, [&json!(place.hub.commit("models/org/small@v1")), &json!(pull_request), &json!(pull_request)]);
    assert_eq!(fetched["repositories"][2]["bytes_downloaded"], 0);
    for reference in ["v1", "refs/pr/1"] {
        assert!(place.zoo.path(&format!("cache/models--org--small/refs/{reference}")).is_file());
    }
    // A commit is no reference, and without `main` the newest counts.
    assert!(!place.zoo.path(&format!("cache/models--org--small/refs/{pull_request}")).exists());
    assert_eq!(place.zoo.names("cache/models--org--small/refs").len(), 4);
    place.glue(&["inspect", "org/small@refs/pr/1"]).ok();
}

#[test]
fn a_transfer_that_is_cut_ten_times_goes_on_where_it_ended() {
    let place = Place::new().behave(|hub| (hub.cuts, hub.cut_after) = (10, 30_000));
    place.fetch(&["org/large"]).json();
    place.check_large();
    let requests = place.hub.take_requests();
    assert_eq!(
        requests.iter().filter(|request| request.path.starts_with("/large/") && request.range.is_some()).count(),
        10
    );
    // Nothing was sent twice, but for what was under way when a connection broke.
    assert!(place.hub.sent() < (6 * SHARD + 10 * 8192) as u64, "{}", place.hub.sent());
}

#[test]
fn a_hub_that_sends_everything_again_is_not_trusted_to_continue() {
    let place = Place::new().behave(|hub| (hub.cuts, hub.cut_after, hub.ignores_ranges) = (3, 30_000, true));
    place.fetch(&["org/large"]).json();
    place.check_large();
}

#[test]
fn a_download_that_was_killed_is_continued() {
    let place = Place::new().behave(|hub| hub.delay = Duration::from_millis(15));
    let blobs = place.zoo.path("cache/models--org--large/blobs");
    let received = || {
        let files = fs::read_dir(&blobs).into_iter().flatten().flatten();
        files.filter_map(|entry| entry.metadata().ok()).map(|system| system.len()).sum::<u64>()
    };
    for part in 1..5 {
        let killed = kill_when(&mut place.command(&["fetch", "org/large", "--quiet"]), || received() > part * 200_000);
        assert!(killed, "it ended before it was killed for the time number {part}");
        assert!(
            !place.zoo.path("cache/models--org--large/snapshots").join(place.hub.commit("models/org/large")).exists()
        );
        assert!(!place.zoo.path("cache/models--org--large/refs/main").exists());
    }
    let left = place.fetch(&["org/large", "--dry-run"]).json()["repositories"][0]["bytes_to_download"].as_u64();
    // With config.json, of two bytes.
    assert_eq!(left, Some(6 * SHARD as u64 + 2 - received()));
    let fetched = place.fetch(&["org/large"]).json()["repositories"][0]["bytes_downloaded"].as_u64();
    assert_eq!(fetched, left);
    place.check_large();
}

#[test]
fn what_an_earlier_attempt_left_is_checked() {
    let place = Place::new();
    let dry = place.fetch(&["org/large", "--dry-run"]).json();
    let files = dry["repositories"][0]["files"].as_array().expect("a list");
    for (i, file) in files.iter().enumerate() {
        let hash = file["hash"].as_str().expect("a hash");
        // Another beginning, of nothing up to more than the whole.
        place.zoo.write(&format!("cache/models--org--large/blobs/{hash}.glue.incomplete"), vec![7; i * SHARD / 4]);
    }
    let run = place.fetch(&["org/large"]);
    assert_eq!(run.log.iter().filter(|line| line.contains("what was there of it was damaged")).count(), 6, "{run:?}");
    run.json();
    place.check_large();
}

#[test]
fn a_file_with_another_hash_is_discarded() {
    let place = Place::new().behave(|hub| hub.corrupt = Some("00003-of".into()));
    let says = ["model-00003-of-00006.safetensors of org/large", "but the hub lists", "discarded"];
    place.fetch(&["org/large"]).refused("another hash", 1, &says);
    assert!(!place.zoo.path("cache/models--org--large/refs/main").exists());
    assert_eq!(place.zoo.names("cache/models--org--large/snapshots"), [""; 0]);
    // Even if a byte of it was here before.
    place.hub.behave(|hub| (hub.cuts, hub.cut_after) = (1, 50_000));
    place.fetch(&["org/large"]).refused("another hash", 1, &says[..1]);
    place.hub.behave(|hub| hub.corrupt = None);
    place.fetch(&["org/large"]).json();
    place.check_large();
}

#[test]
fn a_token_goes_to_the_hub_and_to_no_other_host() {
    let place = Place::new().behave(|hub| drop(hub.gated.insert("org/large".into(), "hf_secret".into())));
    let hint = ["org/large is gated", "/org/large", "set HF_TOKEN"];
    place.fetch(&["org/large"]).refused("no token", 1, &hint);
    let with = |token: &str| Run::of(place.command(&["fetch", "org/large"]).env("HF_TOKEN", token));
    with("hf_other").refused("another token", 1, &["org/large is gated", "with the account of the token"]);
    place.check_nothing();
    place.hub.take_requests();
    assert!(!with("hf_secret").ok().out.contains("secret"));
    place.check_large();
    let requests = place.hub.take_requests();
    let (own, other): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.host == "127.0.0.1");
    assert!(own.iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_secret")));
    assert!(other.len() >= 6 && other.iter().all(|request| request.authorization.is_none()));
    // The file that `hf auth login` writes.
    place.zoo.write("home/token", "hf_secret\n");
    assert_eq!(place.fetch(&["org/large"]).json()["repositories"][0]["bytes_downloaded"], 0);
}

#[test]
fn a_redirect_to_another_host_is_refused_where_the_hub_itself_must_answer() {
    let place = Place::new().behave(|hub| hub.moved_to = Some("http://localhost:9".into()));
    let run = Run::of(place.command(&["fetch", "org/small"]).env("HF_TOKEN", "hf_secret"));
    run.refused("another host", 1, &["http://localhost:9/api/models/org/small", "that is another host"]);
    assert!(!run.err.contains("secret"));
    // To another path of the same host, as when a repository was renamed.
    place.hub.behave(|hub| hub.moved_to = Some(String::new()));
    place.fetch(&["org/small"]).json();
    place.check("org/small", SMALL);
}

#[test]
fn what_is_not_there_is_said() {
    let place = Place::new();
    let check = |args: &[&str], status: i32, says: &[&str]| place.fetch(args).refused(&args.join(" "), status, says);
    check(&["org/none"], 1, &["org/none is not on 127.0.0.1, or it is private; for a private one, set HF_TOKEN"]);
    check(&["org/small@v9"], 1, &["org/small has no revision `v9`"]);
    check(&["small"], 2, &["`small` is no name on the hub: expected ORG/NAME"]);
    check(&["../../etc"], 2, &["is no name on the hub"]);
    check(&["org/small", "--include", "*.gguf"], 1, &["has no file that is wanted"]);
    check(&["org/small", "--include", "***"], 2, &["`***` is no pattern"]);
    fs::remove_file(place.zoo.path("hub/models/org/small/model.safetensors")).expect("a file");
    check(&["org/small"], 1, &["no safetensors file, but pytorch_model.bin", "--include"]);
    check(&[], 2, &["nothing to fetch", "--for"]);
    assert_eq!(place.cached(), [""; 0]);
    // Both are looked at before either is fetched.
    check(&["org/large", "org/none"], 1, &["org/none"]);
    assert_eq!(place.cached(), [""; 0]);
}

#[test]
fn patterns_choose_files() {
    let place = Place::new();
    place.fetch(&["org/small", "--include", "*.bin", "--include", "onnx/*"]).json();
    place.check("org/small", &["onnx/model.onnx", "pytorch_model.bin"]);
    // What was there stays, and more joins it.
    place.fetch(&["org/small", "--exclude", "*.safetensors"]).json();
    let all: Vec<&str> = SMALL.iter().copied().filter(|name| !name.ends_with(".safetensors")).collect();
    place.check("org/small", &[&all[..3], &["onnx/model.onnx", "pytorch_model.bin"], &all[3..]].concat());
}

#[test]
fn a_hub_that_is_busy_is_asked_again() {
    let place = Place::new().behave(|hub| hub.busy = 4);
    place.fetch(&["org/small"]).json();
    place.check("org/small", SMALL);
    place.hub.behave(|hub| hub.busy = usize::MAX);
    place.fetch(&["org/small"]).refused("busy", 1, &["answered with status 503", "again to continue"]);
}

#[test]
fn without_a_connection_nothing_hangs() {
    let place = Place::new();
    let offline = |name: &str, value: &str| Run::of(place.command(&["fetch", "org/small"]).env(name, value));
    offline("HF_HUB_OFFLINE", "1").refused("offline", 1, &["HF_HUB_OFFLINE is set"]);
    offline("HF_ENDPOINT", "nowhere").refused("no address", 2, &["`nowhere` is no address of a hub"]);
    // A port that nobody listens to: the usual waits, some seconds.
    offline("HF_ENDPOINT", "http://127.0.0.1:9").refused("closed", 1, &["cannot reach 127.0.0.1", "again to continue"]);
    offline("SSL_CERT_FILE", "none.pem").refused("no certificates", 1, &["none.pem"]);
}

#[test]
fn four_files_come_at_once() {
    let place = Place::new().behave(|hub| hub.delay = Duration::from_millis(4));
    place.fetch(&["org/large"]).json();
    place.check_large();
    assert_eq!(place.hub.most_at_once(), 4);
}

#[test]
fn two_processes_fetch_a_file_once() {
    let place = Place::new().behave(|hub| hub.delay = Duration::from_millis(4));
    let start = || place.command(&["fetch", "org/large", "--quiet"]).stdout(Stdio::null()).spawn().expect("glue");
    let children = [start(), start(), start()];
    for mut child in children {
        assert!(child.wait().expect("a child").success());
    }
    place.check_large();
    assert_eq!(place.hub.sent(), 6 * SHARD as u64);
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_begun() {
    let place = Place::new().behave(|hub| hub.claimed_size = Some(1 << 50));
    place.fetch(&["org/large"]).refused("too large", 1, &["bytes free", "more are needed"]);
    assert_eq!(place.cached(), [""; 0]);
}

/// A file system that fills up meanwhile: what came is kept, and is of use once there is room.
#[test]
fn a_full_disk_is_an_error() {
    let place = Place::new();
    let cache = place.zoo.path("cache");
    fs::create_dir_all(&cache).expect("a directory");
    // A limit for files has the same effect on writing as a full disk, and needs no rights.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    let glue = place.command(&["fetch", "org/large"]);
    let mut limited = Command::new("bash");
    limited.args(["-c", script, "bash"]).arg(glue.get_program()).args(glue.get_args());
    limited.envs(glue.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let run = Run::of(limited.current_dir(place.zoo.directory()).stdin(Stdio::null()));
    run.refused("full", 1, &[".glue.incomplete", "File too large"]);
    place.check_nothing();
    place.fetch(&["org/large"]).json();
    place.check_large();
    // The beginnings were of use.
    assert!(place.hub.sent() < 6 * SHARD as u64 + 4 * 200_000);
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for prefix in ["../", "/etc/", "a/../../"] {
        let place = Place::new().behave(|hub| hub.path_prefix = prefix.into());
        place.fetch(&["org/small"]).refused(prefix, 1, &["is no path in a repository"]);
        assert_eq!(place.cached(), [""; 0]);
    }
}

#[test]
fn what_a_config_names_is_fetched() {
    let place = Place::new();
    place.zoo.add("hub/models/org/other", &tensors(5));
    place.zoo.add("here/model", &tensors(6));
    let config = "merge_method: task_arithmetic\nbase_model: org/small\nmodels:\n- {model: org/small@v1, parameters: {weight: 0.5}}\n\
                  - {model: org/other, parameters: {weight: 0.5}}\n- {model: here/model, parameters: {weight: 0.5}}\n";
    place.zoo.write("merge.yml", config);
    let names = |run: Run| -> Vec<String> {
        let document = run.json();
        let rows = document["repositories"].as_array().expect("a list").iter();
        rows.map(|row| format!("{}@{}", row["name"].as_str().unwrap_or(""), row["revision"].as_str().unwrap_or("")))
            .collect()
    };
    let expected = ["org/small@main", "org/small@v1", "org/other@main"];
    assert_eq!(names(place.fetch(&["--for", "merge.yml", "--dry-run"])), expected);
    assert_eq!(names(place.fetch(&["--for", "merge.yml"])), expected);
    place.glue(&["merge", "merge.yml", "out"]).ok();
    assert_eq!(place.zoo.json("out/glue.json")["inputs"][1]["hub"]["id"], "org/small");
    place.fetch(&["--for", "merge.yml"]).ok_with_note("everything that the config names is here");
    place.zoo.write("bad.yml", "models: [");
    place.fetch(&["--for", "bad.yml"]).refused("bad config", 2, &["bad.yml:1"]);
    place.fetch(&["--for", "none.yml"]).refused("no config", 2, &["none.yml"]);
}

#[test]
fn data_of_tasks_is_fetched_for_a_run() {
    let place = Place::new();
    place.zoo.write("tasks/quiz.yaml", "task: quiz\ndataset_path: org/quiz\noutput_type: generate_until\ntest_split: test\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n");
    place.zoo.write("hub/datasets/org/quiz/load.py", "raise SystemExit\n");
    place
        .zoo
        .write("hub/datasets/org/quiz@refs--convert--parquet/default/test.jsonl", "{\"q\": \"1+1\", \"a\": \"2\"}\n");
    place.zoo.write("zoo.yml", "models: [org/small]\ntasks: {path: [quiz], include_path: [tasks]}\n");
    place.zoo.write("search.yml", "models: [org/small, org/small@v1]\ntasks: [quiz]\ninclude_path: [tasks]\n");
    for (config, n) in [("zoo.yml", 2), ("search.yml", 3)] {
        let document = place.fetch(&["--for", config, "--dry-run"]).json();
        let rows = document["repositories"].as_array().expect("a list");
        assert_eq!(rows.len(), n, "{config}: {document}");
        let data = &rows[n - 1];
        assert_eq!((&data["name"], &data["kind"]), (&json!("org/quiz"), &json!("dataset")));
        // The repository itself holds a program only.
        assert_eq!(data["revision"], "refs/convert/parquet");
    }
    place.fetch(&["--for", "zoo.yml"]).json();
    let status = place.glue(&["tasks", "quiz", "--include-path", "tasks", "--json"]).json();
    assert_eq!(status["names"][0]["status"], "runs", "{status}");
    let again = place.fetch(&["--dataset", "org/quiz"]).json();
    assert_eq!(again["repositories"][0]["bytes_downloaded"], 0);
}

/// The zoo that comes with the project, from a hub.
#[test]
fn a_model_that_was_fetched_generates() {
    let place = Place::new();
    place.zoo.copy(&shipped().join("a-chat"), "hub/models/org/chat");
    place.fetch(&["org/chat"]).json();
    let text = |model: &str| {
        let args = ["generate", model, "--prompt", "What is 3 and 4?", "--max-new-tokens", "8", "--json"];
        place.glue(&args).json()["prompts"][0]["answers"][0]["text"].clone()
    };
    assert_eq!(text("org/chat"), text(&shipped().join("a-chat").display().to_string()));
}

/// Python's client, where it is installed, reads what was fetched, and the other way round.
#[test]
fn the_hubs_own_client_reads_the_cache_and_is_read() {
    if !python() {
        return;
    }
    let has = Command::new("python3").args(["-c", "import huggingface_hub"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: huggingface_hub is not installed");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/hub.py");
    let place = Place::new();
    let mut command = Command::new("python3");
    command.arg(script).args(["--glue"]).arg(glue_tests::run::binary()).args(["--endpoint", &place.hub.url()]);
    let run = Run::of(command.args(["--model", "org/small"]).current_dir(place.zoo.directory()));
    assert_eq!(run.status, Some(0), "{run:?}");
}
