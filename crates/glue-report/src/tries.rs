//! `tries.csv`: every candidate of every search.

use crate::data::Report;
use std::fmt::Write;

/// Everything that selective merging tried, as CSV after RFC 4180: cluster, number within the cluster, strategy,
/// candidate, score and standard error on the search items, whether it was accepted, and the reason. Figures are to the
/// last bit; an unknown one is empty.
pub fn tries_csv(report: &Report) -> String {
    let mut text = "cluster,number,strategy,candidate,score,stderr,accepted,reason\r\n".to_string();
    let number = |figure: Option<f64>| figure.map_or(String::new(), |figure| figure.to_string());
    for selection in &report.selections {
        for (k, tried) in selection.decisions.iter().enumerate() {
            let score = number(tried.score.map(|score| score.value));
            let stderr = number(tried.score.and_then(|score| score.stderr));
            let [cluster, strategy, candidate, reason] =
                [&selection.cluster, &tried.strategy, &tried.candidate, &tried.reason].map(|text| field(text));
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "{cluster},{},{strategy},{candidate},{score},{stderr},{},{reason}\r\n",
                k + 1,
                tried.accepted
            );
        }
    }
    text
}

/// A field, quoted where that is needed.
fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}
