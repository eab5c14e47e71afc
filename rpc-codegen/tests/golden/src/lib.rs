//! Generated code, compiled: what `rpc-codegen` is expected to write, each file in a module.
//!
//! Nothing here is written by hand but this file. `UPDATE_GOLDEN=1 cargo test -p rpc-codegen` rewrites the rest.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

/// `idl/hello.proto`: the smallest service.
pub mod hello_idl {
    include!("../expected/hello.rs");
}

/// `idl/testee.proto`: the service that tests and benchmarks call.
pub mod testee_idl {
    include!("../expected/testee.rs");
}

/// Every kind of field, comment and method; imports; well-known types.
pub mod everything_idl {
    include!("../expected/everything.rs");
}

/// Names that Rust, or the generated code itself, has for other things.
pub mod names_idl {
    include!("../expected/names.rs");
}

/// A file without a package.
pub mod root_idl {
    include!("../expected/root.rs");
}

/// A package and a message whose modules are one.
pub mod shared_idl {
    include!("../expected/shared.rs");
}

/// The second version of the language.
pub mod legacy_idl {
    include!("../expected/legacy.rs");
}

#[cfg(test)]
mod tests {
    use rpc_core::codegen::Service;
    use rpc_core::codegen::prost::Message;
    use rpc_core::codegen::prost::bytes::Bytes;
    use rpc_core::{Context, Result};

    use crate::hello_idl::hello::{Greeter, GreeterServer, HelloReply, HelloRequest};
    use crate::testee_idl::testee::Blob;

    struct Hello;

    impl Greeter for Hello {
        async fn say_hello(&self, _cx: &Context, req: HelloRequest) -> Result<HelloReply> {
            let message = format!("Hello, {}!", req.name);
            Ok(HelloReply { message })
        }
    }

    #[test]
    fn a_service_is_an_async_fn() {
        fn served(service: impl Service) {
            let _ = service.descriptor();
        }
        served(GreeterServer::new(Hello).blocking(["SayHello"]));
    }

    #[test]
    fn bytes_are_not_copied_when_decoded_from_bytes() {
        let payload = Bytes::from_static(&[7; 4096]);
        let encoded = Bytes::from(Blob { payload }.encode_to_vec());
        let blob = Blob::decode(encoded.clone()).unwrap();
        assert!(encoded.as_ptr_range().contains(&blob.payload.as_ptr()));
    }
}
