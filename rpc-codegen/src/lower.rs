//! Descriptors to model: all checks that are ours, each with the place of what is wrong.

use std::collections::HashMap;

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto,
};

use crate::descriptor::Descriptors;
use crate::doc;
use crate::error::{Error, Place, Result};
use crate::model::{Method, Module, Service};
use crate::naming;

/// Field numbers of descriptor.proto, of which the paths in its source info are made.
pub(crate) mod tag {
    pub(crate) const PACKAGE: i32 = 2;
    pub(crate) const MESSAGE: i32 = 4;
    pub(crate) const ENUM: i32 = 5;
    pub(crate) const SERVICE: i32 = 6;
    pub(crate) const NAME: i32 = 1;
    pub(crate) const FIELD: i32 = 2;
    pub(crate) const NESTED_MESSAGE: i32 = 3;
    pub(crate) const NESTED_ENUM: i32 = 4;
    pub(crate) const ONEOF: i32 = 8;
    pub(crate) const VALUE: i32 = 2;
    pub(crate) const METHOD: i32 = 2;
}

/// A method without code, for the warning that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) place: Place,
    pub(crate) method: String,
}

/// The services of the named files, and a module for each package, without its messages.
pub(crate) fn lower(descriptors: &Descriptors) -> Result<(Module, Vec<LeftOut>)> {
    let mut root = Module::default();
    let mut lowering = Lowering { names: Names::default(), left_out: Vec::new() };
    for file in descriptors.files.iter().filter(|file| !is_well_known(file)) {
        lowering.file(file, descriptors.named.contains(file.name()), &mut root)?;
    }
    Ok((root, lowering.left_out))
}

/// Whether the file's types are those of prost-types, and none are generated for it.
pub(crate) fn is_well_known(file: &FileDescriptorProto) -> bool {
    file.package() == "google.protobuf" || file.package().starts_with("google.protobuf.")
}

/// The Rust module of a package, outermost first.
pub(crate) fn module_path(package: &str) -> Vec<String> {
    package.split('.').filter(|part| !part.is_empty()).map(naming::snake).collect()
}

struct Lowering {
    names: Names,
    left_out: Vec<LeftOut>,
}

impl Lowering {
    fn file(&mut self, file: &FileDescriptorProto, named: bool, root: &mut Module) -> Result<()> {
        let source = Source::new(file);
        let path = module_path(file.package());
        self.packages(file, &source, &path, root)?;
        for (index, message) in file.message_type.iter().enumerate() {
            self.message(&source, &path.join("::"), file.package(), message, &[tag::MESSAGE, index as i32])?;
        }
        for (index, item) in file.enum_type.iter().enumerate() {
            self.enumeration(&source, &path.join("::"), file.package(), item, &[tag::ENUM, index as i32])?;
        }
        if !named {
            return Ok(());
        }
        for (index, service) in file.service.iter().enumerate() {
            let service = self.service(&source, file.package(), service, &[tag::SERVICE, index as i32])?;
            root.at(path.iter().map(String::as_str)).services.push(service);
        }
        Ok(())
    }

    /// Makes the modules of the file's package. The first comment on a `package` line is the documentation of its module.
    fn packages(
        &mut self,
        file: &FileDescriptorProto,
        source: &Source<'_>,
        path: &[String],
        root: &mut Module,
    ) -> Result<()> {
        let parts: Vec<&str> = file.package().split('.').filter(|part| !part.is_empty()).collect();
        for depth in 0..parts.len() {
            let what = format!("package `{}`", parts[..=depth].join("."));
            let module = root.at(path[..=depth].iter().map(String::as_str));
            let default = vec![format!("The {what}.")];
            if module.docs.is_empty() {
                module.docs = default.clone();
            }
            let docs = source.docs(&[tag::PACKAGE]);
            if depth + 1 == parts.len() && module.docs == default && !docs.is_empty() {
                module.docs = docs;
            }
            self.names.claim_module(
                &path[..depth].join("::"),
                &path[depth],
                what,
                Kind::Package,
                source.place(&[tag::PACKAGE]),
            )?;
        }
        Ok(())
    }

    fn message(
        &mut self,
        source: &Source<'_>,
        scope: &str,
        outer: &str,
        message: &DescriptorProto,
        path: &[i32],
    ) -> Result<()> {
        let full_name = join(outer, message.name());
        let what = format!("message `{full_name}`");
        let place = source.name(path);
        self.names.claim(scope, &naming::camel(message.name()), what.clone(), place.clone())?;

        let fields = format!("{scope}::fields of {full_name}");
        for (index, field) in message.field.iter().enumerate() {
            let in_oneof = field.oneof_index.is_some() && !field.proto3_optional();
            let (scope, name) = match in_oneof {
                true => (format!("{fields}.{}", field.oneof_index()), naming::camel(field.name())),
                false => (fields.clone(), naming::snake(field.name())),
            };
            let what = format!("field `{full_name}.{}`", field.name());
            self.names.claim(&scope, &name, what, source.name(&[path, &[tag::FIELD, index as i32]].concat()))?;
        }

        let inner = join_module(scope, &naming::snake(message.name()));
        let nested: Vec<_> =
            message.nested_type.iter().enumerate().filter(|(_, nested)| !is_map_entry(nested)).collect();
        let oneofs: Vec<_> =
            message.oneof_decl.iter().enumerate().filter(|(index, _)| is_real_oneof(message, *index)).collect();
        if nested.is_empty() && oneofs.is_empty() && message.enum_type.is_empty() {
            return Ok(());
        }
        let what = format!("the types inside message `{full_name}`");
        self.names.claim_module(scope, &naming::snake(message.name()), what, Kind::Message, place)?;
        for (index, nested) in nested {
            self.message(source, &inner, &full_name, nested, &[path, &[tag::NESTED_MESSAGE, index as i32]].concat())?;
        }
        for (index, item) in message.enum_type.iter().enumerate() {
            self.enumeration(source, &inner, &full_name, item, &[path, &[tag::NESTED_ENUM, index as i32]].concat())?;
        }
        for (index, oneof) in oneofs {
            let place = source.name(&[path, &[tag::ONEOF, index as i32]].concat());
            let what = format!("oneof `{full_name}.{}`", oneof.name());
            self.names.claim(&fields, &naming::snake(oneof.name()), what.clone(), place.clone())?;
            let name = naming::camel(oneof.name());
            // prost-build's rule, for `oneof value` beside `message Value`.
            let taken = message
                .nested_type
                .iter()
                .map(DescriptorProto::name)
                .chain(message.enum_type.iter().map(EnumDescriptorProto::name));
            let name =
                if taken.into_iter().any(|taken| naming::camel(taken) == name) { format!("{name}OneOf") } else { name };
            self.names.claim(&inner, &name, what, place)?;
        }
        Ok(())
    }

    fn enumeration(
        &mut self,
        source: &Source<'_>,
        scope: &str,
        outer: &str,
        item: &EnumDescriptorProto,
        path: &[i32],
    ) -> Result<()> {
        let full_name = join(outer, item.name());
        self.names.claim(scope, &naming::camel(item.name()), format!("enum `{full_name}`"), source.name(path))?;
        let mut numbers = Vec::new();
        for (index, value) in item.value.iter().enumerate() {
            if numbers.contains(&value.number()) {
                continue; // an alias: Rust knows the first name only
            }
            numbers.push(value.number());
            let name = naming::variant(item.name(), value.name());
            let what = format!("value `{full_name}.{}`", value.name());
            let place = source.name(&[path, &[tag::VALUE, index as i32]].concat());
            self.names.claim(&format!("{scope}::values of {full_name}"), &name, what, place)?;
        }
        Ok(())
    }

    fn service(
        &mut self,
        source: &Source<'_>,
        package: &str,
        service: &ServiceDescriptorProto,
        path: &[i32],
    ) -> Result<Service> {
        let full_name = join(package, service.name());
        let scope = module_path(package).join("::");
        let name = naming::camel(service.name());
        let place = source.name(path);
        self.names.claim(&scope, &name, format!("service `{full_name}`"), place.clone())?;
        self.names.claim(
            &scope,
            &format!("{name}Server"),
            format!("the server of service `{full_name}`"),
            place.clone(),
        )?;
        self.names.claim(&scope, &format!("{name}Client"), format!("the client of service `{full_name}`"), place)?;

        let mut methods = Vec::new();
        let mut left_out = Vec::new();
        for (index, method) in service.method.iter().enumerate() {
            let path = [path, &[tag::METHOD, index as i32]].concat();
            if method.client_streaming() || method.server_streaming() {
                let named = format!("{}.{}", service.name(), method.name());
                self.left_out.push(LeftOut { place: source.name(&path), method: named });
                left_out.push(method.name().to_owned());
            } else {
                methods.push(self.method(source, package, &full_name, method, &path)?);
            }
        }
        Ok(Service {
            name,
            idl_name: service.name().to_owned(),
            package: package.to_owned(),
            docs: or(source.docs(path), format!("The service `{full_name}`.")),
            methods,
            left_out,
        })
    }

    fn method(
        &mut self,
        source: &Source<'_>,
        package: &str,
        service: &str,
        method: &MethodDescriptorProto,
        path: &[i32],
    ) -> Result<Method> {
        let (name, gave_way) = naming::method(method.name());
        let what = format!("method `{service}.{}`", method.name());
        self.names.claim(&format!("methods of {service}"), &name, what, source.name(path))?;
        let mut docs = or(source.docs(path), format!("The method `{service}.{}`.", method.name()));
        if gave_way {
            docs.push(String::new());
            docs.push(format!(
                "The underscore is there because every client has a `{}` of its own.",
                name.trim_end_matches('_')
            ));
        }
        Ok(Method {
            name,
            idl_name: method.name().to_owned(),
            docs,
            deprecated: method.options.as_ref().is_some_and(|options| options.deprecated()),
            request: type_path(package, method.input_type()),
            reply: type_path(package, method.output_type()),
        })
    }
}

/// The type `.a.b.Message` as code in the module of `package` writes it.
fn type_path(package: &str, name: &str) -> String {
    let name = name.trim_start_matches('.');
    if let Some(well_known) = name.strip_prefix("google.protobuf.") {
        return well_known_type(well_known);
    }
    let here: Vec<&str> = package.split('.').filter(|part| !part.is_empty()).collect();
    let there: Vec<&str> = name.split('.').collect();
    let (message, modules) = there.split_last().expect("a split has at least one part");
    let common = here.iter().zip(modules).take_while(|(a, b)| a == b).count();
    let up = here[common..].iter().map(|_| "super".to_owned());
    let down = modules[common..].iter().map(|module| naming::snake(module));
    up.chain(down).chain([naming::camel(message)]).collect::<Vec<_>>().join("::")
}

/// A type of `google.protobuf`, by the same mapping as in the fields of messages.
fn well_known_type(name: &str) -> String {
    let native = match name {
        "Empty" => "()",
        "BoolValue" => "bool",
        "BytesValue" => "::rpc_core::codegen::prost::alloc::vec::Vec<u8>",
        "DoubleValue" => "f64",
        "FloatValue" => "f32",
        "Int32Value" => "i32",
        "Int64Value" => "i64",
        "StringValue" => "::rpc_core::codegen::prost::alloc::string::String",
        "UInt32Value" => "u32",
        "UInt64Value" => "u64",
        _ => {
            let (modules, message) =
                name.rsplit_once('.').map_or((None, name), |(modules, message)| (Some(modules), message));
            let modules = modules.into_iter().flat_map(|modules| modules.split('.')).map(naming::snake);
            let path = modules.chain([naming::camel(message)]).collect::<Vec<_>>().join("::");
            return format!("::rpc_core::codegen::prost_types::{path}");
        }
    };
    native.to_owned()
}

pub(crate) fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

/// Whether the oneof was written, rather than made by the compiler for an `optional` field.
pub(crate) fn is_real_oneof(message: &DescriptorProto, index: usize) -> bool {
    message.field.iter().any(|field| field.oneof_index == Some(index as i32) && !field.proto3_optional())
}

pub(crate) fn join(outer: &str, name: &str) -> String {
    if outer.is_empty() { name.to_owned() } else { format!("{outer}.{name}") }
}

fn join_module(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}::{name}") }
}

fn or(docs: Vec<String>, default: String) -> Vec<String> {
    if docs.is_empty() { vec![default] } else { docs }
}

/// Positions and comments of one file.
pub(crate) struct Source<'a> {
    file: &'a str,
    locations: HashMap<&'a [i32], &'a prost_types::source_code_info::Location>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        Source {
            file: file.name(),
            locations: locations.map(|location| (location.path.as_slice(), location)).collect(),
        }
    }

    /// Where the item at `path` has its name.
    fn name(&self, path: &[i32]) -> Place {
        let name = [path, &[tag::NAME]].concat();
        if self.locations.contains_key(name.as_slice()) { self.place(&name) } else { self.place(path) }
    }

    fn place(&self, path: &[i32]) -> Place {
        let span = self.locations.get(path).map(|location| location.span.as_slice());
        let position = match span {
            Some([line, column, ..]) => Some((*line as usize + 1, *column as usize + 1)),
            _ => None,
        };
        Place { file: self.file.to_owned(), position }
    }

    pub(crate) fn docs(&self, path: &[i32]) -> Vec<String> {
        self.locations
            .get(path)
            .map_or_else(Vec::new, |location| doc::lines(location.leading_comments(), location.trailing_comments()))
    }
}

/// Who has which name, so that the second one is told about the first.
#[derive(Default)]
struct Names {
    owners: HashMap<(String, String), Owner>,
}

struct Owner {
    what: String,
    kind: Kind,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Item,
    /// The module of a package; shared by all files of the package and by the types inside a message of its name.
    Package,
    /// The module of the types inside a message.
    Message,
}

impl Names {
    fn claim(&mut self, scope: &str, name: &str, what: String, place: Place) -> Result<()> {
        self.claim_as(scope, name, Owner { what, kind: Kind::Item, place })
    }

    fn claim_module(&mut self, scope: &str, name: &str, what: String, kind: Kind, place: Place) -> Result<()> {
        // Modules are types to Rust, but lower case: only another module can be in the way.
        self.claim_as(scope, name, Owner { what, kind, place })
    }

    fn claim_as(&mut self, scope: &str, name: &str, new: Owner) -> Result<()> {
        if name.is_empty() {
            return Err(Error::at(
                new.place,
                format!("{} has no letter or digit in its name; Rust needs one, rename it", new.what),
            ));
        }
        let key = (scope.to_owned(), name.to_owned());
        match self.owners.get(&key) {
            None => {
                self.owners.insert(key, new);
                Ok(())
            }
            Some(old) if old.kind == Kind::Package && new.kind == Kind::Package && old.what == new.what => Ok(()),
            Some(old) if old.kind != Kind::Item && new.kind != Kind::Item && old.kind != new.kind => Ok(()),
            Some(old) => {
                let message = format!(
                    "{} and {} ({}) are both `{name}` in Rust; rename one of the two",
                    new.what, old.what, old.place
                );
                Err(Error::at(new.place, message))
            }
        }
    }
}
