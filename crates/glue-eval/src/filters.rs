//! What is done to an answer before it is compared: pipelines of small steps.

use crate::python::{self, regex};
use crate::task::{Function, Python};
use fancy_regex::Regex;
use glue_lm::jinja;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Steps in order, under the name that a report shows.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) name: String,
    pub(crate) filters: Vec<Filter>,
}

/// One step. Each takes and gives all answers to an item.
#[derive(Debug)]
pub(crate) enum Filter {
    /// The first answer only.
    TakeFirst,
    /// The first `k` answers.
    TakeFirstK(usize),
    /// The most frequent answer; the one seen first where there are several.
    MajorityVote,
    RemoveWhitespace,
    Lowercase,
    Uppercase,
    /// Another answer for each that is in the table, and one for all that are not.
    Map {
        table: Vec<(String, String)>,
        otherwise: String,
    },
    Regex(Extract),
    MultiChoiceRegex {
        extract: Extract,
        ignore_case: bool,
        ignore_punctuation: bool,
        ignore: Vec<Regex>,
    },
    /// The tags of `('word', 'TAG')` pairs in an answer, as a list.
    Tags(Vec<String>),
    /// Named entities in one form, as `per: name $ loc: place`.
    Spans,
    /// A function of the task, or a class of filters with its options.
    Function(Arc<Function>, Vec<(String, Value)>),
}

/// Picks one match of a pattern.
#[derive(Debug)]
pub(crate) struct Extract {
    pub(crate) pattern: Regex,
    /// Which match, negative from the end.
    pub(crate) select: i64,
    /// What there is if nothing matches.
    pub(crate) fallback: String,
}

impl Pipeline {
    /// The stripped first answer, as native tasks compare it.
    pub(crate) fn strip() -> Pipeline {
        Pipeline { name: "strip".into(), filters: vec![Filter::RemoveWhitespace, Filter::TakeFirst] }
    }

    /// The first answer as it is.
    pub(crate) fn take_first() -> Pipeline {
        Pipeline { name: "none".into(), filters: vec![Filter::TakeFirst] }
    }

    /// What is left of the answers to the item with these fields: texts, but for filters that make lists of them.
    ///
    /// # Errors
    /// What a step could not do.
    pub(crate) fn apply(
        &self,
        answers: &[String],
        fields: &Map<String, Value>,
        python: Option<&Python>,
    ) -> Result<Vec<Value>, String> {
        let answers = answers.iter().map(|answer| Value::from(answer.as_str())).collect();
        self.filters.iter().try_fold(answers, |answers, filter| filter.apply(answers, fields, python))
    }

    /// Whether one answer is left of several.
    pub(crate) fn takes_first(&self) -> bool {
        self.filters.iter().any(|filter| matches!(filter, Filter::TakeFirst))
    }

    /// Whether a function makes of an answer what it likes.
    pub(crate) fn has_function(&self) -> bool {
        self.filters.iter().any(|filter| matches!(filter, Filter::Function(..)))
    }
}

impl Filter {
    fn apply(
        &self,
        mut answers: Vec<Value>,
        fields: &Map<String, Value>,
        python: Option<&Python>,
    ) -> Result<Vec<Value>, String> {
        let each = |f: &dyn Fn(&str) -> Result<String, String>| -> Result<Vec<Value>, String> {
            answers.iter().map(|answer| Ok(Value::from(f(&jinja::str(answer))?))).collect()
        };
        match self {
            Filter::TakeFirst => {
                answers.truncate(1);
                Ok(answers)
            }
            Filter::TakeFirstK(k) => {
                answers.truncate(*k);
                Ok(answers)
            }
            Filter::MajorityVote => {
                let votes = |candidate: &Value| answers.iter().filter(|answer| *answer == candidate).count();
                let winner = answers.iter().rev().max_by_key(|&answer| votes(answer)).cloned();
                Ok(winner.into_iter().collect())
            }
            Filter::RemoveWhitespace => each(&|answer| Ok(python::strip(answer).to_string())),
            Filter::Lowercase => each(&|answer| Ok(answer.to_lowercase())),
            Filter::Uppercase => each(&|answer| Ok(answer.to_uppercase())),
            Filter::Map { table, otherwise } => each(&|answer| {
                let found = table.iter().find(|(from, _)| from == answer);
                Ok(found.map_or_else(|| otherwise.clone(), |(_, to)| to.clone()))
            }),
            Filter::Regex(extract) => each(&|answer| extract.first(answer)),
            Filter::MultiChoiceRegex { extract, ignore_case, ignore_punctuation, ignore } => {
                let choices = choices(fields)?;
                let simplify = |text: &str| -> Result<String, String> {
                    let mut text = text.to_string();
                    for pattern in ignore {
                        text = regex::substitute(pattern, "", &text, 0)?;
                    }
                    if *ignore_case {
                        text = text.to_lowercase();
                    }
                    if *ignore_punctuation {
                        text.retain(|c| !is_punctuation(c));
                    }
                    Ok(text)
                };
                let by_choice = ByChoice::new(&choices, extract.select, simplify)?;
                each(&|answer| by_choice.pick(extract, answer))
            }
            Filter::Tags(fallback) => answers.iter().map(|answer| tags(&jinja::str(answer), fallback)).collect(),
            Filter::Spans => each(&spans),
            Filter::Function(function, options) => {
                let texts: Vec<String> = answers.iter().map(jinja::str).collect();
                match function.filter(python, options.clone(), &texts, fields)? {
                    Value::Array(answers) => Ok(answers),
                    one => Ok(vec![one]),
                }
            }
        }
    }
}

/// The tags of `('word', 'TAG')` pairs.
fn tags(answer: &str, fallback: &[String]) -> Result<Value, String> {
    let pairs = regex::compile(r"\('([^']*)', '([^']*)'\)")?;
    let found = regex::find_all(&pairs, answer)?;
    let tags: Vec<String> = found.into_iter().filter_map(|mut groups| groups.pop()).collect();
    Ok(if tags.is_empty() { fallback.into() } else { tags.into() })
}

/// What labels of entities are called, and what they are called here. In this order, each within the result of those
/// before.
const LABELS: &[(&str, &str)] = &[
    ("person", "PER"),
    ("location", "LOC"),
    ("organization", "ORG"),
    ("counties", "LOC"),
    ("places", "LOC"),
    ("people", "PER"),
    ("persons", "PER"),
    ("company", "ORG"),
    ("country", "LOC"),
    ("continent", "LOC"),
    ("time", "DATE"),
    ("date", "DATE"),
    ("per", "PER"),
    ("loc", "LOC"),
    ("org", "ORG"),
];

fn spans(answer: &str) -> Result<String, String> {
    let mut text = answer.to_lowercase();
    for (label, short) in LABELS {
        text = regex::substitute(&regex::compile(&format!(r"\b{label}\s*:"))?, &format!("{short}:"), &text, 0)?;
    }
    let text = text.replace("$$", "$");
    let text = text.trim_end_matches('$').replace('\n', "$");
    let mut entities = Vec::new();
    for groups in regex::find_all(&regex::compile(r"\b(PER|LOC|ORG|DATE):\s*([^$]+)")?, python::strip(&text))? {
        let [label, values] = groups.as_slice() else { continue };
        let values = values.split(',').map(python::strip).filter(|value| value.to_lowercase() != "none");
        entities.extend(values.map(|value| format!("{}: {value}", label.to_lowercase())));
    }
    Ok(entities.join(" $ "))
}

impl Extract {
    /// The selected match, stripped, or the fallback.
    fn first(&self, answer: &str) -> Result<String, String> {
        Ok(self.find(answer)?.unwrap_or_else(|| self.fallback.clone()))
    }

    fn find(&self, answer: &str) -> Result<Option<String>, String> {
        select(&self.pattern, self.select, answer)
    }
}

/// The selected match of a pattern: its first group that is not empty.
fn select(pattern: &Regex, which: i64, text: &str) -> Result<Option<String>, String> {
    let matches = regex::find_all(pattern, text)?;
    let length = i64::try_from(matches.len()).unwrap_or(i64::MAX);
    let index = if which < 0 { which + length } else { which };
    let Some(groups) = usize::try_from(index).ok().and_then(|index| matches.get(index)) else {
        return Ok(None);
    };
    let group = match groups.as_slice() {
        [only] => Some(only),
        several => several.iter().find(|group| !group.is_empty()),
    };
    Ok(group.map(|group| python::strip(group).to_string()))
}

/// Answers that name a choice by its text or its letter, as `(A)`.
struct ByChoice<F> {
    simplify: F,
    select: i64,
    texts: Regex,
    letters: Regex,
    /// Simplified text and letter of each choice.
    choices: Vec<(String, String)>,
}

impl<F: Fn(&str) -> Result<String, String>> ByChoice<F> {
    fn new(choices: &[String], select: i64, simplify: F) -> Result<Self, String> {
        let choices: Vec<(String, String)> = choices
            .iter()
            .zip('A'..)
            .map(|(choice, letter)| Ok((simplify(python::strip(choice))?, letter.to_string())))
            .collect::<Result<_, String>>()?;
        // Longer texts first, so that none hides another that it begins.
        let mut texts: Vec<String> = choices.iter().map(|(text, _)| fancy_regex::escape(text).into_owned()).collect();
        texts.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
        let letters: Vec<&str> = choices.iter().map(|(_, letter)| letter.as_str()).collect();
        let letters = Regex::new(&format!(r":[\s]*({})", letters.join("|"))).map_err(|error| error.to_string())?;
        let texts = Regex::new(&texts.join("|")).map_err(|error| error.to_string())?;
        Ok(ByChoice { simplify, select, texts, letters, choices })
    }

    fn pick(&self, extract: &Extract, answer: &str) -> Result<String, String> {
        if let Some(found) = extract.find(answer)?.filter(|found| !found.is_empty()) {
            return Ok(found);
        }
        let text = select(&self.texts, self.select, &(self.simplify)(answer)?)?.filter(|found| !found.is_empty());
        if let Some(found) = text {
            // Where two choices have the same text, the last one counts.
            let letter = self.choices.iter().rev().find(|(text, _)| *text == found).map(|(_, letter)| letter);
            return Ok(letter.map_or(found, |letter| format!("({letter})")));
        }
        let letter = select(&self.letters, self.select, answer)?.filter(|found| !found.is_empty());
        Ok(letter.map_or_else(|| extract.fallback.clone(), |letter| format!("({letter})")))
    }
}

fn choices(fields: &Map<String, Value>) -> Result<Vec<String>, String> {
    let choices = fields.get("choices").and_then(Value::as_array);
    let choices = choices.ok_or("multi_choice_regex needs a field `choices` that is a list")?;
    Ok(choices.iter().map(jinja::str).collect())
}

/// Unicode's category P, of which ASCII and the usual blocks matter here.
fn is_punctuation(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_punctuation() && !"$+<=>^`|~".contains(c);
    }
    matches!(c as u32,
        0xa1 | 0xa7 | 0xab | 0xb6 | 0xb7 | 0xbb | 0xbf | 0x2010..=0x2027 | 0x2030..=0x205e | 0x2308..=0x230b
        | 0x3001..=0x3003 | 0x3008..=0x3011 | 0x3014..=0x301f | 0x3030 | 0xff01..=0xff03 | 0xff05..=0xff0a
        | 0xff0c..=0xff0f | 0xff1a | 0xff1b | 0xff1f | 0xff20 | 0xff3b..=0xff3d | 0xff3f | 0xff5b | 0xff5d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn extract(pattern: &str, select: i64) -> Extract {
        Extract { pattern: regex::compile(pattern).unwrap(), select, fallback: "[invalid]".into() }
    }

    fn check(filter: Filter, answers: &[&str], expected: &[&str]) {
        let answers: Vec<String> = answers.iter().map(|answer| answer.to_string()).collect();
        let fields = json!({"choices": ["Guilty", "Guilty of Romance", "none"]});
        let answers = answers.into_iter().map(Value::from).collect();
        assert_eq!(filter.apply(answers, fields.as_object().unwrap(), None).unwrap(), expected, "{filter:?}");
    }

    #[test]
    fn steps_do_what_their_names_say() {
        check(Filter::TakeFirst, &["a", "b"], &["a"]);
        check(Filter::TakeFirstK(2), &["a", "b", "c"], &["a", "b"]);
        check(Filter::MajorityVote, &["a", "b", "b", "a", "c"], &["a"]);
        check(Filter::RemoveWhitespace, &[" a \n", "b"], &["a", "b"]);
        check(Filter::Lowercase, &["ÀB"], &["àb"]);
        check(Filter::Uppercase, &["àb"], &["ÀB"]);
        let table = vec![("1".to_string(), "one".to_string())];
        check(Filter::Map { table, otherwise: "none".into() }, &["1", "2"], &["one", "none"]);
    }

    #[test]
    fn a_pattern_gives_one_match() {
        check(Filter::Regex(extract(r"#### (\-?[0-9\.\,]+)", 0)), &["#### 5 #### 6", "5"], &["5", "[invalid]"]);
        check(Filter::Regex(extract(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1)), &["from $10 to 7", "x"], &["7", "[invalid]"]);
        check(Filter::Regex(extract(r"[A-Z] ", 1)), &["A B C ", "A "], &["B", "[invalid]"]);
    }

    #[test]
    fn a_choice_is_found_by_its_text_or_letter() {
        let filter = |ignore_case| Filter::MultiChoiceRegex {
            extract: extract(r"(\([A-Z]\))", 0),
            ignore_case,
            ignore_punctuation: true,
            ignore: vec![],
        };
        // As lm_eval 0.4.13 answers for the same item.
        let answers = ["it is (B).", "Guilty of Romance!", "guilty", "answer: C", "?"];
        check(filter(false), &answers, &["(B)", "(B)", "[invalid]", "(C)", "[invalid]"]);
        check(filter(true), &["GUILTY"], &["(A)"]);
    }
}
