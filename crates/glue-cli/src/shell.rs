//! Where output goes: standard output for results, standard error for everything else.

use crate::app::{ColorChoice, Global, LogFormat};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::visible::{indented, visible};
use clap::builder::StyledStr;
use clap::builder::styling::{AnsiColor, Style};
use glue_progress::CancelToken;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Instant;

/// The two streams that a command line prints to.
pub struct Streams<'a> {
    /// Results.
    pub out: Box<dyn Write + Send + 'a>,
    /// Errors and notes.
    pub err: Box<dyn Write + Send + 'a>,
    /// Whether `out` is a terminal: colours are for terminals.
    pub out_is_terminal: bool,
    /// Whether `err` is a terminal: a progress bar is then drawn on the standard error of the process, instead of log
    /// lines on `err`.
    pub err_is_terminal: bool,
}

impl std::fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("out_is_terminal", &self.out_is_terminal)
            .field("err_is_terminal", &self.err_is_terminal)
            .finish_non_exhaustive()
    }
}

impl Streams<'static> {
    /// The standard streams of the process.
    pub fn standard() -> Self {
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
        }
    }
}

/// Standard error, shared with what logs progress, and how the user wants it used. A closed one is ignored.
#[derive(Clone)]
pub(crate) struct ErrorStream<'a> {
    stream: Arc<Mutex<Box<dyn Write + Send + 'a>>>,
    /// When the command began.
    start: Instant,
    colours: bool,
    quiet: bool,
    /// Whether lines are JSON.
    json: bool,
}

impl ErrorStream<'_> {
    /// Seconds since the command began.
    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Writes `line` and a line break.
    pub(crate) fn line(&self, line: &str) {
        let _ = writeln!(self.stream.lock(), "{line}");
    }

    /// Writes an event of the log as a line of JSON: the seconds since the start, the name of the event, and `facts`.
    pub(crate) fn event(&self, event: &str, facts: Value) {
        let mut document = json!({ "seconds": milliseconds(self.seconds()), "event": event });
        if let (Some(document), Value::Object(facts)) = (document.as_object_mut(), facts) {
            document.extend(facts.into_iter().filter(|(_, value)| !value.is_null()));
        }
        self.line(&document.to_string());
    }

    /// Writes text, with control characters made visible.
    fn warn(&self, text: &str) {
        self.line(&visible(text, self.colours));
    }

    /// Writes a note, unless quiet.
    pub(crate) fn note(&self, text: &str) {
        match self.json {
            _ if self.quiet => {}
            true => self.event("note", json!({ "text": text })),
            false => self.warn(&format!("{} {}", paint("note:", HINT, self.colours), indented(text))),
        }
    }

    /// Writes a warning, unless quiet.
    fn warning(&self, text: &str) {
        match self.json {
            _ if self.quiet => {}
            true => self.event("warning", json!({ "text": text })),
            false => self.warn(&format!("{} {}", paint("warning:", WARNING, self.colours), indented(text))),
        }
    }

    /// Writes why a command ended, quiet or not; `labelled` puts `error:` before it.
    fn failure(&self, labelled: bool, text: &str, hint: Option<&str>) {
        if self.json {
            let event = if labelled { "error" } else { "interrupted" };
            return self.event(event, json!({ "text": text, "hint": hint }));
        }
        match labelled {
            true => self.warn(&format!("{} {text}", paint("error:", ERROR, self.colours))),
            false => self.warn(text),
        }
        if let Some(hint) = hint {
            self.warn(&format!("{} {}", paint("hint:", HINT, self.colours), indented(hint)));
        }
    }
}

/// A time in seconds, to the millisecond.
pub(crate) fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Display {
    /// Not at all.
    Nothing,
    /// As a bar on the terminal.
    Bar,
    /// As lines.
    Log(LogFormat),
}

/// The streams, and how the user wants them used.
pub(crate) struct Shell<'a> {
    out: Box<dyn Write + Send + 'a>,
    err: ErrorStream<'a>,
    out_is_terminal: bool,
    err_is_terminal: bool,
    colour: ColorChoice,
    json: bool,
    log_format: Option<LogFormat>,
    /// One for the whole command: a signal between two stages is not lost.
    interrupt: OnceCell<Interrupt>,
}

/// Headings of tables.
pub(crate) const HEADING: Style = Style::new().bold();
const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

impl<'a> Shell<'a> {
    /// Before the command line is parsed: only the colour choice is known.
    pub(crate) fn new(streams: Streams<'a>, colour: ColorChoice) -> Self {
        let Streams { out, err, out_is_terminal, err_is_terminal } = streams;
        let stream = Arc::new(Mutex::new(err));
        let colours = takes_colours(colour, err_is_terminal);
        let err = ErrorStream { stream, start: Instant::now(), colours, quiet: false, json: false };
        let (json, log_format, interrupt) = (false, None, OnceCell::new());
        Self { out, err, out_is_terminal, err_is_terminal, colour, json, log_format, interrupt }
    }

    /// Takes over the global options.
    pub(crate) fn apply(&mut self, global: &Global) {
        self.colour = global.color;
        self.json = global.json;
        self.log_format = global.log_format;
        self.err.colours = takes_colours(global.color, self.err_is_terminal);
        self.err.quiet = global.quiet;
        self.err.json = global.log_format == Some(LogFormat::Json);
    }

    /// Whether one JSON document is wanted instead of text.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// How progress is shown: by a bar on a terminal, else by log lines; by log lines if a format was asked for.
    pub(crate) fn display(&self) -> Display {
        match self.log_format {
            _ if self.err.quiet => Display::Nothing,
            None if self.err_is_terminal => Display::Bar,
            format => Display::Log(format.unwrap_or_default()),
        }
    }

    /// Standard error, for lines of a log.
    pub(crate) fn error_stream(&self) -> ErrorStream<'a> {
        self.err.clone()
    }

    /// Cancelled when the user asks to stop; from the first call on.
    pub(crate) fn cancel_token(&self) -> CancelToken {
        CancelToken::from_flag(self.interrupt.get_or_init(Interrupt::watch).flag())
    }

    /// The status to exit with when the user asked to stop.
    pub(crate) fn interrupt_status(&self) -> u8 {
        self.interrupt.get_or_init(Interrupt::watch).status()
    }

    /// Prints `text`, with control characters made visible, and flushes.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Failure> {
        let colours = self.colours_out();
        self.print_raw(&visible(text, colours))
    }

    /// Prints generated text: unchanged into a file or pipe, with control characters made visible on a terminal.
    pub(crate) fn print_generated(&mut self, text: &str) -> Result<(), Failure> {
        match self.out_is_terminal {
            true => self.print(text),
            false => self.print_raw(text),
        }
    }

    fn print_raw(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    /// Prints `document` as JSON.
    pub(crate) fn print_json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document).map_err(Failure::failed)?;
        // JSON has escapes of its own.
        self.print_raw(&format!("{text}\n"))
    }

    /// Prints why a command ended to standard error, quiet or not; `labelled` puts `error:` before it.
    pub(crate) fn failure(&self, labelled: bool, text: &str, hint: Option<&str>) {
        self.err.failure(labelled, text, hint);
    }

    /// Prints a note to standard error, unless quiet.
    pub(crate) fn note(&self, text: &str) {
        self.err.note(text);
    }

    /// Prints a warning to standard error, unless quiet.
    pub(crate) fn warning(&self, text: &str) {
        self.err.warning(text);
    }

    /// Prints a line of an evaluator's standard error unchanged, unless quiet.
    pub(crate) fn pass_on(&self, line: &str) {
        let line = line.trim_end_matches('\n');
        match self.err.json {
            _ if self.err.quiet => {}
            true => self.err.event("evaluator", json!({ "text": line })),
            false => self.err.line(line),
        }
    }

    /// `text` as a heading on standard output.
    pub(crate) fn heading(&self, text: &str) -> String {
        paint(text, HEADING, self.colours_out())
    }

    /// Whether standard output takes colours.
    pub(crate) fn colours_out(&self) -> bool {
        takes_colours(self.colour, self.out_is_terminal)
    }

    /// A message from clap for standard output.
    pub(crate) fn styled_out(&self, message: &StyledStr) -> String {
        render(message, self.colours_out())
    }

    /// A message from clap for standard error.
    pub(crate) fn styled_err(&self, message: &StyledStr) -> String {
        render(message, self.err.colours)
    }
}

/// Whether a stream takes colours.
fn takes_colours(choice: ColorChoice, terminal: bool) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        // https://no-color.org: set and not empty.
        ColorChoice::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

/// `text` in `style`, or plain.
pub(crate) fn paint(text: &str, style: Style, colours: bool) -> String {
    if colours { format!("{style}{text}{style:#}") } else { text.to_string() }
}

fn render(message: &StyledStr, colours: bool) -> String {
    if colours { message.ansi().to_string() } else { message.to_string() }
}
