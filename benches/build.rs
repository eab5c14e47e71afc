//! Turns the IDL into the service that is measured.

fn main() -> rpc_codegen::Result<()> {
    rpc_codegen::compile("../idl/testee.proto")
}
