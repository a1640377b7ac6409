//! Where output goes: standard output for results, standard error for everything else.

use crate::app::{ColorChoice, Global};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::visible::{indented, visible};
use clap::builder::StyledStr;
use clap::builder::styling::{AnsiColor, Style};
use glue_progress::CancelToken;
use serde::Serialize;
use std::cell::OnceCell;
use std::io::{self, IsTerminal, Write};

/// The two streams that a command line prints to.
pub struct Streams<'a> {
    /// Results.
    pub out: Box<dyn Write + Send + 'a>,
    /// Errors and notes.
    pub err: Box<dyn Write + Send + 'a>,
    /// Whether `out` is a terminal: colours are for terminals.
    pub out_is_terminal: bool,
    /// Whether `err` is a terminal: a progress bar is drawn on the standard error of the process only then.
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

/// The streams, and how the user wants them used.
pub(crate) struct Shell<'a> {
    streams: Streams<'a>,
    colour: ColorChoice,
    json: bool,
    quiet: bool,
    /// One for the whole command: a wish to stop that comes between two stages is not forgotten.
    interrupt: OnceCell<Interrupt>,
}

/// Headings of tables.
pub(crate) const HEADING: Style = Style::new().bold();
const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

impl<'a> Shell<'a> {
    /// Before the command line is parsed: only what is asked of colours is known.
    pub(crate) fn new(streams: Streams<'a>, colour: ColorChoice) -> Self {
        Self { streams, colour, json: false, quiet: false, interrupt: OnceCell::new() }
    }

    /// Takes over the global options.
    pub(crate) fn apply(&mut self, global: &Global) {
        self.colour = global.color;
        self.json = global.json;
        self.quiet = global.quiet;
    }

    /// Whether one JSON document is wanted instead of text.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether a progress bar may be drawn on standard error.
    pub(crate) fn draws_progress(&self) -> bool {
        self.streams.err_is_terminal && !self.quiet
    }

    /// Cancelled when the user asks to stop; from the first call on.
    pub(crate) fn cancel_token(&self) -> CancelToken {
        CancelToken::from_flag(self.interrupt.get_or_init(Interrupt::watch).flag())
    }

    /// The status to exit with when the user asked to stop.
    pub(crate) fn interrupt_status(&self) -> u8 {
        self.interrupt.get_or_init(Interrupt::watch).status()
    }

    /// Prints `text`, with control characters made visible, and hands it on at once.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Failure> {
        let colours = self.colours_out();
        self.print_raw(&visible(text, colours))
    }

    /// Prints what a model wrote: as it is into a file or a pipe, with control characters made visible on a terminal.
    pub(crate) fn print_generated(&mut self, text: &str) -> Result<(), Failure> {
        match self.streams.out_is_terminal {
            true => self.print(text),
            false => self.print_raw(text),
        }
    }

    fn print_raw(&mut self, text: &str) -> Result<(), Failure> {
        self.streams.out.write_all(text.as_bytes())?;
        self.streams.out.flush()?;
        Ok(())
    }

    /// Prints `document` as JSON.
    pub(crate) fn print_json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document).map_err(Failure::failed)?;
        // JSON has escapes of its own.
        self.print_raw(&format!("{text}\n"))
    }

    /// Prints to standard error, quiet or not: errors, with control characters made visible. That nobody reads it is no
    /// failure.
    pub(crate) fn warn(&mut self, text: &str) {
        let text = visible(text, self.colours(self.streams.err_is_terminal));
        let _ = writeln!(self.streams.err, "{text}");
    }

    /// Prints to standard error, unless quiet: what is worth knowing and no error.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.quiet {
            let label = paint("note:", HINT, self.colours(self.streams.err_is_terminal));
            self.warn(&format!("{label} {}", indented(text)));
        }
    }

    /// Prints a line that a program of the user printed to its standard error, as it is, unless quiet.
    pub(crate) fn pass_on(&mut self, line: &str) {
        if !self.quiet {
            let _ = writeln!(self.streams.err, "{}", line.trim_end_matches('\n'));
        }
    }

    /// The word `error:`.
    pub(crate) fn error_label(&self) -> String {
        paint("error:", ERROR, self.colours(self.streams.err_is_terminal))
    }

    /// The word `hint:`.
    pub(crate) fn hint_label(&self) -> String {
        paint("hint:", HINT, self.colours(self.streams.err_is_terminal))
    }

    /// `text` as a heading on standard output.
    pub(crate) fn heading(&self, text: &str) -> String {
        paint(text, HEADING, self.colours_out())
    }

    /// Whether standard output takes colours.
    pub(crate) fn colours_out(&self) -> bool {
        self.colours(self.streams.out_is_terminal)
    }

    /// A message of clap's for standard output.
    pub(crate) fn styled_out(&self, message: &StyledStr) -> String {
        render(message, self.colours_out())
    }

    /// A message of clap's for standard error.
    pub(crate) fn styled_err(&self, message: &StyledStr) -> String {
        render(message, self.colours(self.streams.err_is_terminal))
    }

    fn colours(&self, terminal: bool) -> bool {
        match self.colour {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            // https://no-color.org: set and not empty.
            ColorChoice::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }
}

/// `text` in `style`, or plain.
pub(crate) fn paint(text: &str, style: Style, colours: bool) -> String {
    if colours { format!("{style}{text}{style:#}") } else { text.to_string() }
}

fn render(message: &StyledStr, colours: bool) -> String {
    if colours { message.ansi().to_string() } else { message.to_string() }
}
