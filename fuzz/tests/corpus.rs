//! Every file of every corpus, as plain tests: a finding that was mended stays mended.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz::TARGETS;

/// Most files of one corpus, and most bytes of one file.
const MOST_FILES: usize = 100; // `minimise.sh` fills up to 80; what finds something comes on top
const MOST_BYTES: usize = 1024;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

fn names(directory: &str) -> BTreeSet<String> {
    let stems = files(&here(directory)).into_iter();
    stems.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect()
}

#[test]
fn every_input_of_the_corpora_is_judged() {
    for (name, target) in TARGETS {
        let inputs = files(&here("corpus").join(name));
        for input in &inputs {
            let data = fs::read(input).expect("readable");
            // The last line shown is the input that failed.
            println!("{}", input.display());
            target(&data);
            // Short of its end it is another input, and a likely one.
            for cut in [data.len() / 2, data.len().saturating_sub(1)] {
                target(&data[..cut]);
            }
        }
        println!("{name}: {} inputs", inputs.len());
    }
}

#[test]
fn every_target_has_a_program_and_a_small_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(targets, names("fuzz_targets"));
    assert_eq!(targets, names("corpus"));
    for name in targets {
        let inputs = files(&here("corpus").join(&name));
        assert!((1..=MOST_FILES).contains(&inputs.len()), "{name}: {} files, at most {MOST_FILES}", inputs.len());
        for input in inputs {
            let bytes = fs::metadata(&input).expect("readable").len() as usize;
            assert!(bytes <= MOST_BYTES, "{}: {bytes} bytes, at most {MOST_BYTES}", input.display());
        }
    }
}
