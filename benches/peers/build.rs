//! Each peer's own generator, from one IDL.

use std::path::{Path, PathBuf};

use ttrpc_codegen::{Customize, ProtobufCustomize};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=idl");

    let files = protox::compile(["idl/echo.proto"], ["idl"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;

    volo_build::Builder::protobuf()
        .add_service("idl/echo.proto")
        .include_dirs(vec!["idl".into()])
        .out_dir(&out)
        .filename("volo_grpc.rs".into())
        .write()?;
    volo_build::Builder::thrift()
        .add_service("idl/echo.thrift")
        .out_dir(&out)
        .filename("volo_thrift.rs".into())
        .write()?;

    let ttrpc = out.join("ttrpc");
    std::fs::create_dir_all(&ttrpc)?;
    ttrpc_codegen::Codegen::new()
        .out_dir(&ttrpc)
        .input(Path::new("idl/echo.proto"))
        .include(Path::new("idl"))
        .rust_protobuf()
        .customize(Customize { async_all: true, ..Default::default() })
        .rust_protobuf_customize(ProtobufCustomize::default().tokio_bytes(true).gen_mod_rs(false))
        .run()?;
    // Those files begin with inner attributes: they can be modules, and cannot be included.
    let module = |name: &str| format!("#[path = {:?}]\npub mod {name};\n", ttrpc.join(format!("{name}.rs")));
    std::fs::write(out.join("ttrpc.rs"), module("echo") + &module("echo_ttrpc"))?;
    Ok(())
}
