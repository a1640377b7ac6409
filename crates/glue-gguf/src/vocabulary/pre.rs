//! Pre-tokenizers, which llama.cpp knows by names and `tokenizer.json` by regular expressions.
//!
//! llama.cpp's converter recognises a tokenizer by a hash of the ids of one text, which depends on the vocabulary and
//! knows published ones only. Here the expressions themselves are compared, with what is written in different ways and
//! means the same brought into one form. The table has those of `src/llama-vocab.cpp` that models of the supported
//! families use.

use serde_json::{Value, json};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
const UP_TO_THREE_DIGITS: &str = r"\p{N}{1,3}";
const CHINESE_JAPANESE: &str = "[一-龥\u{3040}-ゟ゠-ヿ]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// A pre-tokenizer of llama.cpp.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    /// The value of `tokenizer.ggml.pre` that is written.
    pub(crate) name: &'static str,
    /// Other values that mean the same expressions, when a file is read.
    others: &'static [&'static str],
    /// What splits a text, one after the other.
    steps: &'static [&'static str],
    /// Whether a word that is a token is taken as one, without merges.
    pub(crate) whole_words: bool,
}

static KNOWN: &[PreTokenizer] = &[
    PreTokenizer {
        name: "gpt-2",
        others: &["mpt", "olmo", "jais", "trillion", "phi-2", "a.x-4.0", "mellum", "exaone4", "granite-docling"],
        steps: &[GPT2],
        whole_words: false,
    },
    PreTokenizer {
        name: "smollm",
        others: &["starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        steps: &[DIGIT, GPT2],
        whole_words: false,
    },
    PreTokenizer {
        name: "llama-bpe",
        others: &["llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "midm-2.0"],
        steps: &[LLAMA3],
        whole_words: true,
    },
    PreTokenizer { name: "dbrx", others: &["smaug-bpe", "glm4", "chatglm-bpe"], steps: &[LLAMA3], whole_words: false },
    PreTokenizer {
        name: "qwen2",
        others: &["stablelm2", "deepseek-r1-qwen", "megrez", "kormo", "hunyuan", "solar-open", "grok-2"],
        steps: &[QWEN2],
        whole_words: false,
    },
    PreTokenizer { name: "gpt-4o", others: &["llama4", "kanana2"], steps: &[GPT4O], whole_words: false },
    PreTokenizer { name: "tekken", others: &[], steps: &[TEKKEN], whole_words: true },
    PreTokenizer {
        name: "deepseek-v3",
        others: &["hunyuan-dense", "joyai-llm"],
        steps: &[UP_TO_THREE_DIGITS, CHINESE_JAPANESE, DEEPSEEK3],
        whole_words: false,
    },
];

/// An expression in the form in which it is compared.
fn canonical(expression: &str) -> String {
    const SAME: &[(&str, &str)] = &[
        (r"'(?i:[sdmt]|ll|ve|re)", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"),
        (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"),
        // Nothing that follows could match what is held on to.
        (r"[^\r\n\p{L}\p{N}]?+\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+"),
        (r" ?[^\s\p{L}\p{N}]++", r" ?[^\s\p{L}\p{N}]+"),
        // The longest white space that ends with a line break, either way.
        (r"|\s*[\r\n]|", r"|\s*[\r\n]+|"),
        (r"\p{N}{1}|", r"\p{N}|"),
        ("\r", r"\r"),
        ("\n", r"\n"),
    ];
    SAME.iter().fold(expression.to_string(), |text, (one, other)| text.replace(one, other))
}

/// What a `pre_tokenizer` of `tokenizer.json` splits by, one expression after the other.
///
/// # Errors
/// In words, what of it llama.cpp cannot do.
pub(crate) fn steps(pre_tokenizer: &Value) -> Result<Vec<String>, String> {
    let kind = pre_tokenizer["type"].as_str().unwrap_or("none");
    let single = |expression: &str| Ok(vec![canonical(expression)]);
    match kind {
        "Sequence" => {
            let inner = pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(inner.iter().map(steps).collect::<Result<Vec<_>, _>>()?.concat())
        }
        "ByteLevel" if pre_tokenizer["add_prefix_space"] == true => {
            Err("it puts a space before each text, which llama.cpp does not".to_string())
        }
        "ByteLevel" if pre_tokenizer["use_regex"] == false => Ok(Vec::new()),
        "ByteLevel" => single(GPT2),
        "Digits" if pre_tokenizer["individual_digits"] == true => single(DIGIT),
        "Digits" => single(r"\p{N}+"),
        "Split" => {
            let (behaviour, invert) = (&pre_tokenizer["behavior"], &pre_tokenizer["invert"]);
            let Some(expression) = pre_tokenizer["pattern"]["Regex"].as_str() else {
                return Err(format!("it splits by {}, no regular expression", pre_tokenizer["pattern"]));
            };
            // What is between the matches is left out, and there is nothing between: these expressions match all.
            let keeps_all = (behaviour == "Isolated" && invert != true) || (behaviour == "Removed" && invert == true);
            if keeps_all { single(expression) } else { Err(format!("matches are {behaviour}, not isolated")) }
        }
        other => Err(format!("it is a `{other}`, which llama.cpp does not have")),
    }
}

/// The pre-tokenizer that splits by `steps`; `whole_words` says whether words that are tokens are not merged, where
/// that makes a difference.
///
/// # Errors
/// In words, with the nearest one.
pub(crate) fn find(steps: &[String], whole_words: Option<bool>) -> Result<&'static PreTokenizer, String> {
    let same: Vec<&PreTokenizer> = KNOWN.iter().filter(|known| known.steps == steps).collect();
    let wanted = same.iter().find(|known| whole_words.is_none_or(|wanted| wanted == known.whole_words));
    if let Some(found) = wanted {
        return Ok(found);
    }
    if let Some(found) = same.first() {
        return Err(format!(
            "it splits as `{}`, for which llama.cpp {} whole words that are tokens, and this tokenizer does otherwise",
            found.name,
            if found.whole_words { "does not merge" } else { "merges" }
        ));
    }
    let ours = steps.join("  ");
    let near = KNOWN.iter().rev().max_by_key(|known| {
        let theirs = known.steps.join("  ");
        let from_front = ours.chars().zip(theirs.chars()).take_while(|(a, b)| a == b).count();
        let from_back = ours.chars().rev().zip(theirs.chars().rev()).take_while(|(a, b)| a == b).count();
        from_front + from_back
    });
    let near = near.map_or("none", |known| known.name);
    Err(format!(
        "no pre-tokenizer of llama.cpp splits by {steps:?}; the nearest is `{near}`, which can be named instead"
    ))
}

/// The pre-tokenizer that `name` stands for in a file.
pub(crate) fn named(name: &str) -> Option<&'static PreTokenizer> {
    KNOWN.iter().find(|known| known.name == name || known.others.contains(&name))
}

/// Names of all, for messages.
pub(crate) fn names() -> String {
    KNOWN
        .iter()
        .flat_map(|known| std::iter::once(&known.name).chain(known.others))
        .copied()
        .collect::<Vec<_>>()
        .join(", ")
}

impl PreTokenizer {
    /// The `pre_tokenizer` of `tokenizer.json`.
    pub(crate) fn to_json(&self) -> Value {
        let split = |expression: &str| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let step = |expression: &str| match expression {
            GPT2 => byte_level(true),
            DIGIT => json!({"type": "Digits", "individual_digits": true}),
            other => split(other),
        };
        let mut steps: Vec<Value> = self.steps.iter().map(|expression| step(expression)).collect();
        if !self.steps.contains(&GPT2) {
            steps.push(byte_level(false));
        }
        match steps.len() {
            1 => steps.remove(0),
            _ => json!({"type": "Sequence", "pretokenizers": steps}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pre_tokenizer_is_found_again_from_the_json_it_makes() {
        for known in KNOWN {
            let steps = steps(&known.to_json()).unwrap();
            assert_eq!(find(&steps, Some(known.whole_words)).unwrap().name, known.name);
            assert_eq!(named(known.name).unwrap().name, known.name);
        }
    }

    #[test]
    fn expressions_that_mean_the_same_are_the_same() {
        let gpt4 = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
        assert_eq!(canonical(gpt4), LLAMA3);
    }

    #[test]
    fn an_unknown_expression_is_refused_with_the_nearest() {
        let other = QWEN2.replace(r"\p{N}|", r"\p{N}{1,2}|");
        let split = json!({"type": "Split", "pattern": {"Regex": other}, "behavior": "Isolated", "invert": false});
        let error = find(&steps(&split).unwrap(), None).unwrap_err();
        assert!(error.contains("nearest is `llama-bpe`"), "{error}");
        for (pre_tokenizer, expected) in [
            (json!({"type": "Whitespace"}), "`Whitespace`"),
            (json!({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}), "a space before"),
            (json!({"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"}), "no regular expression"),
            (json!({"type": "Split", "pattern": {"Regex": " "}, "behavior": "Removed"}), "not isolated"),
        ] {
            let error = steps(&pre_tokenizer).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
