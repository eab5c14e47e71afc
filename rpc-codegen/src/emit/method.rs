//! Descriptors: what client and server share about a service and its methods.

use quote::quote;
use syn::Ident;

use super::{ident, service_static};
use crate::model::{Method, Service};
use crate::naming;

/// The static that describes `method`. Two underscores: no name of the IDL has them after conversion, so that
/// `Say.HelloThere` and `SayHello.There` stay apart.
pub(super) fn method_static(service: &Service, method: &Method) -> Ident {
    ident(&format!("{}__{}", naming::shouty(&service.idl_name), naming::shouty(&method.idl_name)))
}

pub(super) fn statics(service: &Service) -> impl quote::ToTokens + use<> {
    let Service { package, idl_name, .. } = service;
    let name = service_static(service);
    let statics: Vec<_> = service.methods.iter().map(|method| method_static(service, method)).collect();
    let methods = service.methods.iter().map(|method| &method.idl_name);
    quote! {
        static #name: ::rpc_core::codegen::ServiceDescriptor =
            ::rpc_core::codegen::ServiceDescriptor::new(#package, #idl_name, &[#(&#statics),*]);
        #(
            static #statics: ::rpc_core::codegen::MethodDescriptor =
                ::rpc_core::codegen::MethodDescriptor::new(#package, #idl_name, #methods);
        )*
    }
}
