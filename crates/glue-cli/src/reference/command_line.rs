//! The reference of the command line, from clap's definition.

use super::{GENERATED, cell};
use clap::{Arg, ArgAction, Command};
use std::fmt::Write;

const GLOBAL: &str = "Global options";

/// All commands and options that are not hidden.
pub(crate) fn markdown(mut root: Command) -> String {
    // Adds what clap generates, and propagates global options.
    root.build();
    let mut text = format!("{GENERATED}# The command line\n");
    paragraphs(&mut text, &root);
    let commands: Vec<&Command> =
        root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help").collect();
    text.push_str("\n| command | purpose |\n|---|---|\n");
    for command in &commands {
        let name = format!("{} {}", root.get_name(), command.get_name());
        let about = command.get_about().map(ToString::to_string);
        let anchor = name.replace(' ', "-");
        let about = cell(&about.unwrap_or_default());
        push(&mut text, format_args!("| [`{name}`](#{anchor}) | {about} |\n"));
    }
    push(&mut text, format_args!("\n## {GLOBAL}\n"));
    text.push_str("\nEvery command accepts these, before or after its name.\n");
    options(&mut text, root.get_arguments().filter(|arg| is_global(arg)));
    for command in commands {
        one_command(&mut text, command);
    }
    text
}

fn one_command(text: &mut String, command: &Command) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    push(text, format_args!("\n## {name}\n"));
    paragraphs(text, command);
    push(text, format_args!("\n```text\n{}\n```\n", usage(name, command)));
    let shown = || command.get_arguments().filter(|arg| !is_global(arg));
    let arguments: Vec<&Arg> = shown().filter(|arg| arg.is_positional()).collect();
    if !arguments.is_empty() {
        text.push_str("\n| argument | description |\n|---|---|\n");
        for arg in arguments {
            push(text, format_args!("| `{}` | {} |\n", value_name(arg), help(arg)));
        }
    }
    options(text, shown().filter(|arg| !arg.is_positional()));
    if let Some(after) = command.get_after_help() {
        let after = after.to_string();
        let examples = after.trim().strip_prefix("Examples:\n").unwrap_or(&after);
        push(text, format_args!("\n```text\n{}\n```\n", dedent(examples)));
    }
}

fn paragraphs(text: &mut String, command: &Command) {
    if let Some(about) = command.get_long_about().or(command.get_about()) {
        let about = about.to_string();
        let (first, rest) = about.trim().split_once('\n').unwrap_or((about.trim(), ""));
        let stop = if first.ends_with(['.', ':']) { "" } else { "." };
        let rest = if rest.is_empty() { String::new() } else { format!("\n{rest}") };
        push(text, format_args!("\n{first}{stop}{rest}\n"));
    }
}

/// The usual one line, global options left out.
fn usage(name: &str, command: &Command) -> String {
    let mut line = name.to_string();
    for arg in command.get_arguments().filter(|arg| arg.is_positional()) {
        let value = value_name(arg);
        let _ = match arg.is_required_set() {
            true => write!(line, " {value}"),
            false => write!(line, " [{value}]"),
        };
    }
    if command.get_arguments().any(|arg| !arg.is_positional() && !is_global(arg)) {
        line.push_str(" [OPTIONS]");
    }
    line
}

fn options<'a>(text: &mut String, options: impl Iterator<Item = &'a Arg>) {
    let mut options = options.filter(|arg| !arg.is_hide_set()).peekable();
    if options.peek().is_none() {
        return;
    }
    text.push_str("\n| option | description |\n|---|---|\n");
    for arg in options {
        let short = arg.get_short().map(|short| format!("-{short}, "));
        let long = arg.get_long().unwrap_or_default();
        let value = match takes_value(arg) {
            true => format!(" {}", value_name(arg)),
            false => String::new(),
        };
        let short = short.unwrap_or_default();
        push(text, format_args!("| `{short}--{long}{value}` | {} |\n", help(arg)));
    }
}

/// Its help, possible values and default.
fn help(arg: &Arg) -> String {
    let text = arg.get_long_help().or(arg.get_help());
    let text = text.map(ToString::to_string).unwrap_or_default();
    let mut text = cell(&text);
    if !takes_value(arg) {
        return text;
    }
    let possible: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !possible.is_empty() {
        let _ = write!(text, "; one of {}", possible.join(", "));
    }
    if let Some(default) = arg.get_default_values().first() {
        let _ = write!(text, " (default: `{}`)", default.to_string_lossy());
    }
    text
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

fn is_global(arg: &Arg) -> bool {
    arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "version")
}

fn value_name(arg: &Arg) -> String {
    let names = arg.get_value_names().and_then(|names| names.first());
    names.map_or_else(|| arg.get_id().to_string().to_uppercase(), ToString::to_string)
}

/// Without the indentation that all lines share.
fn dedent(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let indent = lines.map(|line| line.len() - line.trim_start().len()).min();
    let lines = text.trim_end().lines();
    let lines: Vec<&str> = lines.map(|line| line.get(indent.unwrap_or(0)..).unwrap_or("")).collect();
    lines.join("\n")
}

/// Writing to a string cannot fail.
fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    //! A small command line, whole.
    use super::*;

    #[test]
    fn commands_options_and_examples_are_there() {
        let command = Command::new("tool")
            .about("Does things")
            .arg(Arg::new("json").long("json").global(true).action(ArgAction::SetTrue).help("As JSON"))
            .subcommand(
                Command::new("cut")
                    .about("Cuts")
                    .after_help("Examples:\n  tool cut a\n  tool cut b")
                    .arg(Arg::new("file").value_name("FILE").required(true).help("What to cut"))
                    .arg(Arg::new("at").long("at").short('a').value_name("N").default_value("1").help("Where | how"))
                    .arg(Arg::new("old").long("old").hide(true)),
            )
            .subcommand(Command::new("secret").hide(true));
        let text = markdown(command);
        let expected = "\
# The command line

Does things.

| command | purpose |
|---|---|
| [`tool cut`](#tool-cut) | Cuts |

## Global options

Every command accepts these, before or after its name.

| option | description |
|---|---|
| `--json` | As JSON |
| `-h, --help` | Print help |

## tool cut

Cuts.

```text
tool cut FILE [OPTIONS]
```

| argument | description |
|---|---|
| `FILE` | What to cut |

| option | description |
|---|---|
| `-a, --at N` | Where \\| how (default: `1`) |

```text
tool cut a
tool cut b
```
";
        assert_eq!(text.strip_prefix(GENERATED), Some(expected));
    }
}
