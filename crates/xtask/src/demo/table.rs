//! The accuracy table.

use super::accuracy::{Accuracy, Score};
use super::settings::{ORDER, STAGES, STATIC};

/// Rows are stages; columns the kinds, then both groups.
pub fn render(accuracy: &Accuracy) -> String {
    let mut lines = vec![header(), String::new()];
    lines[1] = "-".repeat(lines[0].chars().count());
    lines.extend(STAGES.iter().map(|stage| row(accuracy, stage)));
    lines.join("\n")
}

fn header() -> String {
    let kinds = ORDER.iter().chain(&STATIC);
    let kinds: String = kinds.map(|kind| cell(kind)).collect();
    format!("{:<14}{kinds} |{}{}", "stage", cell("order"), cell("static"))
}

fn row(accuracy: &Accuracy, stage: &str) -> String {
    let kinds = ORDER.iter().chain(&STATIC);
    let kinds: String = kinds.map(|kind| percent(accuracy.kind(stage, kind))).collect();
    let order = percent(accuracy.kinds(stage, &ORDER));
    format!("{stage:<14}{kinds} |{order}{}", percent(accuracy.kinds(stage, &STATIC)))
}

fn percent(score: Score) -> String {
    let text = score.share().map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    cell(&text)
}

fn cell(text: &str) -> String {
    format!("{text:>11}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_line_up_and_gaps_show() {
        let line =
            r#"{"stage": "all", "set": "s", "by_kind": {"turns": {"correct": 1, "total": 8}}}"#;
        let table = render(&Accuracy::parse(line).unwrap());
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 2 + STAGES.len());
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()));
        let all: Vec<_> = lines[4].split_whitespace().collect();
        assert_eq!(all, ["all", "-", "-", "12.5", "%", "-", "-", "-", "|", "12.5", "%", "-"]);
    }
}
