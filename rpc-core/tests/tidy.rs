//! Rules of this repository that the compiler does not hold, as lists of (where, banned, use instead).
//!
//! `ARCHITECTURE.md` says why they are rules. Comments and test modules are not looked at, unless it is said.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Modules that decide and do no I/O: bytes and `now` come in as arguments, bytes and events go out as results.
const SANS_IO: &[&str] = &[
    "rpc-core/src/protocol/",
    "rpc-core/src/mux/",
    "rpc-transport/src/framing/",
    "rpc-transport/src/timer.rs",
    "rpc-transport/src/buffer/",
];

/// What runs in a user's process.
const PRODUCT: &[&str] = &["rpc-transport/src/", "rpc-core/src/", "rpc-codegen/src/"];

/// The crate of requests and replies, which leaves sockets to the transport.
const CORE: &[&str] = &["rpc-core/src/"];

/// What serves and calls: its tables may hold what a peer has chosen.
const AT_RUN_TIME: &[&str] = &["rpc-transport/src/", "rpc-core/src/"];

/// Everything above the driver's seam: connections, reactors, handlers.
const ABOVE_THE_DRIVER: &[&str] = &[
    "rpc-transport/src/buffer/",
    "rpc-transport/src/conn/",
    "rpc-transport/src/framing/",
    "rpc-transport/src/reactor/",
    "rpc-transport/src/handler.rs",
    "rpc-transport/src/listener/",
    "rpc-transport/src/connector.rs",
    "rpc-transport/src/diagnose/",
];

/// Examples that are read as a whole: the transport alone, at the protocols that it is taken for.
const SHORT: &[&str] = &[
    "examples/blocking/",
    "examples/echo_raw/",
    "examples/http_plaintext/",
    "examples/netstring/",
    "examples/resp/",
    "examples/tcp_proxy/",
    "examples/ticker/",
    "examples/udp_echo/",
    "examples/upgrade/",
];
const LONGEST_EXAMPLE: usize = 60;

#[rustfmt::skip]
const BANNED: &[(&[&str], &str, &str)] = &[
    // where           banned                 use instead
    (SANS_IO,          "std::net",            "arguments and results: the connection has the socket"),
    (SANS_IO,          "mio",                 "arguments and results: the driver knows mio"),
    (SANS_IO,          "socket2",             "arguments and results: `Block::fill_from` is the one door"),
    (SANS_IO,          "Instant::now",        "a parameter `now`"),
    (SANS_IO,          "SystemTime",          "a parameter `now`; the wall clock decides nothing here"),
    (CORE,             "std::net",            "`rpc_transport::Url`"),
    (CORE,             "mio",                 "`rpc_transport`"),
    (CORE,             "socket2",             "`rpc_transport::SocketOptions`"),
    (ABOVE_THE_DRIVER, "mio",                 "`Driver`, so that other drivers can stand there"),
    (ABOVE_THE_DRIVER, "Instant::now",        "`Cx::now`, `Core::now` or `local::now`: the clock is read once a turn"),
    (PRODUCT,          "tokio::",             "nothing: a runtime is named by the files of the feature `tokio` only"),
    (PRODUCT,          "tokio_util::",        "nothing: a runtime is named by the files of the feature `tokio` only"),
    (PRODUCT,          ".lock().unwrap()",    "`parking_lot::Mutex`: a panic must not end the next caller, too"),
    (PRODUCT,          "todo!",               "an error, or an entry in docs/status.md"),
    (PRODUCT,          "unimplemented!",      "an error, or an entry in docs/status.md"),
    (PRODUCT,          "SystemTime",          "`Instant`: the wall clock may jump"),
    (AT_RUN_TIME,      "Hasher",              "std's tables as they are: their keys are random, so nobody can choose what collides (T42)"),
    (AT_RUN_TIME,      "BuildHasher",         "std's tables as they are: their keys are random, so nobody can choose what collides (T42)"),
    (AT_RUN_TIME,      "BuildHasherDefault",  "std's tables as they are: their keys are random, so nobody can choose what collides (T42)"),
    (AT_RUN_TIME,      "DefaultHasher",       "std's tables as they are: the keys of this one are the same everywhere (T42)"),
    (PRODUCT,          "cfg!(put_back",       "`put_back!`, which no build but a model's can have"),
];

/// Exceptions: a file, and what it may say all the same.
#[rustfmt::skip]
const ALLOWED: &[(&str, &str)] = &[
    ("rpc-transport/src/buffer/block.rs", "socket2"), // `fill_from`: a read into spare capacity
    ("rpc-transport/src/driver/readiness.rs", "BuildHasher"), // of std's `RandomState`, as a source of randomness; no table
    ("rpc-core/src/server/runtime.rs", "tokio::"),
    ("rpc-transport/src/reactor/on_tokio.rs", "tokio::"),
    ("rpc-transport/src/framing/codec.rs", "tokio_util::"),
];

/// Where unsafe code may stand, and how many lines of it there may be.
const UNSAFE: &[&str] = &[
    "rpc-transport/src/buffer/",
    "rpc-transport/src/driver/uring/",
    "rpc-transport/src/upgrade/inherited.rs", // a descriptor's number, as systemd passes it, becomes a descriptor
];
const UNSAFE_LINES: usize = 300;

/// What counts memory and time for the fuzz targets: a test by another name.
const METER: &str = "fuzz/src/meter.rs";

/// Crate roots that forbid unsafe code altogether.
const FORBID_UNSAFE: &[&str] = &["rpc-core/src/lib.rs", "rpc-codegen/src/lib.rs", "rpc-codegen/src/main.rs"];

/// A file longer than this holds more than one concept. Generated files are what they are.
const LONGEST: usize = 700;
const GENERATED: &str = "rpc-codegen/tests/golden/expected/";

/// A thing without a name has no file yet.
const NAMELESS: &[&str] = &["utils.rs", "util.rs", "common.rs", "types.rs", "helpers.rs", "misc.rs"];

/// Bugs in the catalogue, `docs/bugs.md`.
const BUGS: usize = 36;

/// Arrows between the crates: what a manifest must not name in any of its dependency tables.
#[rustfmt::skip]
const ABSENT: &[(&str, &[&str])] = &[
    ("rpc-transport/Cargo.toml", &["rpc-core", "rpc-codegen"]),
    ("rpc-transport/Cargo.toml", HASHERS),
    ("rpc-core/Cargo.toml",      HASHERS),
    ("rpc-codegen/Cargo.toml",   &["rpc-core", "rpc-transport", "tokio"]),
    ("rpc-core/Cargo.toml",      &["rpc-codegen", "mio", "socket2"]),
];

/// Tables without the random keys of std's, or that can be had without them.
const HASHERS: &[&str] =
    &["ahash", "fnv", "foldhash", "fxhash", "hashbrown", "indexmap", "phf", "rustc-hash", "twox-hash"];

/// What a crate may have by a feature only, and for its tests; no default feature brings it in.
#[rustfmt::skip]
const OPTIONAL: &[(&str, &[&str])] = &[
    ("rpc-transport/Cargo.toml", &["rustls", "tokio", "tokio-util", "nix", "rustix"]),
    ("rpc-core/Cargo.toml",      &["rustls", "tokio", "tokio-util"]),
];

#[test]
fn nothing_banned_is_used() {
    report(sources().iter().flat_map(banned).collect());
}

#[test]
fn unsafe_code_has_its_address() {
    let files = sources();
    let mut wrong: Vec<String> = files.iter().flat_map(unsafe_elsewhere).collect();
    let lines: usize = files.iter().filter(|file| file.path != METER).map(|file| unsafe_lines(&file.text)).sum();
    if lines > UNSAFE_LINES {
        wrong.push(format!("{lines} lines of unsafe code, at most {UNSAFE_LINES} are wanted"));
    }
    for root in FORBID_UNSAFE {
        if !read(root).contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{root}: #![forbid(unsafe_code)] is missing"));
        }
    }
    println!("{lines} lines of unsafe code");
    report(wrong);
}

#[test]
fn every_sleep_has_its_reason() {
    report(sources().iter().flat_map(unexplained).collect());
}

#[test]
fn files_hold_one_concept() {
    report(sources().iter().flat_map(shape).collect());
}

#[test]
fn arrows_between_the_crates_point_down() {
    let absent = ABSENT.iter().flat_map(|(manifest, absent)| named(manifest, &read(manifest), absent));
    let always = OPTIONAL.iter().flat_map(|(manifest, optional)| always_linked(manifest, &read(manifest), optional));
    report(absent.chain(always).collect());
}

#[test]
fn the_code_map_names_every_file() {
    let map = read("ARCHITECTURE.md");
    report(sources().iter().filter_map(|file| unnamed(file, &map)).collect());
}

/// The README shows what is compiled: each piece of its Rust code, between blank lines, stands in one of these files, and so does
/// its `.proto` code.
#[test]
fn the_readme_shows_what_is_compiled() {
    let shown = read("README.md");
    let known = ["examples/hello/main.rs", "rpc-codegen/src/lib.rs", "idl/hello.proto"].map(read).join("\n");
    let known: Vec<&str> = known.lines().map(|line| line.trim_start_matches("//!").trim()).collect();
    report(strange_code(&shown, &known));
}

/// Every bug of the catalogue has its row; the tests that are said to hold it exist, beside its id; and so do those of the patches.
#[test]
fn known_bugs_have_their_tests() {
    let (catalogue, files) = (read("docs/bugs.md"), sources());
    let patches = fs::read_dir(root().join("bugs")).expect("the patches").flatten().map(|entry| entry.path());
    let patches = patches.filter(|path| path.extension().is_some_and(|extension| extension == "patch"));
    let patches = patches.map(|path| Source {
        text: fs::read_to_string(&path).expect("a readable patch"),
        path: path.file_stem().expect("a name").to_string_lossy().into_owned(),
    });
    let mut wrong = unheld(&catalogue, &files);
    wrong.extend(patches.flat_map(|patch| unfindable(&patch, &catalogue, &files)));
    report(wrong);
}

/// The rules above find what they are meant to find.
#[test]
fn the_rules_bite() {
    let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let check = |found: Vec<String>, expected: &[&str]| assert_eq!(found, expected);

    let clock = "// Instant::now() in a comment\nlet now = Instant::now();\n#[cfg(test)]\nmod tests { Instant::now() }";
    check(
        banned(&file("rpc-core/src/mux/pending.rs", clock)),
        &["rpc-core/src/mux/pending.rs:2: `Instant::now`; use instead: a parameter `now`"],
    );
    check(banned(&file("rpc-core/src/server/shutdown.rs", clock)), &[]);
    check(banned(&file("rpc-core/src/mux/reply.rs", "let a = simio; // mio")), &[]);
    check(banned(&file("rpc-transport/src/buffer/block.rs", "use socket2::SockRef;")), &[]);
    assert_eq!(banned(&file("rpc-transport/src/buffer/link.rs", "use socket2::SockRef;")).len(), 1);
    assert_eq!(banned(&file("rpc-transport/src/conn/mod.rs", "use mio::Token;")).len(), 1);
    assert_eq!(banned(&file("rpc-core/src/client/call.rs", "state.lock().unwrap().x = 1;")).len(), 1);
    assert_eq!(banned(&file("rpc-codegen/src/lower.rs", &["todo", "!(\"enums\")"].concat())).len(), 1);
    let table = "type Names<V> = HashMap<String, V, BuildHasherDefault<Own>>;\nimpl Hasher for Own {}";
    assert_eq!(banned(&file("rpc-core/src/metadata.rs", table)).len(), 2);
    assert_eq!(
        banned(&file("rpc-transport/src/driver/readiness.rs", "use std::hash::{BuildHasher, RandomState};")),
        [""; 0]
    );
    assert_eq!(named("m", "[dependencies]\nahash = \"0.8\"\n", HASHERS).len(), 1);

    let cast = "let a = \"unsafe\";\nfn f() {\n    unsafe {\n        g();\n    }\n}\nunsafe impl S for T {}\n";
    assert_eq!(unsafe_elsewhere(&file("rpc-transport/src/conn/mod.rs", cast)).len(), 2);
    assert_eq!(unsafe_elsewhere(&file("examples/hello/main.rs", cast)).len(), 2);
    assert_eq!(unsafe_elsewhere(&file("rpc-transport/src/buffer/link.rs", cast)), [""; 0]);
    assert_eq!(unsafe_elsewhere(&file("rpc-core/tests/counts.rs", cast)), [""; 0]);
    assert_eq!(unsafe_lines(cast), 4);

    let naps =
        "thread::sleep(A); // measured\n// So that it waits.\nsleep(A).await;\n\nfn sleep(\nclient.sleep(A).wait();\n";
    assert_eq!(unexplained(&file("rpc-core/tests/drain.rs", naps)), [""; 0]);
    check(
        unexplained(&file("rpc-core/tests/drain.rs", &naps.replace(" // measured", ""))),
        &["rpc-core/tests/drain.rs:1: say beside this sleep why nothing can be waited for instead"],
    );
    assert_eq!(unexplained(&file("rpc-core/src/server/handle.rs", &naps.replace("// So", "So"))).len(), 1);

    assert_eq!(shape(&file("examples/support/utils.rs", "")).len(), 1);
    assert_eq!(shape(&file("rpc-core/src/client/call.rs", &"\n".repeat(LONGEST + 1))).len(), 1);
    assert_eq!(shape(&file("rpc-codegen/tests/golden/expected/a.rs", &"\n".repeat(LONGEST + 1))), [""; 0]);
    assert_eq!(shape(&file("examples/resp/main.rs", &"\n".repeat(LONGEST_EXAMPLE))), [""; 0]);
    assert_eq!(shape(&file("examples/resp/main.rs", &"\n".repeat(LONGEST_EXAMPLE + 1))).len(), 1);

    assert!(unnamed(&file("rpc-core/src/client/retry.rs", ""), "client/ call.rs").is_some());
    assert!(unnamed(&file("rpc-core/src/client/call.rs", ""), "client/ call.rs").is_none());

    let manifest = "[dependencies]\nbytes.workspace = true\n[dev-dependencies]\nrpc-core = { path = \"..\" }\n";
    check(
        named("m", manifest, &["rpc-core", "rpc"]),
        &["m: `rpc-core` among its dependencies; this arrow is absent on purpose"],
    );

    let manifest = "[features]\ndefault = [\"b\"]\n[dependencies]\na = { version = \"1\", optional = true }\nb.workspace = true\n\
        [dev-dependencies]\na = \"1\"\n";
    assert_eq!(always_linked("m", manifest, &["a", "b"]).len(), 2);
    assert_eq!(always_linked("m", manifest, &["a"]).len(), 1);

    let rows: Vec<String> =
        (1..=BUGS).map(|n| format!("| B{n:02} | it broke | yes | `holds`, `a::b::b{n:02}_holds` | |")).collect();
    let ids: Vec<String> = (1..=BUGS).map(|n| format!("/// B{n:02}\nfn b{n:02}_holds() {{}}")).collect();
    let tests = [file("rpc-core/tests/a.rs", &format!("fn holds() {{}}\n{}", ids.join("\n")))];
    assert_eq!(unheld(&rows.join("\n"), &tests), [""; 0]);
    assert_eq!(unheld(&rows[1..].join("\n"), &tests).len(), 1);
    assert_eq!(unheld(&rows.join("\n").replace("`holds`", "`held`"), &tests).len(), BUGS);
    assert_eq!(unheld(&rows.join("\n"), &[file("rpc-core/tests/a.rs", &tests[0].text.replace("B07", ""))]).len(), 1);
    let patch =
        |name: &str, finder: &str| unfindable(&file(name, &format!("It broke.\n{finder}\n")), &rows.join("\n"), &tests);
    assert_eq!(patch("B07", "found by: -p rpc-core --test a b07_holds"), [""; 0]);
    assert_eq!(patch("B07-sim", "found by: simulation 2000"), [""; 0]);
    assert_eq!(patch("B07", "found by: -p rpc-core --test a nobody").len(), 1);
    assert_eq!((patch("B99", "found by: simulation 9").len(), patch("B07", "").len()), (1, 1));

    let readme = "```rust\nfn a() {\n    b();\n}\n```\n```sh\nx\n```\n```rust\nfn c() {}\n```\n";
    assert_eq!(strange_code(readme, &["fn a() {", "b();", "}", "fn d() {}"]).len(), 1);
}

struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn is_under(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs") || self.path == METER
    }
}

fn banned(file: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    if file.is_test() {
        return wrong;
    }
    for (places, word, instead) in BANNED.iter().filter(|(places, ..)| file.is_under(places)) {
        if ALLOWED.contains(&(file.path.as_str(), *word)) {
            continue;
        }
        debug_assert!(!places.is_empty());
        let lines = code(&file.text).filter(|(_, line)| has_word(line, word));
        wrong.extend(lines.map(|(n, _)| format!("{}:{n}: `{word}`; use instead: {instead}", file.path)));
    }
    wrong
}

fn unsafe_elsewhere(file: &Source) -> Vec<String> {
    if file.is_under(UNSAFE) || file.is_test() {
        return Vec::new();
    }
    let lines = code(&file.text).filter(|(_, line)| opens_unsafe(line));
    lines.map(|(n, _)| format!("{}:{n}: unsafe code; it may stand in {} only", file.path, UNSAFE.join(", "))).collect()
}

/// Lines of unsafe blocks, functions and implementations.
fn unsafe_lines(text: &str) -> usize {
    let (mut count, mut depth) = (0, 0);
    for (_, line) in code(text) {
        if depth == 0 && !opens_unsafe(line) {
            continue;
        }
        count += 1;
        let from = if depth == 0 { line.find("unsafe").unwrap_or(0) } else { 0 };
        depth += line[from..].matches('{').count() as isize - line[from..].matches('}').count() as isize;
        depth = depth.max(0);
    }
    count
}

/// Sleeps without a comment on their line or on the one above: in tests, too, where a sleep is most often a guess.
fn unexplained(file: &Source) -> Vec<String> {
    if file.is_under(&[GENERATED]) {
        return Vec::new();
    }
    let (mut wrong, mut above) = (Vec::new(), "");
    for (n, line) in (1..).zip(file.text.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        let explained = code.len() < line.len() || above.trim_start().starts_with("//");
        if !explained && calls_sleep(code) {
            wrong.push(format!("{}:{n}: say beside this sleep why nothing can be waited for instead", file.path));
        }
        above = line;
    }
    wrong
}

/// Whether a function `sleep` is called: not a method of that name, which is a service's.
fn calls_sleep(code: &str) -> bool {
    code.match_indices("sleep").any(|(at, name)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let is_other = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        after.starts_with('(') && !is_other && !before.ends_with("fn ")
    })
}

fn shape(file: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = file.path.rsplit('/').next().unwrap_or_default();
    if NAMELESS.contains(&name) {
        wrong.push(format!("{}: name the file after the one thing in it", file.path));
    }
    let lines = file.text.lines().count();
    if lines > LONGEST_EXAMPLE && file.is_under(SHORT) {
        wrong.push(format!("{}: {lines} lines, at most {LONGEST_EXAMPLE}: an example shows one thing", file.path));
    }
    if lines > LONGEST && !file.is_under(&[GENERATED]) {
        wrong.push(format!("{}: {lines} lines, at most {LONGEST}: it holds more than one concept", file.path));
    }
    wrong
}

fn unnamed(file: &Source, map: &str) -> Option<String> {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let known = ["lib.rs", "main.rs", "mod.rs", "tests.rs"].contains(&name) || has_word(map, name);
    let missing = file.is_under(PRODUCT) && !known;
    missing.then(|| format!("{}: give it a line in the code map of ARCHITECTURE.md", file.path))
}

fn named(manifest: &str, text: &str, absent: &[&str]) -> Vec<String> {
    let mut in_dependencies = false;
    let mut wrong = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if in_dependencies && absent.contains(&name) {
            wrong.push(format!("{manifest}: `{name}` among its dependencies; this arrow is absent on purpose"));
        }
    }
    wrong
}

/// Dependencies of the product that ought to be optional and are not.
fn always_linked(manifest: &str, text: &str, optional: &[&str]) -> Vec<String> {
    let mut table = "";
    let mut wrong = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            table = line;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if table == "[dependencies]" && optional.contains(&name) && !line.contains("optional = true") {
            wrong.push(format!("{manifest}: `{name}` is always linked; it belongs to a feature"));
        }
        if table == "[features]" && name == "default" {
            wrong.push(format!("{manifest}: a default feature; what it brings is always linked"));
        }
    }
    wrong
}

/// What is wrong with the rows of the catalogue: | id | story | whether it applies | tests | put back |.
fn unheld(catalogue: &str, files: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for id in (1..=BUGS).map(|n| format!("B{n:02}")) {
        let row = catalogue.lines().find(|line| line.starts_with(&format!("| {id} |")));
        let Some(cells) = row.map(|row| row.split('|').collect::<Vec<_>>()).filter(|cells| cells.len() == 7) else {
            wrong.push(format!("docs/bugs.md: no row of five cells for {id}"));
            continue;
        };
        let tests: Vec<&str> = cells[4].split('`').skip(1).step_by(2).collect();
        let missing = tests.iter().filter(|test| !files.iter().any(|file| has_test(file, test)));
        wrong.extend(missing.map(|test| format!("docs/bugs.md: {id}: no test `{test}`")));
        let applies = !cells[3].trim_start().starts_with("no");
        let marked = |file: &Source| has_word(&file.text, &id) && tests.iter().any(|test| has_test(file, test));
        if applies && !files.iter().any(marked) {
            wrong.push(format!("docs/bugs.md: {id}: none of its tests is marked with it"));
        }
    }
    wrong
}

/// What is wrong with what a patch that puts a bug back says of it.
fn unfindable(patch: &Source, catalogue: &str, files: &[Source]) -> Vec<String> {
    let name = &patch.path;
    let finders: Vec<&str> = patch.text.lines().filter_map(|line| line.strip_prefix("found by: ")).collect();
    let known = finders.iter().filter(|finder| !finder.starts_with("simulation "));
    let missing = known.filter(|finder| !files.iter().any(|file| has_test(file, finder)));
    let mut wrong: Vec<String> = missing.map(|finder| format!("bugs/{name}.patch: no test `{finder}`")).collect();
    if finders.is_empty() || patch.text.starts_with("found by") {
        wrong.push(format!("bugs/{name}.patch: say what the bug is, and what finds it"));
    }
    if !catalogue.contains(&format!("\n| {} |", name.split('-').next().unwrap_or(name))) {
        wrong.push(format!("bugs/{name}.patch: docs/bugs.md does not know it"));
    }
    wrong
}

/// Whether the last part of `name` is a function in a file.
fn has_test(file: &Source, name: &str) -> bool {
    let name = name.rsplit([':', ' ']).next().unwrap_or(name);
    file.text.contains(&format!("fn {name}()"))
}

/// Pieces of code in a page of Markdown whose lines do not follow one another in `known`.
fn strange_code(page: &str, known: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut shown, mut piece) = (false, Vec::new());
    for line in page.lines() {
        let fence = line.starts_with("```");
        if shown && !fence && !line.trim().is_empty() {
            piece.push(line.trim());
            continue;
        }
        if !piece.is_empty() && !known.windows(piece.len()).any(|window| window == piece) {
            wrong.push(format!("README.md shows code that is nowhere compiled like this:\n{}", piece.join("\n")));
        }
        piece.clear();
        if fence {
            shown = !shown && ["```rust", "```proto"].contains(&line.trim_end());
        }
    }
    wrong
}

/// The lines of a file that are code, from 1: without comments, and without the test module at its end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests"));
    let code = lines.into_iter().take(tests.unwrap_or(usize::MAX)).enumerate();
    code.map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}

/// Whether `word` stands in `line`, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        let glued = |end: Option<char>, next: Option<char>| end.is_some_and(is_name) && next.is_some_and(is_name);
        !glued(word.chars().next(), before) && !glued(word.chars().next_back(), after)
    })
}

/// Whether a block, function or implementation is unsafe from this line on; a string or an attribute that says so is not.
fn opens_unsafe(line: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern"]
        .iter()
        .any(|opening| has_word(line, opening))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file of the workspace.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> =
        ["rpc-transport", "rpc-core", "rpc-codegen", "examples", "benches", "fuzz", "simulation"]
            .iter()
            .map(|name| root().join(name))
            .collect();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                if name != "target" {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(root()).expect("it is inside").components();
                let parts: Vec<_> = inside.map(|part| part.as_os_str().to_string_lossy()).collect();
                let text = fs::read_to_string(&path).expect("a readable file");
                found.push(Source { path: parts.join("/"), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 80, "the files of the workspace are not where they were");
    found
}

fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
