//! `glue push`: the card is checked, and the hub's own program uploads.

use glue_tests::hub::StandIn;
use glue_tests::run::Run;
use glue_tests::zoo::Zoo;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const CARD: &str = "---\nlicense: mit\nbase_model: org/base\n---\n# Merged\n";

fn place() -> (Zoo, StandIn) {
    let zoo = Zoo::small();
    zoo.write("a/README.md", CARD);
    let hub = StandIn::start(zoo.path("hub")).expect("a port");
    (zoo, hub)
}

/// Without the programs of this machine, but for those in `bin`.
fn push(zoo: &Zoo, hub: &StandIn, args: &[&str]) -> Command {
    let mut command = zoo.command(&[&["push"], args].concat());
    command.env("HF_ENDPOINT", hub.url()).env("PATH", zoo.path("bin")).env_remove("HF_HUB_OFFLINE");
    command.env("HF_HOME", zoo.path("home")).env_remove("HF_TOKEN");
    command
}

/// A program `hf` that writes down its arguments.
fn install(zoo: &Zoo, status: i32) {
    let script =
        format!("#!/bin/sh\n[ \"$1\" = --help ] && exit 0\necho \"$@\" > {}\nexit {status}\n", zoo.text("args"));
    zoo.write("bin/hf", script);
    fs::set_permissions(zoo.path("bin/hf"), fs::Permissions::from_mode(0o755)).expect("a file");
}

#[test]
fn the_command_is_printed_where_it_cannot_be_run() {
    let (zoo, hub) = place();
    let run = Run::of(&mut push(&zoo, &hub, &["a", "org/merged", "--commit-message", "First try"]));
    assert_eq!(run.out, "hf upload org/merged a . --commit-message 'First try'\n");
    assert!(run.status == Some(0) && run.err.contains("`hf` is not installed"), "{run:?}");
    let requests = hub.take_requests();
    assert_eq!(requests.len(), 1);
    assert!(
        requests[0].path == "/api/validate-yaml" && String::from_utf8_lossy(&requests[0].body).contains("org/base")
    );
}

#[test]
fn what_is_in_order_is_uploaded() {
    let (zoo, hub) = place();
    install(&zoo, 0);
    let args = ["a", "org/merged", "--private", "--create-pr", "--revision", "next", "--json"];
    let document = Run::of(&mut push(&zoo, &hub, &args)).json();
    assert_eq!((&document["uploaded"], &document["checked_by_hub"]), (&true.into(), &true.into()));
    let expected = "upload org/merged a . --revision next --private --create-pr\n";
    assert_eq!(String::from_utf8(zoo.bytes("args")).as_deref(), Ok(expected));
    fs::remove_file(zoo.path("args")).expect("a file");
    let run = Run::of(&mut push(&zoo, &hub, &["a", "org/merged", "--dry-run"])).ok();
    assert!(run.out.starts_with("hf upload org/merged a .") && !zoo.path("args").exists());
    install(&zoo, 3);
    Run::of(&mut push(&zoo, &hub, &["a", "org/merged"])).refused("hf fails", 1, &["`hf upload org/merged a .` failed"]);
}

#[test]
fn a_card_that_the_hub_refuses_is_not_uploaded() {
    let (zoo, hub) = place();
    install(&zoo, 0);
    hub.behave(|hub| hub.card_errors = vec!["\"license\" must be one of a list".into()]);
    let refused = ["the hub would refuse a", "README.md: \"license\" must be one of a list"];
    Run::of(&mut push(&zoo, &hub, &["a", "org/merged"])).refused("the hub's errors", 1, &refused);
    hub.take_requests();
    // What is known to be wrong is not sent.
    zoo.write("a/README.md", "---\nbase_model: /models/base\n---\n");
    Run::of(&mut push(&zoo, &hub, &["a", "org/merged"])).refused("a path", 1, &["`base_model` is `/models/base`"]);
    assert_eq!(hub.take_requests(), []);
    assert!(!zoo.path("args").exists());
}

#[test]
fn what_cannot_be_pushed_is_refused() {
    let (zoo, hub) = place();
    Run::of(&mut push(&zoo, &hub, &["none", "org/merged"])).refused("no model", 2, &["none: no such directory"]);
    Run::of(&mut push(&zoo, &hub, &["a", "merged"])).refused("no name", 2, &["expected ORG/NAME"]);
    // Without a connection, a dry run checks what is known.
    let mut offline = push(&zoo, &hub, &["a", "org/merged", "--dry-run"]);
    Run::of(offline.env("HF_HUB_OFFLINE", "1")).ok_with_note("there is no connection to the hub");
    let mut offline = push(&zoo, &hub, &["a", "org/merged"]);
    Run::of(offline.env("HF_HUB_OFFLINE", "1")).refused("offline", 1, &["HF_HUB_OFFLINE is set"]);
}
