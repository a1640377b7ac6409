//! Stop strings in text that comes piece by piece.

/// Looks for stop strings in text that comes in pieces, and holds back what may still become one.
#[derive(Debug, Clone)]
pub struct StopFilter<'a> {
    stops: &'a [String],
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Text that belongs to the output, whatever comes next.
    pub text: String,
    /// The stop string that was found, by its index. The text ends before it, and nothing may follow.
    pub stop: Option<usize>,
}

impl<'a> StopFilter<'a> {
    /// Looks for `stops`; an empty string is never found.
    pub fn new(stops: &'a [String]) -> StopFilter<'a> {
        StopFilter { stops, held: String::new() }
    }

    /// Adds `piece` to the text. Of several stop strings in it the one that begins first counts, and then the one that
    /// is listed first.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        if piece.is_empty() {
            return Passed { text: String::new(), stop: None };
        }
        let given = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let found = given.filter_map(|(index, stop)| self.held.find(stop.as_str()).map(|start| (start, index))).min();
        if let Some((start, index)) = found {
            self.held.truncate(start);
            return Passed { text: std::mem::take(&mut self.held), stop: Some(index) };
        }
        let kept = self.held.split_off(self.safe_length());
        Passed { text: std::mem::replace(&mut self.held, kept), stop: None }
    }

    /// The text that was held back, when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// How much of the held text cannot be the beginning of a stop string.
    fn safe_length(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = self.held.len().saturating_sub(longest.saturating_sub(1));
        let mut starts = self.held.char_indices().map(|(start, _)| start).filter(|&start| start >= earliest);
        let may_begin = |start: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[start..]));
        starts.find(|&start| may_begin(start)).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| text.to_string()).collect()
    }

    /// Pushes `pieces` and returns what passed after each, and the index of the stop string.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let stops = strings(stops);
        let mut filter = StopFilter::new(&stops);
        let mut out = Vec::new();
        for piece in pieces {
            let passed = filter.push(piece);
            out.push(passed.text);
            if passed.stop.is_some() {
                assert_eq!(filter.finish(), "");
                return (out, passed.stop);
            }
        }
        out.push(filter.finish());
        (out, None)
    }

    #[test]
    fn a_stop_string_over_several_pieces_is_found() {
        let (out, stop) = run(&["\nQ:"], &["a", "b\n", "Q", ": c"]);
        assert_eq!((out, stop), (strings(&["a", "b", "", ""]), Some(0)));
    }

    #[test]
    fn what_does_not_become_a_stop_string_is_given_out() {
        let (out, stop) = run(&["###"], &["a#", "#b", "##"]);
        assert_eq!((out, stop), (strings(&["a", "##b", "", "##"]), None));
        // The beginning may be inside of what looked like another beginning.
        let (out, stop) = run(&["aab"], &["aa", "a", "b"]);
        assert_eq!((out, stop), (strings(&["", "a", ""]), Some(0)));
    }

    #[test]
    fn the_first_one_counts() {
        assert_eq!(run(&["c", "bc", "b"], &["abcd"]), (strings(&["a"]), Some(1)));
        assert_eq!(run(&["", "x"], &["ax"]), (strings(&["a"]), Some(1)));
        assert_eq!(run(&[], &["ab", ""]), (strings(&["ab", "", ""]), None));
    }

    #[test]
    fn characters_of_several_bytes_are_not_cut() {
        let (out, stop) = run(&["é!", "日本"], &["caf", "é", "日", "é", "!"]);
        assert_eq!((out, stop), (strings(&["caf", "", "é", "日", ""]), Some(0)));
    }

    #[test]
    fn any_cut_into_pieces_gives_the_same_text() {
        let text = "abababcabcababa";
        for stops in [&["abc"][..], &["ababc"], &["bca"], &["cc"], &["x", "babc"]] {
            let whole = run(stops, &[text]);
            for first in 0..text.len() {
                for second in first..text.len() {
                    let (out, stop) = run(stops, &[&text[..first], &text[first..second], &text[second..]]);
                    assert_eq!((out.concat(), stop), (whole.0.concat(), whole.1), "{stops:?} {first} {second}");
                }
            }
        }
    }
}
