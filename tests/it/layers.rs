//! The layers of `src/lib.rs` are those of the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers that the first block of `src/lib.rs` draws, the highest first.
fn layers(root: &str) -> Vec<Vec<String>> {
    let block: String = root
        .lines()
        .skip_while(|line| !line.starts_with("//! ```text"))
        .skip(1)
        .take_while(|line| !line.starts_with("//! ```"))
        .map(|line| line.trim_start_matches("//!"))
        .collect();
    let names = |layer: &str| layer.split(',').map(|name| name.trim().to_owned()).collect();
    block.split("->").map(names).collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that the code of a file names as `crate::…`. Tests may name any.
fn imports(code: &str) -> BTreeSet<String> {
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let name = |part: &str| {
        part.split(|c: char| !c.is_ascii_lowercase() && c != '_')
            .next()
            .map(str::to_owned)
    };
    lines
        .flat_map(|line| line.split("crate::").skip(1).filter_map(name).collect::<Vec<_>>())
        .collect()
}

#[test]
fn modules_import_only_those_of_lower_layers() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let root = fs::read_to_string(source.join("lib.rs")).unwrap();
    let layers = layers(&root);
    let height: BTreeMap<&str, usize> = layers
        .iter()
        .enumerate()
        .flat_map(|(height, names)| names.iter().map(move |name| (name.as_str(), height)))
        .collect();
    let declared: BTreeSet<&str> = root
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let drawn: BTreeSet<&str> = height.keys().copied().collect();
    assert_eq!(drawn, declared, "src/lib.rs draws each of its modules once");

    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&source).unwrap();
        let is_test = inside
            .components()
            .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "testing.rs")));
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        let Some(&own) = height.get(module).filter(|_| !is_test) else {
            continue;
        };
        for name in imports(&fs::read_to_string(&file).unwrap()) {
            match height.get(name.as_str()) {
                Some(&other) if other <= own && name != module => {
                    wrong.push(format!("{} imports {name}", inside.display()));
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
