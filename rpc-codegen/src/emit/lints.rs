//! Enums whose names or sizes are the IDL's choice, told to clippy one by one.

use heck::ToSnakeCase;
use syn::{Fields, Item, ItemEnum, Type, parse_quote};

/// Marks the enums among `items`, and those in the modules there.
pub(super) fn allow(items: &mut [Item]) {
    for item in items {
        match item {
            Item::Mod(module) => {
                if let Some((_, items)) = &mut module.content {
                    allow(items);
                }
            }
            Item::Enum(item) => {
                if repeats_itself(item) {
                    item.attrs.push(parse_quote! { #[allow(clippy::enum_variant_names)] });
                }
                if holds_messages(item) {
                    item.attrs.push(parse_quote! { #[allow(clippy::large_enum_variant)] });
                }
            }
            _ => {}
        }
    }
}

/// Clippy's rule: a variant starts or ends with the enum's name, or three or more share their first or last word.
fn repeats_itself(item: &ItemEnum) -> bool {
    let words =
        |name: String| name.trim_start_matches("r#").to_snake_case().split('_').map(str::to_owned).collect::<Vec<_>>();
    let name = words(item.ident.to_string());
    let variants: Vec<_> = item.variants.iter().map(|variant| words(variant.ident.to_string())).collect();
    let repeats_name = variants.iter().any(|variant| variant.starts_with(&name) || variant.ends_with(&name));
    let shares =
        |word: fn(&Vec<String>) -> Option<&String>| variants.iter().all(|variant| word(variant) == word(&variants[0]));
    repeats_name || variants.len() >= 3 && (shares(|variant| variant.first()) || shares(|variant| variant.last()))
}

/// A oneof with a message in it can be large where another variant is small; boxing it would be another type for users.
fn holds_messages(item: &ItemEnum) -> bool {
    item.variants.iter().any(|variant| match &variant.fields {
        Fields::Unnamed(fields) => fields.unnamed.iter().any(|field| match &field.ty {
            Type::Path(path) => path.path.segments.last().is_some_and(|last| {
                let name = last.ident.to_string();
                name.starts_with(char::is_uppercase) && !["String", "Bytes", "Box"].contains(&name.as_str())
            }),
            _ => false,
        }),
        _ => false,
    })
}
