//! Phrases that make readers stumble, and what to write instead.
//!
//! Looks at Markdown and, in Rust sources, at comments and strings: help texts, messages and docs are both. A phrase is
//! found across line breaks, but not across the end of a sentence. `docs/glossary.md` has the terms to use.

use std::collections::BTreeMap;
use std::path::Path;

/// This file, which has to hold the phrases.
const EXEMPT: &str = "xtask/src/tidy/words.rs";

/// Phrases and what to write instead. `a|b` stands for either word. Case does not matter, except in words that are
/// capitalised here.
const PHRASES: &[(&str, &str)] = &[
    ("come|comes|came|coming before a|an|the|what", "overrides, or precedes"),
    (
        "Most address|bins|bytes|candidates|characters|data|dimensions|elements|evaluations|experts|histograms|layers",
        "maximum number of, or limit on",
    ),
    (
        "Most memory|operands|passes|prompts|resident|rounds|seconds|steps|tokens|units|words",
        "maximum number of, or limit on",
    ),
    ("Most that", "upper limit of"),
    ("anew", "again, or re-run"),
    ("go|goes|going|went on with", "resume, or continue with"),
    ("go|goes|going on from", "resume from"),
    ("resume goes on", "--resume continues"),
    ("one's own", "your own"),
    ("models in a row", "stacked layers of two models (frankenmerge)"),
    ("likeness|likenesses", "similarity"),
    ("alike", "similar, or the same"),
    ("sign|signs against it", "failed outlier tests"),
    ("without mistakes", "perfect routing (oracle)"),
    ("without a mistake", "perfectly"),
    ("has|have over its|the|their base|bases", "differs from the base by (task vector)"),
    ("beside memory maps", "excluding memory-mapped inputs"),
    ("at most at once", "peak"),
    ("that is|are none", "name the thing: NaN, invalid, missing"),
    ("what is none", "name the thing: NaN, invalid, missing"),
    ("what is there", "name the thing: the existing files, what was found"),
    ("scores are divided by", "sampling temperature"),
    ("on the way back", "in the backward pass"),
    ("is|are told", "receives, or is notified"),
    ("in vain", "without effect"),
    ("as long as it likes", "without a time limit"),
    ("is|are lacking", "is missing, or name the error"),
    ("as need be", "as needed"),
    ("in the mean", "on average"),
];

/// Two of these in one sentence are one too many.
const CHAINED: [&str; 2] = ["so", "that"];

/// A word of prose in lower case, with its line; or the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word { lower: String, capital: bool, line: usize },
    End,
}

/// Every phrase to be replaced, as `line: what is wrong`. `relative` is the path as seen from the repository's root.
pub(super) fn problems(relative: &str, text: &str) -> Vec<String> {
    let extension = Path::new(relative).extension().and_then(|e| e.to_str());
    match extension {
        _ if relative == EXEMPT => Vec::new(),
        Some("rs") => find(&prose_of_rust(text)),
        Some("md") => find(text),
        _ => Vec::new(),
    }
}

fn find(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let phrases = by_first_word();
    let mut problems = Vec::new();
    let mut chained = 0;
    for (at, token) in tokens.iter().enumerate() {
        let Token::Word { lower, line, .. } = token else {
            chained = 0;
            continue;
        };
        for (pattern, instead) in phrases.get(lower.as_str()).into_iter().flatten() {
            if let Some(found) = matched(&tokens[at..], pattern) {
                problems.push(format!("{line}: `{found}`: write {instead}"));
            }
        }
        if matched(&tokens[at..], &CHAINED).is_some() {
            chained += 1;
            if chained == 2 {
                problems.push(format!("{line}: a second `so that` in one sentence: write two sentences"));
            }
        }
    }
    problems
}

/// The phrases by each word that one can begin with.
fn by_first_word() -> BTreeMap<String, Vec<(Vec<&'static str>, &'static str)>> {
    let mut phrases: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (phrase, instead) in PHRASES {
        let pattern: Vec<&str> = phrase.split(' ').collect();
        for first in pattern[0].split('|') {
            phrases.entry(first.to_lowercase()).or_default().push((pattern.clone(), *instead));
        }
    }
    phrases
}

/// The words that `tokens` begin with, if they are those of `pattern`.
fn matched(tokens: &[Token], pattern: &[&str]) -> Option<String> {
    let mut found = Vec::new();
    for (token, alternatives) in tokens.iter().zip(pattern) {
        let Token::Word { lower, capital, .. } = token else { return None };
        let fits = |word: &str| match word.starts_with(char::is_uppercase) {
            true => *capital && word.to_lowercase() == *lower,
            false => word == lower,
        };
        if !alternatives.split('|').any(fits) {
            return None;
        }
        found.push(lower.as_str());
    }
    (found.len() == pattern.len()).then(|| found.join(" "))
}

/// The words of a text. Sentences end with punctuation, and where a paragraph, an item of a list, a heading or a cell
/// of a table begins.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let start = content.trim_start_matches(|c: char| c.is_whitespace() || c == '/' || c == '!');
        if start.is_empty() || start.starts_with(['-', '*', '#', '|', '>']) {
            tokens.push(Token::End);
        }
        let mut word = String::new();
        for c in content.chars().chain([' ']) {
            match c {
                '’' => word.push('\''),
                c if c.is_alphanumeric() || c == '_' || c == '\'' => word.push(c),
                c => {
                    let bare = word.trim_matches('\'');
                    if !bare.is_empty() {
                        let capital = bare.starts_with(char::is_uppercase);
                        tokens.push(Token::Word { lower: bare.to_lowercase(), capital, line });
                    }
                    word.clear();
                    if ".;:?!|".contains(c) {
                        tokens.push(Token::End);
                    }
                }
            }
        }
    }
    tokens
}

/// Comments and strings of a Rust source, each on its line. Code becomes full stops; braces in a string, an underscore.
fn prose_of_rust(text: &str) -> String {
    let mut prose = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let in_identifier = text[..text.len() - rest.len()].ends_with(is_identifier);
        let end = if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            prose.push_str(&rest[..end]);
            end
        } else if rest.starts_with("/*") {
            let end = end_of_block(rest);
            prose.push_str(&rest[..end]);
            end
        } else if let Some((start, end, after)) = raw_string(rest).filter(|_| !in_identifier) {
            string(&rest[start..end], &mut prose);
            after
        } else if c == '"' {
            let end = end_of_string(rest);
            string(&rest[1..end], &mut prose);
            (end + 1).min(rest.len())
        } else {
            prose.push(if c.is_whitespace() { c } else { '.' });
            character(rest).unwrap_or(c.len_utf8())
        };
        rest = &rest[end..];
    }
    prose
}

fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of a block comment, which may hold others.
fn end_of_block(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Of a raw string that `text` begins with: where its content begins and ends, and where it ends itself.
fn raw_string(text: &str) -> Option<(usize, usize, usize)> {
    let letters = ["br", "cr", "r"].into_iter().find(|letters| text.starts_with(letters))?;
    let hashes = text[letters.len()..].chars().take_while(|&c| c == '#').count();
    let start = letters.len() + hashes + 1;
    if !text[letters.len() + hashes..].starts_with('"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let end = text[start..].find(&close).map_or(text.len(), |end| start + end);
    Some((start, end, (end + close.len()).min(text.len())))
}

/// Where the string that `text` begins with has its closing quote.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// The length of the character literal that `text` begins with; `None` for anything else, lifetimes among it.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let end = match inside.strip_prefix('\\') {
        Some(escape) => 2 + escape.char_indices().skip(1).find(|(_, c)| *c == '\'')?.0,
        None => 1 + inside.chars().next().map(char::len_utf8)?,
    };
    text[end..].starts_with('\'').then_some(end + 1)
}

/// Adds the content of a string.
fn string(content: &str, prose: &mut String) {
    prose.push('.');
    let mut rest = content;
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        match c {
            // A line break in the text ends a sentence, one in the source does not.
            '\\' if rest.starts_with("\\\n") => {}
            '\\' => {
                length += rest[1..].chars().next().map_or(0, char::len_utf8);
                prose.push('.');
            }
            '{' => {
                let inside = rest[1..].find(['}', '\n']).filter(|&end| rest[1 + end..].starts_with('}'));
                length += inside.map_or(0, |end| end + 1);
                prose.push_str(" _ ");
            }
            c => prose.push(c),
        }
        rest = &rest[length..];
    }
    prose.push('.');
}

#[cfg(test)]
mod tests {
    //! What is found, where, and what is left alone.
    use super::*;

    fn check(name: &str, text: &str, expected: &[&str]) {
        let found = problems(name, text);
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} does not begin with {expected}");
        }
    }

    #[test]
    fn phrases_are_found_with_their_line_and_a_replacement() {
        check("a.md", "Fine.\n\nIt is made anew.\n", &["3: `anew`: write again"]);
        check("a.md", "It goes on\nwith the rest.", &["1: `goes on with`"]);
        check("a.md", "A model of one’s own, a model of one's own.", &["1: `one's own`", "1: `one's own`"]);
        check("a.md", "| Most bytes | the likeness |", &["1: `most bytes`", "1: `likeness`"]);
    }

    #[test]
    fn other_words_and_other_sentences_are_left_alone() {
        check("a.md", "The rest goes on. With it, most bytes of a renewed file are read.", &[]);
        check("a.md", "- it goes on\n- with the rest", &[]);
        check("a.yml", "anew", &[]);
        check(EXEMPT, "// anew", &[]);
    }

    #[test]
    fn comments_and_strings_are_prose_and_code_is_not() {
        check("a.rs", "let anew = alike(in_vain);", &[]);
        check("a.rs", "/// It goes on\n    /// with the rest.\nfn f() {}", &["1: `goes on with`"]);
        check("a.rs", "// It goes on\nlet x = 1;\n// with the rest.", &[]);
        check("a.rs", "/* a /* b */ anew */ x\n\"a \\\" anew\"", &["1: `anew`", "2: `anew`"]);
        check("a.rs", "let c = '\"'; let anew: &'a str = \"alike\";", &["1: `alike`"]);
        check("a.rs", "let c = ['\\'', '\\n', '\\u{1b}']; let anew = 1;", &[]);
        check("a.rs", "r#\"a \" anew\"#; var\"alike\"", &["1: `anew`", "1: `alike`"]);
        check("a.rs", "format!(\"{anew} and {alike:?} go on\\\n    with it\")", &["1: `go on with`"]);
    }

    #[test]
    fn a_sentence_has_one_so_that() {
        check("a.md", "This, so that that. And so that it ends.", &[]);
        check("a.md", "This, so that that,\nso that it ends.", &["2: a second `so that`"]);
    }
}
