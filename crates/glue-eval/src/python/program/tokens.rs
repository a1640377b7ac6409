//! From the text of a Python module to its tokens.

use super::Fault;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Int(i64),
    Float(f64),
    Str(String),
    /// The text between the quotes of an f-string, and whether backslashes stand for themselves.
    Format(String, bool),
    Operator(&'static str),
    NewLine,
    Indent,
    Dedent,
    End,
}

/// Longest first where one begins another.
const OPERATORS: &[&str] = &[
    "**=", "//=", ">>=", "<<=", "...", "**", "//", ">>", "<<", "<=", ">=", "==", "!=", "->", "+=", "-=", "*=", "/=",
    "%=", "&=", "|=", "^=", ":=", "@=", "+", "-", "*", "/", "%", "@", "&", "|", "^", "~", "<", ">", "(", ")", "[", "]",
    "{", "}", ",", ":", ".", ";", "=", "!",
];

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<(Token, usize)>,
    brackets: usize,
    indents: Vec<usize>,
}

/// The tokens of `source`, each with its line.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, usize)>, Fault> {
    let mut lexer = Lexer {
        rest: source.strip_prefix('\u{feff}').unwrap_or(source),
        line: 1,
        tokens: Vec::new(),
        brackets: 0,
        indents: vec![0],
    };
    lexer.indentation()?;
    while !lexer.rest.is_empty() {
        lexer.step()?;
    }
    if !matches!(lexer.tokens.last(), None | Some((Token::NewLine | Token::Dedent, _))) {
        lexer.push(Token::NewLine);
    }
    while lexer.indents.len() > 1 {
        lexer.indents.pop();
        lexer.push(Token::Dedent);
    }
    lexer.push(Token::End);
    Ok(lexer.tokens)
}

impl Lexer<'_> {
    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::unsupported(self.line, message)
    }

    /// At the beginning of a line: blank lines and comments are skipped, and the depth of the next one compared.
    fn indentation(&mut self) -> Result<(), Fault> {
        loop {
            let text = self.rest.trim_start_matches([' ', '\t', '\u{c}']);
            let width = self.rest[..self.rest.len() - text.len()].chars().map(|c| if c == '\t' { 8 } else { 1 }).sum();
            if text.starts_with('#') || text.starts_with('\n') || text.starts_with("\r\n") {
                let end = text.find('\n').map_or(text.len(), |at| at + 1);
                self.rest = &text[end..];
                self.line += 1;
                continue;
            }
            self.rest = text;
            if text.is_empty() {
                return Ok(());
            }
            if width > self.indents.last().copied().unwrap_or(0) {
                self.indents.push(width);
                self.push(Token::Indent);
            }
            while width < self.indents.last().copied().unwrap_or(0) {
                self.indents.pop();
                self.push(Token::Dedent);
            }
            if width != self.indents.last().copied().unwrap_or(0) {
                return Err(self.fault("the indentation matches no block"));
            }
            return Ok(());
        }
    }

    fn step(&mut self) -> Result<(), Fault> {
        let text = self.rest;
        let Some(first) = text.chars().next() else { return Ok(()) };
        match first {
            '\n' | '\r' => {
                let end = if text.starts_with("\r\n") { 2 } else { 1 };
                self.rest = &text[end..];
                if self.brackets == 0 {
                    if !matches!(self.tokens.last(), None | Some((Token::NewLine, _))) {
                        self.push(Token::NewLine);
                    }
                    self.line += 1;
                    return self.indentation();
                }
                self.line += 1;
            }
            ' ' | '\t' | '\u{c}' => self.rest = &text[1..],
            '#' => self.rest = &text[text.find('\n').unwrap_or(text.len())..],
            '\\' if text[1..].starts_with('\n') || text[1..].starts_with("\r\n") => {
                self.rest = &text[text.find('\n').unwrap_or(0) + 1..];
                self.line += 1;
            }
            c if c.is_alphabetic() || c == '_' => {
                let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
                let word = &text[..end];
                let prefix = word.to_ascii_lowercase();
                if text[end..].starts_with(['"', '\'']) && matches!(&*prefix, "r" | "f" | "u" | "rf" | "fr") {
                    self.rest = &text[end..];
                    return self.string(prefix.contains('r'), prefix.contains('f'));
                }
                if text[end..].starts_with(['"', '\'']) && matches!(&*prefix, "b" | "rb" | "br") {
                    return Err(self.fault("bytes are not supported"));
                }
                self.rest = &text[end..];
                self.push(Token::Name(word.into()));
            }
            '"' | '\'' => return self.string(false, false),
            c if c.is_ascii_digit() || c == '.' && text[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                return self.number();
            }
            _ => {
                let Some(operator) = OPERATORS.iter().find(|operator| text.starts_with(**operator)) else {
                    return Err(self.fault(format!("`{first}` is no token")));
                };
                match *operator {
                    "(" | "[" | "{" => self.brackets += 1,
                    ")" | "]" | "}" => self.brackets = self.brackets.saturating_sub(1),
                    _ => {}
                }
                self.rest = &text[operator.len()..];
                self.push(Token::Operator(operator));
            }
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        let text = self.rest;
        let radix = match text.get(..2).unwrap_or("").to_ascii_lowercase().as_str() {
            "0x" => 16,
            "0o" => 8,
            "0b" => 2,
            _ => 10,
        };
        if radix != 10 {
            let end =
                text[2..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).map_or(text.len(), |at| at + 2);
            let value = i64::from_str_radix(&text[2..end].replace('_', ""), radix);
            self.rest = &text[end..];
            self.push(Token::Int(value.map_err(|_| self.fault("the number is too large"))?));
            return Ok(());
        }
        let mut end = 0;
        let bytes = text.as_bytes();
        while let Some(&byte) = bytes.get(end) {
            let in_exponent = end > 0 && matches!(bytes[end - 1], b'e' | b'E') && matches!(byte, b'+' | b'-');
            if !(byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'_') || in_exponent) {
                break;
            }
            end += 1;
        }
        let digits = text[..end].replace('_', "");
        self.rest = &text[end..];
        let token = match digits.parse::<i64>() {
            Ok(value) => Token::Int(value),
            Err(_) => match digits.parse::<f64>() {
                Ok(value) if digits.contains(['.', 'e', 'E']) => Token::Float(value),
                _ => return Err(self.fault(format!("`{digits}` is not supported as a number"))),
            },
        };
        self.push(token);
        Ok(())
    }

    /// A string; the rest begins with its quote.
    fn string(&mut self, raw: bool, format: bool) -> Result<(), Fault> {
        let text = self.rest;
        let quote = if text.starts_with("\"\"\"") || text.starts_with("'''") { &text[..3] } else { &text[..1] };
        let body = &text[quote.len()..];
        let mut end = 0;
        while !body[end..].starts_with(quote) {
            let mut rest = body[end..].chars();
            match rest.next() {
                Some('\\') => end += 1 + rest.next().map_or(0, char::len_utf8),
                Some('\n') if quote.len() == 1 => return Err(self.fault("a string does not end on its line")),
                Some(c) => end += c.len_utf8(),
                None => return Err(self.fault("a string does not end")),
            }
        }
        let content = &body[..end];
        let token = match (format, raw) {
            (true, _) => Token::Format(content.into(), raw),
            (false, true) => Token::Str(content.into()),
            (false, false) => Token::Str(unescape(content).map_err(|message| self.fault(message))?),
        };
        self.push(token);
        self.line += content.matches('\n').count();
        self.rest = &body[end + quote.len()..];
        Ok(())
    }
}

/// What a string with escapes means.
pub(super) fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(escaped) = characters.next() else {
            out.push('\\');
            break;
        };
        let mut code = |digits: usize| {
            let hex: String = characters.by_ref().take(digits).collect();
            let code = u32::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == digits);
            code.and_then(char::from_u32).ok_or_else(|| format!("`\\{escaped}{hex}` is no character"))
        };
        match escaped {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(escaped),
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'v' => out.push('\u{b}'),
            'x' => out.push(code(2)?),
            'u' => out.push(code(4)?),
            'U' => out.push(code(8)?),
            'N' => return Err("characters by their names are not supported".into()),
            '0'..='7' => {
                let mut value = escaped.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = characters.peek().and_then(|c| c.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    characters.next();
                }
                out.push(char::from_u32(value).ok_or("an octal escape is no character")?);
            }
            other => out.extend(['\\', other]),
        }
    }
    Ok(out)
}
