//! Names of the IDL as names of Rust. `prost-build` follows the same rules for messages and does not export them:
//! the two must agree, or a method would point at a type that has another name.

use heck::{ToShoutySnakeCase, ToSnakeCase, ToUpperCamelCase};

/// Methods that a generated client has of its own, or that calls on it would hide. An IDL method of this name gets an underscore at its end.
const TAKEN_METHODS: &[&str] = &["new", "connect", "clone"];

/// Keywords of all editions; as a name each becomes `r#name`.
const KEYWORDS: &[&str] = &[
    "as", "break", "const", "continue", "else", "enum", "false", "fn", "for", "if", "impl", "in", "let", "loop",
    "match", "mod", "move", "mut", "pub", "ref", "return", "static", "struct", "trait", "true", "type", "unsafe",
    "use", "where", "while", "dyn", "abstract", "become", "box", "do", "final", "macro", "override", "priv", "typeof",
    "unsized", "virtual", "yield", "async", "await", "try", "gen",
];

/// A module or a field: `FooBar` is `foo_bar`, `type` is `r#type`.
pub(crate) fn snake(name: &str) -> String {
    sanitize(name.to_snake_case())
}

/// A type: `foo_bar` is `FooBar`, `self` is `Self_`.
pub(crate) fn camel(name: &str) -> String {
    sanitize(name.to_upper_camel_case())
}

/// A static: `FooBar` is `FOO_BAR`.
pub(crate) fn shouty(name: &str) -> String {
    name.to_shouty_snake_case()
}

/// A method, and whether it had to give way to one that every client has.
pub(crate) fn method(name: &str) -> (String, bool) {
    let name = snake(name);
    match TAKEN_METHODS.contains(&name.as_str()) {
        true => (format!("{name}_"), true),
        false => (name, false),
    }
}

/// A value of an enum, without the name of the enum that the IDL's style guide puts before it.
pub(crate) fn variant(enum_name: &str, value: &str) -> String {
    let name = camel(value);
    let stripped = name.strip_prefix(&camel(enum_name)).unwrap_or(&name);
    match stripped.starts_with(char::is_uppercase) {
        true => sanitize(stripped.to_owned()),
        false => sanitize(name),
    }
}

fn sanitize(name: String) -> String {
    match name.as_str() {
        "super" | "self" | "Self" | "extern" | "crate" => format!("{name}_"),
        keyword if KEYWORDS.contains(&keyword) => format!("r#{name}"),
        digit if digit.starts_with(|c: char| c.is_numeric()) => format!("_{name}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_idioms_and_never_keywords() {
        let rows = [
            (snake as fn(&str) -> String, "SayHello", "say_hello"),
            (snake, "Type", "r#type"),
            (snake, "self", "self_"),
            (snake, "HTTPRequest", "http_request"),
            (snake, "_1", "_1"),
            (snake, "_", ""),
            (camel, "self", "Self_"),
            (camel, "foo_bar", "FooBar"),
            (shouty, "SayHello", "SAY_HELLO"),
        ];
        for (rule, name, expected) in rows {
            assert_eq!(rule(name), expected, "{name}");
        }
    }

    #[test]
    fn methods_give_way_to_those_of_the_client() {
        assert_eq!(method("Clone"), ("clone_".to_owned(), true));
        assert_eq!(method("Loop"), ("r#loop".to_owned(), false));
    }

    #[test]
    fn variants_lose_the_prefix_when_a_name_is_left() {
        assert_eq!(variant("Color", "COLOR_RED"), "Red");
        assert_eq!(variant("Color", "COLORFUL"), "Colorful");
        assert_eq!(variant("Color", "COLOR_1"), "Color1");
        assert_eq!(variant("Color", "COLOR_SELF"), "Self_");
    }
}
