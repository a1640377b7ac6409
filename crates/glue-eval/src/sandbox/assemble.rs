//! From a model's answer to a program: the code in it, and the tests after it, in the two forms that are common.

/// Where a completion of a function ends: at a line that begins with one of these, not indented.
///
/// A base model continues with the next function, a test or a comment. The first five are the stop sequences of Chen et
/// al., "Evaluating Large Language Models Trained on Code" (2021), section 2.1.
pub const TOP_LEVEL_MARKERS: &[&str] = &["class ", "def ", "#", "if ", "print", "assert", "@", "```", "<|"];

/// The code in an answer that may have text around it.
///
/// With fenced blocks in it, the content of the first one marked `python`, `python3` or `py` (in any case), else of the
/// first one; a block that is not closed ends with the answer. Without any, the answer as it is, since it may continue
/// with a prompt and its first spaces matter.
pub fn code_in(answer: &str) -> &str {
    let mut first = None;
    let mut open: Option<(usize, bool)> = None;
    let mut at = 0;
    for line in answer.split_inclusive('\n') {
        let mark = line.trim();
        if let Some(info) = mark.strip_prefix("```") {
            match open {
                None => {
                    let language = info.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
                    open = Some((at + line.len(), matches!(language.as_str(), "python" | "python3" | "py")));
                }
                Some((start, python)) if info.is_empty() => {
                    if python {
                        return &answer[start..at];
                    }
                    first.get_or_insert(&answer[start..at]);
                    open = None;
                }
                Some(_) => {}
            }
        }
        at += line.len();
    }
    match (open, first) {
        (Some((start, true)), _) | (Some((start, false)), None) => &answer[start..],
        (_, Some(block)) => block,
        (None, None) => answer,
    }
}

/// A completion up to the first line after its first that begins with one of [`TOP_LEVEL_MARKERS`].
///
/// The first line belongs to the prompt's last one, so that it is kept whatever it is.
pub fn cut_at_top_level(completion: &str) -> &str {
    let mut at = 0;
    for (number, line) in completion.split_inclusive('\n').enumerate() {
        if number > 0 && TOP_LEVEL_MARKERS.iter().any(|marker| line.starts_with(marker)) {
            return &completion[..at];
        }
        at += line.len();
    }
    completion
}

/// A program of the HumanEval form: `prompt` with the head of a function, the `completion` of it, `test` which defines
/// `check`, and the call of that with the function named `entry_point`.
///
/// A completion that defines the whole function again works as well: the prompt's head with its docstring is a function
/// by itself, which is then replaced, and imports of the prompt stay.
pub fn human_eval(prompt: &str, completion: &str, test: &str, entry_point: &str) -> String {
    format!("{prompt}{completion}\n\n{test}\n\ncheck({entry_point})\n")
}

/// A program of the MBPP form: the `code`, then `setup` (empty for most), then each of `tests`, an assertion as a rule.
///
/// The setup comes after the code since it uses classes that the code defines.
pub fn mbpp<S: AsRef<str>>(code: &str, setup: &str, tests: &[S]) -> String {
    let mut program = format!("{code}\n\n{setup}\n");
    for test in tests {
        program.push_str(test.as_ref());
        program.push('\n');
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_in_answers() {
        for (answer, expected) in [
            ("    return x\n", "    return x\n"),
            ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
            ("```\nshell\n```\nand\n```Python 3\nx = 2\n```", "x = 2\n"),
            ("```text\none\n```\n```\ntwo\n```", "one\n"),
            ("```py\nnot closed", "not closed"),
            ("```\nnot closed", "not closed"),
            ("```text\none\n```\n```\ntwo", "one\n"),
            ("  ```python\r\nx = 3\r\n  ```\r\n", "x = 3\r\n"),
            ("", ""),
        ] {
            assert_eq!(code_in(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn completions_end_at_the_top_level() {
        for (completion, expected) in [
            ("    return 1\n\ndef other():\n    pass\n", "    return 1\n\n"),
            ("return 1\n# next\n", "return 1\n"),
            ("def whole():\n    return 1\nprint(whole())", "def whole():\n    return 1\n"),
            ("    a = 1\n    # inside\n    return a", "    a = 1\n    # inside\n    return a"),
            ("    return 1\nimport os\n", "    return 1\nimport os\n"),
            ("", ""),
        ] {
            assert_eq!(cut_at_top_level(completion), expected, "{completion:?}");
        }
    }

    #[test]
    fn programs_have_code_before_tests() {
        assert_eq!(
            human_eval("def f(x):\n", "    return x", "def check(f):\n    assert f(1) == 1", "f"),
            "def f(x):\n    return x\n\ndef check(f):\n    assert f(1) == 1\n\ncheck(f)\n"
        );
        assert_eq!(mbpp("x = 1", "y = x", &["assert y == 1", "assert x"]), "x = 1\n\ny = x\nassert y == 1\nassert x\n");
    }
}
