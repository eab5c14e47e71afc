//! Model to Rust, pure: one module for each package, in it the messages and then the services.

mod client;
mod lints;
mod method;
mod server;

use quote::{ToTokens, format_ident, quote};
use syn::{Attribute, Ident, Item, parse_quote};

use crate::messages::doc_text;
use crate::model::{Module, Service};
use crate::naming;

/// All items of the generated file.
pub(crate) fn file(root: &Module) -> syn::Result<syn::File> {
    let mut items = items("", root)?;
    lints::allow(&mut items);
    items.iter_mut().filter_map(attributes).for_each(|attributes| attributes.push(partly_used()));
    Ok(syn::File { shebang: None, attrs: Vec::new(), items })
}

/// A server needs no client, a program not every message, and who sees the code is not known here. Without this,
/// a program with its IDL in a private module would be warned about whatever it does not use, prost's messages included.
fn partly_used() -> Attribute {
    parse_quote! { #[allow(dead_code, unreachable_pub, reason = "a program uses the part it needs")] }
}

fn attributes(item: &mut Item) -> Option<&mut Vec<Attribute>> {
    match item {
        Item::Enum(item) => Some(&mut item.attrs),
        Item::Impl(item) => Some(&mut item.attrs),
        Item::Mod(item) => Some(&mut item.attrs),
        Item::Static(item) => Some(&mut item.attrs),
        Item::Struct(item) => Some(&mut item.attrs),
        Item::Trait(item) => Some(&mut item.attrs),
        _ => None,
    }
}

fn items(name: &str, module: &Module) -> syn::Result<Vec<Item>> {
    let mut items = syn::parse_str::<syn::File>(&module.messages)?.items;
    for service in &module.services {
        let trait_ = server::service_trait(service)?;
        let server = server::server(service)?;
        let client = client::client(service)?;
        let statics = method::statics(service);
        items.extend(syn::parse2::<syn::File>(quote! { #trait_ #server #client #statics })?.items);
    }
    for (child_name, child) in &module.children {
        let inner = self::items(child_name, child)?;
        // A package `a.b` beside a message `a.B` with types inside: both are the module `a::b`.
        let shared = items.iter_mut().find_map(|item| match item {
            Item::Mod(item) if item.ident == ident(child_name) => item.content.as_mut(),
            _ => None,
        });
        match shared {
            Some((_, items)) => items.extend(inner),
            None => {
                let docs = docs(&child.docs);
                // `package a.a` is the IDL's choice.
                let lints = (child_name == name).then(|| quote! { #[allow(clippy::module_inception)] });
                let child_name = ident(child_name);
                items.push(parse_quote! { #(#docs)* #lints pub mod #child_name { #(#inner)* } });
            }
        }
    }
    Ok(items)
}

fn docs(lines: &[String]) -> Vec<Attribute> {
    lines.iter().map(|line| doc_text(line)).map(|line| parse_quote! { #[doc = #line] }).collect()
}

fn ident(name: &str) -> Ident {
    format_ident!("{name}")
}

/// `name` as a path that a generic parameter of the same name does not hide.
fn in_scope(name: &str) -> syn::Result<impl ToTokens + use<>> {
    match name {
        "T" | "M" | "N" => syn::parse_str::<syn::Type>(&format!("self::{name}")),
        _ => syn::parse_str::<syn::Type>(name),
    }
}

/// The lines that say which methods are missing, and why.
fn left_out(service: &Service) -> Vec<Attribute> {
    if service.left_out.is_empty() {
        return Vec::new();
    }
    let names = service.left_out.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    docs(&[String::new(), format!("Left out: {names}; streaming is not supported yet.")])
}

/// The static that describes `service`.
fn service_static(service: &Service) -> Ident {
    ident(&naming::shouty(&service.idl_name))
}
