//! Links and paths of the pages.

use std::fs;
use std::path::{Path, PathBuf};

use super::page::Page;
use super::root;

/// Folders whose files the pages name.
const FOLDERS: [&str; 5] = ["container/", "docs/", "scripts/", "src/", "tests/"];

/// Targets of `[text](target)` and `![text](target)` outside code, each with its line.
fn links(page: &Page) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in page.prose() {
        // Every other part is code.
        let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for part in text.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                links.push((number, target.to_owned()));
            }
        }
    }
    links
}

/// Paths in code such as `src/lib.rs`, each with its line.
fn paths(page: &Page) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (number, line) in page.prose() {
        for code in line.split('`').skip(1).step_by(2) {
            let word = code.split_whitespace().next().unwrap_or_default();
            let path = word.trim_start_matches("./");
            let is_pattern = path.contains(['*', '{', '<']) || path.contains("NAME") || path.contains("...");
            if FOLDERS.iter().any(|folder| path.starts_with(folder)) && !is_pattern {
                paths.push((number, path.to_owned()));
            }
        }
    }
    paths
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let pages = Page::all();
    let mut broken = Vec::new();
    for page in &pages {
        let folder = root().join(&page.name).parent().unwrap().to_owned();
        for (line, target) in links(page) {
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = match path {
                "" => root().join(&page.name),
                path => folder.join(path),
            };
            if !file.exists() {
                broken.push(format!("{}:{line}: there is no {target}", page.name));
                continue;
            }
            let file = file.canonicalize().unwrap();
            let other = pages
                .iter()
                .find(|page| root().join(&page.name).canonicalize().is_ok_and(|path| path == file));
            let anchors = other.map(Page::anchors).unwrap_or_default();
            if !anchor.is_empty() && !anchors.iter().any(|known| known == anchor) {
                broken.push(format!("{}:{line}: there is no heading for {target}", page.name));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_path_in_a_page_exists() {
    let mut missing = Vec::new();
    for page in Page::all() {
        for (line, path) in paths(&page) {
            if !root().join(&path).exists() {
                missing.push(format!("{}:{line}: there is no {path}", page.name));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_page_that_the_code_names_exists() {
    let mut missing = Vec::new();
    for folder in ["src", "tests", "scripts", "container"] {
        for file in files(&root().join(folder)) {
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
            };
            for part in text.split("docs/").skip(1) {
                let end = part
                    .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
                    .unwrap_or(part.len());
                let (name, rest) = part.split_at(end);
                let page = format!("docs/{name}.md");
                if rest.starts_with(".md") && !root().join(&page).exists() {
                    missing.push(format!("{}: there is no {page}", file.display()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_index_lists_every_page() {
    let pages = Page::all();
    let index = pages.iter().find(|page| page.name == "docs/README.md").unwrap();
    let listed: Vec<String> = links(index).into_iter().map(|(_, target)| target).collect();
    for page in &pages {
        let Some(name) = page.name.strip_prefix("docs/") else {
            continue;
        };
        let is_listed = name == "README.md" || listed.iter().any(|target| target == name);
        assert!(is_listed, "docs/README.md does not list {name}");
    }
}

#[test]
fn the_list_of_scripts_has_every_script() {
    let pages = Page::all();
    let list = pages.iter().find(|page| page.name == "scripts/README.md").unwrap();
    let listed: Vec<String> = paths(list).into_iter().map(|(_, path)| path).collect();
    for entry in fs::read_dir(root().join("scripts")).unwrap() {
        let entry = entry.unwrap();
        let path = format!("scripts/{}", entry.file_name().to_string_lossy());
        let is_script = entry.file_type().unwrap().is_file() && path != list.name;
        assert!(
            !is_script || listed.contains(&path),
            "scripts/README.md does not list {path}"
        );
    }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
