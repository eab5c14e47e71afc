//! The half that a caller needs.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};

use super::method::method_static;
use super::{docs, ident, in_scope, left_out};
use crate::model::{Method, Service};

pub(super) fn client(service: &Service) -> syn::Result<impl ToTokens + use<>> {
    let name = format_ident!("{}Client", service.name);
    let docs = docs(&[
        format!("Calls [`{}`].", service.name),
        String::new(),
        "Methods take `&self`; a clone is cheap and shares the connections; any thread may call.".to_owned(),
    ]);
    let left_out = left_out(service);
    let methods = service.methods.iter().map(|method| call(service, method)).collect::<syn::Result<Vec<_>>>()?;
    Ok(quote! {
        #(#docs)*
        #(#left_out)*
        #[derive(Clone, Debug)]
        pub struct #name<M = ()> {
            channel: ::rpc_core::Channel<M>,
        }

        impl #name {
            /// Calls the server at `url`, such as `tcp://127.0.0.1:7000`. Connections are made when calls need them.
            ///
            /// # Errors
            ///
            /// When `url` is not an address.
            pub fn connect(url: impl ::core::convert::AsRef<str>) -> ::rpc_core::Result<Self> {
                ::core::result::Result::Ok(Self::new(::rpc_core::Channel::connect(url)?))
            }
        }

        impl<M: ::rpc_core::Middleware> #name<M> {
            /// Calls through `channel`, which other clients can share.
            pub fn new(channel: ::rpc_core::Channel<M>) -> Self {
                Self { channel }
            }

            #(#methods)*
        }
    })
}

fn call(service: &Service, method: &Method) -> syn::Result<TokenStream> {
    let name = ident(&method.name);
    let docs = docs(&method.docs);
    let deprecated = method.deprecated.then(|| quote! { #[deprecated] });
    let lints = lints(method);
    let descriptor = method_static(service, method);
    let (request, reply) = (in_scope(&method.request)?, in_scope(&method.reply)?);
    Ok(quote! {
        #(#docs)*
        #deprecated
        #lints
        pub fn #name(&self, req: #request) -> ::rpc_core::Call<'_, M, #request, #reply> {
            self.channel.unary(&#descriptor, req)
        }
    })
}

/// The name is the IDL's choice; where clippy expects another signature of it, it is told so, there only.
pub(super) fn lints(method: &Method) -> Option<TokenStream> {
    let name = method.name.as_str();
    if name.starts_with("from_") || name.starts_with("into_") {
        return Some(quote! { #[allow(clippy::wrong_self_convention)] });
    }
    (name == "cmp").then(|| quote! { #[allow(clippy::should_implement_trait)] })
}
