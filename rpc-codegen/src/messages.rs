//! Messages and enums, by `prost-build`.
//!
//! Comments go around it: it would escape them by rules of its own, which are not enough. Each place for a comment gets
//! a number instead, and the number is replaced in the text that comes back.

use prost_build::{Config, Module as ProstModule};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::source_code_info::Location;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, SourceCodeInfo};

use crate::error::{Error, Result};
use crate::lower::{Source, is_map_entry, is_real_oneof, is_well_known, join, tag};
use crate::model::Module;

const MARK: &str = "/// doc:";

/// Adds the Rust text of all messages and enums to the modules of their packages.
pub(crate) fn add(files: Vec<FileDescriptorProto>, root: &mut Module) -> Result<()> {
    let mut docs = Docs::default();
    let files =
        files.into_iter().map(|file| (ProstModule::from_protobuf_package_name(file.package()), docs.number(file)));
    let files = files.collect();
    let mut config = Config::new();
    config.bytes(["."]).prost_path("::rpc_core::codegen::prost").prost_types_path("::rpc_core::codegen::prost_types");
    let texts = config.generate(files).map_err(|error| Error::new(format!("prost-build: {error}")))?;
    for (path, text) in texts {
        root.at(path.parts()).messages = docs.fill_in(&text);
    }
    Ok(())
}

/// Comments by number, and the locations that carry the numbers.
#[derive(Default)]
struct Docs {
    docs: Vec<Vec<String>>,
    locations: Vec<Location>,
}

impl Docs {
    /// The file with numbers for comments. prost-build gives nothing for well-known types, and they have no source.
    fn number(&mut self, mut file: FileDescriptorProto) -> FileDescriptorProto {
        file.service.clear();
        if is_well_known(&file) {
            file.source_code_info = None;
            return file;
        }
        let source = Source::new(&file);
        for (index, message) in file.message_type.iter().enumerate() {
            self.message(&source, file.package(), message, &[tag::MESSAGE, index as i32]);
        }
        for (index, item) in file.enum_type.iter().enumerate() {
            self.enumeration(&source, file.package(), item, &[tag::ENUM, index as i32]);
        }
        file.source_code_info = Some(SourceCodeInfo { location: std::mem::take(&mut self.locations) });
        file
    }

    fn message(&mut self, source: &Source<'_>, outer: &str, message: &DescriptorProto, path: &[i32]) {
        let full_name = join(outer, message.name());
        self.item(source, path, || format!("The message `{full_name}`."));
        for (index, field) in message.field.iter().enumerate() {
            let path = [path, &[tag::FIELD, index as i32]].concat();
            self.item(source, &path, || format!("Field {}: `{}`.", field.number(), declaration(outer, message, field)));
        }
        for (index, oneof) in message.oneof_decl.iter().enumerate().filter(|(index, _)| is_real_oneof(message, *index))
        {
            self.item(source, &[path, &[tag::ONEOF, index as i32]].concat(), || {
                format!("The oneof `{}`.", oneof.name())
            });
        }
        for (index, nested) in message.nested_type.iter().enumerate().filter(|(_, nested)| !is_map_entry(nested)) {
            self.message(source, &full_name, nested, &[path, &[tag::NESTED_MESSAGE, index as i32]].concat());
        }
        for (index, item) in message.enum_type.iter().enumerate() {
            self.enumeration(source, &full_name, item, &[path, &[tag::NESTED_ENUM, index as i32]].concat());
        }
    }

    fn enumeration(&mut self, source: &Source<'_>, outer: &str, item: &EnumDescriptorProto, path: &[i32]) {
        self.item(source, path, || format!("The enum `{}`.", join(outer, item.name())));
        for (index, value) in item.value.iter().enumerate() {
            let path = [path, &[tag::VALUE, index as i32]].concat();
            self.item(source, &path, || format!("Value {}: `{}`.", value.number(), value.name()));
        }
    }

    fn item(&mut self, source: &Source<'_>, path: &[i32], default: impl FnOnce() -> String) {
        let docs = source.docs(path);
        let number = self.docs.len();
        self.docs.push(if docs.is_empty() { vec![default()] } else { docs });
        let leading_comments = Some(format!(" doc:{number}"));
        self.locations.push(Location { path: path.to_vec(), leading_comments, ..Location::default() });
    }

    fn fill_in(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() * 2);
        for line in text.lines() {
            let number = line.trim_start().strip_prefix(MARK).and_then(|number| number.parse::<usize>().ok());
            match number.and_then(|number| self.docs.get(number)) {
                Some(docs) => docs.iter().for_each(|doc| out.push_str(&format!("#[doc = {:?}]\n", doc_text(doc)))),
                None => out.push_str(&format!("{line}\n")),
            }
        }
        out
    }
}

/// A line of a doc comment as the attribute has it: the space that stands behind `///` is part of it.
pub(crate) fn doc_text(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!(" {line}") }
}

/// The field as the IDL declares it.
fn declaration(outer: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let entry = message
        .nested_type
        .iter()
        .find(|nested| is_map_entry(nested) && field.type_name().ends_with(&format!(".{}", nested.name())));
    if let Some(entry) = entry {
        return format!(
            "map<{}, {}> {}",
            type_name(outer, &entry.field[0]),
            type_name(outer, &entry.field[1]),
            field.name()
        );
    }
    let label = match field.label() {
        Label::Repeated => "repeated ",
        Label::Required => "required ",
        Label::Optional if field.proto3_optional() => "optional ",
        Label::Optional => "",
    };
    format!("{label}{} {}", type_name(outer, field), field.name())
}

fn type_name(outer: &str, field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum | Type::Group => {
            let name = field.type_name().trim_start_matches('.');
            name.strip_prefix(outer).and_then(|name| name.strip_prefix('.')).unwrap_or(name).to_owned()
        }
        plain => plain.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}
