//! Model to Rust, pure: one module for each package, in it the messages and then the services.

mod client;
mod method;
mod server;

use quote::{ToTokens, format_ident, quote};
use syn::{Attribute, Ident, Item, parse_quote};

use crate::messages::doc_text;
use crate::model::{Module, Service};
use crate::naming;

/// All items of the generated file.
pub(crate) fn file(root: &Module) -> syn::Result<syn::File> {
    Ok(syn::File { shebang: None, attrs: Vec::new(), items: items("", root)? })
}

fn items(path: &str, module: &Module) -> syn::Result<Vec<Item>> {
    let mut items = syn::parse_str::<syn::File>(&module.messages)?.items;
    for service in &module.services {
        let trait_ = server::service_trait(service)?;
        let server = server::server(service)?;
        let client = client::client(service)?;
        let statics = method::statics(service);
        items.extend(syn::parse2::<syn::File>(quote! { #trait_ #server #client #statics })?.items);
    }
    for (name, child) in &module.children {
        let path = if path.is_empty() { name.clone() } else { format!("{path}::{name}") };
        let inner = self::items(&path, child)?;
        // A package `a.b` beside a message `a.B` with types inside: both are the module `a::b`.
        let shared = items.iter_mut().find_map(|item| match item {
            Item::Mod(item) if item.ident == ident(name) => item.content.as_mut(),
            _ => None,
        });
        match shared {
            Some((_, items)) => items.extend(inner),
            None => {
                let name = ident(name);
                let default = [format!("The package `{}`.", path.replace("::", ".").replace("r#", ""))];
                let docs = docs(if child.docs.is_empty() { &default } else { &child.docs });
                items.push(parse_quote! { #(#docs)* pub mod #name { #(#inner)* } });
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
