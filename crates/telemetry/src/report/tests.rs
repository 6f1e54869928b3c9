//! A made-up run, of the shape of the demo.

use super::*;
use crate::evaluation::tests::example as evaluated;
use crate::metrics::tests::example as step;

fn made_up() -> Report {
    let stages = [
        ("base", 1200, 4.0, 0.25),
        ("mean", 300, 0.9, 0.6),
        ("all", 400, 0.5, 0.12),
        ("global_local", 300, 0.4, 0.14),
    ];
    let mut metrics: Vec<Metrics> = Vec::new();
    for (stage, count, from, to) in stages {
        for index in 0..count {
            let number = metrics.len() as u64 + 1;
            let decay = (-5.0 * f64::from(index) / f64::from(count)).exp();
            let wobble = 1.0 + 0.2 * ((number * 7919 % 101) as f64 / 101.0 - 0.5);
            let masked = stage == "all" || stage == "global_local";
            metrics.push(Metrics {
                stage: stage.into(),
                lm_loss: (to + (from - to) * decay) * wobble,
                mvm_loss: masked.then_some((0.1 + 0.3 * decay) * wobble),
                mask_rate: if masked { 0.5 } else { 0.0 },
                ..step(number)
            });
        }
    }
    let scores = |order, still| {
        let order = [("direction", order), ("first", order + 7), ("turns", order - 4)];
        let still = [("colour", still), ("count", still - 9), ("shape", still - 1)];
        order.into_iter().chain(still).collect::<Vec<_>>()
    };
    Report {
        title: "demo".into(),
        facts: vec!["4 ranks (dp 2 × tp 2)".into(), "done".into(), "2026-11-20".into()],
        metrics,
        evaluations: vec![
            evaluated("mean", &scores(54, 197)),
            evaluated("all", &scores(192, 199)),
            evaluated("global_local", &scores(190, 198)),
        ],
    }
}

#[test]
fn the_page_holds_every_stage_kind_and_number_and_needs_nothing_else() {
    let html = made_up().to_html().unwrap();
    for text in ["global_local", "direction", "27.0 %", "96.0 %", "MVM loss", "demo"] {
        assert!(html.contains(text), "{text} is missing");
    }
    assert_eq!(html.matches("<svg").count(), 3);
    let outside = ["<script", "<link", "url(", "src="];
    assert!(outside.iter().all(|text| !html.contains(text)));
    assert!(html.len() < 300_000, "{} bytes", html.len());
}

#[test]
fn names_cannot_break_the_page() {
    let report = Report {
        title: "<b>&".into(),
        evaluations: vec![evaluated("</table>", &[("<i>", 1)])],
        ..Report::default()
    };
    let html = report.to_html().unwrap();
    assert!(!html.contains("<b>&") && !html.contains("<i>") && html.contains("&lt;b&gt;&amp;"));
    assert_eq!(html.matches("</table>").count(), 1);
}

#[test]
fn a_run_directory_without_anything_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = write(folder.path()).unwrap_err();
    assert!(error.to_string().ends_with("no metrics and no evaluations yet"));
}

#[test]
fn a_run_directory_becomes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let made_up = made_up();
    let mut writer = crate::MetricsWriter::open(&folder.path().join("metrics.jsonl"), 0).unwrap();
    made_up.metrics.iter().for_each(|step| writer.write(step).unwrap());
    let path = folder.path().join("evaluations.jsonl");
    made_up.evaluations.iter().for_each(|one| evaluation::record(&path, one).unwrap());
    let run = r#"{"name":"demo","status":"done","created":"2026-11-20T10:00:00Z",
        "layout":{"world_size":4,"dp":2,"tp":2},"other":1}"#;
    std::fs::write(folder.path().join("run.json"), run).unwrap();
    let read = Report::read(folder.path()).unwrap();
    assert_eq!(read, made_up);
    let html = std::fs::read_to_string(write(folder.path()).unwrap()).unwrap();
    assert_eq!(html, made_up.to_html().unwrap());
}
