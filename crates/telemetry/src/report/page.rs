//! The HTML around charts and tables.

use std::fmt::Write;

const STYLE: &str = include_str!("style.css");

/// A whole document.
pub(super) fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} · strand</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         {body}</main>\n</body>\n</html>\n"
    )
}

/// Title and facts of the run.
pub(super) fn header(title: &str, facts: &[String]) -> String {
    let mut html = format!("<header><h1>{}</h1><p>", escape(title));
    for fact in facts {
        // Writing into a string cannot fail.
        let _ = write!(html, "<span>{}</span>", escape(fact));
    }
    html + "</p></header>\n"
}

/// A card with a heading and a line of explanation.
pub(super) fn section(heading: &str, about: &str, content: &str) -> String {
    let (heading, about) = (escape(heading), escape(about));
    format!("<section><h2>{heading}</h2><p class=\"about\">{about}</p>{content}</section>\n")
}

/// Text for use in HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
