//! `.proto` files to linked descriptors: the one place that reads files.
//!
//! ```text
//!  path ──► read ──► parse (protox) ──► imports, depth first ──► link (DescriptorPool)
//! ```
//!
//! A file has one name however it is imported: the path it was found at. So `"y.proto"` and `"idl/y.proto"` can be
//! the same file, and every position in an error is a path that can be opened.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};

use prost_types::source_code_info::Location;
use prost_types::{FileDescriptorProto, SourceCodeInfo};
use protox::file::{File, FileResolver, GoogleFileResolver};
use protox::prost_reflect::DescriptorPool;

use crate::error::{Error, Place, Result};

/// Descriptors, each behind those it imports.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pub(crate) files: Vec<FileDescriptorProto>,
    /// Names of the files that were asked for, rather than imported.
    pub(crate) named: BTreeSet<String>,
    /// Every file that was read.
    pub(crate) read: Vec<PathBuf>,
}

/// Reads `files` and all they import. Imports are looked up in `includes`, then beside each of `files`, then in the current directory.
pub(crate) fn load(files: &[PathBuf], includes: &[PathBuf]) -> Result<Descriptors> {
    if files.is_empty() {
        return Err(Error::new("no .proto file was given; name at least one"));
    }
    let mut loader = Loader {
        roots: roots(files, includes),
        builtin: GoogleFileResolver::new(),
        pool: DescriptorPool::new(),
        names: HashMap::new(),
        open: Vec::new(),
        read: Vec::new(),
    };
    let mut named = BTreeSet::new();
    for file in files {
        named.insert(loader.file(file)?);
    }
    let files = loader.pool.files().map(|file| file.file_descriptor_proto().clone()).collect();
    Ok(Descriptors { files, named, read: loader.read })
}

struct Loader {
    roots: Vec<PathBuf>,
    builtin: GoogleFileResolver,
    pool: DescriptorPool,
    /// Files read so far, by their real path.
    names: HashMap<PathBuf, String>,
    /// The chain of imports that led here, to notice a circle.
    open: Vec<String>,
    read: Vec<PathBuf>,
}

impl Loader {
    fn file(&mut self, path: &Path) -> Result<String> {
        let name = display_name(path);
        if let Some(well_known) = well_known_name(&name) {
            self.builtin(well_known)?;
            return Ok(well_known.to_owned());
        }
        let unreadable = |error: std::io::Error| {
            let remedy = "check the path (relative ones start at the current directory, in a build.rs the package's) and its permissions";
            Error::at(Place::file(&name), format!("the file cannot be read: {error}; {remedy}"))
        };
        let real = fs::canonicalize(path).map_err(unreadable)?;
        if let Some(known) = self.names.get(&real) {
            return Ok(known.clone());
        }
        let bytes = fs::read(path).map_err(unreadable)?;
        self.read.push(path.to_owned());
        let source = String::from_utf8(bytes).map_err(|error| {
            let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
            Error::at(
                Place::in_source(&name, &valid, valid.len()),
                "the file is not UTF-8 from here on; save it as UTF-8",
            )
        })?;
        refuse_editions(&name, &source)?;
        let parsed =
            File::from_source(&name, &source).map_err(|error| parse_error(&name, &source, &format!("{error:?}")))?;
        let mut descriptor = parsed.file_descriptor_proto().clone();
        if let Some(info) = &mut descriptor.source_code_info {
            count_characters(info, &source);
        }

        self.names.insert(real, name.clone());
        self.open.push(name.clone());
        self.imports(&mut descriptor)?;
        self.open.pop();
        self.link(descriptor)?;
        Ok(name)
    }

    /// Reads what `file` imports, and has it say the names under which those files are known.
    fn imports(&mut self, file: &mut FileDescriptorProto) -> Result<()> {
        let imports = std::mem::take(&mut file.dependency);
        for (index, import) in imports.into_iter().enumerate() {
            let place = place_of_import(file, index);
            let name = self.import(&import, &place)?;
            if self.open.contains(&name) {
                let circle = [self.open.join(" → "), name].join(" → ");
                return Err(Error::at(
                    place,
                    format!(
                        "import \"{import}\" closes a circle: {circle}; move what both need into a file of its own"
                    ),
                ));
            }
            if file.dependency.contains(&name) {
                return Err(Error::at(
                    place,
                    format!("import \"{import}\" names {name} a second time; remove one of the two"),
                ));
            }
            file.dependency.push(name);
        }
        Ok(())
    }

    fn import(&mut self, import: &str, place: &Place) -> Result<String> {
        if let Some(well_known) = well_known_name(import).filter(|known| *known == import) {
            self.builtin(well_known)?;
            return Ok(well_known.to_owned());
        }
        match self.roots.iter().map(|root| root.join(import)).find(|path| path.is_file()) {
            Some(path) => self.file(&path),
            None => {
                let searched: Vec<_> = self.roots.iter().map(|root| display_name(root)).collect();
                let remedy = "name its directory with Builder::include or -I";
                Err(Error::at(
                    place.clone(),
                    format!("import \"{import}\" was not found in {}; {remedy}", searched.join(", ")),
                ))
            }
        }
    }

    /// One of the files that come with every protobuf compiler; ours are inside protox.
    fn builtin(&mut self, name: &str) -> Result<()> {
        if self.pool.get_file_by_name(name).is_some() {
            return Ok(());
        }
        let file = self.builtin.open_file(name).map_err(|error| Error::at(Place::file(name), error.to_string()))?;
        for import in &file.file_descriptor_proto().dependency {
            self.builtin(import)?;
        }
        self.link(file.file_descriptor_proto().clone())
    }

    fn link(&mut self, file: FileDescriptorProto) -> Result<()> {
        let name = file.name().to_owned();
        self.pool.add_file_descriptor_proto(file).map_err(|error| {
            let place = Place {
                file: error.file().unwrap_or(&name).to_owned(),
                position: error.line().zip(error.column()).map(|(line, column)| (line + 1, column + 1)),
            };
            Error::at(place, with_remedy(&error.to_string()))
        })
    }
}

/// Where imports are looked up, in order, each directory once.
fn roots(files: &[PathBuf], includes: &[PathBuf]) -> Vec<PathBuf> {
    let beside = files.iter().filter_map(|file| file.parent());
    let mut roots: Vec<PathBuf> = Vec::new();
    for root in includes.iter().map(PathBuf::as_path).chain(beside).chain([Path::new(".")]) {
        let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        if !roots.iter().any(|known| known == root) {
            roots.push(root.to_owned());
        }
    }
    roots
}

/// `path` as it is shown and as other files refer to it: forward slashes, no `./`.
fn display_name(path: &Path) -> String {
    let mut name = String::new();
    for part in path.components().filter(|part| *part != Component::CurDir) {
        if !name.is_empty() && !name.ends_with('/') {
            name.push('/');
        }
        name.push_str(&part.as_os_str().to_string_lossy().replace('\\', "/"));
    }
    if name.is_empty() { ".".to_owned() } else { name }
}

/// The name of a well-known file if `path` ends in one. A copy beside the user's files would define its messages
/// again, and another version of them; they are always those of prost-types.
fn well_known_name(path: &str) -> Option<&str> {
    const WELL_KNOWN: &[&str] = &[
        "any",
        "api",
        "descriptor",
        "duration",
        "empty",
        "field_mask",
        "source_context",
        "struct",
        "timestamp",
        "type",
        "wrappers",
        "compiler/plugin",
    ];
    let start = path.rfind("google/protobuf/")?;
    let stem = path[start..].strip_prefix("google/protobuf/")?.strip_suffix(".proto")?;
    let whole = start == 0 || path[..start].ends_with('/');
    (whole && WELL_KNOWN.contains(&stem)).then_some(&path[start..])
}

fn place_of_import(file: &FileDescriptorProto, index: usize) -> Place {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let span = locations.filter(|location| location.path == [3, index as i32]).map(|location| &location.span).next();
    let position = span.and_then(|span| Some((*span.first()? as usize + 1, *span.get(1)? as usize + 1)));
    Place { file: file.name().to_owned(), position }
}

/// `edition = "2023";` is not in protox's grammar; its own message would be about a missing `message`.
fn refuse_editions(name: &str, source: &str) -> Result<()> {
    let start = skip_comments(source);
    let Some(rest) = source[start..].strip_prefix("edition") else {
        return Ok(());
    };
    let Some(value) = rest.trim_start().strip_prefix('=') else {
        return Ok(());
    };
    let value = value.split(';').next().unwrap_or("").trim();
    let remedy = "write `syntax = \"proto3\";` instead";
    Err(Error::at(Place::in_source(name, source, start), format!("edition {value} is not supported; {remedy}")))
}

/// The offset of the first token of `source`.
fn skip_comments(source: &str) -> usize {
    let mut rest = source.trim_start_matches('\u{feff}');
    loop {
        rest = rest.trim_start();
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else {
            return source.len() - rest.len();
        };
        rest = &rest[end..];
    }
}

/// What protox says, taken apart into place and sentence: `file:line:column: sentence`, or the sentence alone.
fn parse_error(name: &str, source: &str, shown: &str) -> Error {
    let positioned = shown.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')).and_then(|rest| {
        let mut parts = rest.splitn(3, ':');
        let (line, column) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((offset_of(source, line, column), parts.next()?.trim_start()))
    });
    match positioned {
        Some((offset, message)) => Error::at(Place::in_source(name, source, offset), with_remedy(message)),
        None if shown.contains("multiple package") => {
            let second = source.rmatch_indices("package").next().map_or(0, |(offset, _)| offset);
            Error::at(Place::in_source(name, source, second), with_remedy(shown))
        }
        None if shown.contains("end of file") => {
            Error::at(Place::in_source(name, source, source.trim_end().len()), with_remedy(shown))
        }
        None => Error::at(Place::file(name), with_remedy(shown)),
    }
}

/// The place of a parse error as an offset: for protox's parser a carriage return alone ends a line, too, and columns are bytes.
fn offset_of(source: &str, line: usize, column: usize) -> usize {
    let mut start = 0;
    for _ in 1..line {
        let rest = &source[start..];
        let Some(end) = rest.find(['\r', '\n']) else { break };
        start += end + if rest[end..].starts_with("\r\n") { 2 } else { 1 };
    }
    let offset = (start + column.saturating_sub(1)).min(source.len());
    (0..=offset).rev().find(|offset| source.is_char_boundary(*offset)).unwrap_or(0)
}

/// Makes columns, which protox counts in bytes, those of characters, as an editor shows them.
fn count_characters(info: &mut SourceCodeInfo, source: &str) {
    if source.is_ascii() {
        return;
    }
    let lines: Vec<&str> = source.split('\n').collect();
    let characters = |line: i32, column: i32| {
        let before = lines.get(line as usize).and_then(|line| line.get(..column as usize));
        before.map_or(column, |before| before.chars().count() as i32)
    };
    for Location { span, .. } in &mut info.location {
        match span[..] {
            [line, start, end] => *span = vec![line, characters(line, start), characters(line, end)],
            [line, start, last, end] => *span = vec![line, characters(line, start), last, characters(last, end)],
            _ => {}
        }
    }
}

/// `message` with what to do about it, where protox does not say.
fn with_remedy(message: &str) -> String {
    const REMEDIES: &[(&str, &str)] = &[
        ("is defined twice", "rename or remove one of the two"),
        ("is already defined", "rename or remove one of the two"),
        ("is not defined", "check its spelling, or import the file that defines it"),
        ("unknown syntax", "write \"proto3\" or \"proto2\""),
        ("end of file", "a `}` or `;` may be missing further up"),
        ("multiple package names", "keep one `package` line"),
    ];
    match REMEDIES.iter().find(|(symptom, _)| message.contains(symptom)) {
        Some((_, remedy)) => format!("{message}; {remedy}"),
        None => message.to_owned(),
    }
}
