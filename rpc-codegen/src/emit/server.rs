//! The half that a server needs: the trait a user implements, and the value that serves it.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};

use super::method::method_static;
use super::{docs, ident, in_scope, left_out, service_static};
use crate::model::{Method, Service};

pub(super) fn service_trait(service: &Service) -> syn::Result<impl ToTokens + use<>> {
    let name = ident(&service.name);
    let docs = docs(&service.docs);
    let left_out = left_out(service);
    let methods = service.methods.iter().map(trait_method).collect::<syn::Result<Vec<_>>>()?;
    Ok(quote! {
        #(#docs)*
        #(#left_out)*
        pub trait #name: ::core::marker::Send + ::core::marker::Sync + 'static {
            #(#methods)*
        }
    })
}

fn trait_method(method: &Method) -> syn::Result<TokenStream> {
    let name = ident(&method.name);
    let docs = docs(&method.docs);
    let lints = super::client::lints(method);
    let (request, reply) = (in_scope(&method.request)?, in_scope(&method.reply)?);
    Ok(quote! {
        #(#docs)*
        #lints
        fn #name(&self, cx: &::rpc_core::Context, req: #request)
            -> impl ::core::future::Future<Output = ::rpc_core::Result<#reply>> + ::core::marker::Send;
    })
}

pub(super) fn server(service: &Service) -> syn::Result<impl ToTokens + use<>> {
    let name = format_ident!("{}Server", service.name);
    let trait_ = in_scope(&service.name)?;
    let descriptor = service_static(service);
    let docs = docs(&[format!("Serves [`{}`]: hand it to `Server::builder().add(…)`.", service.name)]);
    let methods = if service.methods.is_empty() {
        quote! { _methods }
    } else {
        quote! { methods }
    };
    let register = service.methods.iter().map(|method| register(service, method, &trait_));
    Ok(quote! {
        #(#docs)*
        pub struct #name<T> {
            inner: ::std::sync::Arc<T>,
            blocking: ::rpc_core::codegen::Blocking,
        }

        impl<T: #trait_> #name<T> {
            /// Serves `service`, which all calls share.
            pub fn new(service: T) -> Self {
                Self::from_arc(::std::sync::Arc::new(service))
            }

            /// Serves a service that other code holds, too.
            pub fn from_arc(service: ::std::sync::Arc<T>) -> Self {
                Self {
                    inner: service,
                    blocking: ::core::default::Default::default(),
                }
            }

            /// Runs the methods of these names, as the IDL has them, on the server's worker pool, where they may block
            /// or compute for long. Default: none. An unknown name is an error when the server binds.
            pub fn blocking<N: ::core::convert::Into<::std::string::String>>(
                mut self,
                methods: impl ::core::iter::IntoIterator<Item = N>,
            ) -> Self {
                self.blocking.methods(methods);
                self
            }

            /// As `blocking`, for methods that may take long: they get half of the workers at most, so that the others
            /// need not wait for them.
            pub fn slow<N: ::core::convert::Into<::std::string::String>>(
                mut self,
                methods: impl ::core::iter::IntoIterator<Item = N>,
            ) -> Self {
                self.blocking.slow(methods);
                self
            }

            /// Runs all methods on the server's worker pool.
            pub fn all_blocking(mut self) -> Self {
                self.blocking.all();
                self
            }
        }

        impl<T: #trait_> ::rpc_core::codegen::Service for #name<T> {
            fn descriptor(&self) -> &'static ::rpc_core::codegen::ServiceDescriptor {
                &#descriptor
            }

            fn blocking(&self) -> &::rpc_core::codegen::Blocking {
                &self.blocking
            }

            fn register<M: ::rpc_core::Middleware>(self, #methods: &mut ::rpc_core::codegen::Methods<M>) {
                #(#register)*
            }
        }
    })
}

/// The method is named through its trait: the service sits in an `Arc`, which has methods of its own.
fn register(service: &Service, method: &Method, trait_: &impl ToTokens) -> TokenStream {
    let descriptor = method_static(service, method);
    let name = ident(&method.name);
    quote! {
        methods.unary(
            &#descriptor,
            ::std::sync::Arc::clone(&self.inner),
            |service, cx, req| async move {
                let reply = #trait_::#name(&*service, &cx, req).await;
                (service, cx, reply)
            },
        );
    }
}
