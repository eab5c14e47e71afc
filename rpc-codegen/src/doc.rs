//! Comments of the IDL as rustdoc.
//!
//! A comment was written for people, not for Markdown: a URL stands bare, `<name>` is a placeholder, an indented
//! example is no Rust. Taken over as it is, it would warn in `cargo doc`, warn in clippy, or run as a doctest.
//! So the layout is rebuilt (lists keep their shape, code becomes a `text` block) and what is left is escaped.

/// The lines of a doc comment from the comments before and behind an item; no lines if both are empty.
pub(crate) fn lines(leading: &str, trailing: &str) -> Vec<String> {
    let mut out = layout(leading);
    let behind = layout(trailing);
    if !out.is_empty() && !behind.is_empty() {
        out.push(String::new());
    }
    out.extend(behind);
    out
}

/// One line of text that is not part of a longer comment.
struct Item {
    marker_indent: usize,
    content_indent: usize,
}

/// The paragraphs, lists and code blocks of one comment, written so that Markdown reads them the same way.
fn layout(comment: &str) -> Vec<String> {
    let source = unindent(comment);
    let mut out = Vec::new();
    let mut paragraph = Paragraph::default();
    let mut list: Vec<Item> = Vec::new();
    let mut after_blank = true;
    let mut rest = source.iter().map(String::as_str).peekable();
    while let Some(line) = rest.next() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if text.is_empty() {
            paragraph.flush(&mut out);
            out.push(String::new());
            after_blank = true;
            continue;
        }
        if let Some(fence) = fence(text) {
            paragraph.flush(&mut out);
            let mut code = Vec::new();
            for line in rest.by_ref() {
                if line.trim_start().starts_with(fence) {
                    break;
                }
                code.push(line);
            }
            push_code(&mut out, &code);
            list.clear();
            after_blank = true;
            continue;
        }
        if let Some((marker, body)) = list_marker(text) {
            paragraph.flush(&mut out);
            while list.last().is_some_and(|item| item.marker_indent >= indent) {
                list.pop();
            }
            let outer = list.last().map_or(0, |item| item.content_indent);
            list.push(Item { marker_indent: indent, content_indent: outer + marker.len() + 1 });
            paragraph.start(format!("{}{marker} ", " ".repeat(outer)), " ".repeat(outer + marker.len() + 1), body);
            after_blank = false;
            continue;
        }
        if after_blank {
            while list.last().is_some_and(|item| item.marker_indent >= indent) {
                list.pop();
            }
            let code_indent = list.last().map_or(4, |item| item.marker_indent + 6);
            if indent >= code_indent {
                let mut code = vec![line];
                while let Some(next) =
                    rest.next_if(|next| next.trim().is_empty() || leading_spaces(next) >= code_indent)
                {
                    code.push(next);
                }
                push_code(&mut out, &code);
                list.clear();
                continue;
            }
        }
        let indent = " ".repeat(list.last().map_or(0, |item| item.content_indent));
        if paragraph.text.is_empty() {
            paragraph.start(indent.clone(), indent, text);
        } else {
            paragraph.push(text);
        }
        after_blank = false;
    }
    paragraph.flush(&mut out);
    trim_blank(out)
}

/// Lines that are read as one run of text: code spans and links may cross their ends.
#[derive(Default)]
struct Paragraph {
    first: String,
    others: String,
    text: String,
}

impl Paragraph {
    fn start(&mut self, first: String, others: String, text: &str) {
        (self.first, self.others, self.text) = (first, others, text.to_owned());
    }

    fn push(&mut self, text: &str) {
        self.text.push('\n');
        self.text.push_str(text);
    }

    fn flush(&mut self, out: &mut Vec<String>) {
        if self.text.is_empty() {
            return;
        }
        for (index, line) in escape(&self.text).lines().enumerate() {
            let indent = if index == 0 { &self.first } else { &self.others };
            out.push(format!("{indent}{}", block_start(line)));
        }
        self.text.clear();
    }
}

/// `line` without the meaning that its first character would have for Markdown.
fn block_start(line: &str) -> String {
    let quote = line.starts_with('>');
    let underline = !line.is_empty() && (line.bytes().all(|b| b == b'=') || line.bytes().all(|b| b == b'-'));
    match quote || underline {
        true => format!("\\{line}"),
        false => line.to_owned(),
    }
}

/// Escapes what rustdoc would take for HTML or a link, and makes bare URLs links, outside code spans.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = if first == '`' {
            let ticks = rest.len() - rest.trim_start_matches('`').len();
            match code_span(rest, ticks) {
                Some(len) => {
                    out.push_str(&rest[..len]);
                    len
                }
                None => {
                    out.push_str(&"\\`".repeat(ticks));
                    ticks
                }
            }
        } else if rest.starts_with("http://") || rest.starts_with("https://") {
            let len = url_len(rest);
            out.push_str(&format!("<{}>", &rest[..len]));
            len
        } else if first == '<'
            && (rest.starts_with("<http://") || rest.starts_with("<https://"))
            && rest[1 + url_len(&rest[1..])..].starts_with('>')
        {
            let len = url_len(&rest[1..]) + 2;
            out.push_str(&rest[..len]);
            len
        } else if let Some(len) = link_len(rest) {
            out.push_str(&rest[..len]);
            len
        } else if first == '\\' && rest[1..].starts_with(|c: char| c.is_ascii_punctuation()) {
            out.push_str(&rest[..2]);
            2
        } else {
            if matches!(first, '<' | '>' | '[' | ']') {
                out.push('\\');
            }
            out.push(first);
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    out
}

fn code_span(text: &str, ticks: usize) -> Option<usize> {
    let mut at = ticks;
    while let Some(found) = text[at..].find('`') {
        let start = at + found;
        let run = text[start..].len() - text[start..].trim_start_matches('`').len();
        at = start + run;
        if run == ticks {
            return Some(at);
        }
    }
    None
}

fn url_len(text: &str) -> usize {
    let end =
        text.find(|c: char| c.is_whitespace() || c.is_control() || "<>()[]{}\"'`|\\".contains(c)).unwrap_or(text.len());
    text[..end].trim_end_matches(['.', ',', ';', ':', '!', '?', '*', '_']).len()
}

/// The length of `[text](http…)` at the start of `text`: the one form of link that points somewhere by itself.
fn link_len(text: &str) -> Option<usize> {
    let label = text.strip_prefix('[')?;
    let close = label.find(']')?;
    let plain = !label[..close].contains(['[', '<', '>', '`', '\\']) && !label[..close].contains("://");
    let target = label[close + 1..].strip_prefix('(')?;
    let is_url = target.starts_with("http://") || target.starts_with("https://");
    let len = url_len(target);
    (plain && is_url && target[len..].starts_with(')')).then_some(1 + close + 1 + 1 + len + 1)
}

fn fence(text: &str) -> Option<&'static str> {
    ["```", "~~~"].into_iter().find(|fence| text.starts_with(fence) && !text[3..].contains('`'))
}

fn list_marker(text: &str) -> Option<(&str, &str)> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let marker = match text.as_bytes().get(digits)? {
        b'*' | b'-' | b'+' if digits == 0 => 1,
        b'.' | b')' if (1..=2).contains(&digits) => digits + 1,
        _ => return None,
    };
    let body = text[marker..].strip_prefix(' ')?.trim_start();
    (!body.is_empty()).then_some((&text[..marker], body))
}

/// A block that rustdoc shows as it is and does not run, fenced by more ticks than it holds.
fn push_code(out: &mut Vec<String>, code: &[&str]) {
    let code = trim_blank(code.iter().map(|line| (*line).to_owned()).collect());
    if code.is_empty() {
        return;
    }
    let margin = code.iter().filter(|line| !line.trim().is_empty()).map(|line| leading_spaces(line)).min().unwrap_or(0);
    let mut fence = "```".to_owned();
    while code.iter().any(|line| line.contains(&fence)) {
        fence.push('`');
    }
    if out.last().is_some_and(|line| !line.is_empty()) {
        out.push(String::new());
    }
    out.push(format!("{fence}text"));
    out.extend(code.iter().map(|line| line.get(margin..).unwrap_or("").to_owned()));
    out.push(fence);
    out.push(String::new());
}

/// Lines without the margin they share, tabs, line ends and characters that rustc does not like in comments.
fn unindent(comment: &str) -> Vec<String> {
    let clean =
        |c: &char| !matches!(*c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') && (!c.is_control() || *c == '\t');
    let mut lines: Vec<String> = comment
        .lines()
        .map(|line| line.chars().filter(clean).collect::<String>().replace('\t', "    ").trim_end().to_owned())
        .collect();
    // Comments that start with three slashes or more.
    if lines.iter().all(|line| line.is_empty() || line.starts_with('/')) {
        for line in &mut lines {
            *line = line.trim_start_matches('/').to_owned();
        }
    }
    let margin = lines.iter().filter(|line| !line.is_empty()).map(|line| leading_spaces(line)).min().unwrap_or(0);
    lines.into_iter().map(|line| line.get(margin..).unwrap_or("").to_owned()).collect()
}

fn leading_spaces(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Without blank lines at either end, and never two of them in a row outside code.
fn trim_blank(lines: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(lines.len());
    for line in lines {
        if !line.is_empty() || out.last().is_some_and(|last| !last.is_empty()) {
            out.push(line);
        }
    }
    while out.last().is_some_and(String::is_empty) {
        out.pop();
    }
    out
}

#[cfg(test)]
mod tests {
    fn check(comment: &str, expected: &str) {
        assert_eq!(super::lines(comment, "").join("\n"), expected, "from {comment:?}");
    }

    #[test]
    fn text_is_escaped_and_code_is_not() {
        check(" Plain text.\n", "Plain text.");
        check(" See https://a.example/b_c.\n", "See <https://a.example/b_c>.");
        check(" See (<https://a.example>).\n", "See (<https://a.example>).");
        check(" A Vec<T> of [Foo][a.Foo], `Vec<T>[0]`.\n", "A Vec\\<T\\> of \\[Foo\\]\\[a.Foo\\], `Vec<T>[0]`.");
        check(" A [guide](https://a.example/x) here.\n", "A [guide](https://a.example/x) here.");
        check(" A span `over\n two<T>` lines, <T>.\n", "A span `over\ntwo<T>` lines, \\<T\\>.");
        check(" One ` tick <a>.\n", "One \\` tick \\<a\\>.");
        check(" > quote\n", "\\> quote");
        check("\u{202e} bidi\r\n", "bidi");
        check("/ A slash\n/ too many.\n", "A slash\ntoo many.");
        check("", "");
    }

    #[test]
    fn code_is_never_a_doctest() {
        check(" Do:\n\n     let x;\n\n       y\n\n End.\n", "Do:\n\n```text\nlet x;\n\n  y\n```\n\nEnd.");
        check(" ```rust\n x();\n ```\n", "```text\nx();\n```");
        check(" Open:\n ```\n x[0]\n", "Open:\n\n```text\nx[0]\n```");
    }

    #[test]
    fn lists_keep_their_shape() {
        check(" * one\n lazy\n   * two\n     deep\n * three\n", "* one\n  lazy\n  * two\n    deep\n* three");
        check(" 1. one\n\n    more\n\n out\n", "1. one\n\n   more\n\nout");
        check("     * indented\n", "* indented");
    }
}
