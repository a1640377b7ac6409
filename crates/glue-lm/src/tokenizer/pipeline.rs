//! How much text the pipeline of a `tokenizer.json` can make out of a text, and what in it cannot work.
//!
//! The file is a program: each normalizer may replace a character by any text, and there may be any number of them.
//! What a pipeline makes of a text of ordinary length is bounded here from the file alone, so that only a pipeline that
//! can get out of hand needs to be watched at work.

use serde::Deserialize;
use serde_json::Value;

/// The steps of a `tokenizer.json`; vocabulary and merges, which are nearly all of it, are skipped.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Pipeline {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

/// Upper limits of what a pipeline handles in all of its steps, in bytes for each byte that it is given. Infinite where
/// nothing is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Growth {
    /// On the way from a text to ids.
    pub(super) encoding: f64,
    /// On the way from the texts of tokens to a text.
    pub(super) decoding: f64,
}

impl Pipeline {
    pub(super) fn growth(&self) -> Growth {
        let work = |steps: &[&Value]| {
            let (mut bytes, mut work) = (1.0, 1.0);
            steps.iter().for_each(|step| walk(step, &mut bytes, &mut work));
            work
        };
        Growth {
            encoding: work(&[&self.normalizer, &self.pre_tokenizer, &self.post_processor]),
            decoding: work(&[&self.decoder]),
        }
    }

    /// The first step that cannot work: the key where it stands, and what is wrong with it.
    pub(super) fn defect(&self) -> Option<String> {
        let steps = [
            ("normalizer", &self.normalizer),
            ("pre_tokenizer", &self.pre_tokenizer),
            ("post_processor", &self.post_processor),
            ("decoder", &self.decoder),
        ];
        steps.into_iter().find_map(|(key, step)| Some(format!("`{key}`: {}", defect(step)?)))
    }
}

/// Follows a byte through `step`: `bytes` is what has become of it, `work` the sum over all steps.
fn walk(step: &Value, bytes: &mut f64, work: &mut f64) {
    const LISTS: &[&str] = &["normalizers", "pretokenizers", "processors", "decoders"];
    match step["type"].as_str() {
        None if step.is_null() => {}
        Some("Sequence") => {
            let steps = LISTS.iter().filter_map(|key| step[*key].as_array());
            steps.flatten().for_each(|step| walk(step, bytes, work));
        }
        kind => {
            *bytes *= growth(kind.unwrap_or_default(), step);
            *work += *bytes;
        }
    }
}

/// What one step makes of a byte at most. What it adds to a text counts for each byte, because special tokens can
/// divide a text into pieces of one byte.
fn growth(kind: &str, step: &Value) -> f64 {
    let length = |key: &str| step[key].as_str().map_or(0, str::len) as f64;
    match kind {
        "Strip" | "StripAccents" | "Nmt" | "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" | "Split"
        | "Digits" | "Punctuation" | "UnicodeScripts" | "FixedLength" | "Delimiter" | "CharDelimiterSplit" | "CTC"
        | "Fuse" | "BPEDecoder" => 1.0,
        // The longest expansions of these forms of Unicode in UTF-8.
        "NFC" | "NFD" | "Lowercase" => 3.0,
        "NFKC" | "NFKD" => 11.0,
        // Spaces around a character, and its canonical decomposition.
        "BertNormalizer" => 5.0,
        // A byte becomes a character of two bytes or a replacement character, and there may be a space before it.
        "ByteLevel" | "ByteFallback" => 3.0,
        // Another character for a space, and one before each piece.
        "Metaspace" => 8.0,
        "WordPiece" => 2.0,
        "Prepend" => 1.0 + length("prepend"),
        "Replace" => match step["pattern"]["String"].as_str().map_or(0, str::len) {
            // A regular expression may match nothing, between any two bytes.
            0 => 1.0 + 2.0 * length("content"),
            pattern => (length("content") / pattern as f64).max(1.0),
        },
        "Precompiled" => longest_entry(step["precompiled_charsmap"].as_str().unwrap_or_default()),
        "RobertaProcessing" | "BertProcessing" => 3.0,
        "TemplateProcessing" => {
            let pieces = step["single"].as_array().map_or(&[][..], Vec::as_slice);
            let tokens = pieces.iter().filter_map(|piece| piece["SpecialToken"]["id"].as_str());
            let ids = tokens.map(|token| step["special_tokens"][token]["ids"].as_array().map_or(0, Vec::len));
            let copies = pieces.iter().filter(|piece| !piece["Sequence"].is_null()).count();
            (copies + ids.sum::<usize>()).max(1) as f64
        }
        // What is not known here may do anything.
        _ => f64::INFINITY,
    }
}

/// The length of the longest text that a compiled map of SentencePiece writes for a character.
fn longest_entry(base64: &str) -> f64 {
    let bytes = decode_base64(base64);
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return 1.0 };
    let trie = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let texts = rest.get(trie..).unwrap_or_default();
    texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0).max(1) as f64
}

/// The bytes before the first character that is not one of base64.
fn decode_base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| -> Option<u32> {
        Some(u32::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for value in text.bytes().map_while(digit) {
        bits = bits << 6 | value;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes
}

fn defect(step: &Value) -> Option<String> {
    match step["type"].as_str()? {
        "Sequence" => step.as_object()?.values().filter_map(Value::as_array).flatten().find_map(defect),
        "FixedLength" if step["length"].as_u64() == Some(0) => {
            Some("FixedLength: `length` should be at least 1".into())
        }
        "Replace" if step["pattern"]["String"].as_str() == Some("") => {
            Some("Replace: `pattern` should not be empty".into())
        }
        "TemplateProcessing" => {
            let pieces = ["single", "pair"].into_iter().filter_map(|key| step[key].as_array()).flatten();
            let mut tokens = pieces.filter_map(|piece| piece["SpecialToken"]["id"].as_str());
            let missing = tokens.find(|token| step["special_tokens"][*token].is_null())?;
            let missing: String = missing.chars().take(60).collect();
            Some(format!("TemplateProcessing: `special_tokens` lacks the token {missing:?}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    //! Bounds, and what cannot work.
    use super::*;
    use serde_json::json;

    fn pipeline(file: Value) -> Pipeline {
        serde_json::from_value(file).unwrap()
    }

    #[test]
    fn a_pipeline_in_use_grows_little() {
        let llama = json!({"normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}});
        // The byte, four bytes with the mark before it, and three for each of those.
        assert_eq!(pipeline(llama).growth(), Growth { encoding: 17.0, decoding: 1.0 });
        let gpt = json!({"pre_tokenizer": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"}, "model": {}});
        assert_eq!(pipeline(gpt).growth(), Growth { encoding: 4.0, decoding: 4.0 });
        assert_eq!(pipeline(json!({"normalizer": null})).growth(), Growth { encoding: 1.0, decoding: 1.0 });
    }

    #[test]
    fn what_gets_out_of_hand_is_seen() {
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let long = json!({"type": "Prepend", "prepend": "x".repeat(1000)});
        let twice = json!({"type": "TemplateProcessing", "single": [{"Sequence": {}}, {"Sequence": {}}]});
        let sequence = |list: &str, step: &Value| json!({"type": "Sequence", list: vec![step; 40]});
        for (key, list, step) in [
            ("normalizer", "normalizers", &double),
            ("normalizer", "normalizers", &long),
            ("normalizer", "normalizers", &json!({"type": "NFKC"})),
            ("pre_tokenizer", "pretokenizers", &json!({"type": "ByteLevel"})),
            ("post_processor", "processors", &twice),
        ] {
            assert!(pipeline(json!({key: sequence(list, step)})).growth().encoding > 1e12, "{step}");
        }
        assert!(pipeline(json!({"decoder": sequence("decoders", &double)})).growth().decoding > 1e12);
        assert_eq!(pipeline(json!({"normalizer": {"type": "New"}})).growth().encoding, f64::INFINITY);
        // Older files leave out the type.
        assert_eq!(pipeline(json!({"normalizer": {"prepend": "x"}})).growth().encoding, f64::INFINITY);
    }

    #[test]
    fn compiled_maps_are_measured() {
        // A trie of one unit, then `abc` and `de`.
        assert_eq!(longest_entry("BAAAAAAAAABhYmMAZGUA"), 3.0);
        for garbage in ["", "AAA", "//////8=", "not base64"] {
            assert_eq!(longest_entry(garbage), 1.0, "{garbage}");
        }
    }

    #[test]
    fn what_cannot_work_is_named() {
        let check = |file: Value, expected: &str| {
            assert_eq!(pipeline(file).defect().as_deref(), Some(expected));
        };
        let inner = json!([{"type": "Digits"}, {"type": "FixedLength", "length": 0}]);
        check(
            json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": inner}}),
            "`pre_tokenizer`: FixedLength: `length` should be at least 1",
        );
        check(
            json!({"decoder": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}}),
            "`decoder`: Replace: `pattern` should not be empty",
        );
        let pieces = json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
        check(
            json!({"post_processor": {"type": "TemplateProcessing", "single": pieces, "special_tokens": {}}}),
            "`post_processor`: TemplateProcessing: `special_tokens` lacks the token \"<s>\"",
        );
        assert_eq!(pipeline(json!({"normalizer": null, "decoder": {"type": "Fuse"}})).defect(), None);
    }
}
