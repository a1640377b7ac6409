//! Strings and f-strings.

use super::{Parser, expression};
use crate::python::program::Fault;
use crate::python::program::syntax::*;
use crate::python::program::tokens::{Token, unescape};

impl Parser {
    /// Strings that stand beside each other are one.
    pub(super) fn strings(&mut self) -> Result<ExprKind, Fault> {
        let mut pieces: Vec<Piece> = Vec::new();
        let push = |pieces: &mut Vec<Piece>, piece: Piece| match (pieces.last_mut(), piece) {
            (Some(Piece::Text(last)), Piece::Text(text)) => *last = format!("{last}{text}").into(),
            (_, piece) => pieces.push(piece),
        };
        let mut is_format = false;
        loop {
            let line = self.line();
            match self.peek().clone() {
                Token::Str(text) => push(&mut pieces, Piece::Text(text.into())),
                Token::Format(text, raw) => {
                    is_format = true;
                    let parsed = self.nested(|parser| parser.format_pieces(&text, raw, line))?;
                    parsed.into_iter().for_each(|piece| push(&mut pieces, piece));
                }
                _ => break,
            }
            self.at += 1;
        }
        Ok(match pieces.as_slice() {
            [] => ExprKind::Str("".into()),
            [Piece::Text(text)] if !is_format => ExprKind::Str(text.clone()),
            _ => ExprKind::Format(pieces),
        })
    }

    fn format_pieces(&mut self, text: &str, raw: bool, line: usize) -> Result<Vec<Piece>, Fault> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if rest.starts_with(brace) {
                literal.push_str(brace);
                rest = &rest[1..];
                continue;
            }
            if brace == "}" {
                return Err(Fault::unsupported(line, "an f-string has a single `}`"));
            }
            self.flush(&mut literal, raw, line, &mut pieces)?;
            let (end, colon) = field_end(rest).ok_or_else(|| Fault::unsupported(line, "an f-string has no `}`"))?;
            let mut field = rest[..colon.unwrap_or(end)].trim();
            let mut conversion = None;
            if let Some((before, letter)) = field.rsplit_once('!')
                && matches!(letter, "r" | "s" | "a")
            {
                (field, conversion) = (before.trim_end(), letter.chars().next());
            }
            if let Some(shown) = field.strip_suffix('=').filter(|shown| !shown.ends_with(['=', '!', '<', '>'])) {
                pieces.push(Piece::Text(field.into()));
                (field, conversion) = (shown.trim_end(), conversion.or(Some('r')));
            }
            let value = self.nested(|_| expression(field, line))?;
            let spec = match colon {
                Some(colon) => self.nested(|parser| parser.format_pieces(&rest[colon + 1..end], raw, line))?,
                None => Vec::new(),
            };
            pieces.push(Piece::Value { value, conversion, spec });
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        self.flush(&mut literal, raw, line, &mut pieces)?;
        Ok(pieces)
    }

    fn flush(&self, literal: &mut String, raw: bool, line: usize, out: &mut Vec<Piece>) -> Result<(), Fault> {
        if literal.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(literal);
        let text = if raw { text } else { unescape(&text).map_err(|message| Fault::unsupported(line, message))? };
        out.push(Piece::Text(text.into()));
        Ok(())
    }
}

/// Where the value in braces ends, and where its format begins.
fn field_end(text: &str) -> Option<(usize, Option<usize>)> {
    let (mut depth, mut colon, mut quote) = (0usize, None, None);
    for (at, c) in text.char_indices() {
        match c {
            c if quote == Some(c) => quote = None,
            _ if quote.is_some() => {}
            '\'' | '"' if colon.is_none() => quote = Some(c),
            '(' | '[' | '{' => depth += 1,
            '}' if depth == 0 => return Some((at, colon)),
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ':' if depth == 0 && colon.is_none() => colon = Some(at),
            _ => {}
        }
    }
    None
}
