//! Turns the IDL into the types, traits and clients that the examples include.

fn main() -> rpc_codegen::Result<()> {
    rpc_codegen::compile(["../idl/hello.proto", "../idl/testee.proto", "../idl/demo.proto", "../idl/shop.proto"])
}
