//! The one JSON shape on this wire: an object of strings to strings, for the extras of a business status.

use std::collections::BTreeMap;

type Reason = &'static str;

/// Writes an object, its keys in order, with `<`, `>` and `&` escaped as Go does it.
pub(super) fn write(object: &BTreeMap<String, String>) -> String {
    let mut out = String::from("{");
    for (key, value) in object {
        if out.len() > 1 {
            out.push(',');
        }
        write_string(&mut out, key);
        out.push(':');
        write_string(&mut out, value);
    }
    out.push('}');
    out
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Reads an object of strings to strings and nothing else; for a repeated key the last value wins. Time is linear, depth is one.
pub(super) fn read(text: &[u8]) -> Result<BTreeMap<String, String>, Reason> {
    let text = std::str::from_utf8(text).map_err(|_| "not UTF-8")?;
    let mut reader = Reader { rest: text };
    let mut object = BTreeMap::new();
    reader.expect('{', "not an object")?;
    if !reader.takes('}') {
        loop {
            let key = reader.string()?;
            reader.expect(':', "a colon is missing")?;
            object.insert(key, reader.string()?);
            if !reader.takes(',') {
                break;
            }
        }
        reader.expect('}', "the object does not end")?;
    }
    reader.skip_space();
    if reader.rest.is_empty() { Ok(object) } else { Err("something follows the object") }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Steps over `c`, if it is next.
    fn takes(&mut self, c: char) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, c: char, otherwise: Reason) -> Result<(), Reason> {
        if self.takes(c) { Ok(()) } else { Err(otherwise) }
    }

    fn string(&mut self) -> Result<String, Reason> {
        self.expect('"', "not a string")?;
        let mut out = String::new();
        loop {
            let end = self.rest.find(|c| matches!(c, '"' | '\\' | '\0'..='\x1f')).ok_or("a string does not end")?;
            let (plain, rest) = self.rest.split_at(end);
            out.push_str(plain);
            let mut chars = rest.chars();
            let stop = chars.next();
            self.rest = chars.as_str();
            match stop {
                Some('"') => return Ok(out),
                Some('\\') => out.push(self.escape()?),
                _ => return Err("a control character in a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Reason> {
        let mut chars = self.rest.chars();
        let c = chars.next().ok_or("a string does not end")?;
        self.rest = chars.as_str();
        Ok(match c {
            '"' | '\\' | '/' => c,
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return self.unicode(),
            _ => return Err("an unknown escape"),
        })
    }

    /// `\uXXXX`, or two of them that make a pair of surrogates. Half a pair becomes U+FFFD, as Go reads it.
    fn unicode(&mut self) -> Result<char, Reason> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.rest.starts_with("\\u") {
            let before = self.rest;
            self.rest = &self.rest[2..];
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let both = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(both).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.rest = before;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u32, Reason> {
        let digits = self.rest.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = digits.and_then(|d| u32::from_str_radix(d, 16).ok()).ok_or("not four hex digits")?;
        self.rest = &self.rest[4..];
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn objects_of_strings_are_read_and_nothing_else() {
        let check = |text: &str, want: Option<&[(&str, &str)]>| {
            let want = want.map(|pairs| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
            assert_eq!(read(text.as_bytes()).ok(), want, "{text}");
        };
        check(r#"{}"#,                                   Some(&[]));
        check(r#" { "id" : "42" } "#,                    Some(&[("id", "42")]));
        check(r#"{"a":"1","b":"2","a":"3"}"#,            Some(&[("a", "3"), ("b", "2")]));
        check(r#"{"t":"<a>"}"#,                          Some(&[("t", "<a>")]));
        check(r#"{"t":"\u003ca\u003E\u0026"}"#,          Some(&[("t", "<a>&")]));
        check(r#"{"t":"\"\\\/\b\f\n\r\t"}"#,             Some(&[("t", "\"\\/\x08\x0c\n\r\t")]));
        check(r#"{"t":"\ud83d\ude00é"}"#,                Some(&[("t", "😀é")]));
        check(r#"{"t":"\ud83dx\ud83d\u0041\udc00"}"#,    Some(&[("t", "\u{fffd}x\u{fffd}A\u{fffd}")]));
        check("",                                        None);
        check("null",                                    None);
        check("[]",                                      None);
        check(r#"{"a":1}"#,                              None);
        check(r#"{"a":null}"#,                           None);
        check(r#"{"a":{"b":"c"}}"#,                      None);
        check(r#"{"a":"b",}"#,                           None);
        check(r#"{"a":"b"} x"#,                          None);
        check(r#"{"a":"b""#,                             None);
        check(r#"{"a":"b"#,                              None);
        check(r#"{"a":"\u00"}"#,                         None);
        check(r#"{"a":"\u00é"}"#,                        None);
        check(r#"{"a":"\u+123"}"#,                       None);
        check(r#"{"a":"\x"}"#,                           None);
        check("{\"a\":\"\n\"}",                          None);
        check(r#"{"a":"\"#,                              None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let all: String = (0..0x3000).filter_map(char::from_u32).collect();
        let object = BTreeMap::from([("id".into(), "42".into()), (all.clone(), all)]);
        let text = write(&object);
        assert_eq!(read(text.as_bytes()), Ok(object));
        assert!(!text.contains(['<', '>', '&', '\n']));
        assert_eq!(write(&BTreeMap::from([("id".into(), "42".into())])), r#"{"id":"42"}"#);
    }
}
