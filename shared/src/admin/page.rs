//! The status page: `/status` for people, without scripts.

use std::fmt::Write as _;

use serde_json::Value;

/// The page refreshes itself every few seconds.
pub(super) fn render(service: &str, status: &Value) -> String {
    let ready = status["ready"] == true;
    let (badge, state) = if ready { ("ok", "ready") } else { ("bad", "not ready") };
    let reason = status["reason"].as_str().map(|reason| format!(": {}", escape(reason))).unwrap_or_default();
    let mut rows = String::new();
    if let Value::Object(members) = status {
        for (name, value) in members {
            if value.is_null() || name == "reason" {
                continue;
            }
            let value = match value {
                Value::String(text) => escape(text),
                nested @ (Value::Object(_) | Value::Array(_)) => {
                    format!("<pre>{}</pre>", escape(&format!("{nested:#}")))
                }
                plain => escape(&plain.to_string()),
            };
            write!(rows, "<tr><th>{}</th><td>{value}</td></tr>", escape(name))
                .expect("a String takes everything");
        }
    }
    let service = escape(service);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{service}: {state}</title>\
         <meta http-equiv=\"refresh\" content=\"5\"><style>\
         body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}}\
         th{{text-align:left;vertical-align:top;padding-right:2rem;font-weight:600}}pre{{margin:0}}\
         .ok{{color:#17692c}}.bad{{color:#a4161a}}</style></head><body>\
         <h1>{service}</h1><p class=\"{badge}\"><b>{state}</b>{reason}</p><table>{rows}</table>\
         <p><a href=\"/status\">status</a> · <a href=\"/metrics\">metrics</a> · \
         <a href=\"/livez\">livez</a> · <a href=\"/readyz\">readyz</a></p></body></html>\n"
    )
}

/// Names of collections and texts of errors come from outside.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let status = serde_json::json!({
            "ready": false,
            "reason": "waiting for <b>kafka</b>",
            "collections": { "<script>": ["\"&"] },
        });
        let page = render("it", &status);
        assert!(page.contains("waiting for &lt;b&gt;kafka&lt;/b&gt;"), "{page}");
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"), "{page}");
    }
}
